"""Read and check files of tensors that may be damaged, foreign or hostile, without running code in them."""

import errno
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cnr_iemn.errors import CnrIemnError

_FRACTIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_ZIP = b"PK\3\4"
_FOLDER = 0x10  # of MS-DOS's attributes


class UnusableFileError(Exception):
    """A file holds no tensors that can be used. The message is the reason, for a sentence of the reader's own."""


def read_tensors(path: Path, *, refusal: type[CnrIemnError]) -> object:
    """Return what torch.save has written, tensors on the CPU. Nothing but tensors and plain values is unpickled.

    Args:
        path: A file that is there.
        refusal: What is raised where the disk does not let it be read.

    Returns:
        The object.

    Raises:
        UnusableFileError: The file is damaged (torch reads over flipped bytes, the checksums in its zip do not), or
            holds more than tensors and plain values.
        CnrIemnError: ``refusal``.
    """
    with path.open("rb") as file:
        zipped = file.read(len(_ZIP)) == _ZIP  # torch's old form has no checksums
    damage = zip_damage(path, refusal=refusal) if zipped else None
    if damage is not None:
        raise UnusableFileError(damage)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a hostile pickle makes the reader stumble over
        raise UnusableFileError(type(error).__name__) from error


def zip_damage(path: Path, *, refusal: type[CnrIemnError]) -> str | None:
    """Return what is wrong with a zip by its own checksums, None where nothing is. Raises as ``read_tensors`` does."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(info.external_attr & _FOLDER for info in archive.infolist()):
                return "a record said to be a folder"  # of which torch reads no byte and takes what the memory held
            bad = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        return type(error).__name__  # ValueError: offsets below 0; RuntimeError: said to be encrypted
    except OSError as error:
        if error.errno in (errno.EINVAL, None):  # an offset that no file has; without a number, of a decompressor
            return "a wrong offset"
        raise refusal(
            f"{path} cannot be read ({error.strerror}), which need not mean that it is damaged. Check the disk and the "
            "permissions, then run again."
        ) from error
    return f"wrong checksum of {bad}" if bad else None


def require_tensors(state: object) -> dict[str, Tensor]:
    """Return a table of tensors whose values can be weights.

    Args:
        state: Whatever a file held.

    Returns:
        The same, by name.

    Raises:
        UnusableFileError: It is no table of tensors, or one of them is sparse, quantized, without values (meta), of
            complex numbers, or holds a value that is not finite.
    """
    if not isinstance(state, Mapping):
        raise UnusableFileError(f"{type(state).__name__} in place of a table of tensors")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UnusableFileError(f"{str(name)[:60]} is {type(value).__name__} in place of a tensor")
        whole = not value.is_floating_point() and not value.is_complex() and not value.is_quantized
        if value.layout != torch.strided or value.is_meta or not (whole or value.dtype in _FRACTIONS):
            kind = value.dtype if value.layout == torch.strided else value.layout
            raise UnusableFileError(f"{name} is {'without values' if value.is_meta else kind}")
        if not whole and not bool(torch.isfinite(value).all()):
            raise UnusableFileError(f"{name} holds values that are not numbers (NaN or infinite)")
    return dict(state)


def require_fit(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, dispensable: tuple[str, ...] = ()
) -> None:
    """Refuse tensors that are not those of a network.

    Args:
        state: Of ``require_tensors``.
        own: The network's.
        dispensable: Ends of the names that may be missing.

    Raises:
        UnusableFileError: Some are missing, not expected, of another shape, or whole numbers where the network has
            fractions.
    """
    both = [key for key in state if key in expected]
    problems = {
        "missing": [key for key in expected if key not in state and not key.endswith(dispensable)],
        "not expected": [key for key in state if key not in expected],
        "of another shape": [key for key in both if state[key].shape != expected[key].shape],
        "of whole numbers": [key for key in both if expected[key].is_floating_point() > state[key].is_floating_point()],
    }
    if any(problems.values()):
        raise UnusableFileError("; ".join(f"{_abbreviate(keys)} {what}" for what, keys in problems.items() if keys))


def _abbreviate(keys: list[str], limit: int = 3) -> str:
    rest = len(keys) - limit
    return ", ".join(keys[:limit]) + (f" and {rest} more" if rest > 0 else "")
