"""A plan is registered before the scans are scored, amended openly, and compared with what was done."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from cnr_iemn.config.schema.aggregate import AggregateSettings
from cnr_iemn.constants import BOOSTER_METHOD, SPGC_CLASSES
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.evaluation.clinical.analysis_plan import (
    SETTINGS,
    deviations,
    late_changes,
    read_plan,
    read_record,
    register_plan,
)
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


def compared(
    folder: Path, plan: str, classes: tuple[str, ...] = SPGC_CLASSES, **settings: Any
) -> tuple[list[str], str]:
    """Return the deviations of an aggregation with these settings from a plan of one key, and the remark on it."""
    record = register_plan(folder / "ensemble", written(folder, plan), AggregateSettings(**settings), classes)
    assert record is not None
    (remark,) = {row[3] for row in plan_table(record).rows if row[3] != "not in the plan"}
    assert record == read_record(folder / "ensemble")
    return deviations(record), remark


SAME = [
    ("threshold_class", ("auto", "COVID-19"), SPGC_CLASSES),
    ("threshold_class", ("auto", "null"), ("healthy", "ill")),
    ("primary_method", ("booster", BOOSTER_METHOD), SPGC_CLASSES),
    ("prevalence", ("[0.05, 0.2]", "[0.2, 0.05, 0.05]", "[2e-1, 5e-2]"), SPGC_CLASSES),
    ("prevalence", ("0.05", "[0.05]"), SPGC_CLASSES),
    ("prevalence", ("null", "[]"), SPGC_CLASSES),
    ("seeds", ("[seed1, seed2]", "[seed2, seed1]"), SPGC_CLASSES),
    ("threshold_sensitivity", ("0.9", "9e-1", ".90"), SPGC_CLASSES),
    ("permutations", ("999", "999.0"), SPGC_CLASSES),
    ("methods", ("true", "on", '"true"', "1"), SPGC_CLASSES),
]
"""Spellings of one value, by key, to a study of these classes."""
TYPED = {"permutations": int, "methods": bool, "threshold_sensitivity": float}


def given(key: str, spelling: str) -> Any:
    """Return the value that the command line makes of a spelling: numbers and switches have the type of their key."""
    value = yaml.safe_load(spelling)
    if key == "prevalence" and isinstance(value, list):
        return [float(share) for share in value]
    return TYPED[key](value) if key in TYPED else value


@pytest.mark.parametrize(
    ("key", "planned", "done", "classes"),
    [(key, one, two, classes) for key, spellings, classes in SAME for one in spellings for two in spellings],
)
def test_two_spellings_of_one_value_are_no_deviation(
    key: str, planned: str, done: str, classes: tuple[str, ...], tmp_path: Path
) -> None:
    found, remark = compared(tmp_path, f"{key}: {planned}", classes, **{key: given(key, done)})
    assert found == []
    assert remark.startswith("as planned")


@pytest.mark.parametrize(
    ("key", "planned", "done", "classes"),
    [
        ("threshold_class", "auto", "CAP", SPGC_CLASSES),
        ("threshold_class", "CAP", "auto", SPGC_CLASSES),
        ("threshold_class", "auto", None, SPGC_CLASSES),
        ("threshold_class", "null", "auto", SPGC_CLASSES),
        ("threshold_class", "auto", "ill", ("healthy", "ill")),
        ("threshold_class", "ill", "auto", ("healthy", "ill")),
        ("threshold_class", "COVID-19", "auto", ("healthy", "ill")),  # a class that the study does not have
        ("primary_method", "booster", "mean probability", SPGC_CLASSES),
        ("prevalence", "[0.05, 0.2]", [0.05], SPGC_CLASSES),
        ("prevalence", "[0.05]", None, SPGC_CLASSES),
        ("seeds", "[seed1]", ["seed1", "seed2"], SPGC_CLASSES),
        ("permutations", "999", 99, SPGC_CLASSES),
        ("permutations", "many", 99, SPGC_CLASSES),
        ("methods", "off", True, SPGC_CLASSES),
        ("methods", "0", True, SPGC_CLASSES),
        ("methods", "perhaps", True, SPGC_CLASSES),
    ],
)
def test_two_values_are_a_deviation(
    key: str, planned: str, done: Any, classes: tuple[str, ...], tmp_path: Path
) -> None:
    assert compared(tmp_path, f"{key}: {planned}", classes, **{key: done}) == ([key], "deviates")


def test_the_table_says_what_two_spellings_mean(tmp_path: Path) -> None:
    assert compared(tmp_path, "threshold_class: auto", threshold_class="COVID-19") == (
        [],
        'as planned: both mean "COVID-19"',
    )


def test_scans_that_another_ensemble_has_scored_are_scored(tmp_path: Path) -> None:
    """The validation scans are the study's: a plan comes late where another ensemble was measured on them."""
    other = tmp_path / "ensembles" / "resnext50"
    other.mkdir(parents=True)
    for late, sentence in ((False, "before the first scoring"), (True, "after the first scoring")):
        if late:
            (other / "metrics.json").write_text("{}")
        folder = tmp_path / "ensembles" / f"late-{late}"
        record = register_plan(folder, written(tmp_path, PLAN), AggregateSettings(prevalence=0.05), SPGC_CLASSES)
        assert record is not None
        assert record["entries"][0]["after_scoring"] is late
        assert sentence in plan_sentence(record)


def test_a_record_of_an_earlier_version_compares_the_texts(tmp_path: Path) -> None:
    plan = written(tmp_path, "threshold_sensitivity: 0.8\npermutations: 99")
    record = register_plan(tmp_path / "e", plan, AggregateSettings(), SPGC_CLASSES)
    assert record is not None
    path = tmp_path / "e" / "plan.json"
    earlier = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("planned", "resolved")}
    path.write_text(json.dumps(earlier))
    read = read_record(tmp_path / "e")
    assert read is not None
    assert deviations(read) == ["threshold_sensitivity"]
    assert {row[3] for row in plan_table(read).rows} == {"deviates", "as planned", "not in the plan"}


def test_a_plan_after_the_scoring_does_not_hide_the_one_before_it(tmp_path: Path) -> None:
    """Whoever plans again what was done, once the results are known, deviates from nothing; the report says so."""
    folder = tmp_path / "ensembles" / "all"
    early = "threshold_class: auto\nthreshold_sensitivity: 0.9\nrefits: 50\n"
    register_plan(folder, written(tmp_path, early), AggregateSettings(), SPGC_CLASSES)
    (folder / "metrics.json").write_text("{}")
    late = "threshold_class: COVID-19\nthreshold_sensitivity: 0.5\npermutations: 99\n"
    done = AggregateSettings(threshold_sensitivity=0.5)
    for plan in (written(tmp_path, late), None):  # the next aggregation names no plan
        record = register_plan(folder, plan, done, SPGC_CLASSES)
        assert record is not None
        assert deviations(record) == []
        sentence = plan_sentence(record)
        assert "Changed by a plan after the scoring: threshold_sensitivity, permutations, refits." in sentence
        assert sentence.endswith("Deviations from the last plan: none.")
        remarks = {row[0]: row[3] for row in plan_table(record).rows}
        assert remarks["threshold_sensitivity"] == "as planned; 0.9 was planned before the scoring"
        assert remarks["permutations"] == "as planned; nothing was planned before the scoring"
        assert remarks["refits"] == "not in the plan; 50 was planned before the scoring"
        assert "planned before" not in remarks["threshold_class"]  # another spelling of the same class
        assert remarks["methods"] == "not in the plan"


def test_an_amendment_before_the_scoring_changes_nothing_late(tmp_path: Path) -> None:
    folder = tmp_path / "ensembles" / "all"
    for text in ("refits: 20", "refits: 50"):
        record = register_plan(folder, written(tmp_path, text), AggregateSettings(), SPGC_CLASSES)
    assert record is not None
    assert len(record["entries"]) == 2
    assert "after the scoring" not in plan_sentence(record)
    assert late_changes(record) == {}
