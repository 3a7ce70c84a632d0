"""A bundle: one folder that answers as the study does, checked before anything of it is loaded (docs/bundle.md)."""

import json
from pathlib import Path

from cnr_iemn.engine.ensembles import parse_ensemble
from cnr_iemn.engine.opened import Opened, check_pixels
from cnr_iemn.engine.weights import BUNDLE_TENSORS
from cnr_iemn.errors import RunError
from cnr_iemn.files import json_text, sha256_of_file, write_text_atomic

CHECKSUMS, CONFIG, ENSEMBLE, BOOSTER = "checksums.json", "config.json", "ensemble.json", "booster.ubj"
README, PROVENANCE, ONNX = "README.md", "provenance.json", "onnx"
_NEEDED = {CONFIG, ENSEMBLE, BOOSTER, BUNDLE_TENSORS}
_AGAIN = "Get the bundle again from where it came from, or write it again with export.py."


def open_bundle(folder: Path) -> Opened:
    """Check every file of a bundle and return its ensemble. Nothing in it is unpickled or run.

    Raises RunError, naming the file, where one is missing, changed or not part of the bundle, and as ``check_pixels``.
    """
    check_files(folder)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    ensemble = parse_ensemble(folder / ENSEMBLE, again="Write the bundle again with export.py of this version.")
    for member in ensemble.members:
        if member.checkpoint != BUNDLE_TENSORS:  # a checkpoint of torch would be unpickled
            raise RunError(
                f"{folder / ENSEMBLE} has the weights of {member.name} in {member.checkpoint}: a bundle has them in "
                f"{BUNDLE_TENSORS}. {_AGAIN}"
            )
    check_pixels(ensemble)
    return Opened(config["ensemble"], ensemble, folder, folder / BOOSTER, Path("predictions"))


def check_files(folder: Path) -> None:
    """Check that a bundle holds what checksums.json lists, byte for byte, and nothing else.

    Names that begin with a dot are left alone and never read: git and Hugging Face keep their books in such files.
    Raises RunError.
    """
    known, there = _checksums(folder), _files(folder)
    for name in sorted((_NEEDED | set(known)) - there):
        raise RunError(f"The bundle {folder} lacks {name}. {_AGAIN}")
    for name in sorted(there - set(known)):
        raise RunError(
            f"The bundle {folder} holds {name}, which {CHECKSUMS} does not list: it was put there later. Remove it, "
            "or, where it belongs there, write the bundle again with export.py."
        )
    for name, digest in known.items():
        if sha256_of_file(folder / name) != digest:
            raise RunError(f"{folder / name} is not what export.py wrote (its SHA-256 differs). {_AGAIN}")


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of every file of a folder, by its path within it."""
    found = {name: sha256_of_file(folder / name) for name in sorted(_files(folder))}
    write_text_atomic(folder / CHECKSUMS, json_text(found))


def _checksums(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS
    if not path.is_file():
        raise RunError(f"There is no bundle at {folder}: it has no {CHECKSUMS}. Give the folder that export.py wrote.")
    try:
        text = path.read_text(encoding="utf-8")
        known = json.loads(text)
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}). {_AGAIN}") from error
    # compared as text, so that a byte that JSON does not mind is found, too
    if not isinstance(known, dict) or json_text(known) != text:
        raise RunError(f"{path} is not what export.py wrote. {_AGAIN}")
    return known


def _files(folder: Path) -> set[str]:
    """Return the paths of a bundle's files within it, but for hidden ones and the checksums."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)} - {CHECKSUMS}
