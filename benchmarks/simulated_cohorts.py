"""Simulated slice predictions of four backbones at the paper's sizes: what a method study can be run on without scans.

Nothing here is evidence about patients or networks. A cohort has the organisers' counts (209 training scans, 98
validation scans); every diseased scan has infected slices, as many as the public label rows have; every slice has two
pieces of evidence in each backbone, "infected?" and "CAP rather than COVID-19?". Each is the truth times a signal, plus
an error of variance 1, the sum of three normal parts: one of the patient, one of the slice that all backbones share,
one of the backbone's own. The log-odds are 2 x signal x evidence, which is right for such an error, times a sharpness
(1: calibrated, above it: too sure).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.patients.slice_sets import ScanArray
from cnr_iemn.records import TRAINING, VALIDATION
from cnr_iemn.registry import SPGC_CLASSES

Floats = NDArray[np.float64]
NOTICE = "simulated, not evidence"
BACKBONES = 4
COUNTS = {TRAINING: (52, 116, 41), VALIDATION: (24, 55, 19)}
"""Scans of Normal, COVID-19 and CAP on each side of the organisers' split."""
NORMAL, COVID, CAP = range(3)
_SLICES = (112, 187)
_EXTENT = {COVID: (0.46, 0.45), CAP: (0.30, 0.55)}  # infected share: median, deviation of its logarithm


@dataclass(frozen=True)
class ErrorModel:
    """How the networks err. ``what``: in words.

    ``signal``: of "CAP rather than COVID-19?" and ``infection``: of "infected?", in deviations of the error.
    ``patient``: the patient's share of the error's variance; ``shared``: that of a slice in all backbones, 0 to 1.
    ``sharpness``: of the log-odds. ``lean``: added to the log-odds of CAP (networks see few CAP slices). ``biased``:
    share of CAP scans whose every slice has the evidence of COVID-19. ``telling``: share of a CAP scan's infected
    slices that look like CAP, the others like COVID-19. ``apart``: share of CAP scans that are infected at both ends of
    the lungs and not around their middle; with None no scan is, and fewer slices are infected in CAP than in COVID-19.
    """

    name: str
    what: str
    signal: float
    infection: float = 1.9
    patient: float = 0.5
    shared: float = 0.38
    sharpness: float = 1.0
    lean: float = -0.5
    biased: float = 0.0
    telling: float = 1.0
    apart: float | None = None


MODELS: Mapping[str, ErrorModel] = {
    each.name: each
    for each in (
        ErrorModel("A", "calibrated; slices err independently but for their patient", 0.62, patient=0.6, shared=0.31),
        ErrorModel("B", "some CAP scans are called COVID-19 as a whole, too surely", 1.3, sharpness=4, biased=0.45),
        ErrorModel("C", "only where the infection lies tells CAP from COVID-19", 0.0, patient=0.55, apart=0.55),
        ErrorModel("D", "few of a CAP scan's slices look like CAP", 1.0, patient=0.75, shared=0.17, telling=0.3),
    )
}


@dataclass(frozen=True)
class SimulatedCohort:
    """``scans``: patient_id, split, label by scan_id. ``sets``: one array a scan. ``truth``: class of each slice."""

    scans: pd.DataFrame
    sets: dict[str, tuple[ScanArray, ...]]
    truth: dict[str, NDArray[np.int64]]

    def permuted(self, seed: int) -> "SimulatedCohort":
        """Return the cohort with the labels of its training scans in random order: the negative control."""
        scans = self.scans.copy()
        training = scans["split"] == TRAINING
        scans.loc[training, "label"] = np.random.default_rng(seed).permutation(scans.loc[training, "label"].tolist())
        return SimulatedCohort(scans, self.sets, self.truth)


def simulate(model: ErrorModel, seed: int, counts: Mapping[str, tuple[int, int, int]] = COUNTS) -> SimulatedCohort:
    """Return a cohort; the same seed gives the same one. ``counts``: scans of each class by side of the split."""
    rng = np.random.default_rng([seed, ord(model.name[0])])
    rows, sets, truths = [], {}, {}
    for split, of_classes in counts.items():
        for label, count in enumerate(of_classes):
            for number in range(count):
                scan_id = f"{split}-{SPGC_CLASSES[label]}-{number:03d}"
                truth = _true_slices(model, label, rng)
                rows.append((scan_id, scan_id, split, SPGC_CLASSES[label]))
                truths[scan_id], sets[scan_id] = truth, (_probabilities(model, truth, rng),)
    scans = pd.DataFrame(rows, columns=["scan_id", "patient_id", "split", "label"]).set_index("scan_id")
    return SimulatedCohort(scans, sets, truths)


def _true_slices(model: ErrorModel, label: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the class of each slice, head first: one run of infected ones in a diseased scan."""
    n = int(rng.integers(*_SLICES))
    truth = np.zeros(n, dtype=np.int64)
    if label == NORMAL:
        return truth
    median, spread = _EXTENT[COVID if model.apart is not None else label]
    extent = float(np.clip(median * np.exp(spread * rng.standard_normal()), 0.06, 0.85))
    if label == CAP and model.apart is not None and rng.random() < model.apart:
        infected = np.abs((np.arange(n) + 0.5) / n - 0.5) > (0.9 - extent) / 2  # all but the middle of 0.05 to 0.95
        truth[int(0.05 * n) : int(0.95 * n)] = label * infected[int(0.05 * n) : int(0.95 * n)]
        return truth
    centre = float(np.clip(rng.normal(0.5, 0.12), 0.05 + extent / 2, 0.95 - extent / 2))
    truth[int(n * (centre - extent / 2)) : int(np.ceil(n * (centre + extent / 2)))] = label
    return truth


def _probabilities(model: ErrorModel, truth: NDArray[np.int64], rng: np.random.Generator) -> ScanArray:
    """Return what the backbones say of one scan's slices, float32 [backbones, n_slices, classes]."""
    looks_like_cap = (truth == CAP) & (rng.random(len(truth)) < model.telling) & (rng.random() >= model.biased)
    infected = np.where(truth == NORMAL, -1.0, 1.0)
    which = np.where(truth == NORMAL, 0.0, np.where(looks_like_cap, 1.0, -1.0))
    of_sick, of_cap = (_errors(model, len(truth), rng) for _ in range(2))
    sick = _sigmoid(2 * model.sharpness * model.infection * (model.infection * infected + of_sick))
    gain = 2 * model.sharpness * max(model.signal, 0.5)  # without signal, networks are no less sure
    cap = _sigmoid(gain * (model.signal * which + of_cap) + model.lean)
    return np.stack([1 - sick, sick * (1 - cap), sick * cap], axis=2).astype(np.float32)


def _errors(model: ErrorModel, n: int, rng: np.random.Generator) -> Floats:
    own = 1 - model.patient - model.shared
    return np.asarray(
        np.sqrt(model.patient) * rng.standard_normal()
        + np.sqrt(model.shared) * rng.standard_normal(n)
        + np.sqrt(own) * rng.standard_normal((BACKBONES, n))
    )


def _sigmoid(log_odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-log_odds)))


def slice_accuracy(cohort: SimulatedCohort) -> float:
    """Return the share of slices whose class the backbones name, over all scans and backbones."""
    return float(np.mean(np.concatenate([_right(cohort, scan_id).ravel() for scan_id in cohort.sets])))


def error_correlations(cohort: SimulatedCohort) -> tuple[float, float]:
    """Return how alike errors are within a patient and between backbones, measured on infected slices.

    An error is a slice whose most probable class is not its own, 0 or 1. Within a patient: the intraclass correlation
    (one-way analysis of variance, unequal group sizes; Donner, Int. Statistical Review 1986), within each class and
    backbone, averaged. Between backbones: Pearson's correlation over the slices of a class, averaged over pairs and
    classes.
    """
    within, between = [], []
    for label in (COVID, CAP):
        wrong = [
            ~_right(cohort, scan_id)[:, truth == label] for scan_id, truth in cohort.truth.items() if label in truth
        ]
        within += [intraclass_correlation([each[k].astype(float) for each in wrong]) for k in range(BACKBONES)]
        of_backbones = np.corrcoef(np.concatenate(wrong, axis=1).astype(float))
        between.append(of_backbones[np.triu_indices(BACKBONES, 1)].mean())
    return float(np.mean(within)), float(np.mean(between))


def intraclass_correlation(groups: list[Floats]) -> float:
    """Return the one-way intraclass correlation of values in groups of unequal size."""
    sizes = np.array([len(group) for group in groups])
    means = np.array([group.mean() for group in groups])
    values = np.concatenate(groups)
    between = (sizes * (means - values.mean()) ** 2).sum() / (len(groups) - 1)
    rest = sum(((group - group.mean()) ** 2).sum() for group in groups) / (len(values) - len(groups))
    typical = (len(values) - (sizes**2).sum() / len(values)) / (len(groups) - 1)
    return float((between - rest) / (between + (typical - 1) * rest))


def _right(cohort: SimulatedCohort, scan_id: str) -> NDArray[np.bool_]:
    return np.asarray(cohort.sets[scan_id][0].argmax(axis=2) == cohort.truth[scan_id])
