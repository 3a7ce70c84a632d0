"""Paired comparisons against statsmodels and a likelihood maximised by scipy."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from cnr_iemn.statistics.paired_tests import compare_with, holm, mcnemar_p, paired_interval


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 3), (12, 2), (1, 9), (40, 41)])
def test_mcnemar_is_the_exact_test(wins: int, losses: int) -> None:
    expected = mcnemar([[50, wins], [losses, 20]], exact=True).pvalue
    assert mcnemar_p(wins, losses) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_holm_equals_statsmodels(seed: int) -> None:
    p = np.random.default_rng(seed).uniform(size=5) ** 3
    assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1])


def score_statistic(wins: int, losses: int, n: int, difference: float) -> float:
    """The definition: the restricted likelihood is maximised by search."""

    def loss(q: float) -> float:  # q: probability that only the second is right
        p = q + difference
        rest = 1 - p - q
        return -(wins * np.log(p) + losses * np.log(q) + (n - wins - losses) * np.log(rest))

    edge = 1e-12
    low, high = max(0.0, -difference) + edge, (1 - difference) / 2 - edge
    q = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return abs(wins - losses - n * difference) / np.sqrt(n * (2 * q + difference - difference**2))


@pytest.mark.parametrize(("wins", "losses", "n"), [(5, 3, 98), (12, 2, 50), (9, 1, 20), (30, 31, 105)])
def test_the_interval_ends_where_the_score_test_rejects(wins: int, losses: int, n: int) -> None:
    low, high = paired_interval(wins, losses, n)
    assert low < (wins - losses) / n < high
    for end in (low, high):
        assert score_statistic(wins, losses, n, end) == pytest.approx(norm.ppf(0.975), abs=1e-4)


def test_without_a_discordant_scan_the_interval_is_that_of_its_limit() -> None:
    low, high = paired_interval(0, 0, 98)
    z2 = norm.ppf(0.975) ** 2
    assert (low, high) == pytest.approx((-z2 / (98 + z2), z2 / (98 + z2)), abs=1e-6)


def test_a_difference_of_two_scans_in_98_is_not_significant() -> None:
    """The paper's ensemble against its best backbone (Table 2): 86 and 84 of 98, at best two discordant scans."""
    ensemble = np.arange(98) < 86
    found = compare_with(ensemble, {"Inception-v3": np.arange(98) < 84, "same": ensemble})
    best = found["Inception-v3"]
    assert (best["only_first"], best["only_second"], best["p"]) == (2, 0, 0.5)
    assert best["low"] < 0 < best["high"]
    assert best["p_holm"] == 1.0
    assert found["same"]["p_holm"] == 1.0
