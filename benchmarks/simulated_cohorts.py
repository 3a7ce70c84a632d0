"""Simulated slice predictions of four backbones at the paper's sizes, to study methods of aggregation without scans.

Simulations are not evidence about patients or networks. A cohort has the organisers' counts: 209 training and 98
validation scans. Every diseased scan has infected slices, as many as the public label rows have. In each backbone a
slice has two pieces of evidence, "infected?" and "CAP rather than COVID-19?". Each is the truth times a signal, plus an
error of variance 1 that is the sum of three normal terms: one for the patient, one for the slice and shared by all
backbones, and one for the backbone. The log-odds are 2 x signal x evidence, which is calibrated for such an error,
times a sharpness (1: calibrated; above 1: overconfident).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.stage2.out_of_fold import ScanArray

Floats = NDArray[np.float64]
NOTICE = "simulated, not evidence"
BACKBONES = 4
COUNTS = {TRAINING: (52, 116, 41), VALIDATION: (24, 55, 19)}
"""Scans of Normal, COVID-19 and CAP in each part of the organisers' split."""
NORMAL, COVID, CAP = range(3)
_SLICES = (112, 187)
_EXTENT = {COVID: (0.46, 0.45), CAP: (0.30, 0.55)}  # infected share: median, standard deviation of its logarithm


@dataclass(frozen=True)
class ErrorModel:
    """Errors of the networks.

    Attributes:
        name: One letter.
        description: For the title of the table.
        signal: Of "CAP rather than COVID-19?", in standard deviations of the error.
        infection: Of "infected?", in standard deviations of the error.
        patient_variance: The patient's share of the error's variance, 0 to 1.
        slice_variance: The share of the slice, in all backbones, 0 to 1.
        sharpness: Factor of the log-odds.
        cap_bias: Added to the log-odds of CAP, since networks see few CAP slices.
        misleading_scans: Share of CAP scans in which every slice has the evidence of COVID-19.
        typical_slices: Share of a CAP scan's infected slices that look like CAP; the others look like COVID-19.
        split_infection: Share of CAP scans that are infected at both ends of the lungs but not in their middle. None:
            no scan is, and CAP has fewer infected slices than COVID-19.
    """

    name: str
    description: str
    signal: float
    infection: float = 1.9
    patient_variance: float = 0.5
    slice_variance: float = 0.38
    sharpness: float = 1.0
    cap_bias: float = -0.5
    misleading_scans: float = 0.0
    typical_slices: float = 1.0
    split_infection: float | None = None


MODELS: Mapping[str, ErrorModel] = {
    model.name: model
    for model in (
        ErrorModel(
            "A",
            "calibrated; errors are independent except for the patient",
            0.62,
            patient_variance=0.6,
            slice_variance=0.31,
        ),
        ErrorModel(
            "B",
            "some CAP scans look like COVID-19 as a whole, too confidently",
            1.3,
            sharpness=4,
            misleading_scans=0.45,
        ),
        ErrorModel(
            "C",
            "only the place of the infection separates CAP from COVID-19",
            0.0,
            patient_variance=0.55,
            split_infection=0.55,
        ),
        ErrorModel(
            "D",
            "few of a CAP scan's slices look like CAP",
            1.0,
            patient_variance=0.75,
            slice_variance=0.17,
            typical_slices=0.3,
        ),
    )
}


@dataclass(frozen=True)
class SimulatedCohort:
    """Scans and predictions of a simulated cohort.

    Attributes:
        scans: patient_id, split and label by scan_id.
        sets: Slice predictions by scan_id, one array for each scan.
        truth: The class of each slice by scan_id.
    """

    scans: pd.DataFrame
    sets: dict[str, tuple[ScanArray, ...]]
    truth: dict[str, NDArray[np.int64]]

    def permute_labels(self, seed: int) -> "SimulatedCohort":
        """Return the cohort with randomly permuted training labels, as a negative control."""
        scans = self.scans.copy()
        training = scans["split"] == TRAINING
        scans.loc[training, "label"] = np.random.default_rng(seed).permutation(scans.loc[training, "label"].tolist())
        return SimulatedCohort(scans, self.sets, self.truth)


def simulate(model: ErrorModel, seed: int, counts: Mapping[str, tuple[int, int, int]] = COUNTS) -> SimulatedCohort:
    """Return the cohort of a seed. ``counts``: scans of each class by part of the split."""
    rng = np.random.default_rng([seed, ord(model.name[0])])
    rows, sets, truths = [], {}, {}
    for split, class_counts in counts.items():
        for label, count in enumerate(class_counts):
            for number in range(count):
                scan_id = f"{split}-{SPGC_CLASSES[label]}-{number:03d}"
                truth = _true_slices(model, label, rng)
                rows.append((scan_id, scan_id, split, SPGC_CLASSES[label]))
                truths[scan_id], sets[scan_id] = truth, (_probabilities(model, truth, rng),)
    scans = pd.DataFrame(rows, columns=["scan_id", "patient_id", "split", "label"]).set_index("scan_id")
    return SimulatedCohort(scans, sets, truths)


def _true_slices(model: ErrorModel, label: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the class of each slice, head first."""
    n = int(rng.integers(*_SLICES))
    truth = np.zeros(n, dtype=np.int64)
    if label == NORMAL:
        return truth
    median, spread = _EXTENT[COVID if model.split_infection is not None else label]
    extent = float(np.clip(median * np.exp(spread * rng.standard_normal()), 0.06, 0.85))
    if label == CAP and model.split_infection is not None and rng.random() < model.split_infection:
        infected = np.abs((np.arange(n) + 0.5) / n - 0.5) > (0.9 - extent) / 2  # all but the middle of 0.05 to 0.95
        truth[int(0.05 * n) : int(0.95 * n)] = label * infected[int(0.05 * n) : int(0.95 * n)]
        return truth
    centre = float(np.clip(rng.normal(0.5, 0.12), 0.05 + extent / 2, 0.95 - extent / 2))
    truth[int(n * (centre - extent / 2)) : int(np.ceil(n * (centre + extent / 2)))] = label
    return truth


def _probabilities(model: ErrorModel, truth: NDArray[np.int64], rng: np.random.Generator) -> ScanArray:
    """Return the predictions for the slices of one scan, float32 [backbones, n_slices, classes]."""
    looks_like_cap = (
        (truth == CAP) & (rng.random(len(truth)) < model.typical_slices) & (rng.random() >= model.misleading_scans)
    )
    infected = np.where(truth == NORMAL, -1.0, 1.0)
    pattern = np.where(truth == NORMAL, 0.0, np.where(looks_like_cap, 1.0, -1.0))
    infection_errors, cap_errors = (_errors(model, len(truth), rng) for _ in range(2))
    infection = _sigmoid(2 * model.sharpness * model.infection * (model.infection * infected + infection_errors))
    gain = 2 * model.sharpness * max(model.signal, 0.5)  # networks without signal are as confident
    cap = _sigmoid(gain * (model.signal * pattern + cap_errors) + model.cap_bias)
    return np.stack([1 - infection, infection * (1 - cap), infection * cap], axis=2).astype(np.float32)


def _errors(model: ErrorModel, n: int, rng: np.random.Generator) -> Floats:
    backbone_variance = 1 - model.patient_variance - model.slice_variance
    return np.asarray(
        np.sqrt(model.patient_variance) * rng.standard_normal()
        + np.sqrt(model.slice_variance) * rng.standard_normal(n)
        + np.sqrt(backbone_variance) * rng.standard_normal((BACKBONES, n))
    )


def _sigmoid(log_odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-log_odds)))


def slice_accuracy(cohort: SimulatedCohort) -> float:
    """Return the accuracy of the slices' most probable class, over all scans and backbones."""
    return float(np.mean(np.concatenate([_is_correct(cohort, scan_id).ravel() for scan_id in cohort.sets])))


def error_correlations(cohort: SimulatedCohort) -> tuple[float, float]:
    """Return the correlations of errors within a patient and between backbones, on infected slices.

    An error is 1 for a slice with a wrong most probable class and 0 otherwise. Within a patient: the intraclass
    correlation (one-way analysis of variance, unequal group sizes; Donner, Int. Statistical Review 1986) for each class
    and backbone, averaged. Between backbones: Pearson's correlation over the slices of a class, averaged over pairs and
    classes.
    """
    within, between = [], []
    for label in (COVID, CAP):
        wrong = [
            ~_is_correct(cohort, scan_id)[:, truth == label]
            for scan_id, truth in cohort.truth.items()
            if label in truth
        ]
        within += [intraclass_correlation([errors[k].astype(float) for errors in wrong]) for k in range(BACKBONES)]
        correlations = np.corrcoef(np.concatenate(wrong, axis=1).astype(float))
        between.append(correlations[np.triu_indices(BACKBONES, 1)].mean())
    return float(np.mean(within)), float(np.mean(between))


def intraclass_correlation(groups: list[Floats]) -> float:
    """Return the one-way intraclass correlation of values in groups of unequal size."""
    sizes = np.array([len(group) for group in groups])
    means = np.array([group.mean() for group in groups])
    values = np.concatenate(groups)
    between = (sizes * (means - values.mean()) ** 2).sum() / (len(groups) - 1)
    within = sum(((group - group.mean()) ** 2).sum() for group in groups) / (len(values) - len(groups))
    mean_size = (len(values) - (sizes**2).sum() / len(values)) / (len(groups) - 1)
    return float((between - within) / (between + (mean_size - 1) * within))


def _is_correct(cohort: SimulatedCohort, scan_id: str) -> NDArray[np.bool_]:
    return np.asarray(cohort.sets[scan_id][0].argmax(axis=2) == cohort.truth[scan_id])
