"""The classes of a manifest: their names, the healthy one, and names in two spellings."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from cnr_iemn.data.csv_io import Problems
from cnr_iemn.data.names import class_fault, lacks_name, look_alike
from cnr_iemn.schemas import NO_CLASS

PREDICT = "predict"
"""``data.empty_class``: scans without a class are only predicted."""
HEALTHY = ("normal", "healthy", "negative", "control", "non-covid")
"""Names of the healthy class, regardless of case, spaces and punctuation."""


def read_classes(
    rows: list[tuple[int, dict[str, str]]], configured: tuple[str, ...] | None, empty_class: str, problems: Problems
) -> tuple[str, ...]:
    """Return the classes, healthy first, and note the problems of the column ``class``.

    Args:
        rows: Of the manifest, with their lines.
        configured: ``data.classes``; None for the order of the lines, with the healthy class, found by its name, first.
        empty_class: refuse, or PREDICT.
        problems: Of the manifest; gets one entry for all lines with the same fault.

    Returns:
        The classes of the cohort without NO_CLASS.
    """
    lines: dict[str, list[int]] = defaultdict(list)
    for line, row in rows:
        lines[row["class"]].append(line)
    empty = lines.pop(NO_CLASS, [])
    if empty and empty_class != PREDICT:
        problems.add_lines(
            empty, f"the class is empty; data.empty_class={PREDICT} takes scans without one, to be predicted alone"
        )
    for name, line_numbers in lines.items():
        fault = class_fault(name)
        if fault:
            problems.add_lines(line_numbers, fault)
    if configured is not None:
        _check_configured(lines, configured, problems)
        return configured
    for name, line_numbers in lines.items():
        if lacks_name(name):
            problems.add_lines(
                line_numbers,
                f"class {name!r} reads as no class: leave it empty (with data.empty_class={PREDICT}) for a scan whose "
                "class is not known, or name it in data.classes if it is one",
            )
    _check_look_alikes(lines, problems)
    names = tuple(lines)
    if not names:
        problems.add(1, "no scan has a class; predict.py takes such a list as its input")
        return ()
    keys = {look_alike(name) for name in HEALTHY}
    healthy = [name for name in names if look_alike(name) in keys]
    if len({look_alike(name) for name in healthy}) != 1:
        problems.add(1, f"which of {', '.join(names)} is the healthy class? Give data.classes=[HEALTHY,...]")
    if len(names) < 2:
        problems.add(1, f"one class only ({', '.join(names)}); at least two are needed")
    return tuple(sorted(names, key=lambda name: name not in healthy))


def _check_configured(lines: Mapping[str, Sequence[int]], configured: tuple[str, ...], problems: Problems) -> None:
    for name, line_numbers in lines.items():
        if name not in configured:
            problems.add_lines(
                line_numbers, f"class {name!r} is none of {', '.join(configured)}{spelling_hint(name, configured)}"
            )


def _check_look_alikes(lines: Mapping[str, Sequence[int]], problems: Problems) -> None:
    """Note each spelling of a class but the commonest."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in lines:
        spellings[look_alike(name)].append(name)
    for variants in spellings.values():
        commonest = max(variants, key=lambda name: len(lines[name]))
        for name in variants:
            if name != commonest:
                problems.add_lines(
                    lines[name],
                    f"class {name!r} differs from {commonest!r} ({len(lines[commonest])} lines) in case, spaces or "
                    "punctuation alone: write one of them, or name both in data.classes if they are two classes",
                )


def spelling_hint(name: str, classes: Sequence[str]) -> str:
    """Return the end of a message on a class with another spelling of this name; empty where there is none."""
    variants = [other for other in classes if look_alike(other) == look_alike(name)]
    return f"; it differs from {variants[0]!r} in case, spaces or punctuation alone" if variants else ""
