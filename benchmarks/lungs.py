"""Accuracy of the lung masks on phantoms: clean, with a consolidation, and with a high dome of the diaphragm.

python -m benchmarks.lungs --scans 6 --rows 256 --share 0.4 [--json lungs.json]

Prints the lowest and median Dice coefficient with both lungs, over scans and sides, of lungs=pleura, border and
tutorial, and the share of a consolidation at the pleura that each mask contains. In the last row the domes of the
diaphragm differ by 5 and 8 cm in height, with gas in stomach and colon below the higher one: Dice, and the largest
volume of tissue and gas that the mask contains 8 mm or more outside the true lungs of that side.
"""

from collections import defaultdict
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from benchmarks.common import make_parser, write_json
from cnr_iemn.ct.lungs import segment_lungs
from cnr_iemn.phantom.renderer import PhantomScan, make_scan, render_scan
from cnr_iemn.phantom.scan_spec import make_scan_spec

METHODS = ("pleura", "border", "tutorial")
SHAPES = ("dependent", "lateral", "lower lobe", "along the ribs", "base", "front")
"""Directions: a consolidation fills the part of one lung that is farthest in its direction."""
DENSE_HU, NOISE_HU = 30.0, 18.0
DOMES = (("left", 8.0), ("left", 5.0), ("right", 8.0), ("right", 5.0))
"""The side of the higher dome of the diaphragm, and the difference in height in cm."""
MARGIN_MM = 8.0

Mask = NDArray[np.bool_]


def dice(first: Mask, second: Mask) -> float:
    """Return the Dice coefficient of two masks."""
    return float(2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second)))


def one_lung(lungs: Mask, side: str) -> Mask:
    """Return the right or the left lung; the right one has the lower columns."""
    lung_columns = np.flatnonzero(lungs.any(axis=(0, 1)))
    columns = np.arange(lungs.shape[2]) - (lung_columns[0] + lung_columns[-1]) / 2
    return lungs & (columns < 0 if side == "right" else columns > 0)


def consolidated(scan: PhantomScan, shape: str, side: str, share: float) -> tuple[NDArray[np.int16], Mask]:
    """Return the HU of a scan with a consolidation that fills a share of one lung, and its mask."""
    lung = one_lung(scan.lungs, side)
    distances = _direction(scan, shape)[lung]
    dense = np.zeros_like(lung)
    dense[lung] = distances >= np.quantile(distances, 1 - share)
    weight = ndimage.gaussian_filter(dense.astype(np.float32), (0, 0.8, 0.8)) * lung  # an edge of one or two pixels
    weight[dense] = np.maximum(weight[dense], 0.5)
    noise = np.random.default_rng(scan.spec.seed).normal(0, NOISE_HU, scan.hu.shape)
    hu = scan.hu + weight * (DENSE_HU + noise - scan.hu)
    return np.rint(hu).astype(np.int16), dense


def high_dome(seed: int, side: str, centimetres: float, rows: int = 256) -> PhantomScan:
    """Render a scan whose diaphragm is higher on one side, with gas of stomach or colon below it."""
    spec = make_scan_spec(seed, "Normal", n_slices=(60, 90))
    body = spec.anatomy
    right, left = body.dome
    rise = 10 * centimetres / body.height
    domes = (right, right - rise) if side == "left" else (left - rise, left)
    top, sign = (domes[1], 1) if side == "left" else (domes[0], -1)
    width, depth, top_mm = sign * body.half_width, body.half_depth, top * body.height
    gas = (
        (0.5 * width, -0.2 * depth, top_mm + 45, 24.0),
        (0.62 * width, -0.45 * depth, top_mm + 40, 18.0),
        (0.35 * width, -0.5 * depth, top_mm + 60, 20.0),
    )
    return render_scan(replace(spec, anatomy=replace(body, dome=domes, gas=gas)), rows=rows, lesions=())


def ml_below(scan: PhantomScan, mask: Mask, side: str) -> float:
    """Return the ml of a mask that are 8 mm or more from the true lungs of their slice, in one half of the body."""
    size = 2 * round(MARGIN_MM / scan.spacing_mm[1]) + 1
    kernel = np.ones((size, size), np.uint8)
    far = np.stack([cv2.dilate(image, kernel) == 0 for image in scan.lungs.view(np.uint8)])
    half = (np.arange(mask.shape[2]) >= mask.shape[2] / 2) == (side == "left")
    return float(np.count_nonzero(mask & far & half) * np.prod(scan.spacing_mm) / 1000)


def _direction(scan: PhantomScan, shape: str) -> NDArray[np.floating]:
    """Return the position of each voxel along the direction of a consolidation."""
    z, y, x = np.indices(scan.hu.shape, dtype=np.float32)
    step, row, _ = scan.spacing_mm
    if shape == "along the ribs":
        return -ndimage.distance_transform_edt(_convex_hull(scan.lungs), sampling=scan.spacing_mm)
    middle = np.flatnonzero(scan.lungs.any(axis=(0, 1))).mean()
    directions = {"dependent": y, "front": -y, "base": z, "lateral": np.abs(x - middle)}
    return directions[shape] if shape in directions else 0.8 * step * z + row * y


def _convex_hull(lungs: Mask) -> Mask:
    """Return the convex hull of both lungs, slice by slice."""
    hull = np.zeros(lungs.shape, np.uint8)
    for index in np.flatnonzero(lungs.any(axis=(1, 2))):
        points = cv2.findNonZero(lungs[index].view(np.uint8))
        cv2.fillConvexPoly(hull[index], cv2.convexHull(points), 1)
    return hull > 0


def main() -> None:
    """Print the table and, with --json, write it."""
    parser = make_parser(__doc__)
    parser.add_argument("--scans", type=int, default=6)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--share", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    dense_shares: dict[tuple[str, str], list[float]] = defaultdict(list)
    for seed in range(options.seed, options.seed + options.scans):
        scan = make_scan(seed, "Normal", rows=options.rows, n_slices=(60, 90))
        for method in METHODS:
            mask = segment_lungs(scan.hu, scan.spacing_mm, method=method).mask
            scores["clean", method].append(dice(mask, scan.lungs))
        for shape in SHAPES:
            for side in ("right", "left"):
                hu, dense = consolidated(scan, shape, side, options.share)
                for method in METHODS:
                    mask = segment_lungs(hu, scan.spacing_mm, method=method).mask
                    scores[shape, method].append(dice(mask, scan.lungs))
                    dense_shares[shape, method].append(np.count_nonzero(mask & dense) / np.count_nonzero(dense))
    volumes: dict[str, list[float]] = defaultdict(list)
    for seed, (side, centimetres) in zip(range(options.seed, options.seed + options.scans), cycle(DOMES), strict=False):
        scan = high_dome(seed, side, centimetres, options.rows)
        for method in METHODS:
            mask = segment_lungs(scan.hu, scan.spacing_mm, method=method).mask
            scores["high dome", method].append(dice(mask, scan.lungs))
            volumes[method].append(ml_below(scan, mask, side))
    title = f"Dice, lowest / median; share of consolidation. {options.scans} phantoms, {options.share:.0%}"
    table = Table("", *METHODS, title=title)
    for shape in ("clean", *SHAPES):
        cells = []
        for method in METHODS:
            values, share = scores[shape, method], dense_shares.get((shape, method))
            cells.append(
                f"{min(values):.3f} / {np.median(values):.3f}" + (f"; {np.median(share):.2f}" if share else "")
            )
        table.add_row(shape, *cells)
    domes = {method: scores["high dome", method] for method in METHODS}
    cells = [f"{min(domes[m]):.3f} / {np.median(domes[m]):.3f}; {max(volumes[m]):.0f} ml" for m in METHODS]
    table.add_row("high dome", *cells)
    Console().print(table)
    result = {f"{shape}, {method}": values for (shape, method), values in scores.items()}
    write_json(options.json, {"dice": result})


if __name__ == "__main__":
    main()
