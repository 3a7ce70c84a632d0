"""Agreement of the inference engines with torch in float32, on the networks of a trained study."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.inference_engines import BASELINE, BenchmarkNetworks, prepare_all
from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.ct.io.discovery import find_scans
from cnr_iemn.phantom.cohort_writer import write_cohort
from cnr_iemn.stage2.ensemble import aggregate_again, load_ensemble_method, read_ensemble
from cnr_iemn.stage2.out_of_fold import by_fold

MIN_SHARE = 0.1
"""A scan is mixed if each class has at least this share of its slice predictions, over all networks."""
SEED = 20_000
"""Seed of the phantoms; no study is trained on them."""

Predictions = Mapping[str, NDArray[np.float32]]
"""Class probabilities of the slices by scan, float32 [networks, slices, classes]."""


@dataclass(frozen=True)
class Agreement:
    """Shares, 0 to 1, of predictions whose class is that of torch in float32.

    Attributes:
        slices: Share of all slices, over all networks.
        mixed_slices: Share of the slices of mixed scans; nan without mixed scans.
        scans: Share of the scans.
        largest_difference: Of one class probability of a slice.
        n_scans: Number of scans.
        n_mixed: Number of mixed scans.
        recheck_share: Share of slices that were recomputed in float32.
    """

    slices: float
    mixed_slices: float
    scans: float
    largest_difference: float
    n_scans: int
    n_mixed: int
    recheck_share: float


def measure_agreement(
    runs: Path,
    study: str,
    ensemble_name: str,
    engines: Sequence[str],
    scans: list[tuple[str, Path]],
    n_phantoms: int,
    folder: Path,
) -> dict[str, Agreement]:
    """Return the agreement of each engine, on these scans and on ``n_phantoms`` new phantoms of each class."""
    from cnr_iemn.stage2.scan_predictions import predict_sets

    ensemble = read_ensemble(runs, study, ensemble_name)
    again = aggregate_again(study, ensemble_name, runs)
    method = load_ensemble_method(runs / study / "ensembles" / ensemble_name, ensemble, again=again)
    root = folder / "phantoms"
    counts = dict.fromkeys(SPGC_CLASSES, n_phantoms)
    write_cohort(root, scans=counts, labelled={}, seed=SEED, rows=256, n_slices=(40, 60))
    phantoms = [(f"phantom {scan_id}", path) for scan_id, path in find_scans(root)]  # ids differ from those of patients
    prepared = prepare_all([*phantoms, *scans], ensemble.pixels)

    def predicted_classes(predictions: Predictions) -> NDArray[np.int64]:
        folds = [member.fold for member in ensemble.members]
        sets = {scan_id: by_fold(probabilities, folds) for scan_id, probabilities in predictions.items()}
        return np.asarray(predict_sets(method, sets).argmax(axis=1))

    predictions: dict[str, Predictions] = {}
    recheck_shares = {}
    for engine in (BASELINE, *(name for name in engines if name != BASELINE)):
        networks = BenchmarkNetworks(runs / study, ensemble, engine, list(prepared.values()))
        predictions[engine] = {scan_id: networks.predict_scan(scan) for scan_id, scan in prepared.items()}
        n_predictions = sum(values[..., 0].size for values in predictions[engine].values())
        recheck_shares[engine] = sum(networks.recheck_counts) / n_predictions
    expected = predictions.pop(BASELINE)
    classes = predicted_classes(expected)
    return {
        engine: compare(expected, actual, float(np.mean(predicted_classes(actual) == classes)), recheck_shares[engine])
        for engine, actual in predictions.items()
    }


def compare(expected: Predictions, actual: Predictions, scans: float, recheck_share: float) -> Agreement:
    """Compare slice predictions. ``scans``: share of scans that agree."""
    n_classes = next(iter(expected.values())).shape[-1]
    matches = {key: expected[key].argmax(-1) == actual[key].argmax(-1) for key in expected}
    counts = {key: np.bincount(values.argmax(-1).ravel(), minlength=n_classes) for key, values in expected.items()}
    mixed = [key for key, count in counts.items() if count.min() >= MIN_SHARE * count.sum()]
    return Agreement(
        slices=_mean(matches.values()),
        mixed_slices=_mean(matches[key] for key in mixed) if mixed else float("nan"),
        scans=scans,
        largest_difference=max(float(np.abs(expected[key] - actual[key]).max()) for key in expected),
        n_scans=len(expected),
        n_mixed=len(mixed),
        recheck_share=recheck_share,
    )


def _mean(arrays: Iterable[NDArray[np.bool_]]) -> float:
    return float(np.mean(np.concatenate([array.ravel() for array in arrays])))
