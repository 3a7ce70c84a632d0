"""The oracle: a classifier that sees the true lesion table. A pipeline that sees pixels cannot honestly beat it.

Where one does, the images carry a sign of the class that is not disease, and the phantom is at fault.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.cohort.phantom.anatomy import LOBES
from cnr_iemn.cohort.phantom.plan import lesion_table, make_plan
from cnr_iemn.registry import SPGC_CLASSES

_DISEASE_KINDS = ("ground_glass", "consolidation", "tree_in_bud", "effusion")


def oracle_features(lesions: pd.DataFrame, n_slices: int) -> NDArray[np.float64]:
    """Return what one scan's lesion table tells, [28] float64: zeros for a scan without lesions.

    Volume of each lobe (log ml), number of lobes, both sides, lesions, volume; share of each kind; peripheral share;
    thick vessels; mean and spread of HU; diameters; infected share of the slices, its first, last and number of runs.
    """
    if lesions.empty:
        return np.zeros(28)
    volume = lesions["volume_ml"].to_numpy()
    kind = lesions["kind"].to_numpy()
    lobes = [float(volume[(lesions["lobe"] == lobe).to_numpy()].sum()) for lobe in LOBES]
    involved = {lobe for lobe, amount in zip(LOBES, lobes, strict=True) if amount > 0}
    solid = lesions[lesions["kind"] != "effusion"]
    hu, diameter = solid["hu"].to_numpy(), solid["diameter_mm"].to_numpy()
    infected = np.zeros(n_slices, bool)
    for first, last in zip(lesions["first_slice"], lesions["last_slice"], strict=True):
        infected[max(first, 0) : last + 1] = True
    rows = np.flatnonzero(infected) if infected.any() else np.zeros(1, int)
    left = sum(amount for lobe, amount in zip(LOBES, lobes, strict=True) if lobe[0] == "L")
    values = [
        *np.log1p(lobes), len(involved), len({lobe[0] for lobe in involved}), np.log1p(len(lesions)),
        np.log1p(volume.sum()), abs(2 * left / volume.sum() - 1),
        *[float((kind == name).mean()) for name in _DISEASE_KINDS],
        *[float((kind == name).any()) for name in _DISEASE_KINDS],
        lesions["peripheral"].mean(), lesions["thick_vessels"].mean(), hu.mean(), hu.std(), np.log(diameter).mean(),
        np.log(diameter).std(), infected.mean(), rows[0] / n_slices, rows[-1] / n_slices, np.diff(infected).sum() / 2,
    ]  # fmt: skip
    return np.array(values, np.float64)


def draw_tables(seeds: Sequence[int], label: str, *, n_slices: tuple[int, int]) -> NDArray[np.float64]:
    """Return the oracle's features [m, 28] of scans of these seeds, without rendering a pixel."""
    plans = [make_plan(seed, label, n_slices=n_slices) for seed in seeds]
    return np.stack([oracle_features(lesion_table(plan), plan.acquisition.n_slices) for plan in plans])


def oracle_probabilities(
    features: NDArray[np.float64], labels: NDArray[np.int_], *, folds: int = 5, seed: int = 0
) -> NDArray[np.float64]:
    """Return cross-validated class probabilities [m, classes] of a random forest averaged with logistic regression."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    models = (
        RandomForestClassifier(200, min_samples_leaf=3, random_state=seed, n_jobs=1),
        make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2000)),
    )
    found = [cross_val_predict(model, features, labels, cv=split, method="predict_proba") for model in models]
    mean: NDArray[np.float64] = np.mean(found, axis=0)
    return mean


def oracle_auc(*, scans: int, n_slices: tuple[int, int], seed: int = 0) -> tuple[float, float]:
    """Return the oracle's AUC of COVID-19 against CAP and its three-class accuracy, on ``scans`` scans a class."""
    from sklearn.metrics import roc_auc_score

    seeds = np.random.SeedSequence(seed).generate_state(len(SPGC_CLASSES) * scans, np.uint64).reshape(-1, scans)
    features = np.concatenate(
        [
            draw_tables([int(s) for s in row], name, n_slices=n_slices)
            for row, name in zip(seeds, SPGC_CLASSES, strict=True)
        ]
    )
    labels = np.repeat(np.arange(len(SPGC_CLASSES)), scans)
    diseased = labels > 0
    pair = oracle_probabilities(features[diseased], labels[diseased] - 1, seed=seed)[:, 1]
    accuracy = (oracle_probabilities(features, labels, seed=seed).argmax(1) == labels).mean()
    return float(roc_auc_score(labels[diseased] == 2, pair)), float(accuracy)
