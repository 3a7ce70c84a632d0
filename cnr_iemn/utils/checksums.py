"""Files that belong together: ensemble.json, written last, names the others by their SHA-256."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from typing_extensions import TypedDict

from cnr_iemn.errors import RunError
from cnr_iemn.utils.atomic_io import sha256_of_file
from cnr_iemn.utils.json_io import read_json

LIST = "ensemble.json"
ENSEMBLE_FILES = (
    "booster.ubj",
    "method.json",
    "projections.safetensors",
    "features.parquet",
    "metrics.json",
    "model_card.md",
    "patients.csv",
    "provenance.json",
)
"""What aggregate.py writes that any command reads again; of the first two, the one of the primary method, and the
third where that learns from features."""


class _List(TypedDict):
    files: dict[str, str]


def file_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the files of an ensemble, by name, as far as they are there."""
    return {name: sha256_of_file(folder / name) for name in ENSEMBLE_FILES if (folder / name).is_file()}


def joint_sha256(digests: Sequence[str]) -> str:
    """Return the SHA-256 of one file as it is; of several, that of theirs one after the other."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def listed_files(folder: Path, *, again: str) -> dict[str, str]:
    """Return what an ensemble's list says. ``again``: as ``read_json`` has it. Raises RunError as that does."""
    return read_json(folder / LIST, _List, again=again, extra="ignore")["files"]


def require_listed(folder: Path, name: str, listed: Mapping[str, str], *, again: str) -> Path:
    """Return the path of a file that is the one its ensemble was written with.

    Args:
        folder: The ensemble's.
        name: Of the file.
        listed: SHA-256 by name.
        again: A sentence that says how to make the ensemble anew.

    Returns:
        The file's path.

    Raises:
        RunError: The file is missing, not listed, or not what was written: of an aggregation that was cut off, of
            another ensemble, or damaged.
    """
    path = folder / name
    if not path.is_file():
        raise RunError(f"{path} is missing. {again}")
    if name not in listed:
        raise RunError(f"{folder / LIST} does not name {name}: an earlier version wrote it. {again}")
    if sha256_of_file(path) != listed[name]:
        raise RunError(
            f"{path} is not the file that {LIST} names (its SHA-256 differs): it is damaged, of another "
            f"ensemble, or an aggregation was interrupted between the two. {again}"
        )
    return path
