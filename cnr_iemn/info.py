"""``cnr-iemn info``: what is installed, what the machine has, and which studies there are."""

import json
import platform
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TypedDict

from packaging.requirements import Requirement

from cnr_iemn import __version__
from cnr_iemn.utils.console import print_error, print_text

_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "pydicom", "xgboost", "numpy", "pandas")


class Info(TypedDict):
    """What ``cnr-iemn info --json`` prints.

    ``versions``: of cnr-iemn, Python and the main packages. ``device``: the default of all
    commands. ``extras``: whether all packages of each are installed; empty where cnr-iemn itself is not. ``studies``:
    the ensembles of each.
    """

    versions: dict[str, str]
    device: str
    extras: dict[str, bool]
    studies: dict[str, list[str]]


def show_info(words: Sequence[str]) -> int:
    """Print what is known. ``words``: --json, runs=FOLDER. Returns the exit code."""
    runs = Path("runs")
    for word in words:
        if word.startswith("runs="):
            runs = Path(word.removeprefix("runs=")).expanduser()
        elif word != "--json":
            print_error(f"Error: info takes --json and runs=FOLDER, not '{word}'.")
            return 2
    info = collect_info(runs)
    print_text(json.dumps(info, indent=2, ensure_ascii=False) if "--json" in words else _text(info))
    return 0


def collect_info(runs: Path) -> Info:
    """Return what is installed, the device, and the studies below the folder ``runs``."""
    from cnr_iemn.stage1.training.hardware import choose_hardware

    studies: dict[str, list[str]] = {}
    for path in sorted(runs.glob("*/ensembles/*/ensemble.json")):
        studies.setdefault(path.parents[2].name, []).append(path.parent.name)
    return {
        "versions": installed_versions(),
        "device": str(choose_hardware(None)),
        "extras": _extras(),
        "studies": studies,
    }


def installed_versions() -> dict[str, str]:
    """Return the versions of cnr-iemn, of Python and of the main packages."""
    versions = {"cnr-iemn": __version__, "python": platform.python_version()}
    return versions | {name: package for name in _PACKAGES if (package := _version(name)) is not None}


def _extras() -> dict[str, bool]:
    """Return whether the packages that each extra adds are installed, in the versions that it asks for."""
    try:
        package = distribution("cnr-iemn")
    except PackageNotFoundError:  # imported from a folder
        return {}
    complete = dict.fromkeys(package.metadata.get_all("Provides-Extra") or [], True)
    for text in package.requires or []:
        requirement = Requirement(text)
        extra = re.search(r"extra == ['\"]([^'\"]+)", text)
        if extra is not None:
            installed = _version(requirement.name)
            complete[extra[1]] &= installed is not None and requirement.specifier.contains(installed, prereleases=True)
    return complete


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _text(info: Info) -> str:
    extras = info["extras"]
    lists = {
        "extras installed": [name for name, installed in extras.items() if installed],
        "extras missing": [name for name, installed in extras.items() if not installed],
        "studies": [f"{study} ({', '.join(names)})" for study, names in info["studies"].items()],
    }
    return "\n".join(
        [
            ", ".join(f"{name} {number}" for name, number in info["versions"].items()),
            f"device: {info['device']}",
            *(f"{title}: {', '.join(names) or 'none'}" for title, names in lists.items()),
        ]
    )
