"""What run.json says of a run: the settings that make it what it is, and what it was made with."""

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cnr_iemn.cohort.cohort import Cohort
from cnr_iemn.registry import PHANTOM_NOTICE
from cnr_iemn.settings.multirun import command_line
from cnr_iemn.settings.schema import TrainSettings

_PASSING = {
    "overwrite": None,
    "resume": None,
    "runs": None,
    "logger": None,
    "sweep": None,
    "trainer": ("gpus", "nodes", "cpu_processes", "workers"),
    "ingest": ("cache", "workers"),
}
"""Settings that do not change what is learned; a finished run may be asked for again with others."""


def lasting_configuration(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that make a run what it is, as plain values."""
    values = asdict(settings)
    for group, keys in _PASSING.items():
        if keys is None:
            del values[group]
        else:
            for key in keys:
                del values[group][key]
    return values


def run_record(settings: TrainSettings, cohort: Cohort, *, store: Path, phantom: bool, hardware: str) -> dict[str, Any]:
    """Return what run.json says of a run from its begin."""
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
        "command": command_line(),
        "configuration": lasting_configuration(settings),
        "cohort": {"name": cohort.name, "root": str(cohort.root), "n_scans": len(cohort.scans)},
        "store": str(store),
        "classes": list(cohort.classes),
        "phantom": phantom,
        "hardware": hardware,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }
