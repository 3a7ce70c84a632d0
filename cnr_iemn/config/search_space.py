"""The ranges that a search draws from: ``search.space``, read and checked."""

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cnr_iemn.config.schema.fields import setting_keys
from cnr_iemn.config.schema.settings import TrainSettings
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.utils.shell_words import hydra_text

SEARCHABLE = ("augmentation.", "balancing.", "ingest.", "lungs", "model.", "trainer.")
"""Beginnings of keys that may be searched. With another cohort, split or fold the trials could not be compared."""

_WORDS = ("type", "low", "high", "log", "choices")
_EXAMPLE = "such as {type: float, low: 1e-5, high: 1e-2, log: true} or {type: choice, choices: [32, 64]}"
Value = bool | int | float | str | None


@dataclass(frozen=True)
class Range:
    """Values of one setting. ``choices``: all of them, else None and from ``low`` to ``high``, both included.

    ``integer``: integers only; ``log``: drawn by magnitude.
    """

    low: float = 0.0
    high: float = 0.0
    integer: bool = False
    log: bool = False
    choices: tuple[Value, ...] | None = None

    @property
    def limits(self) -> tuple[Value, ...]:
        """The values of which each must be a setting that can work: all choices, or the lowest and the highest."""
        limits = (int(self.low), int(self.high)) if self.integer else (self.low, self.high)
        return limits if self.choices is None else self.choices


def search_space(space: Mapping[str, Any]) -> dict[str, Range]:
    """Return the range of each key, in dotted form and sorted. Raises ConfigurationError where there is none."""
    keys = [key for key, group in setting_keys(TrainSettings) if not group and key.startswith(SEARCHABLE)]
    ranges = {key: _range(key, entry) for key, entry in _entries(space, keys) if entry is not None}
    if not ranges:
        raise ConfigurationError(f"search.space is empty: there is nothing to search. Give a key a range, {_EXAMPLE}.")
    return dict(sorted(ranges.items()))


def setting_words(params: Mapping[str, Any]) -> list[str]:
    """Return settings as words of Hydra's command line."""
    return [f"{key}={_word(value)}" for key, value in sorted(params.items())]


def _word(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return hydra_text(value)
    return repr(value)


def _entries(space: Mapping[str, Any], keys: list[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, entry in space.items():
        key = f"{prefix}{name}"
        if key in keys:
            yield key, entry
        elif isinstance(entry, Mapping) and any(k.startswith(f"{key}.") for k in keys):
            yield from _entries(entry, keys, f"{key}.")
        elif entry is not None:
            near = difflib.get_close_matches(key, keys, n=3, cutoff=0.6)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise ConfigurationError(
                f"search.space.{key} is not a setting that a search can vary.{hint} It can set single values below "
                f"{', '.join(prefix.rstrip('.') for prefix in SEARCHABLE)}; --help lists all keys."
            )


def _range(key: str, entry: object) -> Range:
    where = f"search.space.{key}={entry}"
    if not isinstance(entry, Mapping) or not set(entry) <= set(_WORDS):
        raise ConfigurationError(f"{where} is not a range. Give one {_EXAMPLE}.")
    entry = {word: value for word, value in entry.items() if value is not None}
    kind = entry.get("type", "choice" if "choices" in entry else "float")
    if kind not in ("float", "int", "choice"):
        raise ConfigurationError(f"{where}: the type is not known. Choose one of: float, int, choice.")
    return _choice(where, entry) if kind == "choice" else _interval(where, entry, integer=kind == "int")


def _choice(where: str, entry: Mapping[Any, Any]) -> Range:
    choices: Any = entry.get("choices")
    plain = isinstance(choices, list) and all(isinstance(c, bool | int | float | str | None) for c in choices)
    if not plain or len({(type(c), c) for c in choices}) != len(choices) or len(choices) < 2:
        raise ConfigurationError(
            f"{where}: a choice needs two or more different single values (numbers, words, true, false, "
            "null). Write {type: choice, choices: [32, 64]}."
        )
    return Range(choices=tuple(choices))


def _interval(where: str, entry: Mapping[Any, Any], *, integer: bool) -> Range:
    low, high, log = entry.get("low"), entry.get("high"), entry.get("log", False)
    numbers = int if integer else int | float
    if isinstance(low, bool) or isinstance(high, bool) or not isinstance(low, numbers) or not isinstance(high, numbers):
        kind = "integers" if integer else "numbers"
        raise ConfigurationError(f"{where}: low and high must be given as {kind}.")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigurationError(f"{where}: low must be below high.")
    if not isinstance(log, bool) or "choices" in entry:
        raise ConfigurationError(f"{where}: log is true or false, and choices need type: choice.")
    if log and low <= 0:
        raise ConfigurationError(f"{where}: with log: true low must be above 0. Raise low, or leave log out.")
    return Range(float(low), float(high), integer, log)
