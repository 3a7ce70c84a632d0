"""Speed of training batches: from the slice store to a batch, compared with common data loaders.

python -m benchmarks.data_loading --json data_loading.json

Measures slices per second on one core, read, augmented with all five augmentations, stacked and collated, at 224 pixels
and in batches of 64. The contenders are train.py's data set; torchvision v2 on tensors, PIL images through the same
transforms, and kornia on whole batches, all three from the same store; and a naive reader that decodes each item's
DICOM file with pydicom and continues with PIL. They take turns in random order; train.py's data set takes part twice,
which shows the noise of the measurement. Needs the extra [bench].
"""

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

from benchmarks.common import make_parser, write_json
from cnr_iemn.config.schema.settings import AugmentationSettings
from cnr_iemn.ct.window import three_channels, window_to_uint8
from cnr_iemn.data.build_store import prepare_store
from cnr_iemn.data.readers.covid_ct_md import read_covid_ct_md
from cnr_iemn.data.slice_store import PixelSettings, SliceStore
from cnr_iemn.phantom.cohort_writer import write_cohort
from cnr_iemn.stage1.data.balancing import balance
from cnr_iemn.stage1.data.datamodule import SliceDataset, SliceTable, plain_loader
from cnr_iemn.stage1.training.hardware import usable_cores

SIZE, BATCH, BLOCKS = 224, 64, 15
CROP_FROM = 244  # pixels from which the crop of 224 is cut, as in train.py
TRAIN_PY, TRAIN_PY_AGAIN, NAIVE = "train.py", "train.py, again", "naive: pydicom + PIL"
CLASSES = ("Normal", "COVID-19", "CAP")


def transforms(size: int = SIZE) -> v2.Compose:
    """Return the paper's five augmentations as transforms of torchvision."""
    side = round(size * CROP_FROM / SIZE)
    return v2.Compose(
        [
            v2.RandomApply([v2.ColorJitter(brightness=0.2, contrast=0.2)], p=0.2),
            v2.Resize((side, side), antialias=True),
            v2.RandomHorizontalFlip(0.2),
            v2.RandomPerspective(0.5, p=1.0),
            v2.RandomRotation(30, interpolation=v2.InterpolationMode.BILINEAR),
            v2.RandomCrop(size),
        ]
    )


class PhantomSlices:
    """Slices of a small phantom cohort: the slice store and the DICOM files, written to ``folder`` if missing."""

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
        """Return the three channels of a slice of the store, uint8 [3, 336, 336]."""
        scan, k = self.table.scan_ids[self.table.scan[row]], int(self.table.slice_index[row])
        store: SliceStore = self.store
        return three_channels(store.grey(scan)[k], store.lungs(scan)[k])


def train_py_loader(slices: PhantomSlices) -> Callable[[np.ndarray], Tensor]:
    """Return a function that makes batches with train.py's data set and loader, in this process."""
    items = balance(slices.table.label, classes=CLASSES, copies={}, augment="all_classes")
    data = SliceDataset(
        slices.store, slices.table, image_size=SIZE, items=items, augmentation=AugmentationSettings(), redraw=True
    )

    def load(rows: np.ndarray) -> Tensor:
        (batch,) = plain_loader(torch.utils.data.Subset(data, rows.tolist()), len(rows), workers=0)
        return batch["image"]

    return load


def load_with_torchvision(read: Callable[[int], Any], rows: np.ndarray) -> Tensor:
    """Return a batch made with torchvision's transforms. ``read`` returns a tensor or a PIL image for a row."""
    chain = transforms()
    return torch.stack([v2.functional.to_image(chain(read(int(row)))) for row in rows])


def kornia_loader(slices: PhantomSlices) -> Callable[[np.ndarray], Tensor]:
    """Return a function that makes batches with kornia's augmentations on the whole batch."""
    import kornia.augmentation as ka

    chain = ka.AugmentationSequential(
        ka.ColorJitter(brightness=0.2, contrast=0.2, p=0.2),
        ka.Resize((CROP_FROM, CROP_FROM)),
        ka.RandomHorizontalFlip(p=0.2),
        ka.RandomPerspective(0.5, p=1.0),
        ka.RandomRotation(30, p=1.0),
        ka.RandomCrop((SIZE, SIZE)),
        data_keys=["input"],
    )

    def load(rows: np.ndarray) -> Tensor:
        images = torch.from_numpy(np.stack([slices.image(int(row)) for row in rows]))
        batch: Tensor = chain(images.float() / 255)
        return batch

    return load


def decode_dicom(slices: PhantomSlices, row: int) -> Image.Image:
    """Decode the slice's DICOM file and return it windowed with three equal channels."""
    scan = slices.table.scan_ids[slices.table.scan[row]]
    ds = pydicom.dcmread(slices.files[scan][int(slices.table.slice_index[row])])
    hu = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    return Image.fromarray(window_to_uint8(hu.astype(np.int16)[None])[0]).convert("RGB")


def measure_speeds(loaders: dict[str, Callable[[np.ndarray], Tensor]], n: int) -> dict[str, list[float]]:
    """Return the slices per second of each loader by block. The loaders take turns in random order."""
    rng = np.random.default_rng(0)
    speeds: dict[str, list[float]] = {name: [] for name in loaders}
    for block in range(BLOCKS + 1):  # the first is a warm-up
        for name in rng.permutation(list(loaders)):
            fast = name in (TRAIN_PY, TRAIN_PY_AGAIN)
            rows = rng.choice(n, BATCH if fast else 16, replace=False)
            repeats = 4 if fast else 1
            start_time = time.perf_counter()
            for _ in range(repeats):
                loaders[name](rows)
            if block:
                speeds[name].append(repeats * len(rows) / (time.perf_counter() - start_time))
    return speeds


def main() -> None:
    """Print the table and, with --json, write it."""
    parser = make_parser(__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        slices = PhantomSlices(Path(folder))
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        loaders: dict[str, Callable[[np.ndarray], Tensor]] = {
            TRAIN_PY: train_py_loader(slices),
            TRAIN_PY_AGAIN: train_py_loader(slices),
            "torchvision v2": partial(load_with_torchvision, lambda row: torch.from_numpy(slices.image(row))),
            "PIL": partial(load_with_torchvision, lambda row: Image.fromarray(slices.image(row).transpose(1, 2, 0))),
            "kornia": kornia_loader(slices),
            NAIVE: partial(load_with_torchvision, partial(decode_dicom, slices)),
        }
        speeds = measure_speeds(loaders, len(slices.table))
    medians = {name: median(values) for name, values in speeds.items()}
    table = Table("", "slices/s per core", "10% to 90% of blocks", "train.py / it", title=f"{BLOCKS} blocks")
    for name, values in speeds.items():
        low, high = np.quantile(values, [0.1, 0.9])
        table.add_row(
            name, f"{medians[name]:.0f}", f"{low:.0f} to {high:.0f}", f"{medians[TRAIN_PY] / medians[name]:.2f}"
        )
    Console().print(table)
    ratios = {
        "vs_torchvision_v2": medians[TRAIN_PY] / medians["torchvision v2"],
        "vs_pil": medians[TRAIN_PY] / medians["PIL"],
        "vs_kornia": medians[TRAIN_PY] / medians["kornia"],
        "vs_naive": medians[TRAIN_PY] / medians[NAIVE],
        "vs_itself": medians[TRAIN_PY] / medians[TRAIN_PY_AGAIN],
        "slices_per_second_core": medians[TRAIN_PY],
    }
    write_json(options.json, {"ratios": ratios, "medians": medians})


if __name__ == "__main__":
    main()
