"""The gallery of validation scans in the report: for each its prediction, its slices, three pictures, the reasons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.ct.preprocess import lung_square
from cnr_iemn.data.slice_store import SliceStore
from cnr_iemn.inference.slice_images import apply_lung_window, thumbnail
from cnr_iemn.report.quality_report import is_doubtful
from cnr_iemn.report.tables.results import model_title
from cnr_iemn.schemas import calibrated_columns, probability_columns
from cnr_iemn.stage2.group_features import group_percentages
from cnr_iemn.stage2.out_of_fold import ScanArray, SliceSets
from cnr_iemn.stage2.shap_values import LEVELS, Contributions

Floats = NDArray[np.float64]
ERROR_SIDE, CORRECT_SIDE = 320, 160
"""Of a picture, pixels: errors are looked at, the others leafed through."""
_LEAST_LUNG = 0.3  # of the largest lung area in a slice: a slice with less shows neck or bowel
_MARKUP_BYTES = 1500  # of a row's tags in the page, rounded up
_STRONGEST = 2  # contributions in a sentence


@dataclass(frozen=True)
class Thumbnail:
    """A slice: ``picture`` as a data URI. ``index``: 0-based, head first; ``probability``: of the predicted class."""

    index: int
    level: str
    probability: float
    picture: str


@dataclass(frozen=True)
class PatientRow:
    """A scan of the gallery.

    ``probability``: of the predicted class, calibrated where the ensemble is. ``undecided``: it is below the threshold
    for abstention. ``shares``: of slices by predicted class, 0 to 1. ``strip``: an SVG path for each class, 20 wide and
    100 high. ``doubtful``: the lung mask is. ``page``: address of the scan's page; None where there is none.
    """

    scan_id: str
    label: str
    predicted: str
    probability: float
    undecided: bool
    correct: bool
    n_slices: int
    shares: dict[str, float]
    strip: tuple[str, ...]
    thumbnails: tuple[Thumbnail, ...]
    findings: tuple[str, ...]
    reasons: tuple[str, ...]
    doubtful: bool
    page: str | None

    @property
    def side(self) -> int:
        """Of its pictures, pixels."""
        return CORRECT_SIDE if self.correct else ERROR_SIDE

    @property
    def strip_text(self) -> str:
        """What the strip shows, in words."""
        return ", ".join(f"{100 * share:.0f}% {name}" for name, share in self.shares.items())


def patient_rows(
    patients: pd.DataFrame,
    contributions: Contributions | None,
    slices: SliceSets,
    store: SliceStore,
    *,
    budget: int,
    links: Mapping[str, str] | None = None,
) -> list[PatientRow]:
    """Return a row for each validation scan: errors, most confident first; then the others, least confident first.

    Args:
        patients: The rows of the validation scans, index scan_id.
        contributions: Of these scans; None where the stage-2 method has none.
        slices: The networks' predictions.
        store: The slices.
        budget: Bytes of the rows in the page: after three quarters of it rows have no pictures, and after all of it
            there are no more rows.
        links: Address of the scan's page, by scan_id.
    """
    classes = [str(name).removeprefix("p_") for name in patients.columns if str(name).startswith("p_")]
    table = patients.assign(shown=_shown_probabilities(patients, classes))
    rows: list[PatientRow] = []
    spent = 0
    for scan_id, patient in table.iloc[_order(table)].iterrows():
        if spent >= budget:
            break
        name = str(scan_id)
        predicted, true = (classes.index(patient[key]) for key in ("predicted", "label"))
        side = CORRECT_SIDE if patient["correct"] else ERROR_SIDE
        pictured = spent < 0.75 * budget
        row = PatientRow(
            scan_id=name,
            label=patient["label"],
            predicted=patient["predicted"],
            probability=float(patient["shown"]),
            undecided=patient["undecided"] is not pd.NA and bool(patient["undecided"]),
            correct=bool(patient["correct"]),
            n_slices=slices[name][0].shape[1],
            shares=dict(zip(classes, slice_shares(slices[name]).tolist(), strict=True)),
            strip=strip_paths(group_shares(slices[name])),
            thumbnails=_thumbnails(store, name, slices[name], predicted, side=side) if pictured else (),
            findings=store.scan(name).findings,
            reasons=reasons(contributions, name, predicted, true),
            doubtful=is_doubtful(store.scan(name)),
            page=(links or {}).get(name),
        )
        rows.append(row)
        spent += _MARKUP_BYTES + sum(len(text) for text in (*row.strip, *row.findings, *row.reasons))
        spent += sum(len(thumbnail.picture) for thumbnail in row.thumbnails)
    return rows


def _shown_probabilities(patients: pd.DataFrame, classes: list[str]) -> Floats:
    """Return the probability of each scan's predicted class, calibrated where that is known, float64 [scans]."""
    rows, predicted = np.arange(len(patients)), patients["predicted"].map(classes.index).to_numpy(dtype=np.int64)
    uncalibrated, calibrated = (
        patients[columns(classes)].to_numpy(dtype=np.float64)[rows, predicted]
        for columns in (probability_columns, calibrated_columns)
    )
    return np.asarray(np.where(np.isnan(calibrated), uncalibrated, calibrated))


def _order(patients: pd.DataFrame) -> NDArray[np.intp]:
    """Return the rows' places in the gallery, by correctness and the probability ``shown``."""
    return np.lexsort((np.where(patients["correct"], patients["shown"], -patients["shown"]), patients["correct"]))


def slice_shares(sets: Sequence[ScanArray]) -> Floats:
    """Return the share of slices predicted as each class, over all networks, float64 [classes]."""
    shares = [np.eye(array.shape[2])[array.argmax(axis=2)].mean(axis=(0, 1)) for array in sets]
    return np.asarray(np.mean(shares, axis=0))


def group_shares(sets: Sequence[ScanArray]) -> Floats:
    """Return the same in each group of slices, float64 [groups, classes]; NaN for a group without a slice."""
    networks = [network for array in sets for network in array]
    shares = [group_percentages(slices.argmax(axis=1), n_classes=slices.shape[1]) / 100 for slices in networks]
    return np.asarray(np.mean(shares, axis=0))


def strip_paths(shares: Floats) -> tuple[str, ...]:
    """Return for each class the SVG path of its bars, stacked from below; a group is one wide, all is 100 high."""
    filled = np.nan_to_num(shares)
    tops = 100 * (1 - np.cumsum(filled, axis=1))
    heights = 100 * filled
    return tuple(
        "".join(
            f"M{group} {tops[group, k]:.4g}h1v{heights[group, k]:.4g}h-1z"
            for group in range(len(shares))
            if heights[group, k] > 0
        )
        for k in range(shares.shape[1])
    )


def _thumbnails(
    store: SliceStore, scan_id: str, sets: Sequence[ScanArray], predicted: int, *, side: int
) -> tuple[Thumbnail, ...]:
    """Return from each third of the lungs the slice with the highest probability of the predicted class.

    The pictures show the square around the lungs in the lung window, each ``side`` pixels wide.
    """
    probability = np.mean([array[:, :, predicted].mean(axis=0) for array in sets], axis=0)
    grey, lungs = store.grey(scan_id), store.lungs(scan_id)[:]
    view = lung_square(lungs.view(np.bool_))
    area = np.count_nonzero(lungs, axis=(1, 2))
    inside = np.flatnonzero(area >= max(1.0, _LEAST_LUNG * area.max()))
    indices = inside if len(inside) else np.arange(len(lungs))
    thumbnails = []
    for level, third in zip(LEVELS, np.array_split(indices, len(LEVELS)), strict=True):
        if len(third):
            k = int(third[probability[third].argmax()])
            image = apply_lung_window(np.ascontiguousarray(grey[k][view]), window=store.settings.window)
            mask = np.ascontiguousarray(lungs[k][view])
            picture = thumbnail(image, mask, side=side, quality=72)
            thumbnails.append(Thumbnail(k, level, float(probability[k]), picture))
    return tuple(thumbnails)


def next_likely(contributions: Contributions, row: int, predicted: int) -> int:
    """Return the class with the second-highest margin; the predicted one if it is the only class."""
    margins = contributions.by_level[row].sum(axis=(1, 2)) + contributions.base
    return max((k for k in range(len(margins)) if k != predicted), key=margins.__getitem__, default=predicted)


def reasons(
    contributions: Contributions | None, scan_id: str, predicted: int, true: int | None = None
) -> tuple[str, ...]:
    """Return the largest contributions, against the true class where the prediction is wrong, else the runner-up.

    There are none where the stage-2 method has no contributions.
    """
    if contributions is None:
        return ()
    row = contributions.scan_ids.index(scan_id)
    levels = contributions.by_level[row]
    other = next_likely(contributions, row, predicted) if true in (None, predicted) else true
    difference = levels[predicted] - levels[other]
    name, rival = contributions.classes[predicted], contributions.classes[other]
    sentences = []
    for sign, side in ((1, f"for {name} over {rival}"), (-1, f"for {rival}")):
        strongest = np.argsort(-sign * difference, axis=None)[:_STRONGEST]
        places = [np.unravel_index(k, difference.shape) for k in strongest if sign * difference.flat[k] > 0.01]
        texts = [
            f"{model_title(contributions.models[m])}, {LEVELS[t]} ({abs(difference[m, t]):.2f})" for m, t in places
        ]
        if texts:
            sentences.append(f"Strongest evidence {side}: {'; '.join(texts)}.")
    return tuple(sentences)
