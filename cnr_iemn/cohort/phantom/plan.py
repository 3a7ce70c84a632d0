"""Draw all of a phantom scan that needs no pixel. One seed is one body and protocol, whatever the class."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnr_iemn.cohort.phantom.acquisition import Acquisition, draw_acquisition
from cnr_iemn.cohort.phantom.anatomy import Anatomy, draw_anatomy
from cnr_iemn.cohort.phantom.disease import Signs
from cnr_iemn.cohort.phantom.fields import stream
from cnr_iemn.cohort.phantom.lesions import Lesion, draw_findings
from cnr_iemn.cohort.phantom.placement import place_lesions
from cnr_iemn.errors import CohortError
from cnr_iemn.registry import SPGC_CLASSES

COLUMNS = ["kind", "lobe", "x_mm", "y_mm", "depth_mm", "first_slice", "last_slice"]
COLUMNS += ["diameter_mm", "volume_ml", "hu", "peripheral", "thick_vessels"]
"""Columns of a lesion table. Slices are 0-based, head first."""


@dataclass(frozen=True)
class Plan:
    """All that is drawn for a scan before a pixel is rendered."""

    seed: int
    label: str
    anatomy: Anatomy
    acquisition: Acquisition
    findings: tuple[Lesion, ...]
    lesions: tuple[Lesion, ...]
    signs: Signs | None


def make_plan(seed: int, label: str, *, n_slices: tuple[int, int]) -> Plan:
    """Draw a scan of class ``label`` (one of the registry's SPGC classes). Only lesions and signs depend on the class.

    Raises CohortError for a class without a recipe.
    """
    if label not in SPGC_CLASSES:
        raise CohortError(f"The phantom has no class {label!r}. It knows {', '.join(SPGC_CLASSES)}.")
    anatomy = draw_anatomy(stream(seed, "anatomy"))
    acquisition = draw_acquisition(stream(seed, "acquisition"), anatomy, n_slices=n_slices)
    findings = draw_findings(stream(seed, "findings"), anatomy)
    lesions, signs = place_lesions(stream(seed, "disease"), label, anatomy, acquisition)
    return Plan(seed, label, anatomy, acquisition, tuple(findings), tuple(lesions), signs)


def lesion_table(plan: Plan) -> pd.DataFrame:
    """Return one row for each lesion of the disease: what a class-aware observer may know."""
    step, top = plan.acquisition.step, plan.acquisition.top
    rows = []
    for lesion in plan.lesions:
        x, y, u = lesion.centre
        row: dict[str, object] = {"kind": lesion.kind, "lobe": lesion.lobe, "x_mm": x, "y_mm": y, "depth_mm": u}
        row["first_slice"] = int(np.ceil((u - lesion.radii[2] - top) / step))
        row["last_slice"] = int(np.floor((u + lesion.radii[2] - top) / step))
        rows.append(row | {name: getattr(lesion, name) for name in COLUMNS[7:]})
    return pd.DataFrame(rows, columns=COLUMNS)
