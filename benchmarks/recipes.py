"""Comparison of augmentation recipes for custom cohorts by the balanced accuracy of validation slices.

python -m benchmarks.recipes

Writes a few windowed 8-bit PNG slices of phantoms with and without a lesion, and trains with each recipe and seed. The
table shows the balanced accuracy of the validation slices after each epoch, and of the training items in the last
epoch: mean and range over the seeds, in percent. It compares recipes; no figure is one of patients.
"""

from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import train
from benchmarks.common import make_parser
from cnr_iemn.constants import PHANTOM_NOTICE
from cnr_iemn.ct.window import window_to_uint8
from cnr_iemn.phantom.anatomy import LOBES
from cnr_iemn.phantom.lesions import make_lesion
from cnr_iemn.phantom.protocol import noise_slice
from cnr_iemn.phantom.random_fields import stream
from cnr_iemn.phantom.renderer import SliceRenderer
from cnr_iemn.phantom.scan_spec import make_scan_spec

ROWS = 96  # pixels, about 4 mm each
OFFSETS_MM = (-8.0, 0.0, 8.0)
"""Slices of a patient, relative to a depth in the middle of the lungs; in a sick patient that of the lesion."""
RADII_MM = (20.0, 35.0)
FLIPS = [
    f"augmentation.{key}={value}"
    for key, value in (
        ("flip_probability", 0.5),
        ("jitter_probability", 0),
        ("perspective_probability", 0),
        ("rotation_degrees", 0),
        ("crop_ratio", 1),
    )
]
OVERRIDES = [
    *("model=timm", "model.name=test_resnet", "model.weights=none", "model.image_size=64", "trainer.gpus=0"),
    *("trainer.max_epochs=6", "trainer.batch_size=16", "trainer.learning_rate=1e-3"),
]
RECIPES = {"paper": ["augmentation=paper"], "standard": ["augmentation=standard"], "flips": FLIPS}


def middle_slices(seed: int, *, sick: bool) -> list[NDArray[np.uint8]]:
    """Return windowed slices from the middle of a phantom, through a lesion if ``sick``; each uint8 [ROWS, ROWS]."""
    spec, rng = make_scan_spec(seed, "Normal", n_slices=(22, 26)), stream(seed, "disease")
    points = spec.anatomy.sample(rng, 200)
    point = points[np.abs(points[:, 2] / spec.anatomy.height - 0.5) < 0.2][:1]
    lobe = LOBES[int(spec.anatomy.lobe(*spec.anatomy.warp(point))[0])]
    radius = rng.uniform(*RADII_MM)
    lesion = make_lesion(rng, "ground_glass", lobe, point[0], (radius, radius, 40.0), angle=0.0, hu=-350.0)
    renderer, noise = SliceRenderer(spec, ROWS, (lesion,) if sick else ()), stream(seed, "noise")
    images = [renderer.render(point[0, 2] + offset)[0] for offset in OFFSETS_MM]
    return [
        window_to_uint8(np.rint(image + noise_slice(noise, ROWS, spec.protocol)).astype(np.int16)) for image in images
    ]


def write_slices(folder: Path, patients: int) -> Path:
    """Write slices of ``patients`` patients of each class, a quarter of them for validation. Returns the manifest."""
    scans, labels = [], []
    for k in range(2 * patients):
        name, paths = ("healthy", "sick")[k % 2], []
        for position, image in enumerate(middle_slices(50_000 + k, sick=bool(k % 2))):
            paths.append(f"p{k}-{position}.png")
            cv2.imwrite(str(folder / paths[-1]), image)
            labels.append((f"p{k}", position, name))
        scans.append((f"p{k}", ";".join(paths), name, "validation" if k // 2 % 4 == 3 else "training"))
    table = pd.DataFrame(scans, columns=["scan_id", "path", "class", "split"])
    table.to_csv(folder / "scans.csv", index=False)
    pd.DataFrame(labels, columns=["scan_id", "slice_index", "class"]).to_csv(folder / "slices.csv", index=False)
    print(f"{PHANTOM_NOTICE}\n{len(OFFSETS_MM)} slices each:\n{table.groupby(['split', 'class']).size().to_string()}")
    return folder / "scans.csv"


def balanced_accuracy(manifest: Path, recipe: str, seed: int, overrides: list[str]) -> list[float]:
    """Train with a recipe. Returns the balanced accuracy of validation after each epoch, then that of training."""
    folder = manifest.parent
    command = [
        "data=manifest",
        f"data.csv={manifest}",
        f"data.slices={folder / 'slices.csv'}",
        f"study={recipe}",
        f"seed={seed}",
        "balancing=auto",
        *overrides,
    ]
    command += [*RECIPES[recipe], f"runs={folder / 'runs'}", f"ingest.cache={folder / 'cache'}", f"ingest.size={ROWS}"]
    if train.main(command) != 0:
        raise RuntimeError(f"train.py {' '.join(command)} failed.")
    (table,) = (folder / "runs" / recipe).glob(f"*/seed{seed}/metrics.csv")
    rows = pd.read_csv(table)
    return [*rows["val/slice_balanced_accuracy"], rows["train/slice_balanced_accuracy"].iloc[-1]]


def main() -> None:
    """Train with every recipe and seed and print means and ranges over the seeds."""
    parser = make_parser(__doc__)
    parser.add_argument("--patients", type=int, default=120, help="patients of each class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument(
        "overrides", nargs="*", default=OVERRIDES, help="overrides of train.py that replace the defaults"
    )
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        manifest = write_slices(Path(folder), options.patients)
        accuracies: dict[str, list[list[float]]] = {recipe: [] for recipe in options.recipes}
        for seed, recipe in product(options.seeds, options.recipes):
            accuracies[recipe].append(balanced_accuracy(manifest, recipe, seed, options.overrides))
    epochs = len(accuracies[options.recipes[0]][0]) - 1
    table = Table(*("recipe", *(f"epoch {k + 1}" for k in range(epochs)), "training"), title=PHANTOM_NOTICE)
    for recipe, values in accuracies.items():
        percent = 100 * np.array(values)
        spans = zip(percent.mean(0), percent.min(0), percent.max(0), strict=True)
        table.add_row(recipe, *(f"{mean:.0f} ({low:.0f}-{high:.0f})" for mean, low, high in spans))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
