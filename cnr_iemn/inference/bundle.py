"""A bundle: an ensemble in one folder, whose files are all checked before one is loaded (docs/guide/bundle.md)."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from typing_extensions import TypedDict

from cnr_iemn.errors import RunError
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.models.tensor_files import UnusableFileError, require_fit, require_tensors
from cnr_iemn.stage2.ensemble import LoadedEnsemble, check_pixels, parse_ensemble
from cnr_iemn.utils.atomic_io import json_text, recover_folder, sha256_of_file, write_bytes_atomic, write_text_atomic
from cnr_iemn.utils.json_io import read_json

CHECKSUMS, CONFIG, ENSEMBLE = "checksums.json", "config.json", "ensemble.json"
README, PROVENANCE, ONNX = "README.md", "provenance.json", "onnx"
BUNDLE_TENSORS = "model.safetensors"
"""The tensors of all networks, under Hugging Face's usual name. The format cannot contain code."""
_REQUIRED = {CONFIG, ENSEMBLE, BUNDLE_TENSORS}
_REMEDY = "Get the bundle again from its source, or write it again with export.py."


class _Config(TypedDict):
    ensemble: str


def open_bundle(folder: Path) -> LoadedEnsemble:
    """Check every file of a bundle and return its ensemble. Nothing in it is unpickled or run.

    Raises:
        RunError: A file is missing, changed or not part of the bundle; or another version prepared its slices.
    """
    recover_folder(folder)
    check_files(folder)
    remedy = "Get the bundle again from its source, or write it again with export.py of this version."
    config = read_json(folder / CONFIG, _Config, again=_REMEDY, extra="ignore", versioned=False)
    ensemble = parse_ensemble(folder / ENSEMBLE, again=remedy)
    for member in ensemble.members:
        if member.checkpoint != BUNDLE_TENSORS:  # a checkpoint of torch would be unpickled
            raise RunError(
                f"{folder / ENSEMBLE} has the weights of {member.name} in {member.checkpoint}, but those of a bundle "
                f"are in {BUNDLE_TENSORS}. {_REMEDY}"
            )
    if not (folder / ensemble.method_file).is_file():
        raise RunError(f"The bundle {folder} lacks {ensemble.method_file}. {_REMEDY}")
    check_pixels(ensemble)
    return LoadedEnsemble(
        name=config["ensemble"],
        ensemble=ensemble,
        folder=folder,
        files=folder,
        predictions=Path("predictions"),
        again=remedy,
    )


def check_files(folder: Path) -> None:
    """Check that a bundle contains exactly the files that checksums.json lists, byte for byte.

    Names that begin with a dot are ignored and never read: git and Hugging Face keep their own data there.

    Raises:
        RunError: A file is missing, changed or not listed.
    """
    checksums, files = _read_checksums(folder), _files(folder)
    for name in sorted((_REQUIRED | set(checksums)) - files):
        raise RunError(f"The bundle {folder} lacks {name}. {_REMEDY}")
    for name in sorted(files - set(checksums)):
        raise RunError(
            f"The bundle {folder} holds {name}, which {CHECKSUMS} does not list, so it was added later. Remove it, or "
            "write the bundle again with export.py."
        )
    for name, digest in checksums.items():
        if sha256_of_file(folder / name) != digest:
            raise RunError(f"{folder / name} is not what export.py wrote (its SHA-256 differs). {_REMEDY}")


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of every file of a folder, by its path in the folder."""
    checksums = {name: sha256_of_file(folder / name) for name in sorted(_files(folder))}
    write_text_atomic(folder / CHECKSUMS, json_text(checksums))


def _read_checksums(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS
    if not path.is_file():
        raise RunError(f"There is no bundle at {folder}: it has no {CHECKSUMS}. Give the folder that export.py wrote.")
    try:
        checksums = TypeAdapter(dict[str, str]).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        raise RunError(f"{path} is damaged ({error.errors()[0]['msg']}). {_REMEDY}") from error
    # compared as bytes, to find a changed byte that means the same in JSON
    if json_text(checksums).encode() != path.read_bytes():
        raise RunError(f"{path} is not what export.py wrote. {_REMEDY}")
    return checksums


def _files(folder: Path) -> set[str]:
    """Return the relative paths of a bundle's files, without hidden ones and the checksums."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    visible = {name.as_posix() for name in names if not any(folder.startswith(".") for folder in name.parts)}
    return visible - {CHECKSUMS}


def save_networks(path: Path, networks: Mapping[str, SliceNetwork]) -> None:
    """Write the state of all networks as ``<name>/<tensor>``; timm's names may contain dots, but no slash."""
    # copies: the format takes neither shared memory nor channels_last
    tensors = {
        f"{name}/{key}": value.detach().cpu().contiguous().clone()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    write_bytes_atomic(path, save(tensors, metadata={"format": "pt"}))  # save_file denies others to read the file


def load_network(network: SliceNetwork, path: Path, name: str) -> None:
    """Load the state of one network from a file of ``save_networks``.

    Raises:
        RunError: The file is damaged, or does not have all of it.
    """
    prefix = f"{name}/"
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118  # the file is no dictionary
            state = {key.removeprefix(prefix): file.get_tensor(key) for key in keys}
        require_fit(require_tensors(state), network.state_dict())
        network.load_state_dict(state)
    except (OSError, RuntimeError, SafetensorError, UnusableFileError) as error:
        reason = str(error).partition("\n")[0].rstrip(".:")
        raise RunError(f"{path} does not hold the network {name} ({reason}). Export the study again.") from error
