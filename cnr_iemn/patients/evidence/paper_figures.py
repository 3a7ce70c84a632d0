"""What the paper's own figures could and could not tell apart, from their counts alone."""

from typing import TypedDict

from scipy.stats import fisher_exact

from cnr_iemn.patients.evidence.cells import interval_text, percent
from cnr_iemn.patients.evidence.comparisons import holm, mcnemar_p
from cnr_iemn.patients.evidence.tables import ResultTable
from cnr_iemn.patients.intervals import Estimate, wilson
from cnr_iemn.registry import BACKBONES, PAPER_COUNTS

ALPHA = 0.05


class PaperFigure(TypedDict):
    """``right`` of ``n`` scans with Wilson's interval; ``smallest``: see ``smallest_difference``."""

    right: int
    n: int
    interval: Estimate
    smallest: int | None


class PaperComparison(TypedDict):
    """The paper's ensemble against one backbone. ``ahead``: scans that it has right beyond the backbone's.

    ``best_p``: of the exact McNemar test were every scan that the backbone has right also the ensemble's, which is the
    smallest that these counts allow; ``best_p_holm``: among all backbones at their best. ``reversals``: how many scans
    the backbone alone may have right for p <= 5% without correction; None where not even none will do.
    """

    ahead: int
    best_p: float
    best_p_holm: float
    reversals: int | None


def smallest_difference(n: int, *, alpha: float = ALPHA) -> int | None:
    """Return by how many of ``n`` scans one method must be ahead of another for the exact McNemar test to see it.

    At best, that is where the other is right in no scan that the one has wrong; with every such scan it takes more.
    None where no difference on so few scans is enough.
    """
    return next((ahead for ahead in range(1, n + 1) if mcnemar_p(ahead, 0) <= alpha), None)


def paper_figures() -> dict[str, PaperFigure]:
    """Return each count of the paper with what it can tell."""
    return {
        name: {"right": right, "n": n, "interval": wilson(right, n), "smallest": smallest_difference(n)}
        for name, (right, n) in PAPER_COUNTS.items()
    }


def validation_against_tests() -> dict[str, float]:
    """Return Fisher's exact p of the validation figure against that of the tests, of other patients: all, and CAP."""
    found = {}
    for suffix, name in (("", "all"), (", CAP", "CAP")):
        counts = (PAPER_COUNTS[f"{where}{suffix}"] for where in ("validation", "tests"))
        found[name] = float(fisher_exact([[right, n - right] for right, n in counts]).pvalue)
    return found


def paper_comparisons() -> dict[str, PaperComparison]:
    """Return the ensemble against each backbone on the paper's validation scans (Table 2), by the backbone's name.

    Which scans each has right is not published, so that p is bounded, not known.
    """
    right, n = PAPER_COUNTS["validation"]
    ahead = {info.paper_name: right - round(info.paper_scan_accuracy * n / 100) for info in BACKBONES.values()}
    best = {name: mcnemar_p(more, 0) for name, more in ahead.items()}
    corrected = dict(zip(best, holm(list(best.values())), strict=True))
    return {
        name: {
            "ahead": more,
            "best_p": best[name],
            "best_p_holm": corrected[name],
            "reversals": _reversals(more, n - right),
        }
        for name, more in ahead.items()
    }


def paper_figure_table() -> ResultTable:
    """Return the paper's counts with their intervals and the smallest difference that they could show, in percent."""
    rows = []
    for name, each in paper_figures().items():
        interval, smallest = interval_text(each["interval"]), each["smallest"]
        apart = "none" if smallest is None else f"{smallest} scans, {100 * smallest / each['n']:.1f} points"
        rows.append((name, f"{each['right']} of {each['n']}", percent(each["interval"]["value"]), interval, apart))
    columns = ("the paper's", "scans right", "%", "95% interval", "smallest difference that could be seen")
    of_all, of_cap = validation_against_tests().values()
    caption = (
        "Wilson's intervals. Smallest difference: between two methods on the same scans, exact McNemar p <= 5%, at "
        "best, that is where the worse one is right in no scan that the better one has wrong. Validation against "
        f"tests, of other patients: Fisher's exact p = {of_all:.2f}, for CAP {of_cap:.2f}."
    )
    return ResultTable("What the paper's figures can tell", columns, tuple(rows), caption=caption)


def paper_comparison_table() -> ResultTable:
    """Return the paper's ensemble against each of its backbones."""
    rows = tuple(
        (
            name,
            f"{each['ahead']:+d}",
            f"{each['best_p']:.2g}",
            f"{each['best_p_holm']:.2g}",
            "none will do" if each["reversals"] is None else str(each["reversals"]),
        )
        for name, each in paper_comparisons().items()
    )
    columns = (
        "against",
        "ahead, scans",
        "smallest p possible",
        "with Holm",
        "scans it alone may have right for p <= 5%",
    )
    _, n = PAPER_COUNTS["validation"]
    caption = (
        f"Exact McNemar on the {n} validation scans, from counts alone: which scans each has right is not published. "
        "The smallest p supposes that the ensemble has right whatever the backbone has."
    )
    return ResultTable("The paper's ensemble against its backbones", columns, rows, caption=caption)


def _reversals(ahead: int, wrong: int) -> int | None:
    """Return the largest number of the ensemble's ``wrong`` scans that the other may have right for p <= 5%."""
    enough = [k for k in range(wrong + 1) if mcnemar_p(ahead + k, k) <= ALPHA]
    return max(enough, default=None)
