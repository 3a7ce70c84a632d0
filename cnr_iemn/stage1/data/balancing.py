"""Balance the training slices by augmented copies, on top of the originals (section 2.1.2)."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cnr_iemn.errors import CohortError, ConfigurationError

PAPER_COPIES = {"Normal": 0, "COVID-19": 3, "CAP": 10}
"""Augmented copies of each slice: 2,482 COVID-19 slices become 9,928, 742 CAP slices 8,162 (section 2.1.2)."""


@dataclass(frozen=True)
class TrainingItems:
    """What one epoch shows, item by item; every array has the same length.

    ``source``: int64, position of the slice in the labels that were balanced. ``copy``: int64, 0 for the original,
    1 and up for its copies. ``warped``: bool, whether the item is augmented (with ``augmentation.probability``).
    """

    source: npt.NDArray[np.int64]
    copy: npt.NDArray[np.int64]
    warped: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.source)


def balance(
    labels: npt.ArrayLike, *, classes: Sequence[str], copies: Mapping[str, int] | Sequence[int] | str, augment: str
) -> TrainingItems:
    """List the items of an epoch: each training slice followed by its copies.

    ``labels``: int [n], class index of every labelled training slice; a slice without infection is of the first class
    whatever its scan. ``copies``: see ``copies_per_class``. ``augment``: ``paper`` warps the copies and leaves the
    originals as they are, so that with the paper's copies a warp tells disease from Normal; ``all_classes`` has every
    item as likely to be warped, so that it tells nothing.

    Raises ConfigurationError for settings that cannot work, CohortError where a class has no slice.
    """
    labels = np.asarray(labels, dtype=np.int64)
    counts = np.bincount(labels, minlength=len(classes))
    missing = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if missing:
        raise CohortError(
            f"No labelled training slice of class {', '.join(missing)}: a network cannot learn a class that it never "
            f"sees. Label some, choose another split, or leave the class out of data.classes."
        )
    if augment not in ("paper", "all_classes"):
        raise ConfigurationError(f"balancing.augment={augment} is not known: choose paper or all_classes.")
    per_class = np.array(copies_per_class(counts.tolist(), classes=classes, copies=copies), dtype=np.int64)
    repeats = 1 + per_class[labels]
    source = np.repeat(np.arange(len(labels)), repeats)
    copy = np.arange(len(source)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    warped = copy > 0 if augment == "paper" else np.ones(len(source), dtype=np.bool_)
    return TrainingItems(source=source, copy=copy, warped=warped)


def copies_per_class(
    counts: Sequence[int], *, classes: Sequence[str], copies: Mapping[str, int] | Sequence[int] | str
) -> tuple[int, ...]:
    """Return the copies of each slice of every class, in class order.

    ``counts``: slices per class, each above 0. ``copies``: by class name, none for a class not named; a number for each
    class, in class order, which any class name allows; or ``auto``: as many as bring each class nearest to the largest.
    Raises ConfigurationError.
    """
    if copies == "auto":
        return tuple(max(round(max(counts) / count) - 1, 0) for count in counts)
    if isinstance(copies, list | tuple):
        if len(copies) != len(classes):
            raise ConfigurationError(
                f"balancing.copies={list(copies)} holds {len(copies)} numbers, but the classes are "
                f"{', '.join(classes)}. Give one for each, in this order."
            )
        copies = dict(zip(classes, copies, strict=True))
    if not isinstance(copies, Mapping):
        raise ConfigurationError(f"balancing.copies={copies} is not known: write auto or a number for each class.")
    copies = {str(name): count for name, count in copies.items()}  # Hydra reads a key such as 0 as a number
    unknown = [name for name in copies if name not in classes]
    if unknown:
        raise ConfigurationError(
            f"balancing.copies names {', '.join(unknown)}, but the classes are {', '.join(classes)}. "
            "Write balancing=auto, and behind it 'balancing.copies=[0,3]', a number for each class in this order, for "
            "copies of your own."
        )
    negative = {name: count for name, count in copies.items() if count < 0}
    if negative:
        raise ConfigurationError(f"balancing.copies holds {negative}: a number of copies is 0 or more.")
    return tuple(copies.get(name, 0) for name in classes)


def copy_rng(seed: int, scan_id: str, slice_index: int, copy: int, epoch: int | None = None) -> np.random.Generator:
    """Return the generator of one item, the same on every machine, in every process and in any order of loading.

    ``epoch``: None makes a copy once for the whole training, as "generated" in the paper reads; a number draws it anew
    in each epoch.
    """
    digest = hashlib.sha256(scan_id.encode()).digest()[:16]
    scan = np.frombuffer(digest, dtype="<u4").tolist()
    return np.random.default_rng([seed, *scan, slice_index, copy, 0 if epoch is None else epoch + 1])
