"""How often does a way to run a trained study's networks give the class that torch gives in float32?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.inference_ways import BASELINE, Tried, read_all
from cnr_iemn.cohort.phantom.writer import write_cohort
from cnr_iemn.ct.find import find_scans
from cnr_iemn.engine.ensembles import read_ensemble
from cnr_iemn.patients.group_features import features_of_sets
from cnr_iemn.patients.slice_sets import by_fold
from cnr_iemn.registry import SPGC_CLASSES

SHARE = 0.1
"""Of a scan's slices, over all networks, that every class must have for the scan to count as mixed."""
SEED = 20_000
"""Of the phantoms: none that a study was trained on."""

Answers = Mapping[str, NDArray[np.float32]]
"""By scan what the networks say, float32 [networks, slices, classes]."""


@dataclass(frozen=True)
class Agreement:
    """Shares of slices (over all networks), of those of mixed scans, and of scans with the class of torch in float32.

    ``difference``: the largest of a slice's probabilities. ``again``: share of slices that were asked twice.
    """

    slices: float
    slices_mixed: float
    scans: float
    difference: float
    n_scans: int
    n_mixed: int
    again: float


def agreements(
    runs: Path,
    study: str,
    name: str,
    ways: Sequence[str],
    found: list[tuple[str, Path]],
    phantoms: int,
    folder: Path,
) -> dict[str, Agreement]:
    """Return the agreement of each way, on these scans and so many new phantoms of each class."""
    from cnr_iemn.patients.booster import load_booster, mean_probabilities

    ensemble = read_ensemble(runs, study, name)
    booster = load_booster(runs / study / "ensembles" / name / "booster.ubj")
    root = folder / "phantoms"
    write_cohort(root, scans=dict.fromkeys(SPGC_CLASSES, phantoms), labelled={}, seed=SEED, rows=256, n_slices=(40, 60))
    new = [(f"phantom {scan_id}", path) for scan_id, path in find_scans(root)]  # or they have the ids of patients
    scans = read_all([*new, *found], ensemble.pixels)

    def booster_classes(said: Answers) -> NDArray[np.int64]:
        sets = {scan_id: by_fold(each, [member.fold for member in ensemble.members]) for scan_id, each in said.items()}
        features = features_of_sets(sets, ensemble.models, ensemble.classes)
        return np.asarray(mean_probabilities(booster, features).argmax(axis=1))

    said: dict[str, Answers] = {}
    again = {}
    for way in (BASELINE, *(way for way in ways if way != BASELINE)):
        networks = Tried(runs / study, ensemble, way, list(scans.values()))
        each = {scan_id: networks.slices(scan_id, prepared).networks for scan_id, prepared in scans.items()}
        said[way] = {scan_id: np.stack(list(answers.values())) for scan_id, answers in each.items()}
        again[way] = sum(networks.again) / sum(values[..., 0].size for values in said[way].values())
    expected = said.pop(BASELINE)
    classes = booster_classes(expected)
    return {
        way: compare(expected, found, float(np.mean(booster_classes(found) == classes)), again[way])
        for way, found in said.items()
    }


def compare(expected: Answers, found: Answers, scans: float, again: float) -> Agreement:
    """Compare slices. ``scans``: the share of scans that agree; ``again``: of slices that were asked twice."""
    n_classes = next(iter(expected.values())).shape[-1]
    same = {key: expected[key].argmax(-1) == found[key].argmax(-1) for key in expected}
    counts = {key: np.bincount(each.argmax(-1).ravel(), minlength=n_classes) for key, each in expected.items()}
    mixed = [key for key, count in counts.items() if count.min() >= SHARE * count.sum()]
    return Agreement(
        slices=_mean(same.values()),
        slices_mixed=_mean(same[key] for key in mixed) if mixed else float("nan"),
        scans=scans,
        difference=max(float(np.abs(expected[key] - found[key]).max()) for key in expected),
        n_scans=len(expected),
        n_mixed=len(mixed),
        again=again,
    )


def _mean(arrays: object) -> float:
    return float(np.mean(np.concatenate([array.ravel() for array in arrays])))  # type: ignore[attr-defined]
