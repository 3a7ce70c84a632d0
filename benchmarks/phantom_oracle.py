"""The oracle: a classifier that sees the true lesion table. A pipeline that sees pixels should not beat it.

If one does, the images reveal the class by something other than disease, and the phantom has a flaw.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.phantom.anatomy import LOBES
from cnr_iemn.phantom.scan_spec import PUBLISHED, lesion_table, make_scan_spec

_DISEASE_KINDS = ("ground_glass", "consolidation", "tree_in_bud", "effusion")


def oracle_features(lesions: pd.DataFrame, n_slices: int) -> NDArray[np.float64]:
    """Return features of a scan's lesion table, float64 [28]; zeros for a scan without lesions.

    Lesion volume of each lobe (log ml); number of lobes, of sides and of lesions; total volume; symmetry; share and
    presence of each kind; share of peripheral lesions and of thick vessels; mean and standard deviation of HU and of
    log diameters; infected share of the slices, first and last infected slice, number of runs.
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


def draw_features(
    seeds: Sequence[int], label: str, *, n_slices: tuple[int, int], disease: str = PUBLISHED
) -> NDArray[np.float64]:
    """Return the oracle's features [scans, 28] of the scans of these seeds, without rendering them."""
    specs = [make_scan_spec(seed, label, n_slices=n_slices, disease=disease) for seed in seeds]
    return np.stack([oracle_features(lesion_table(spec), spec.protocol.n_slices) for spec in specs])


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
    predictions = [cross_val_predict(model, features, labels, cv=split, method="predict_proba") for model in models]
    mean: NDArray[np.float64] = np.mean(predictions, axis=0)
    return mean


def oracle_auc(
    *, scans: int, n_slices: tuple[int, int], seed: int = 0, disease: str = PUBLISHED
) -> tuple[float, float]:
    """Return the oracle's AUC of COVID-19 against CAP and its three-class accuracy. ``scans``: of each class."""
    from sklearn.metrics import roc_auc_score

    seeds = np.random.SeedSequence(seed).generate_state(len(SPGC_CLASSES) * scans, np.uint64).reshape(-1, scans)
    features = np.concatenate(
        [
            draw_features([int(s) for s in row], name, n_slices=n_slices, disease=disease)
            for row, name in zip(seeds, SPGC_CLASSES, strict=True)
        ]
    )
    labels = np.repeat(np.arange(len(SPGC_CLASSES)), scans)
    diseased = labels > 0
    pair = oracle_probabilities(features[diseased], labels[diseased] - 1, seed=seed)[:, 1]
    accuracy = (oracle_probabilities(features, labels, seed=seed).argmax(1) == labels).mean()
    return float(roc_auc_score(labels[diseased] == 2, pair)), float(accuracy)
