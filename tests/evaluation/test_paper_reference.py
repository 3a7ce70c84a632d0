"""What the paper's counts allow to conclude, against statsmodels, scipy and counting by hand."""

from math import comb

import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from cnr_iemn.evaluation.paper_reference import (
    paper_comparisons,
    paper_results,
    smallest_difference,
    validation_against_tests,
)
from cnr_iemn.report.tables.results import paper_comparison_table, paper_result_table


def by_statsmodels(wins: int, losses: int) -> float:
    return float(mcnemar([[0, wins], [losses, 0]], exact=True).pvalue)


def test_the_table_has_the_published_intervals() -> None:
    rows = {row[0]: row for row in paper_result_table().rows}
    assert [row[1:4] for row in rows.values()] == [
        ("86 of 98", "87.76", "[79.8, 92.9]"),
        ("10 of 19", "52.63", "[31.7, 72.7]"),
        ("73 of 90", "81.11", "[71.8, 87.9]"),
        ("9 of 20", "45.00", "[25.8, 65.8]"),
    ]
    assert rows["validation"][4] == "6 scans, 6.1 points"
    assert rows["tests, CAP"][4] == "6 scans, 30.0 points"


@pytest.mark.parametrize("alpha", [0.05, 0.0125])
def test_the_smallest_difference_is_the_first_that_statsmodels_calls_significant(alpha: float) -> None:
    found = smallest_difference(98, alpha=alpha)
    assert found is not None
    assert by_statsmodels(found, 0) <= alpha < by_statsmodels(found - 1, 0)
    assert smallest_difference(found - 1, alpha=alpha) is None
    assert smallest_difference(found, alpha=alpha) == found
    assert {each["smallest"] for each in paper_results().values()} == {6}


def test_no_pairing_makes_the_ensemble_significantly_better_than_its_best_backbone() -> None:
    found = paper_comparisons()
    assert {name: each["ahead"] for name, each in found.items()} == {
        "ResNeXt-50": 86 - 78,
        "DenseNet-161": 86 - 81,
        "Inception-v3": 86 - 84,
        "Wide-ResNet-50": 86 - 79,
    }
    for each in found.values():
        ps = [by_statsmodels(each["ahead"] + k, k) for k in range(98 - 86 + 1)]  # k scans that only the backbone has
        assert each["best_p"] == pytest.approx(min(ps))
        enough = [k for k, p in enumerate(ps) if p <= 0.05]
        assert each["reversals"] == (enough[-1] if enough else None)
    assert found["Inception-v3"]["best_p"] == 0.5
    corrected = multipletests([each["best_p"] for each in found.values()], method="holm")[1]
    assert [each["best_p_holm"] for each in found.values()] == pytest.approx(list(corrected))
    assert [row[-1] for row in paper_comparison_table().rows] == ["2", "none will do", "none will do", "1"]


def test_validation_and_tests_are_compared_as_fisher_did() -> None:
    found = validation_against_tests()
    assert found["CAP"] == pytest.approx(_fisher(10, 19, 9, 20))
    assert found["all"] == pytest.approx(_fisher(86, 98, 73, 90))
    assert f"p = {found['all']:.2f}, for CAP {found['CAP']:.2f}" in (paper_result_table().caption or "")


def _fisher(first: int, n: int, second: int, m: int) -> float:
    """Sum the probabilities of all tables with these margins that are no likelier than this one."""
    right = first + second
    weights = {k: comb(n, k) * comb(m, right - k) for k in range(max(0, right - m), min(n, right) + 1)}
    return sum(w for w in weights.values() if w <= weights[first]) / sum(weights.values())
