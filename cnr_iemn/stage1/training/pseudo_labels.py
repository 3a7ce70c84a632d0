"""Pseudo-labels: classes for the slices of unlabelled training scans, from networks that have not seen these scans.

A slice of a scan of class k shows k or nothing: of the three probabilities of a network those of k and of the first
class count alone. The Saviours, who won the SPGC challenge, chose the infected slices of the unlabelled COVID-19 and
CAP scans so (arXiv:2104.05121).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.constants import PHANTOM_NOTICE
from cnr_iemn.data.cohort import UNLABELLED, Cohort, ScanRecord
from cnr_iemn.data.predictions.slice_predictions import Predictions, check_joinable, check_same_study, read_predictions
from cnr_iemn.data.splits import split_csv, split_sha256
from cnr_iemn.errors import RunError
from cnr_iemn.schemas import NO_CLASS, TRAINING, probability_columns

log = logging.getLogger(__name__)

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """Pseudo-labels against known labels of the same slices, in slices. ``true_positives``: infected, and called so."""

    true_positives: int = 0
    positives: int = 0
    infected: int = 0

    def __add__(self, other: "Agreement") -> "Agreement":
        """Return both together."""
        return Agreement(
            self.true_positives + other.true_positives, self.positives + other.positives, self.infected + other.infected
        )

    def __str__(self) -> str:
        """Return precision and recall in percent."""
        precision = f"{100 * self.true_positives / self.positives:.1f}%" if self.positives else "unknown"
        recall = f"{100 * self.true_positives / self.infected:.1f}%" if self.infected else "unknown"
        return f"precision {precision}, recall {recall} of {self.infected} infected slices"


@dataclass(frozen=True)
class PseudoLabels:
    """Class index or UNLABELLED of each slice of unlabelled training scans, int64 [n_slices], by scan_id.

    ``networks``: how many answered for each scan. ``checked``: agreement by class on slice-labelled training scans,
    for which networks that have not seen them answer likewise.
    """

    labels: Mapping[str, Labels] = field(default_factory=dict)
    networks: int = 0
    checked: Mapping[str, Agreement] = field(default_factory=dict)


def gated_labels(probabilities: NDArray[np.float32], class_index: int, *, confidence: float) -> Labels:
    """Return the pseudo-labels of the slices of one scan.

    Args:
        probabilities: float32 [n_slices, classes] of networks that have not seen the scan.
        class_index: Of the scan's class, above 0.
        confidence: Above 0.5 and below 1: a slice is infected where P(class) / (P(class) + P(first class)) is at least
            this, of the first class where it is at most 1 - this, and else unknown.

    Returns:
        int64 [n_slices]: ``class_index``, 0 or UNLABELLED.
    """
    infected, healthy = probabilities[:, class_index].astype(np.float64), probabilities[:, 0].astype(np.float64)
    share = infected / np.maximum(infected + healthy, np.finfo(np.float64).tiny)
    unknown = np.full(len(share), UNLABELLED, dtype=np.int64)
    return np.where(share >= confidence, class_index, np.where(share <= 1 - confidence, 0, unknown))


def make_pseudo_labels(
    cohort: Cohort,
    split: Mapping[str, str],
    fold: Mapping[str, int],
    *,
    study: Path,
    tag: str,
    confidence: float,
) -> PseudoLabels:
    """Return the pseudo-labels of the unlabelled training scans of diseased classes.

    Networks of the scan's own fold, which have not seen it, answer for each scan by the mean of their probabilities.

    Args:
        cohort: Its scans.
        split: Side of each; must be that of the study.
        fold: Of the training scans; must be those of the study.
        study: Folder of the finished study of round one.
        tag: Of its runs; those of the folds are ``<tag>-fold<k>``.
        confidence: Of ``gated_labels``.

    Raises:
        RunError: A fold lacks its runs, they do not fit together or this cohort, or a network has seen what it answers.
    """
    training = [scan for scan in cohort.scans if split[scan.scan_id] == TRAINING and scan.label != NO_CLASS]
    diseased = [scan for scan in training if scan.label != cohort.classes[0]]
    runs = _fold_runs(study, tag, sorted({fold[scan.scan_id] for scan in diseased}))
    _check(runs, cohort, split, fold)
    labels: dict[str, Labels] = {}
    checked = {name: Agreement() for name in cohort.classes[1:]}
    answers = {k: _scan_probabilities(predictions, diseased, fold, k) for k, predictions in runs.items()}
    for scan in diseased:
        probabilities = answers[fold[scan.scan_id]][scan.scan_id]
        k = cohort.classes.index(scan.label)
        pseudo = gated_labels(probabilities, k, confidence=confidence)
        if not scan.slice_labelled:
            labels[scan.scan_id] = pseudo
        elif scan.infected is not None:
            checked[scan.label] += _agreement(pseudo, scan.infected[: len(pseudo)])
    return PseudoLabels(labels, len(next(iter(runs.values()))), checked)


def describe_pseudo_labels(pseudo: PseudoLabels, cohort: Cohort) -> list[str]:
    """Return what the pseudo-labels are and, where the truth is known, how good, in lines for the user."""
    lines = []
    truth = _phantom_truth(cohort)
    for k, name in enumerate(cohort.classes[1:], start=1):
        scans = [scan.scan_id for scan in cohort.scans if scan.label == name and scan.scan_id in pseudo.labels]
        if not scans:
            continue
        labels = np.concatenate([pseudo.labels[scan_id] for scan_id in scans])
        counts = [int(np.count_nonzero(labels == value)) for value in (k, 0, UNLABELLED)]
        lines.append(
            f"Pseudo-labels of {len(scans)} unlabelled {name} scans by {pseudo.networks} networks that have not seen "
            f"them: {counts[0]:,} slices {name}, {counts[1]:,} {cohort.classes[0]}, {counts[2]:,} unknown and not used"
        )
        if pseudo.checked[name].infected:
            lines.append(f"  the same on the labelled {name} training scans: {pseudo.checked[name]}")
        if truth is not None:
            agreement = sum((_agreement(pseudo.labels[scan_id], truth[scan_id]) for scan_id in scans), Agreement())
            lines.append(f"  by the phantom's truth: {agreement} ({PHANTOM_NOTICE})")
    return lines


def _agreement(pseudo: Labels, infected: NDArray[np.bool_]) -> Agreement:
    positive = pseudo > 0
    padded = np.zeros(len(pseudo), dtype=bool)
    padded[: len(infected)] = infected
    return Agreement(int((positive & padded).sum()), int(positive.sum()), int(padded.sum()))


def _phantom_truth(cohort: Cohort) -> dict[str, NDArray[np.bool_]] | None:
    """Return which slices of a phantom cohort are infected, by scan_id; None for any other cohort."""
    path = cohort.root / "truth" / "scans.parquet"
    if not path.is_file():
        return None
    table = pd.read_parquet(path, columns=["scan_id", "infected"])
    rows = zip(table["scan_id"].astype(str), table["infected"].astype(str), strict=True)
    return {scan_id: np.array([bit == "1" for bit in bits]) for scan_id, bits in rows}


def _fold_runs(study: Path, tag: str, folds: Sequence[int]) -> dict[int, dict[str, Predictions]]:
    """Return the predictions of the networks of each fold, by fold and model."""
    names = [f"{tag}-fold{k}" for k in folds]
    models = sorted({path.parents[1].name for path in study.glob(f"*/{tag}-fold*/predictions.parquet")})
    complete = [
        model for model in models if all((study / model / name / "predictions.parquet").is_file() for name in names)
    ]
    if not complete:
        raise RunError(
            f"data.pseudo_labels={study.name} needs the finished runs {', '.join(names)} of a model in {study}, and no "
            "model has them all. Train them first: train.py -m study="
            f"{study.name} data.fold={','.join(map(str, folds))} trainer.checkpoint=last."
        )
    return {
        k: {model: read_predictions(study / model / name / "predictions.parquet") for model in complete}
        for k, name in zip(folds, names, strict=True)
    }


def _check(
    runs: Mapping[int, Mapping[str, Predictions]], cohort: Cohort, split: Mapping[str, str], fold: Mapping[str, int]
) -> None:
    """Raise RunError where a run is of another split, or a network has seen what it is to answer, or was selected."""
    sha256 = split_sha256(split_csv(cohort, split))
    first = next(iter(next(iter(runs.values())).values()))
    for k, predictions in runs.items():
        check_joinable(predictions)
        for model, run in predictions.items():
            where = f"{model}'s run {run.metadata.tag}"
            if run.metadata.split_sha256 != sha256 or run.metadata.classes != cohort.classes:
                raise RunError(
                    f"{where} of data.pseudo_labels was made on another split or cohort: its networks may have learnt "
                    "from the validation scans of this one. Train round one with the same data settings."
                )
            check_same_study(first, run)
            scans = run.scans
            members = scans.index[[fold.get(str(scan_id)) == k for scan_id in scans.index]]
            if (scans.loc[members, "fold"] != k).any():
                raise RunError(f"{where} has other folds than this study. Give the same data.folds in both rounds.")
            leaked = members[scans.loc[members, "patient_id"].isin(run.seen_patients)]
            if len(leaked):
                raise RunError(
                    f"{where} was trained on {leaked[0]}, which it must label. Train it with data.fold={k} "
                    "(overwrite=true)."
                )
            if run.table["used_for_selection"].any():
                raise RunError(
                    f"{where} was selected on the validation scans, which must play no role in training. Train the "
                    "folds with trainer.checkpoint=last and without trainer.early_stopping (overwrite=true)."
                )


def _scan_probabilities(
    predictions: Mapping[str, Predictions], scans: Sequence[ScanRecord], fold: Mapping[str, int], k: int
) -> dict[str, NDArray[np.float32]]:
    """Return the mean probabilities of a fold's own scans, float32 [n_slices, classes] by scan_id."""
    members = {scan.scan_id for scan in scans if fold[scan.scan_id] == k}
    of_models = []
    for run in predictions.values():
        rows = run.table[run.table["scan_id"].isin(members)].sort_values(["scan_id", "slice_index"])
        columns = probability_columns(run.metadata.classes)
        of_models.append({str(name): table[columns].to_numpy(np.float32) for name, table in rows.groupby("scan_id")})
    return {scan_id: np.mean([model[scan_id] for model in of_models], axis=0) for scan_id in members}
