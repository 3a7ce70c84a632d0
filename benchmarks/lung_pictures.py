"""Draw what the lung masks make of a scan, as outlines without the scan's own pixels.

python -m benchmarks.lung_pictures "/data/COVID-CT-MD/Normal Cases/normal001" --out docs/pictures/normal001.png

Body in grey, bones lighter, the mask in blue (lungs=pleura) or orange (border, tutorial). --grey draws over the CT
image instead, for your own eyes: a picture of a patient belongs into no repository.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cnr_iemn.ct.lungs import THRESHOLD_HU, segment_lungs
from cnr_iemn.ct.reader import read_scan
from cnr_iemn.ct.window import window_to_uint8

COLOURS = {"tutorial": (30, 140, 240), "border": (30, 140, 240), "pleura": (230, 130, 30)}  # blue, green, red
BODY, BONE, PAPER = 205, 235, 255
_SIDE = 220


def drawn(
    hu: NDArray[np.int16], mask: NDArray[np.bool_], colour: tuple[int, int, int], *, grey: bool
) -> NDArray[np.uint8]:
    """Return one slice as a colour picture, uint8 [side, side, 3]."""
    if grey:
        base = window_to_uint8(hu, low=-1350, high=150)
    else:
        base = np.where(hu > THRESHOLD_HU, BODY, PAPER).astype(np.uint8)
        base[hu > 250] = BONE
    image = cv2.cvtColor(cv2.resize(base, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2BGR)
    inside = cv2.resize(mask.astype(np.uint8), (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST)
    if not grey:
        image[inside > 0] = (0.45 * image[inside > 0] + 0.55 * np.array(colour)).astype(np.uint8)
    outlines, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, outlines, -1, colour, 1)
    return image


def main() -> None:
    """Write one row of slices for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["tutorial", "pleura"])
    parser.add_argument("--slices", nargs="+", type=int, help="by default seven over the whole scan")
    parser.add_argument("--grey", action="store_true")
    words = parser.parse_args()
    volume = read_scan(words.scan)
    chosen = words.slices or [round(share * (len(volume.hu) - 1)) for share in np.linspace(0.1, 0.95, 7)]
    rows = []
    for method in words.methods:
        mask = segment_lungs(volume.hu, volume.spacing_mm, method=method).mask
        tiles = [drawn(volume.hu[k], mask[k], COLOURS[method], grey=words.grey) for k in chosen]
        for tile, index in zip(tiles, chosen, strict=True):
            cv2.putText(tile, f"{method} {index}", (5, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (90, 90, 90), 1, cv2.LINE_AA)
        rows.append(np.hstack(tiles))
    words.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(words.out), np.vstack(rows), [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()
