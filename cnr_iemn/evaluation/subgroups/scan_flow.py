"""Which scans of a cohort came into a study, and why the others did not."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import pandas as pd
from typing_extensions import TypedDict

from cnr_iemn.data.refusals import stored_refusals
from cnr_iemn.data.slice_store import SliceStore
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.stage2.ensemble_runs import EnsembleRuns
from cnr_iemn.stage2.run_settings import RunSettings

_LONGEST = 60
"""Characters of a reason."""


class ScanFlow(TypedDict):
    """Numbers of scans, from all of the cohort to those of the two sides.

    ``refused``: left out after they could not be read, by reason. ``excluded``: left out by name for another one.
    ``unclassed``: predicted alone. ``slice_labelled``: with labels of slices. ``training``, ``validation``: by class.
    """

    total: int
    refused: dict[str, int]
    excluded: int
    unclassed: int
    slice_labelled: int
    training: dict[str, int]
    validation: dict[str, int]


def study_flow(runs: EnsembleRuns, store: SliceStore, *, left_out: Collection[str]) -> ScanFlow:
    """Return the flow of the scans of a study. ``left_out``: of data.exclude.

    Raises StoreError where the list of refused scans is damaged.
    """
    first = next(iter(runs.predictions.values()))
    labelled = first.table[first.table["slice_label"].notna()]["scan_id"].unique()
    return scan_flow(
        runs.scans,
        first.metadata.classes,
        slice_labelled=labelled.tolist(),
        n_cohort=RunSettings.read(runs.first_run).n_scans,
        left_out=left_out,
        refusals=stored_refusals(store),
    )


def scan_flow(
    scans: pd.DataFrame,
    classes: Sequence[str],
    *,
    slice_labelled: Collection[str],
    n_cohort: int | None,
    left_out: Collection[str],
    refusals: Mapping[str, str],
) -> ScanFlow:
    """Return the flow of a study's scans.

    Args:
        scans: With a class, index scan_id: label and split.
        classes: In their order.
        slice_labelled: Scans whose slices have labels.
        n_cohort: Scans that were not left out, with those without a class; None in runs of earlier versions.
        left_out: Of data.exclude.
        refusals: Reason by scan_id of scans that could not be read, as the store remembers them.
    """
    refused = Counter(short_reason(scan_id, refusals[scan_id]) for scan_id in left_out if scan_id in refusals)
    sides = {
        side: {label: int(((scans["split"] == side) & (scans["label"] == label)).sum()) for label in classes}
        for side in (TRAINING, VALIDATION)
    }
    unclassed = 0 if n_cohort is None else n_cohort - len(scans)
    return {
        "total": len(scans) + unclassed + len(left_out),
        "refused": dict(refused.most_common()),
        "excluded": len(left_out) - refused.total(),
        "unclassed": unclassed,
        "slice_labelled": len(set(slice_labelled) & set(scans.index)),
        "training": sides[TRAINING],
        "validation": sides[VALIDATION],
    }


def short_reason(scan_id: str, reason: str) -> str:
    """Return the first sentence of a refusal without the names of scan and file, its numbers as n."""
    head, mark, rest = reason.partition(": ")
    text = rest if mark and head.startswith(scan_id) else reason
    sentence = re.split(r"[.;:] |\.$", text, maxsplit=1)[0]
    sentence = re.sub(r"\S+/\S+", "a file", sentence)
    sentence = re.sub(rf"(?<!\w){re.escape(scan_id)}(?!\w)", "it", sentence)
    sentence = re.sub(r"\d+(?:[.,]\d+)*", "n", sentence)
    return sentence if len(sentence) <= _LONGEST else f"{sentence[:_LONGEST].rsplit(' ', 1)[0]} ..."
