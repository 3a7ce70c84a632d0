"""What is drawn of a phantom scan before any pixel. One seed gives one body and protocol, whatever the class."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.errors import CohortError
from cnr_iemn.phantom.anatomy import Anatomy, draw_anatomy
from cnr_iemn.phantom.clear_disease import Burden, place_clear_lesions
from cnr_iemn.phantom.disease import Signs
from cnr_iemn.phantom.lesion_placement import place_lesions
from cnr_iemn.phantom.lesions import DISEASE_KINDS, Lesion, draw_findings
from cnr_iemn.phantom.protocol import ScanProtocol, draw_protocol
from cnr_iemn.phantom.random_fields import stream

PUBLISHED, CLEAR = DISEASES = ("published", "clear")
"""Recipes of disease: as in published series, hard; or clear in shape and place and alike in density."""
COLUMNS = ["kind", "lobe", "x_mm", "y_mm", "depth_mm", "first_slice", "last_slice"]
COLUMNS += ["diameter_mm", "volume_ml", "hu", "peripheral", "thick_vessels"]
"""Columns of a lesion table. Slices are 0-based, head first."""


@dataclass(frozen=True)
class ScanSpec:
    """The random draws of a scan: body, protocol, chance findings and disease."""

    seed: int
    label: str
    anatomy: Anatomy
    protocol: ScanProtocol
    findings: tuple[Lesion, ...]
    lesions: tuple[Lesion, ...]
    signs: Signs | Burden | None


def make_scan_spec(seed: int, label: str, *, n_slices: tuple[int, int], disease: str = PUBLISHED) -> ScanSpec:
    """Draw a scan of class ``label`` (one of SPGC_CLASSES). Only lesions and signs depend on the class.

    ``disease``: published or clear, one of `DISEASES`. Raises CohortError for a class or disease without a recipe.
    """
    if disease not in DISEASES:
        raise CohortError(f"The phantom has no disease {disease!r}. Choose one of {', '.join(DISEASES)}.")
    if label not in SPGC_CLASSES:
        raise CohortError(f"The phantom has no class {label!r}. It knows {', '.join(SPGC_CLASSES)}.")
    anatomy = draw_anatomy(stream(seed, "anatomy"))
    protocol = draw_protocol(stream(seed, "acquisition"), anatomy, n_slices=n_slices)
    findings = draw_findings(stream(seed, "findings"), anatomy)
    rng = stream(seed, "disease")
    lesions: list[Lesion] = []
    signs: Signs | Burden | None = None
    if disease == PUBLISHED:
        lesions, signs = place_lesions(rng, label, anatomy, protocol)
    else:
        lesions, signs = place_clear_lesions(rng, label, anatomy)
    return ScanSpec(
        seed=seed,
        label=label,
        anatomy=anatomy,
        protocol=protocol,
        findings=tuple(findings),
        lesions=tuple(lesions),
        signs=signs,
    )


def lesion_table(spec: ScanSpec) -> pd.DataFrame:
    """Return one row for each lesion of the disease: what a class-aware observer may know."""
    step, top = spec.protocol.step, spec.protocol.top
    rows = []
    for lesion in (lesion for lesion in spec.lesions if lesion.kind in DISEASE_KINDS):
        x, y, u = lesion.centre
        row: dict[str, object] = {"kind": lesion.kind, "lobe": lesion.lobe, "x_mm": x, "y_mm": y, "depth_mm": u}
        row["first_slice"] = int(np.ceil((u - lesion.radii[2] - top) / step))
        row["last_slice"] = int(np.floor((u + lesion.radii[2] - top) / step))
        rows.append(row | {name: getattr(lesion, name) for name in COLUMNS[7:]})
    return pd.DataFrame(rows, columns=COLUMNS)
