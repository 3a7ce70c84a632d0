"""A file of scan ids to leave out: UTF-8, one id a line, # begins a comment."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.utils.atomic_io import write_text_atomic
from cnr_iemn.utils.shell_words import override, shell
from cnr_iemn.utils.text import MAX_NAMES, visible

FILE_NAME = "refused.txt"
_ESCAPES = {"#": "#", "n": "\n", "r": "\r", "t": "\t"}


def read_exclusions(path: Path) -> list[str]:
    """Return the ids that a file lists.

    Args:
        path: The value of ``data.exclude_file``.

    Returns:
        The ids, in their order, each once.

    Raises:
        ConfigurationError: The file is missing, is not UTF-8 or lists nothing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"data.exclude_file={path} is not UTF-8 (byte {error.start}). Save it as UTF-8."
        ) from error
    except FileNotFoundError as error:
        raise ConfigurationError(f"data.exclude_file={path} does not exist. Correct the path.") from error
    lines = (line.strip() for line in text.split("\n"))
    ids = [re.sub(r"\\([#nrt])", lambda m: _ESCAPES[m[1]], line) for line in lines if line and line[0] != "#"]
    if not ids:
        raise ConfigurationError(f"data.exclude_file={path} lists no scan. Write one id a line, or leave the key out.")
    return list(dict.fromkeys(ids))


def exclusion_text(refused: Mapping[str, str], before: Iterable[str] = ()) -> str:
    """Return what such a file holds.

    Args:
        refused: Reason by id of the scans that were refused now.
        before: Ids that were left out already, which the file replaces.

    Returns:
        Lines that ``read_exclusions`` reads; each reason stands as a comment above its id.
    """
    lines = ["# Scans to leave out, one id a line: data.exclude_file=THIS FILE"]
    lines += [_line(scan_id) for scan_id in before if scan_id not in refused]
    for scan_id, reason in refused.items():
        lines += [f"# {visible(reason)}", _line(scan_id)]
    return "\n".join(lines) + "\n"


def offer_exclusion(path: Path, refused: Mapping[str, str], before: Iterable[str] = ()) -> str:
    """Return the override that leaves scans out, and write the file that it names where they are many.

    Args:
        path: Of the file.
        refused: Reason by id.
        before: Ids that the command leaves out already, which the override must not bring back.

    Returns:
        One word, quoted for the shell and Hydra.
    """
    ids = list(dict.fromkeys([*before, *refused]))
    if len(ids) <= MAX_NAMES:
        return shell(override("data.exclude", ids))
    write_text_atomic(path, exclusion_text(refused, before))
    return shell(override("data.exclude_file", str(path)))


def _line(scan_id: str) -> str:
    text = re.sub(r"[\n\r\t]", lambda m: {"\n": r"\n", "\r": r"\r", "\t": r"\t"}[m[0]], scan_id)
    return f"\\{text}" if text.startswith("#") else text
