"""Lung masks against the known lungs of phantoms, clean and with a part of one lung consolidated to the pleura.

python -m benchmarks.lungs --scans 6 --rows 256 --share 0.4 [--json lungs.json]

Prints the Dice coefficient with both lungs, lowest and median over the scans and both sides, of lungs=pleura, border
and tutorial, and the share of the consolidation that each keeps.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from cnr_iemn.cohort.phantom.scan import PhantomScan, make_scan
from cnr_iemn.ct.lungs import segment_lungs

METHODS = ("pleura", "border", "tutorial")
SHAPES = ("dependent", "lateral", "lower lobe", "along the ribs", "base", "front")
"""Where the consolidation is: the part of one lung that is farthest in this direction."""
DENSE_HU, NOISE_HU = 30.0, 18.0

Mask = NDArray[np.bool_]


def dice(one: Mask, other: Mask) -> float:
    """Return the Dice coefficient of two masks."""
    return float(2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)))


def one_lung(lungs: Mask, side: str) -> Mask:
    """Return the right or the left lung; the right one has the lower columns."""
    ends = np.flatnonzero(lungs.any(axis=(0, 1)))
    columns = np.arange(lungs.shape[2]) - (ends[0] + ends[-1]) / 2
    return lungs & (columns < 0 if side == "right" else columns > 0)


def consolidated(scan: PhantomScan, shape: str, side: str, share: float) -> tuple[NDArray[np.int16], Mask]:
    """Return HU with so much of one lung turned dense, and which voxels those are."""
    lung = one_lung(scan.lungs, side)
    far = _direction(scan, shape)[lung]
    chosen = np.zeros_like(lung)
    chosen[lung] = far >= np.quantile(far, 1 - share)
    soft = ndimage.gaussian_filter(chosen.astype(np.float32), (0, 0.8, 0.8)) * lung  # the edge of a pixel or two
    soft[chosen] = np.maximum(soft[chosen], 0.5)
    noise = np.random.default_rng(scan.plan.seed).normal(0, NOISE_HU, scan.hu.shape)
    hu = scan.hu + soft * (DENSE_HU + noise - scan.hu)
    return np.rint(hu).astype(np.int16), chosen


def _direction(scan: PhantomScan, shape: str) -> NDArray[np.floating]:
    """Return how far each voxel lies in the direction of the consolidation."""
    z, y, x = np.indices(scan.hu.shape, dtype=np.float32)
    step, row, _ = scan.spacing_mm
    if shape == "along the ribs":
        return -ndimage.distance_transform_edt(_outline(scan.lungs), sampling=scan.spacing_mm)
    middle = np.flatnonzero(scan.lungs.any(axis=(0, 1))).mean()
    directions = {"dependent": y, "front": -y, "base": z, "lateral": np.abs(x - middle)}
    return directions[shape] if shape in directions else 0.8 * step * z + row * y


def _outline(lungs: Mask) -> Mask:
    """Return the convex outline of both lungs together, slice by slice."""
    outline = np.zeros(lungs.shape, np.uint8)
    for index in np.flatnonzero(lungs.any(axis=(1, 2))):
        points = cv2.findNonZero(lungs[index].view(np.uint8))
        cv2.fillConvexPoly(outline[index], cv2.convexHull(points), 1)
    return outline > 0


def main() -> None:
    """Print the table and, with --json, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=6)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--share", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    kept: dict[tuple[str, str], list[float]] = defaultdict(list)
    for seed in range(words.seed, words.seed + words.scans):
        scan = make_scan(seed, "Normal", rows=words.rows, n_slices=(60, 90))
        for method in METHODS:
            found = segment_lungs(scan.hu, scan.spacing_mm, method=method).mask
            scores["clean", method].append(dice(found, scan.lungs))
        for shape in SHAPES:
            for side in ("right", "left"):
                hu, dense = consolidated(scan, shape, side, words.share)
                for method in METHODS:
                    found = segment_lungs(hu, scan.spacing_mm, method=method).mask
                    scores[shape, method].append(dice(found, scan.lungs))
                    kept[shape, method].append(np.count_nonzero(found & dense) / np.count_nonzero(dense))
    table = Table("", *METHODS, title=f"Dice, lowest / median; share kept. {words.scans} phantoms, {words.share:.0%}")
    for shape in ("clean", *SHAPES):
        cells = []
        for method in METHODS:
            values, share = scores[shape, method], kept.get((shape, method))
            cells.append(
                f"{min(values):.3f} / {np.median(values):.3f}" + (f"; {np.median(share):.2f}" if share else "")
            )
        table.add_row(shape, *cells)
    Console().print(table)
    if words.json:
        result = {f"{shape}, {method}": values for (shape, method), values in scores.items()}
        words.json.write_text(json.dumps({"dice": result}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
