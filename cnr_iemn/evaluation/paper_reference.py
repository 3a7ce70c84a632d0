"""The paper's own results: their intervals and the smallest differences they can show, from counts alone."""

from scipy.stats import fisher_exact
from typing_extensions import TypedDict

from cnr_iemn.constants import BACKBONES, PAPER_BACKBONES, PAPER_COUNTS
from cnr_iemn.statistics.confidence_intervals import Estimate, wilson
from cnr_iemn.statistics.paired_tests import holm, mcnemar_p

ALPHA = 0.05


class PaperResult(TypedDict):
    """``correct`` of ``n`` scans with Wilson's interval. ``smallest``: see ``smallest_difference``."""

    correct: int
    n: int
    interval: Estimate
    smallest: int | None


class PaperComparison(TypedDict):
    """The paper's ensemble against one backbone. ``ahead``: how many more scans it predicts correctly.

    ``best_p``: of the exact McNemar test if the ensemble is correct wherever the backbone is, the smallest p that these
    counts allow; ``best_p_holm``: adjusted for all backbones. ``reversals``: the most scans that the backbone alone may
    predict correctly for p <= 5% without correction; None where even 0 is too many.
    """

    ahead: int
    best_p: float
    best_p_holm: float
    reversals: int | None


def smallest_difference(n: int, *, alpha: float = ALPHA) -> int | None:
    """Return the smallest lead, in scans of ``n``, that the exact McNemar test can call significant.

    At best: where the worse method is correct in no scan that the better one has wrong. None where no lead is enough.
    """
    return next((ahead for ahead in range(1, n + 1) if mcnemar_p(ahead, 0) <= alpha), None)


def paper_results() -> dict[str, PaperResult]:
    """Return each count of the paper with its interval."""
    return {
        name: {"correct": correct, "n": n, "interval": wilson(correct, n), "smallest": smallest_difference(n)}
        for name, (correct, n) in PAPER_COUNTS.items()
    }


def validation_against_tests() -> dict[str, float]:
    """Return Fisher's exact p of the validation accuracy against that of the tests, of other patients: all, and CAP."""
    p_values = {}
    for suffix, name in (("", "all"), (", CAP", "CAP")):
        counts = (PAPER_COUNTS[f"{group}{suffix}"] for group in ("validation", "tests"))
        p_values[name] = float(fisher_exact([[correct, n - correct] for correct, n in counts]).pvalue)
    return p_values


def paper_comparisons() -> dict[str, PaperComparison]:
    """Return the ensemble against each backbone on the paper's validation scans (Table 2), by the backbone's name.

    Which scans each predicts correctly is not published, so that p is bounded, not known.
    """
    correct, n = PAPER_COUNTS["validation"]
    leads = {
        info.paper_name: correct - round(info.paper_scan_accuracy * n / 100)
        for info in map(BACKBONES.__getitem__, PAPER_BACKBONES)
    }
    best = {name: mcnemar_p(ahead, 0) for name, ahead in leads.items()}
    adjusted = dict(zip(best, holm(list(best.values())), strict=True))
    return {
        name: {
            "ahead": ahead,
            "best_p": best[name],
            "best_p_holm": adjusted[name],
            "reversals": _reversals(ahead, n - correct),
        }
        for name, ahead in leads.items()
    }


def _reversals(ahead: int, wrong: int) -> int | None:
    """Return the most of the ensemble's ``wrong`` scans that the backbone may predict correctly for p <= 5%."""
    enough = [k for k in range(wrong + 1) if mcnemar_p(ahead + k, k) <= ALPHA]
    return max(enough, default=None)
