"""Tests of the phantom for leakage: classes should differ by disease only.

python -m benchmarks.phantom_leakage

Each study trains a classifier to separate a class from Normal by features that should not differ. Without leakage it is
at chance: the 95% interval of its AUC contains 0.5.
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from benchmarks.common import make_parser
from benchmarks.phantom_oracle import oracle_auc
from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.phantom.cohort_writer import write_cohort
from cnr_iemn.phantom.renderer import PhantomScan, make_scan
from cnr_iemn.phantom.scan_spec import DISEASES, PUBLISHED

Features = NDArray[np.float64]
BLUR_REACH_PX = 5
"""Pixels around a lesion that the point spread function reaches."""


def auc_interval(
    first: Features, second: Features, *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float, float]:
    """Return the AUC of a classifier that separates two sets of scans, and its bootstrap interval.

    Logistic regression is fitted on a random half of each set and tested on the other half. Pooled scores of a
    cross-validation would have an AUC below 0.5 when there is nothing to learn. Constant columns are dropped.

    Args:
        first: Features of the first set, float64 [scans, features].
        second: Features of the second set.
        seed: Of the split and the bootstrap.
        resamples: Number of bootstrap samples.
        level: Coverage of the interval, 0 to 1.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = np.concatenate([first, second])
    labels = np.repeat([0, 1], [len(first), len(second)])
    train, test = train_test_split(np.arange(len(labels)), test_size=0.5, stratify=labels, random_state=seed)
    varying = features[train].std(0) > 0
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(features[train][:, varying], labels[train])
    scores, truth = model.decision_function(features[test][:, varying]), labels[test]
    rng = np.random.default_rng(seed)
    first, second = scores[truth == 0], scores[truth == 1]
    samples = [(rng.choice(first, len(first)), rng.choice(second, len(second))) for _ in range(resamples)]
    drawn = (np.stack(values) for values in zip(*samples, strict=True))
    low, high = np.quantile(_auc(*drawn), [(1 - level) / 2, (1 + level) / 2])
    return float(_auc(first, second)), float(low), float(high)


def _auc(first: Features, second: Features) -> NDArray[np.float64]:
    """Return the AUC along the last axis: Mann and Whitney's U over the number of pairs."""
    from scipy.stats import mannwhitneyu

    u = mannwhitneyu(second, first, axis=-1, method="asymptotic").statistic
    return np.asarray(u / (first.shape[-1] * second.shape[-1]))


def slice_features(hu: NDArray[np.int16], lungs: NDArray[np.bool_]) -> Features:
    """Return summary statistics of slices [k, rows, columns], float64 [23]: lung share, moments, noise, histogram."""
    values = hu[lungs].astype(float) if lungs.any() else np.array([-1000.0])
    histogram = np.histogram(values, np.linspace(-1000, 200, 17))[0] / len(values)
    gradient = np.abs(np.diff(hu.astype(float), axis=2))
    body = hu[hu > -300].astype(float) if (hu > -300).any() else np.zeros(1)
    return np.array(
        [
            lungs.mean(),
            values.mean(),
            values.std(),
            np.median(values),
            body.mean(),
            np.median(gradient),
            gradient.mean(),
            *histogram,
        ]
    )


def scan_features(scan: PhantomScan) -> Features:
    """Return the features of a whole scan: those of its slices, lung volume, number of slices and slice distance."""
    litres = scan.lungs.sum() * np.prod(scan.spacing_mm) / 1e6
    return np.array([*slice_features(scan.hu, scan.lungs), litres, len(scan.hu), scan.spacing_mm[0]])


def clean_slice_features(diseased: PhantomScan, normal: PhantomScan) -> tuple[Features, Features] | None:
    """Return features of a diseased scan's slices without disease, and of the matching slices of a Normal scan.

    Slices at the same relative position within the lungs match. None if every slice with lung is diseased.
    """
    with_lung = np.flatnonzero(diseased.lungs.any((1, 2)))
    clean = with_lung[~diseased.infected[with_lung] & ~diseased.lesion_mask[with_lung].any((1, 2))]
    if not len(clean):
        return None
    normal_slices = np.flatnonzero(normal.lungs.any((1, 2)))
    position = (clean - with_lung[0]) / max(len(with_lung) - 1, 1)
    matches = normal_slices[np.rint(position * (len(normal_slices) - 1)).astype(int)]
    return slice_features(diseased.hu[clean], diseased.lungs[clean]), slice_features(
        normal.hu[matches], normal.lungs[matches]
    )


def header_features(folder: Path) -> Features:
    """Return features of the headers and file sizes of a series, without UIDs and names of patients and files.

    Numbers give their mean and standard deviation over the slices; texts are replaced by a checksum.
    """
    files = sorted(folder.glob("*.dcm"))
    rows = [header_row(pydicom.dcmread(path, stop_before_pixels=True)) for path in files]
    table = np.array(rows)
    sizes = np.array([path.stat().st_size for path in files], float)
    return np.concatenate([table.mean(0), table.std(0), [len(files), sizes.mean(), sizes.std()]])


def header_row(header: pydicom.Dataset) -> list[float]:
    """Return the elements of a header as numbers, in the order of the tags."""
    values: list[float] = []
    for element in header:
        if element.VR == "UI" or element.keyword in ("PatientID", "PatientName"):
            continue
        for value in element.value if element.VM > 1 else [element.value]:
            try:
                values.append(float(value))
            except ValueError:
                values.append(float(sum((k + 1) * ord(c) for k, c in enumerate(str(value)))))
    return values


def leak_outside_lesions(
    seed: int, label: str, *, rows: int, n_slices: tuple[int, int], disease: str = PUBLISHED
) -> int:
    """Return the number of pixels away from any lesion that differ from the Normal scan of this seed."""
    import cv2

    normal, diseased = (
        make_scan(seed, name, rows=rows, n_slices=n_slices, disease=disease) for name in (SPGC_CLASSES[0], label)
    )
    kernel = np.ones((2 * BLUR_REACH_PX + 1,) * 2, np.uint8)
    opacities = diseased.lesion_mask | normal.lesion_mask  # Normal scans of the clear disease have oedema
    near = np.stack([cv2.dilate(mask.astype(np.uint8), kernel) for mask in opacities]) > 0
    return int(((normal.hu != diseased.hu) & ~near).sum())


def seeds_of(seed: int, index: int, scans: int) -> list[int]:
    """Return the seeds of the scans of class number ``index``."""
    return [int(s) for s in np.random.SeedSequence([seed, index]).generate_state(scans, np.uint64)]


def artefact_studies(
    *,
    scans: int,
    rows: int,
    n_slices: tuple[int, int],
    seed: int,
    folder: Path,
    workers: int = 1,
    level: float = 0.95,
    disease: str = PUBLISHED,
) -> dict[str, tuple[float, float, float]]:
    """Return AUC and interval of each study, on ``scans`` scans of each class. A cohort is written to ``folder``."""
    intervals: dict[str, tuple[float, float, float]] = {}
    make = partial(make_scan, rows=rows, n_slices=n_slices, disease=disease)
    normals = [make(s, SPGC_CLASSES[0], lesions=False) for s in seeds_of(seed, 0, scans)]
    healthy = np.stack([scan_features(scan) for scan in normals])
    for index, label in enumerate(SPGC_CLASSES[1:], 1):
        seeds = seeds_of(seed, index, scans)
        without_lesions = [scan_features(make(s, label, lesions=False)) for s in seeds]
        intervals[f"scans without lesions, {label}"] = auc_interval(
            healthy, np.stack(without_lesions), seed=seed, level=level
        )
        pairs = [clean_slice_features(make(s, label), normal) for s, normal in zip(seeds, normals, strict=True)]
        clean = [pair for pair in pairs if pair is not None]
        intervals[f"slices without disease, {label}"] = auc_interval(
            np.stack([p[1] for p in clean]), np.stack([p[0] for p in clean]), seed=seed, level=level
        )
    counts = dict.fromkeys(SPGC_CLASSES, scans)
    write_cohort(
        folder, scans=counts, labelled={}, seed=seed, rows=rows, n_slices=n_slices, disease=disease, workers=workers
    )
    headers = series_headers(folder)
    for label in SPGC_CLASSES[1:]:
        intervals[f"headers and file sizes, {label}"] = auc_interval(
            headers[SPGC_CLASSES[0]], headers[label], seed=seed, level=level
        )
    return intervals


def series_headers(root: Path) -> dict[str, Features]:
    """Return the header features [scans, features] of a cohort on disk, by class."""
    folders = dict(zip(SPGC_CLASSES, ("Normal subjects", "COVID-19 subjects", "Cap subjects"), strict=True))
    return {
        label: np.stack([header_features(scan) for scan in sorted((root / name).iterdir())])
        for label, name in folders.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of all studies."""
    parser = make_parser(__doc__)
    parser.add_argument("--scans", type=int, default=60, help="scans of each class")
    parser.add_argument("--rows", type=int, default=96, help="side of the matrix in pixels")
    parser.add_argument("--slices", type=int, nargs=2, default=(22, 30), help="range of the number of slices")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--disease", choices=DISEASES, default=PUBLISHED)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    n_slices = (options.slices[0], options.slices[1])
    auc, accuracy = oracle_auc(
        scans=max(options.scans, 200), n_slices=n_slices, seed=options.seed, disease=options.disease
    )
    print(f"{options.disease} disease\noracle: AUC COVID-19 against CAP {auc:.3f}, three-class accuracy {accuracy:.3f}")
    for label in SPGC_CLASSES[1:]:
        leak = leak_outside_lesions(options.seed, label, rows=options.rows, n_slices=n_slices, disease=options.disease)
        print(f"pixels away from lesions that differ from Normal, {label}: {leak}")
    with tempfile.TemporaryDirectory() as folder:
        studies = artefact_studies(
            scans=options.scans, rows=options.rows, n_slices=n_slices, seed=options.seed,
            folder=Path(folder) / "cohort", workers=options.workers, disease=options.disease,
        )  # fmt: skip
    for name, (value, low, high) in studies.items():
        print(f"{name:40} AUC {value:.3f} [{low:.3f}, {high:.3f}]{'' if low <= 0.5 <= high else '  NOT at chance'}")


if __name__ == "__main__":
    main()
