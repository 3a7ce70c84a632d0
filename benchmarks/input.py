"""How fast are training batches made? From the slice store to a ready batch, beside the usual ways, in one run.

python -m benchmarks.input --json input.json

Slices a second on one core, read, warped with all five augmentations, stacked and collated, at 224 pixels and batches
of 64: ours; torchvision v2 on tensors; PIL images through the same transforms; kornia on whole batches (all three from
our store); and the naive reader, which decodes each item's DICOM file with pydicom and then goes PIL's way. The
contenders take turns; a second round of ours tells how far identical code differs from itself. Needs the extra [bench].
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import pydicom
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.transforms import v2

from cnr_iemn.cohort.covid_ct_md import read_covid_ct_md
from cnr_iemn.cohort.phantom.writer import write_cohort
from cnr_iemn.cohort.preparation import prepare_store
from cnr_iemn.cohort.store import PixelSettings, SliceStore
from cnr_iemn.ct.window import three_channels, window_to_uint8
from cnr_iemn.engine.hardware import usable_cores
from cnr_iemn.slices.augmentation import AugmentationSettings
from cnr_iemn.slices.balancing import balance
from cnr_iemn.slices.datamodule import SliceDataset, SliceTable, plain_loader

SIZE, BATCH, BLOCKS = 224, 64, 15
WORKING = 244  # the crop of 224 is cut from this, as in ours
CLASSES = ("Normal", "COVID-19", "CAP")


def transforms(size: int = SIZE) -> v2.Compose:
    """Return the paper's five augmentations in torchvision's words."""
    working = round(size * WORKING / SIZE)
    return v2.Compose(
        [
            v2.RandomApply([v2.ColorJitter(brightness=0.2, contrast=0.2)], p=0.2),
            v2.Resize((working, working), antialias=True),
            v2.RandomHorizontalFlip(0.2),
            v2.RandomPerspective(0.5, p=1.0),
            v2.RandomRotation(30, interpolation=v2.InterpolationMode.BILINEAR),
            v2.RandomCrop(size),
        ]
    )


class Slices:
    """Some slices of a phantom cohort in a slice store, and the DICOM file of each; made where they are not there."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "cohort").exists():
            write_cohort(
                folder / "cohort",
                scans=dict.fromkeys(CLASSES, 1),
                labelled={"COVID-19": 1, "CAP": 1},
                seed=0,
                n_slices=(112, 120),
                workers=usable_cores(),
            )
        cohort = read_covid_ct_md(folder / "cohort", name="phantom", labelled_normals=1)
        self.store, failures = prepare_store(cohort, PixelSettings(), cache=folder / "cache", workers=usable_cores())
        if failures:
            raise RuntimeError(f"Phantom scans were refused: {failures}")
        self.files = {scan.scan_id: sorted(Path(str(scan.source)).iterdir()) for scan in cohort.scans}
        counts = {scan_id: self.store.scan(scan_id).n_slices for scan_id in self.files}
        self.table = SliceTable.of(counts, {s: np.arange(n) % len(CLASSES) for s, n in counts.items()})

    def image(self, row: int) -> np.ndarray:
        """Return the three channels of a slice as the store has it, uint8 [3, 336, 336]."""
        scan, k = self.table.scan_ids[self.table.scan[row]], int(self.table.slice_index[row])
        store: SliceStore = self.store
        return three_channels(store.grey(scan)[k], store.lungs(scan)[k])


def ours(slices: Slices) -> Callable[[np.ndarray], Tensor]:
    """Return our way: SliceDataset and the loader that train.py uses, in this process."""
    items = balance(slices.table.label, classes=CLASSES, copies={}, augment="all_classes")
    data = SliceDataset(
        slices.store, slices.table, image_size=SIZE, items=items, augmentation=AugmentationSettings(), redraw=True
    )

    def batch(rows: np.ndarray) -> Tensor:
        (found,) = plain_loader(torch.utils.data.Subset(data, rows.tolist()), len(rows), workers=0)
        return found["image"]

    return batch


def in_sequence(read: Callable[[int], Any], rows: np.ndarray) -> Tensor:
    """Return a batch of torchvision's transforms, on what ``read`` gives: a tensor or a PIL image."""
    chain = transforms()
    return torch.stack([v2.functional.to_image(chain(read(int(row)))) for row in rows])


def with_kornia(slices: Slices) -> Callable[[np.ndarray], Tensor]:
    """Return kornia's way: its augmentations on the whole batch."""
    import kornia.augmentation as ka

    chain = ka.AugmentationSequential(
        ka.ColorJitter(brightness=0.2, contrast=0.2, p=0.2),
        ka.Resize((WORKING, WORKING)),
        ka.RandomHorizontalFlip(p=0.2),
        ka.RandomPerspective(0.5, p=1.0),
        ka.RandomRotation(30, p=1.0),
        ka.RandomCrop((SIZE, SIZE)),
        data_keys=["input"],
    )

    def batch(rows: np.ndarray) -> Tensor:
        images = torch.from_numpy(np.stack([slices.image(int(row)) for row in rows]))
        found: Tensor = chain(images.float() / 255)
        return found

    return batch


def naive(slices: Slices, row: int) -> Image.Image:
    """Decode the slice's DICOM file, window it and make three channels of it, as many data sets of the field do."""
    scan = slices.table.scan_ids[slices.table.scan[row]]
    ds = pydicom.dcmread(slices.files[scan][int(slices.table.slice_index[row])])
    hu = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    return Image.fromarray(window_to_uint8(hu.astype(np.int16)[None])[0]).convert("RGB")


def speeds(ways: dict[str, Callable[[np.ndarray], Tensor]], n: int) -> dict[str, list[float]]:
    """Return slices a second of each way in each block; the ways take turns, in another order each time."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for block in range(BLOCKS + 1):  # the first warms up
        for name in rng.permutation(list(ways)):
            rows = rng.choice(n, BATCH if name.startswith("ours") else 16, replace=False)
            repeats = 4 if name.startswith("ours") else 1
            started = time.perf_counter()
            for _ in range(repeats):
                ways[name](rows)
            if block:
                found[name].append(repeats * len(rows) / (time.perf_counter() - started))
    return found


def main() -> None:
    """Print the table and, with --json, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        slices = Slices(Path(folder))
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        ways: dict[str, Callable[[np.ndarray], Tensor]] = {
            "ours": ours(slices),
            "ours, again": ours(slices),
            "torchvision v2": partial(in_sequence, lambda row: torch.from_numpy(slices.image(row))),
            "PIL": partial(in_sequence, lambda row: Image.fromarray(slices.image(row).transpose(1, 2, 0))),
            "kornia": with_kornia(slices),
            "naive: pydicom + PIL": partial(in_sequence, partial(naive, slices)),
        }
        measured = speeds(ways, len(slices.table))
    medians = {name: median(values) for name, values in measured.items()}
    table = Table("", "slices a second and core", "10% to 90% of blocks", "ours / it", title=f"{BLOCKS} blocks")
    for name, values in measured.items():
        low, high = np.quantile(values, [0.1, 0.9])
        table.add_row(
            name, f"{medians[name]:.0f}", f"{low:.0f} to {high:.0f}", f"{medians['ours'] / medians[name]:.2f}"
        )
    Console().print(table)
    ratios = {
        "vs_torchvision_v2": medians["ours"] / medians["torchvision v2"],
        "vs_pil": medians["ours"] / medians["PIL"],
        "vs_kornia": medians["ours"] / medians["kornia"],
        "vs_naive": medians["ours"] / medians["naive: pydicom + PIL"],
        "vs_itself": medians["ours"] / medians["ours, again"],
        "slices_per_second_core": medians["ours"],
    }
    if words.json:
        words.json.write_text(json.dumps({"ratios": ratios, "medians": medians}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
