"""Errors of Hydra, OmegaConf and the operating system as sentences for users."""

import difflib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from hydra.errors import OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from cnr_iemn.config.schema.fields import setting_keys
from cnr_iemn.errors import CnrIemnError, own_words
from cnr_iemn.utils.shell_words import override, shell

_NOISE = ("full_key:", "reference_type=", "object_type=", "To append to your config")
"""Beginnings of lines of Hydra and OmegaConf that help no user."""
_KEYS = (
    "Give a folder that can be written: runs= for a study, output= for answers and bundles, ingest.cache= for prepared "
    "scans."
)
_ADVICE = {
    errno.ENOSPC: "Free some space and run again; what is finished is kept.",
    errno.EDQUOT: "Free some space and run again; what is finished is kept.",
    errno.EROFS: _KEYS,
    errno.EACCES: f"If it is an input, make it readable (ls -l shows who may). {_KEYS}",
    errno.EPERM: f"If it is an input, make it readable (ls -l and lsattr show who may). {_KEYS}",
    errno.EIO: "The disk or its connection fails. Check it, or copy the data to another.",
    errno.ESTALE: "The network drive was changed or lost its connection. Mount it again and run again.",
    errno.ETIMEDOUT: "The network drive does not answer. Mount it again and run again.",
    errno.EMFILE: "This process has too many files open. Raise the limit (ulimit -n 4096) or give fewer workers.",
    errno.ENFILE: "The machine has too many files open. End other programs, or give fewer workers.",
    errno.ENAMETOOLONG: "Give a shorter name: a file's name has at most 255 bytes, a path 4,096.",
    errno.EEXIST: "A folder is needed there. Move the file away.",
    errno.EISDIR: "A file is needed there. Give a file, or move the folder away.",
    errno.ENOTDIR: "A part of the path is a file where a folder is needed. Correct the path, or move the file away.",
    errno.ELOOP: "Its links lead in a circle. Correct the path, or the links.",
}


def system_error(error: OSError, *, hidden: str | None = None) -> CnrIemnError | None:
    """Return the sentence for a user.

    Args:
        error: what was raised by reading or writing a file.
        hidden: a folder or file whose names must not be told.

    Returns:
        An error with the file's name, the reason and what to do; None where no user can mend it: a fault of the
        program, which keeps its traceback.
    """
    advice = _ADVICE.get(error.errno or 0)
    if advice is None:
        return None
    files = (name for name in (error.filename, error.filename2) if isinstance(name, str | bytes | os.PathLike))
    names = [os.fsdecode(name) for name in files]
    if hidden is not None:
        names = ["A file of the input" if Path(name).is_relative_to(hidden) else name for name in names]
    where = " -> ".join(names) or "A file"
    doing = "cannot be written" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) else "cannot be used"
    return CnrIemnError(f"{where} {doing} ({error.strerror or os.strerror(error.errno or 0)}). {advice}")


def explain(error: Exception, schema: type) -> str:
    """Return what was given, why it cannot work and what to do.

    Args:
        error: A CnrIemnError, or an error of Hydra or OmegaConf.
        schema: Dataclass of the command's settings.
    """
    if isinstance(error, CnrIemnError):
        return own_words(error)
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        advice = "" if value[:1] in ("[", "{") else f" Write: {shell(override(key, value))}"
        return (
            f"'{error.override}' cannot be parsed: text with spaces, commas, parentheses, '=' or '$' needs quotes for "
            f"Hydra inside those of the shell, each text in a list its own.{advice}"
        )
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key = str(getattr(cause, "full_key", None) or getattr(cause, "key", None) or "")
    if isinstance(cause, MissingMandatoryValue | InterpolationToMissingValueError):
        return f"Give {key}=...: it has no default. --help explains it."
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return f"'{key}' is not a setting of this command.{suggestion(key, schema)} --help lists all of them."
    lines = [line for text in dict.fromkeys((str(error), str(cause))) for line in _useful_lines(text)]
    if any(f"Could not find 'hydra/launcher/{name}" in lines[0] for name in ("joblib", "submitit")):
        return f"{lines[0]}\nThe launchers are an extra: pip install '.[launchers]'."
    return "\n".join(dict.fromkeys([*lines, "--help lists all groups and keys."]))


def suggestion(key: str, schema: type) -> str:
    """Return a sentence with the settings whose names are like ``key``, each as it is given; empty without any."""
    names = [name for name, group in setting_keys(schema) if not group]
    near = difflib.get_close_matches(key, names, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(f'{name}=...' for name in near)}?" if near else ""


def _useful_lines(text: str) -> Iterator[str]:
    for line in text.split("\nConfig search path", maxsplit=1)[0].splitlines():
        if line.strip() and not line.strip().startswith(_NOISE):
            yield line
