"""Figures as the cells of a table: fractions, differences and intervals, in percent."""

from collections.abc import Mapping
from typing import Any

from cnr_iemn.patients.intervals import CONFIDENCE, Estimate

NONE = "–"
INTERVAL = f"{100 * CONFIDENCE:.0f}% interval"


def percent(fraction: float | None) -> str:
    """Return a fraction with two digits."""
    return NONE if fraction is None else f"{100 * fraction:.2f}"


def signed(fraction: float) -> str:
    """Return a difference with its sign."""
    return f"{100 * fraction + 0.0:+.2f}"  # adding 0 makes -0 a plain 0


def interval_text(estimate: Mapping[str, Any]) -> str:
    """Return the ends of a figure's interval, with a digit."""
    low, high = estimate["low"], estimate["high"]
    return NONE if low is None or high is None else f"[{100 * low:.1f}, {100 * high:.1f}]"


def with_interval(estimate: Estimate) -> str:
    """Return a figure with its interval."""
    return NONE if estimate["value"] is None else f"{percent(estimate['value'])} {interval_text(estimate)}"


def ends(comparison: Mapping[str, Any], *, sign: int = 1) -> str:
    """Return the ends of a difference's interval; ``sign`` -1: of the second less the first."""
    low, high = sorted(100 * sign * comparison[end] for end in ("low", "high"))
    return f"[{low:+.1f}, {high:+.1f}]"
