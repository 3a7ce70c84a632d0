"""One row for each patient of the report: what was answered, what the slices say, three of them, and why."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.cohort.store import SliceStore
from cnr_iemn.patients.contributions import LEVELS, Contributions
from cnr_iemn.patients.evidence.tables import model_title
from cnr_iemn.patients.group_features import group_percentages
from cnr_iemn.patients.slice_sets import ScanArray, SliceSets
from cnr_iemn.records import probability_columns
from cnr_iemn.report.pictures import lung_slices, slice_picture

Floats = NDArray[np.float64]
_SIDE = 112  # pixels of a thumbnail
_MARKUP_BYTES = 1500  # of a row's tags in the page, rounded up
_NAMED = 2  # contributions that a sentence names


@dataclass(frozen=True)
class Thumbnail:
    """A slice: ``picture`` as a data URI. ``index``: 0-based, head first; ``probability``: of the answered class."""

    index: int
    probability: float
    picture: str


@dataclass(frozen=True)
class PatientRow:
    """``called``: share of slices by class, 0 to 1. ``strip``: an SVG path for each class, 20 wide and 100 high."""

    scan_id: str
    label: str
    predicted: str
    probability: float
    correct: bool
    n_slices: int
    called: dict[str, float]
    strip: tuple[str, ...]
    thumbnails: tuple[Thumbnail, ...]
    findings: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def in_words(self) -> str:
        """What the strip shows."""
        return ", ".join(f"{100 * share:.0f}% {name}" for name, share in self.called.items())


def patient_rows(
    patients: pd.DataFrame, contributions: Contributions, slices: SliceSets, store: SliceStore, *, budget: int
) -> list[PatientRow]:
    """Return a row for each validation scan: errors first, the surest of them first; then the others, the unsure first.

    ``patients``: ``Answers.held_out``. ``budget``: bytes that the rows may take in the page; three quarters of it used,
    there are no more pictures, and all of it, no more rows.
    """
    columns = probability_columns(contributions.classes)
    surest = patients[columns].max(axis=1)
    order = np.lexsort((np.where(patients["correct"], surest, -surest), patients["correct"]))
    place = {scan_id: k for k, scan_id in enumerate(contributions.scan_ids)}
    rows: list[PatientRow] = []
    spent = 0
    for scan_id, patient in patients.iloc[order].iterrows():
        if spent >= budget:
            break
        name = str(scan_id)
        answered, true = (contributions.classes.index(patient[key]) for key in ("predicted", "label"))
        pictured = spent < 0.75 * budget
        row = PatientRow(
            scan_id=name,
            label=patient["label"],
            predicted=patient["predicted"],
            probability=float(patient[columns[answered]]),
            correct=bool(patient["correct"]),
            n_slices=slices[name][0].shape[1],
            called=dict(zip(contributions.classes, slice_shares(slices[name]).tolist(), strict=True)),
            strip=strip_paths(group_shares(slices[name])),
            thumbnails=_thumbnails(store, name, slices[name], answered) if pictured else (),
            findings=store.scan(name).findings,
            reasons=reasons(contributions, place[name], answered, true),
        )
        rows.append(row)
        spent += _MARKUP_BYTES + sum(len(part) for part in (*row.strip, *row.findings, *row.reasons))
        spent += sum(len(each.picture) for each in row.thumbnails)
    return rows


def slice_shares(sets: Sequence[ScanArray]) -> Floats:
    """Return the share of slices, over all networks, that are called each class, float64 [classes]."""
    shares = [np.eye(each.shape[2])[each.argmax(axis=2)].mean(axis=(0, 1)) for each in sets]
    return np.asarray(np.mean(shares, axis=0))


def group_shares(sets: Sequence[ScanArray]) -> Floats:
    """Return the same in each group of slices, float64 [groups, classes]; NaN for a group without a slice."""
    found = [group_percentages(model.argmax(axis=1), n_classes=model.shape[1]) / 100 for each in sets for model in each]
    return np.asarray(np.mean(found, axis=0))


def strip_paths(shares: Floats) -> tuple[str, ...]:
    """Return for each class the SVG path of its bars, stacked from below; a group is one wide, all is 100 high."""
    known = np.nan_to_num(shares)
    tops = 100 * (1 - np.cumsum(known, axis=1))
    heights = 100 * known
    return tuple(
        "".join(
            f"M{group} {tops[group, k]:.4g}h1v{heights[group, k]:.4g}h-1z"
            for group in range(len(shares))
            if heights[group, k] > 0
        )
        for k in range(shares.shape[1])
    )


def _thumbnails(store: SliceStore, scan_id: str, sets: Sequence[ScanArray], answered: int) -> tuple[Thumbnail, ...]:
    """Return from each third of the lungs the slice that the networks hold most for the answered class."""
    probability = np.mean([each[:, :, answered].mean(axis=0) for each in sets], axis=0)
    grey, lungs = store.grey(scan_id), store.lungs(scan_id)
    first, last = lung_slices(lungs[:])
    thirds = (part for part in np.array_split(np.arange(first, last + 1), 3) if len(part))
    chosen = [int(part[probability[part].argmax()]) for part in thirds]
    return tuple(
        Thumbnail(k, float(probability[k]), slice_picture(grey[k], lungs[k], side=_SIDE, quality=75)) for k in chosen
    )


def next_likely(contributions: Contributions, row: int, answered: int) -> int:
    """Return the class with the highest margin but for the answered one; that one where there is no other."""
    margins = contributions.by_level[row].sum(axis=(1, 2)) + contributions.base
    return max((k for k in range(len(margins)) if k != answered), key=margins.__getitem__, default=answered)


def reasons(contributions: Contributions, row: int, answered: int, true: int | None = None) -> tuple[str, ...]:
    """Return what spoke for the answer: where it is wrong, against the true class; else against the next likely."""
    levels = contributions.by_level[row]
    other = next_likely(contributions, row, answered) if true in (None, answered) else true
    difference = levels[answered] - levels[other]
    answer, rival = contributions.classes[answered], contributions.classes[other]
    found = []
    for sign, side in ((1, f"for {answer} rather than {rival}"), (-1, f"for {rival}")):
        strongest = np.argsort(-sign * difference, axis=None)[:_NAMED]
        named = [np.unravel_index(k, difference.shape) for k in strongest if sign * difference.flat[k] > 0.01]
        parts = (f"{model_title(contributions.models[m])}, {LEVELS[t]} ({abs(difference[m, t]):.2f})" for m, t in named)
        text = "; ".join(parts)
        if text:
            found.append(f"Spoke most {side}: {text}.")
    return tuple(found)
