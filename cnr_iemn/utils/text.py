"""Text for a terminal: names that come from files are made harmless, reasons of many scans are grouped."""

import re
import unicodedata
from collections.abc import Mapping, Sequence

MAX_NAMES = 5
"""Scans that are named for each reason; a file holds the others."""
_GROUPS = 12
_HARMFUL = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of what moves the cursor, hides or turns text, or cannot be printed: controls, formats (such as
right-to-left overrides), undecodable bytes of file names, separators of lines and paragraphs."""


def visible(text: str, *, keep: str = "") -> str:
    """Return text in which nothing can steer a terminal: such characters show as escapes (``\\x1b``, ``\\n``).

    Args:
        text: Words that hold names of files or folders, or text from within them.
        keep: Characters that stay, such as the line ends of our own messages.

    Returns:
        The text, printable in every encoding of Unicode.
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or unicodedata.category(c) not in _HARMFUL else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def grouped(reasons: Mapping[str, str], *, rest: str) -> str:
    """Return the reasons of refused scans as lines: one for each scan where they are few, else one for each reason.

    Args:
        reasons: Message by scan id; a message may begin with its scan's id. Messages that differ in numbers or in
            their scan's name alone have one reason.
        rest: Where all of them stand, such as a file's path.

    Returns:
        Indented lines joined by line ends, for a message of our own; empty where there are no reasons.
    """
    groups: dict[str, list[str]] = {}
    for scan_id, reason in reasons.items():
        groups.setdefault(_kind(scan_id, reason), []).append(scan_id)
    lines = []
    by_count = sorted(groups.values(), key=len, reverse=True)
    for scans in by_count[:_GROUPS]:
        first = scans[0]
        lines += [
            f"  {_line(scan_id, reasons[scan_id])}" for scan_id in scans[: MAX_NAMES if len(scans) <= MAX_NAMES else 1]
        ]
        if len(scans) > MAX_NAMES:
            lines[-1] = (
                f"  {len(scans)} scans: {_without(first, reasons[first])} (as of {visible(first)})\n"
                f"    {', '.join(map(visible, scans[:MAX_NAMES]))} and {len(scans) - MAX_NAMES} others: {visible(rest)}"
            )
    if len(by_count) > _GROUPS:
        remainder = by_count[_GROUPS:]
        lines.append(f"  {sum(map(len, remainder))} scans for {len(remainder)} other reasons: {visible(rest)}")
    return "\n".join(lines)


def listed(names: Sequence[str]) -> str:
    """Return the first names and how many others there are, for a sentence."""
    more = len(names) - MAX_NAMES
    return ", ".join(map(visible, names[:MAX_NAMES])) + (f" and {more} others" if more > 0 else "")


def _kind(scan_id: str, reason: str) -> str:
    nameless = re.sub(rf"(?<!\w){re.escape(scan_id)}(?!\w)", "", reason)
    return re.sub(r"[-+]?\d+(?:[.,]\d+)*", "0", nameless)


def _without(scan_id: str, reason: str) -> str:
    return visible(reason.removeprefix(f"{scan_id}: "))


def _line(scan_id: str, reason: str) -> str:
    """Return a reason that names its scan, once."""
    return visible(reason if reason.startswith(scan_id) else f"{scan_id}: {reason}")
