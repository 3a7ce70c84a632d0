"""A plan is registered before the scans are scored, amended openly, and compared with what was done."""

import hashlib
import json
from pathlib import Path

import pytest

from cnr_iemn.config.schema.aggregate import AggregateSettings
from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.evaluation.clinical.analysis_plan import SETTINGS, deviations, read_plan, read_record, register_plan
from cnr_iemn.report.tables.plan import plan_sentence, plan_table

PLAN = "primary_method: booster\nthreshold_sensitivity: 0.9\nprevalence: 0.05\nhypothesis: better than chance\n"


def written(folder: Path, text: str, name: str = "plan.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_every_key_of_a_plan_is_a_setting() -> None:
    assert set(SETTINGS) <= set(vars(AggregateSettings()))


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    plan = written(tmp_path, PLAN)
    record = register_plan(tmp_path / "a", plan, AggregateSettings(prevalence=[0.05]), SPGC_CLASSES)
    other = "# a comment\n" + "\n".join(reversed(PLAN.replace("0.05", "[0.05]").splitlines()))
    again = register_plan(
        tmp_path / "b", written(tmp_path, other, "b.yaml"), AggregateSettings(prevalence=0.05), SPGC_CLASSES
    )
    assert record is not None
    assert again is not None
    content = dict(sorted(read_plan(Path(plan)).items()))
    assert record["entries"][0]["sha256"] == hashlib.sha256(json.dumps(content).encode()).hexdigest()
    assert record["entries"][0]["sha256"] == again["entries"][0]["sha256"]
    assert deviations(record) == deviations(again) == []


def test_a_plan_before_the_scoring_and_one_after_it(tmp_path: Path) -> None:
    first = register_plan(tmp_path / "new", written(tmp_path, PLAN), AggregateSettings(prevalence=0.05), SPGC_CLASSES)
    assert first is not None
    assert "before the first scoring" in plan_sentence(first)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "metrics.json").write_text("{}")
    late = register_plan(tmp_path / "old", written(tmp_path, PLAN), AggregateSettings(prevalence=0.05), SPGC_CLASSES)
    assert late is not None
    assert "after the first scoring" in plan_sentence(late)


def test_the_same_plan_again_changes_nothing_and_another_is_an_amendment(tmp_path: Path) -> None:
    folder, plan = tmp_path / "ensemble", written(tmp_path, PLAN)
    first = register_plan(folder, plan, AggregateSettings(prevalence=0.05), SPGC_CLASSES)
    (folder / "metrics.json").write_text("{}")
    second = register_plan(folder, plan, AggregateSettings(prevalence=0.05), SPGC_CLASSES)
    assert first == second == read_record(folder)
    third = register_plan(
        folder, written(tmp_path, PLAN.replace("0.9", "0.8")), AggregateSettings(prevalence=0.05), SPGC_CLASSES
    )
    assert third is not None
    assert [entry["after_scoring"] for entry in third["entries"]] == [False, True]
    assert "Amendments: 1, " in plan_sentence(third)
    assert deviations(third) == ["threshold_sensitivity"]
    fourth = register_plan(folder, None, AggregateSettings(threshold_sensitivity=0.8), SPGC_CLASSES)  # the plan stays
    assert fourth is not None
    assert len(fourth["entries"]) == 2
    assert deviations(fourth) == ["prevalence"]


def test_the_table_says_what_was_planned_and_what_was_done(tmp_path: Path) -> None:
    record = register_plan(
        tmp_path / "e", written(tmp_path, PLAN), AggregateSettings(threshold_sensitivity=0.95), SPGC_CLASSES
    )
    assert record is not None
    rows = {row[0]: row[1:] for row in plan_table(record).rows}
    assert rows["threshold_sensitivity"] == ("0.9", "0.95", "deviates")
    assert rows["primary_method"] == ('"booster"', '"booster"', "as planned")
    assert rows["permutations"] == ("–", "99", "not in the plan")
    assert rows["hypothesis"] == ('"better than chance"', "–", "for the reader to compare")


def test_without_a_plan_nothing_is_written(tmp_path: Path) -> None:
    assert register_plan(tmp_path / "e", None, AggregateSettings(), SPGC_CLASSES) is None
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("treshold_class: CAP\n", "no plan can fix: treshold_class"),
        ("", "fixes nothing"),
        ("- a\n- b\n", "fixes nothing"),
        ("a: [", "cannot be read as YAML"),
        ("hypothesis: 2026-12-01\n", "not text, a number or a list"),
    ],
)
def test_a_plan_that_cannot_be_read_is_refused_before_anything_is_written(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        register_plan(tmp_path / "e", written(tmp_path, text), AggregateSettings(), SPGC_CLASSES)
    assert not (tmp_path / "e").exists()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        register_plan(tmp_path / "e", str(tmp_path / "absent.yaml"), AggregateSettings(), SPGC_CLASSES)


@pytest.mark.parametrize(("planned", "given", "deviates"), [
    ("COVID-19", "auto", False), ("auto", "auto", False), ("CAP", "auto", True), ("COVID-19", "CAP", True),
])  # fmt: skip
def test_a_class_is_compared_by_what_auto_means(tmp_path: Path, planned: str, given: str, deviates: bool) -> None:
    plan = written(tmp_path, f"threshold_class: {planned}")
    record = register_plan(tmp_path / "a", plan, AggregateSettings(threshold_class=given), SPGC_CLASSES)
    assert record is not None
    assert deviations(record) == (["threshold_class"] if deviates else [])
