"""Draw the lung masks of a scan without the scan's own pixels.

python -m benchmarks.lung_pictures "/data/COVID-CT-MD/Normal Cases/normal001" --out docs/pictures/normal001.png

The body is grey, bones are lighter, and the mask is blue (lungs=pleura) or orange (border, tutorial). --grey draws on
the CT image instead, for private use: a picture of a patient must not be published in a repository.
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.common import make_parser
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.ct.lungs import THRESHOLD_HU, segment_lungs
from cnr_iemn.ct.window import window_to_uint8

COLOURS = {"tutorial": (30, 140, 240), "border": (30, 140, 240), "pleura": (230, 130, 30)}  # blue, green, red
BODY, BONE, PAPER = 205, 235, 255
_SIDE = 220


def draw_slice(
    hu: NDArray[np.int16], mask: NDArray[np.bool_], colour: tuple[int, int, int], *, grey: bool
) -> NDArray[np.uint8]:
    """Return a slice with its mask as a colour picture, uint8 [side, side, 3], blue first."""
    if grey:
        base = window_to_uint8(hu, low=-1350, high=150)
    else:
        base = np.where(hu > THRESHOLD_HU, BODY, PAPER).astype(np.uint8)
        base[hu > 250] = BONE
    image = cv2.cvtColor(cv2.resize(base, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2BGR)
    pixels = cv2.resize(mask.astype(np.uint8), (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST)
    if not grey:
        image[pixels > 0] = (0.45 * image[pixels > 0] + 0.55 * np.array(colour)).astype(np.uint8)
    outlines, _ = cv2.findContours(pixels, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, outlines, -1, colour, 1)
    return image


def main() -> None:
    """Write one row of slices for each method."""
    parser = make_parser(__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["tutorial", "pleura"])
    parser.add_argument("--slices", nargs="+", type=int, help="default: seven over the whole scan")
    parser.add_argument("--grey", action="store_true")
    options = parser.parse_args()
    volume = read_scan(options.scan)
    slices = options.slices or [round(share * (len(volume.hu) - 1)) for share in np.linspace(0.1, 0.95, 7)]
    rows = []
    for method in options.methods:
        mask = segment_lungs(volume.hu, volume.spacing_mm, method=method).mask
        tiles = [draw_slice(volume.hu[k], mask[k], COLOURS[method], grey=options.grey) for k in slices]
        for tile, index in zip(tiles, slices, strict=True):
            cv2.putText(tile, f"{method} {index}", (5, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (90, 90, 90), 1, cv2.LINE_AA)
        rows.append(np.hstack(tiles))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(options.out), np.vstack(rows), [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()
