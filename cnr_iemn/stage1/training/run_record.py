"""Contents of run.json: the settings that define a run, its provenance and hashes of the scans it learns from."""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, Required

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypedDict

from cnr_iemn.config.multirun import command_line, multirun_name
from cnr_iemn.config.schema.fields import default_of
from cnr_iemn.config.schema.settings import DataSettings, ModelSettings, TrainSettings
from cnr_iemn.constants import PHANTOM_NOTICE
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.slice_store import SliceStore

_RUNTIME_ONLY = {
    "overwrite": None,
    "resume": None,
    "runs": None,
    "logger": None,
    "debug": None,
    "trainer": ("gpus", "nodes", "cpu_processes", "workers", "keep_last"),
    "ingest": ("cache", "workers", "demographics"),
}
"""Settings that do not change what is learned: the same run may be started with other values of them."""
_LATER: dict[str, tuple[type, tuple[str, ...]]] = {
    "model": (ModelSettings, ("channels", "tta")),
    "data": (DataSettings, ("lobes",)),
}
"""Settings that came after the first run.json of this layout. A run without them was trained with their defaults."""
_HASH_DIGITS = 16
_SHOWN_SCANS = 5


class _Model(TypedDict, total=False):
    library: str
    image_size: int
    position: str
    weights: str
    channels: list[str]
    tta: str


class _Ingest(TypedDict, total=False):
    size: int
    window: Annotated[list[float], Field(min_length=2, max_length=2)]  # a list, as settings have it
    crop: str


class _Split(TypedDict, total=False):
    file: str | None
    seed: int


class _Data(TypedDict, total=False):
    folds: int
    split: _Split
    exclude: list[str]
    shuffle_training_labels: bool


class _Configuration(TypedDict, total=False):
    model: _Model
    ingest: _Ingest
    data: _Data
    lungs: str


class _Cohort(TypedDict, total=False):
    name: str
    n_scans: int


class _Scans(TypedDict):
    pixels: dict[str, str]
    labels: dict[str, str]
    roles: dict[str, str]


class RunRecord(TypedDict, total=False):
    """The entries of run.json that are read back. An earlier version may have written fewer."""

    status: Required[Literal["running", "finished", "interrupted", "failed", "pruned"]]
    configuration: Required[_Configuration]
    score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None  # None: no validation slices
    store: str
    scans: _Scans
    cohort: _Cohort
    hardware: str
    run_id: str
    versions: dict[str, str]
    resumed: list[dict[str, str]]
    command: str
    ended: str
    predictions_sha256: str
    wandb_id: str
    debug: str


@dataclass(frozen=True)
class RunScans:
    """Hashes by scan_id, 16 hexadecimal digits each.

    ``pixels``: of grey slices, lung mask, lung volume and slice positions, as the store knows them. ``labels``: of
    patient, class and slice labels.
    ``roles``: of side of the split and fold.
    """

    pixels: Mapping[str, str]
    labels: Mapping[str, str]
    roles: Mapping[str, str]

    @classmethod
    def of(
        cls,
        cohort: Cohort,
        split: Mapping[str, str],
        fold: Mapping[str, int],
        *,
        pixels: Mapping[str, str],
        pseudo: Mapping[str, NDArray[np.int64]] | None = None,
    ) -> "RunScans":
        """Return the hashes of a cohort's scans.

        Args:
            cohort: Its labels count.
            split: Side of each scan.
            fold: Of the scans that have one.
            pixels: Of ``stored_pixels``.
            pseudo: Pseudo-labels of slices, by scan id.

        Returns:
            The hashes, in the cohort's order.
        """
        return cls(
            pixels,
            {scan.scan_id: _hash(_labels(scan, pseudo or {})) for scan in cohort.scans},
            {scan.scan_id: _hash([split[scan.scan_id], fold.get(scan.scan_id)]) for scan in cohort.scans},
        )

    @property
    def sha256(self) -> str:
        """One hash over all, by which predictions name what they are of."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def changes(self, now: "RunScans") -> str:
        """Return a sentence part on what has changed, with the first scans; an empty text where nothing has."""
        kinds = {
            "pixels": "the pixels",
            "labels": "patient, class or slice labels",
            "roles": "side or fold of the split",
        }
        changes = []
        for kind, words in kinds.items():
            before, after = getattr(self, kind), getattr(now, kind)
            changed = [scan_id for scan_id in {**before, **after} if before.get(scan_id) != after.get(scan_id)]
            if changed:
                more = f" and {len(changed) - _SHOWN_SCANS} more" if len(changed) > _SHOWN_SCANS else ""
                changes.append(f"{words} of {', '.join(changed[:_SHOWN_SCANS])}{more}")
        return "; ".join(changes)


def stored_pixels(store: SliceStore, scan_ids: Iterable[str]) -> dict[str, str]:
    """Return ``RunScans.pixels`` of scans as they lie in a store. Raises StoreError where it lacks one."""
    scans = [store.scan(scan_id) for scan_id in scan_ids]
    return {scan.scan_id: _hash([scan.grey_sha256, scan.lungs_sha256, scan.lung_litres, scan.z_mm]) for scan in scans}


def _labels(scan: ScanRecord, pseudo: Mapping[str, NDArray[np.int64]]) -> list[object]:
    infected = [] if scan.infected is None else np.flatnonzero(scan.infected).tolist()
    values: list[object] = [scan.patient_id, scan.label, scan.slice_labelled, infected]
    if scan.lobes is not None:
        values.append(np.argwhere(scan.lobes).tolist())
    return [*values, pseudo[scan.scan_id].tolist()] if scan.scan_id in pseudo else values


def _hash(values: list[object]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:_HASH_DIGITS]


def reproducible_config(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that make a run what it is, as plain values."""
    values = asdict(settings)
    for group, keys in _RUNTIME_ONLY.items():
        if keys is None:
            del values[group]
        else:
            for key in keys:
                del values[group][key]
    return values


def with_later_settings(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration of run.json with the settings that an earlier commit did not have."""
    later = {
        group: {name: default_of(schema, name) for name in names} | dict(configuration[group])
        for group, (schema, names) in _LATER.items()
        if group in configuration
    }
    return {**configuration, **later}


@dataclass(frozen=True)
class Invocation:
    """How a run was started: its command and, where it is a job of a multirun, that one's name."""

    command: str | None
    multirun: str | None

    @classmethod
    def current(cls) -> "Invocation":
        """Return that of this process, which Hydra knows."""
        return cls(command_line(), multirun_name())


def new_record(
    settings: TrainSettings,
    cohort: Cohort,
    scans: RunScans,
    *,
    store: Path,
    phantom: bool,
    hardware: str,
    command: str | None,
) -> dict[str, Any]:
    """Return the entries of run.json that are known when a run starts. ``command``: the one that starts it."""
    packages = (
        "torch",
        "torchvision",
        "pytorch-lightning",
        "numpy",
        "pydicom",
        "imagecodecs",
        "opencv-python-headless",
    )
    return {
        **({"notice": PHANTOM_NOTICE} if phantom else {}),
        "command": command,
        **({"debug": settings.debug.mode} if settings.debug.mode else {}),
        "configuration": reproducible_config(settings),
        "cohort": {"name": cohort.name, "root": str(cohort.root), "n_scans": len(cohort.scans)},
        "store": str(store),
        "scans": asdict(scans),
        "classes": list(cohort.classes),
        "phantom": phantom,
        "hardware": hardware,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def describe_config_diff(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """Return a sentence part on the keys in which two configurations differ; an empty text where none does."""
    changes = []
    for key in {**before, **now}:
        a, b = before.get(key), now.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            changes.append(describe_config_diff(a, b, f"{prefix}{key}."))
        elif a != b:
            changes.append(f"{prefix}{key} was {a}, now {b}")
    return "; ".join(entry for entry in changes if entry)
