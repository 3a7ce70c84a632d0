"""Studies of the phantom itself: does anything but disease tell the class?

Run as ``python -m cnr_iemn.cohort.phantom.honesty``.

Each artefact study trains a classifier to tell a class from Normal by something that should not. An honest phantom
leaves it at chance: the 95% interval of its AUC contains 0.5.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from cnr_iemn.cohort.phantom.oracle import oracle_auc
from cnr_iemn.cohort.phantom.scan import PhantomScan, make_scan
from cnr_iemn.cohort.phantom.writer import write_cohort
from cnr_iemn.registry import SPGC_CLASSES

Features = NDArray[np.float64]
BLUR_REACH_PX = 5
"""Pixels by which the point spread carries a lesion beyond its own outline."""


def auc_interval(
    first: Features, second: Features, *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float, float]:
    """Return the AUC, with its bootstrap interval of ``level``, of telling scans [m, k] of the two sets apart.

    Logistic regression learns from a random half of each set and is judged on the other half: pooling the scores of a
    cross-validation instead would fall below 0.5 where there is nothing to learn. Constant columns are left out.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = np.concatenate([first, second])
    labels = np.repeat([0, 1], [len(first), len(second)])
    train, test = train_test_split(np.arange(len(labels)), test_size=0.5, stratify=labels, random_state=seed)
    told = features[train].std(0) > 0
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(features[train][:, told], labels[train])
    scores, truth = model.decision_function(features[test][:, told]), labels[test]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        rows = np.concatenate([rng.choice(np.flatnonzero(truth == k), (truth == k).sum()) for k in (0, 1)])
        drawn.append(roc_auc_score(truth[rows], scores[rows]))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(roc_auc_score(truth, scores)), float(low), float(high)


def slice_features(hu: NDArray[np.int16], lungs: NDArray[np.bool_]) -> Features:
    """Return what slices [k, rows, columns] show in sum: lung share, moments, histogram and noise, [23] float64."""
    values = hu[lungs].astype(float) if lungs.any() else np.array([-1000.0])
    histogram = np.histogram(values, np.linspace(-1000, 200, 17))[0] / len(values)
    rough = np.abs(np.diff(hu.astype(float), axis=2))
    body = hu[hu > -300].astype(float) if (hu > -300).any() else np.zeros(1)
    return np.array(
        [
            lungs.mean(),
            values.mean(),
            values.std(),
            np.median(values),
            body.mean(),
            np.median(rough),
            rough.mean(),
            *histogram,
        ]
    )


def twin_features(scan: PhantomScan) -> Features:
    """Return the features of a whole scan: its slices' and its litres, number and step."""
    litres = scan.lungs.sum() * np.prod(scan.spacing_mm) / 1e6
    return np.array([*slice_features(scan.hu, scan.lungs), litres, len(scan.hu), scan.spacing_mm[0]])


def clean_slice_features(diseased: PhantomScan, normal: PhantomScan) -> tuple[Features, Features] | None:
    """Return features of a diseased scan's slices without disease and of a Normal scan's at the same positions.

    None where every slice with lung is diseased. Slices at the same relative position within the lungs are matched.
    """
    with_lung = np.flatnonzero(diseased.lungs.any((1, 2)))
    clean = with_lung[~diseased.infected[with_lung] & ~diseased.lesion_mask[with_lung].any((1, 2))]
    if not len(clean):
        return None
    there = np.flatnonzero(normal.lungs.any((1, 2)))
    place = (clean - with_lung[0]) / max(len(with_lung) - 1, 1)
    matched = there[np.rint(place * (len(there) - 1)).astype(int)]
    return slice_features(diseased.hu[clean], diseased.lungs[clean]), slice_features(
        normal.hu[matched], normal.lungs[matched]
    )


def header_features(folder: Path) -> Features:
    """Return what headers and file sizes of a series say, UIDs, patient's and file's names aside.

    Numbers as they are (mean and spread over the slices), texts as a checksum of each.
    """
    files = sorted(folder.glob("*.dcm"))
    rows = [header_row(pydicom.dcmread(path, stop_before_pixels=True)) for path in files]
    table = np.array(rows)
    sizes = np.array([path.stat().st_size for path in files], float)
    return np.concatenate([table.mean(0), table.std(0), [len(files), sizes.mean(), sizes.std()]])


def header_row(header: pydicom.Dataset) -> list[float]:
    """Return each element of one header as numbers, in the order of its tags."""
    values: list[float] = []
    for element in header:
        if element.VR == "UI" or element.keyword in ("PatientID", "PatientName"):
            continue
        for part in element.value if element.VM > 1 else [element.value]:
            try:
                values.append(float(part))
            except ValueError:
                values.append(float(sum((k + 1) * ord(c) for k, c in enumerate(str(part)))))
    return values


def leak_outside_lesions(seed: int, label: str, *, rows: int, n_slices: tuple[int, int]) -> int:
    """Return how many pixels away from any lesion differ from the Normal scan of this seed."""
    import cv2

    normal, diseased = (make_scan(seed, name, rows=rows, n_slices=n_slices) for name in (SPGC_CLASSES[0], label))
    kernel = np.ones((2 * BLUR_REACH_PX + 1,) * 2, np.uint8)
    near = np.stack([cv2.dilate(mask.astype(np.uint8), kernel) for mask in diseased.lesion_mask]) > 0
    return int(((normal.hu != diseased.hu) & ~near).sum())


def seeds_of(seed: int, index: int, scans: int) -> list[int]:
    """Return the seeds of the scans of class number ``index``."""
    return [int(s) for s in np.random.SeedSequence([seed, index]).generate_state(scans, np.uint64)]


def artefact_studies(
    *, scans: int, rows: int, n_slices: tuple[int, int], seed: int, folder: Path, workers: int = 1, level: float = 0.95
) -> dict[str, tuple[float, float, float]]:
    """Return AUC and interval of each artefact study on ``scans`` scans a class; ``folder`` takes a cohort."""
    found: dict[str, tuple[float, float, float]] = {}
    normals = [make_scan(s, SPGC_CLASSES[0], rows=rows, n_slices=n_slices) for s in seeds_of(seed, 0, scans)]
    healthy = np.stack([twin_features(scan) for scan in normals])
    for index, label in enumerate(SPGC_CLASSES[1:], 1):
        own = seeds_of(seed, index, scans)
        twins = [twin_features(make_scan(s, label, rows=rows, n_slices=n_slices, lesions=False)) for s in own]
        found[f"twins without lesions, {label}"] = auc_interval(healthy, np.stack(twins), seed=seed, level=level)
        pairs = [
            clean_slice_features(make_scan(s, label, rows=rows, n_slices=n_slices), normal)
            for s, normal in zip(own, normals, strict=True)
        ]
        clean = [pair for pair in pairs if pair is not None]
        found[f"slices without disease, {label}"] = auc_interval(
            np.stack([p[1] for p in clean]), np.stack([p[0] for p in clean]), seed=seed, level=level
        )
    counts = dict.fromkeys(SPGC_CLASSES, scans)
    write_cohort(folder, scans=counts, labelled={}, seed=seed, rows=rows, n_slices=n_slices, workers=workers)
    headers = series_headers(folder)
    for label in SPGC_CLASSES[1:]:
        found[f"headers and file sizes, {label}"] = auc_interval(
            headers[SPGC_CLASSES[0]], headers[label], seed=seed, level=level
        )
    return found


def series_headers(root: Path) -> dict[str, Features]:
    """Return the header features [m, k] of every scan of a written cohort, by class."""
    folders = dict(zip(SPGC_CLASSES, ("Normal subjects", "COVID-19 subjects", "Cap subjects"), strict=True))
    return {
        label: np.stack([header_features(scan) for scan in sorted((root / name).iterdir())])
        for label, name in folders.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of all studies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scans", type=int, default=60, help="scans of each class")
    parser.add_argument("--rows", type=int, default=96, help="side of the matrix in pixels")
    parser.add_argument("--slices", type=int, nargs=2, default=(22, 30), help="range of the number of slices")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args(arguments)
    n_slices = (given.slices[0], given.slices[1])
    auc, accuracy = oracle_auc(scans=max(given.scans, 200), n_slices=n_slices, seed=given.seed)
    print(f"oracle: AUC COVID-19 against CAP {auc:.3f}, three-class accuracy {accuracy:.3f}")
    for label in SPGC_CLASSES[1:]:
        leak = leak_outside_lesions(given.seed, label, rows=given.rows, n_slices=n_slices)
        print(f"pixels that differ from Normal away from lesions, {label}: {leak}")
    with tempfile.TemporaryDirectory() as folder:
        studies = artefact_studies(
            scans=given.scans, rows=given.rows, n_slices=n_slices, seed=given.seed,
            folder=Path(folder) / "cohort", workers=given.workers,
        )  # fmt: skip
    for name, (value, low, high) in studies.items():
        print(f"{name:40} AUC {value:.3f} [{low:.3f}, {high:.3f}]{'' if low <= 0.5 <= high else '  NOT at chance'}")


if __name__ == "__main__":
    main()
