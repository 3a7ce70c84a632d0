"""The headline is a paired test against the strongest simple baseline on the same scans."""

from typing import Any

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.evaluation.aggregate import Results, assemble_results
from cnr_iemn.report.headline import headline
from cnr_iemn.stage2.baselines import baseline_predictions
from cnr_iemn.stage2.methods.registry import stage2_methods
from tests.builders import make_predictions, make_scans, make_summaries

SCANS = make_scans(12, 12)


def study(skill: float) -> tuple[Results, dict[str, list[str]]]:
    summaries = make_summaries(SCANS)
    for k, (name, scan) in enumerate(SCANS.items()):  # litres tell four of five scans
        litres = 3.0 + SPGC_CLASSES.index(scan.label) if k % 5 else 4.0
        summaries[name] = type(summaries[name])(**{**vars(summaries[name]), "litres": litres + 0.001 * k})
    made = {"resnext50": make_predictions(scans=SCANS, skill=skill)}
    labels, split = ({name: getattr(scan, key) for name, scan in SCANS.items()} for key in ("label", "split"))
    return (
        assemble_results(made, summaries, cohort="x", methods=stage2_methods(rounds=10)),
        baseline_predictions(summaries, labels, split, SPGC_CLASSES),
    )


@pytest.fixture(scope="module")
def level() -> tuple[Results, dict[str, list[str]]]:
    return study(0.25)


def test_every_baseline_is_compared_scan_by_scan_with_holm(level: tuple[Results, dict[str, list[str]]]) -> None:
    results, answers = level
    held_out = results.patients[results.patients["split"] == "validation"]
    ours, truth = held_out["correct"].to_numpy(dtype=bool), held_out["label"].to_numpy()
    found = results.metrics["baseline_comparisons"]
    assert set(found) == set(answers) == set(results.metrics["baselines"])
    p = []
    for name, answer in answers.items():
        theirs = np.array(answer) == truth
        only = [int((ours & ~theirs).sum()), int((~ours & theirs).sum())]
        assert [found[name]["only_first"], found[name]["only_second"]] == only
        p.append(mcnemar([[0, only[0]], [only[1], 0]], exact=True).pvalue)
    holm = multipletests(p, method="holm")[1]
    assert [each["p_holm"] for each in found.values()] == pytest.approx(holm)


def test_the_strongest_baseline_has_the_most_correct_scans_and_its_p_leads(
    level: tuple[Results, dict[str, list[str]]],
) -> None:
    metrics = level[0].metrics
    assert metrics["strongest_baseline"] == "lung litres"
    text, test = headline(metrics), metrics["baseline_comparisons"]["lung litres"]
    right = sum(metrics["baselines"]["lung litres"]["confusion_matrix"][k][k] for k in range(3))
    assert f"The strongest of 7 simple baselines, lung litres, is correct for {right}, {100 * right / 36:.2f}%" in text
    assert f"exact McNemar p = {test['p_holm']:.2g} (Holm)" in text
    assert f"difference {100 * test['difference']:+.2f} [" in text
    assert text.endswith("Always predicting the majority class would be correct for 12, 33.33%.")
    assert "binomial" not in text


def test_a_method_that_only_beats_the_majority_does_not_lead() -> None:
    """On an unbalanced cohort the strongest baseline may be the majority: no better than it is no success."""
    metrics: dict[str, Any] = study(0.05)[0].metrics
    assert metrics["baseline_comparisons"][metrics["strongest_baseline"]]["difference"] < 0
    assert "difference -" in headline(metrics)
