"""Whether density alone tells the classes of a phantom: AUC of HU measurements, without the place or shape of disease.

python -m benchmarks.phantom_density --disease clear --scans 70 --first-seed 5000

For clear disease, COVID-19 against CAP should be at chance (0.5) for each measurement.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.common import make_parser
from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.ct.window import window_to_uint8
from cnr_iemn.phantom.renderer import make_scan
from cnr_iemn.phantom.scan_spec import DISEASES
from cnr_iemn.stage2.baselines import ScanSummary, summarise_scan

NORMAL, COVID, CAP = SPGC_CLASSES
_FOLDS = 5


@dataclass(frozen=True)
class Task:
    """One phantom scan."""

    seed: int
    label: str


def measure(task: Task, *, disease: str, rows: int) -> ScanSummary:
    """Draw a scan and return what is measured within its lung mask."""
    scan = make_scan(task.seed, task.label, rows=rows, n_slices=(20, 22), disease=disease)
    mask = segment_lungs(scan.hu, scan.spacing_mm).mask
    litres = float(mask.sum() * np.prod(scan.spacing_mm) / 1e6)
    return summarise_scan(window_to_uint8(scan.hu, low=-1000, high=400), mask, litres=litres)


def features(summary: ScanSummary) -> dict[str, NDArray[np.float64]]:
    """Return the measurements by name."""
    return {
        "HU histogram": summary.histogram,
        "mean HU in 20 groups": np.nan_to_num(summary.group_mean_hu, nan=-850.0),
        "mean HU": np.array([summary.mean_hu]),
        "dense share": np.array([summary.dense_share]),
        "laterality": np.array([summary.dense_left, summary.dense_asymmetry]),
        "litres": np.array([summary.litres]),
    }


def cross_validated_auc(values: NDArray[np.float64], positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Return mean and standard error over folds of the AUC of a logistic regression."""
    aucs = []
    for training, test in StratifiedKFold(_FOLDS, shuffle=True, random_state=0).split(values, positive):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000)).fit(
            values[training], positive[training]
        )
        aucs.append(roc_auc_score(positive[test], model.decision_function(values[test])))
    return float(np.mean(aucs)), float(np.std(aucs, ddof=1) / np.sqrt(_FOLDS))


def main() -> None:
    """Print a line for each measurement."""
    parser = make_parser(__doc__)
    parser.add_argument("--disease", choices=DISEASES, default="clear")
    parser.add_argument("--scans", type=int, default=70, help="of each class")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    labels = np.repeat(SPGC_CLASSES, options.scans)
    tasks = [Task(options.first_seed + seed, str(label)) for seed, label in enumerate(labels)]
    with ProcessPoolExecutor(options.workers) as pool:
        summaries = list(pool.map(partial(measure, disease=options.disease, rows=options.rows), tasks, chunksize=4))
    rows = [features(summary) for summary in summaries]
    diseased = labels != NORMAL
    print(f"{options.disease} disease, {options.scans} scans a class; AUC, mean over {_FOLDS} folds (standard error)")
    print(f"{'measurement':<22}{'COVID-19, CAP':>16}{'Normal, disease':>18}")
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        pair = [cross_validated_auc(values[diseased], labels[diseased] == CAP), cross_validated_auc(values, diseased)]
        cells = [f"{mean:.2f} ({error:.2f})" for mean, error in pair]
        print(f"{name:<22}{cells[0]:>16}{cells[1]:>18}")


if __name__ == "__main__":
    main()
