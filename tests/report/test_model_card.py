"""The model card says what the facts of the study say, and names no scan."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cnr_iemn.constants import PHANTOM_NOTICE
from cnr_iemn.report.checklists.model_card import write_model_card
from cnr_iemn.report.checklists.study_facts import StudyFacts
from cnr_iemn.report.checklists.topics import statements
from tests.report.test_checklists import TRAINING
from tests.report.test_study_report import ORIGIN, results, study

__all__ = ["results"]
pytestmark = pytest.mark.slow
PROVENANCE: Any = {**ORIGIN, "booster": {"rounds": 100, "max_depth": 6, "eta": 0.3}}


def card_of(folder: Path, **facts: Any) -> str:
    write_model_card(folder, StudyFacts(provenance=PROVENANCE, **facts), study="x")
    return (folder / "model_card.md").read_text()


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    found = study()
    metrics: Any = {**found.metrics, "calibration": None, "operating_point": None, "clinical_use": None}
    assert metrics["permutation_test"] is metrics["audit"] is None
    card = card_of(tmp_path, metrics=metrics)
    assert PHANTOM_NOTICE not in card
    for figure in (
        "permutation test of stage 2, p",
        "expected calibration error, uncalibrated",
        "AUC of the shortcut audit",
        "accuracy on an external set",
        "difference of accuracy between groups, tested by",
    ):
        assert re.search(rf"\| {figure}[^|]*\| not measured \|", card)
    assert not re.search(r"macro AUC \| not measured", card)


def test_the_card_has_the_numbers_of_the_study(results: Any, tmp_path: Path) -> None:
    metrics = results.metrics
    card = card_of(tmp_path, metrics=metrics)
    assert PHANTOM_NOTICE in card
    assert f"| macro AUC | {metrics['intervals']['patient_bootstrap']['macro_auc']['value']:.3f} |" in card
    assert f"| permutation test of stage 2, p | {metrics['permutation_test']['p']:.3f} |" in card
    assert f"{100 * metrics['accuracy']:.2f} [" in card
    assert "leak" not in card.lower()


def test_sentences_are_those_of_the_checklists(results: Any, tmp_path: Path) -> None:
    networks = (replace(TRAINING, channels=("grey", "previous", "next")),)
    facts = StudyFacts(metrics=results.metrics, provenance=PROVENANCE, training=networks)
    write_model_card(tmp_path, facts, study="x")
    card, said = (tmp_path / "model_card.md").read_text(), statements(facts)
    for topic in ("architecture", "initialisation", "method", "stage2", "selection", "internal", "limitations"):
        assert f"- {said[topic].sentence}\n" in card
    assert "(grey image, the slice above, the slice below)" in card
    assert "lung mask, lungs" not in card


@pytest.mark.parametrize("known", [{}, {"sex": {"counts": {"female": [9]}, "missing": [0]}}])
def test_the_card_says_of_groups_what_was_measured(results: Any, tmp_path: Path, known: dict[str, Any]) -> None:
    test = {"groups": 2, "n": 18, "p": 0.7, "p_holm": 0.7, "detectable": 0.5}
    group = {"n": 9, "n_by_class": {}, "accuracy": None, "sensitivity": {}, "overconfidence": None}
    nothing = {"value": None, "low": None, "high": None}
    group |= {"accuracy": nothing, "overconfidence": nothing}
    group |= {part: dict.fromkeys(results.metrics["classes"], value) for part, value in _BY_CLASS.items()}
    table = {"strata": [], "numbers": {}, "groups": {}}
    differences = {"differences": {"split": None, "classes": None}}
    metrics = {
        **results.metrics,
        "cohort_table": {**table, "groups": {name: {**value, **differences} for name, value in known.items()}},
        "subgroups": {name: {"groups": {"female": group}, "interaction": test} for name in known},
    }
    card = card_of(tmp_path, metrics=metrics)
    tested = re.search(r"\| difference of accuracy between groups, tested by \| (.*) \|", card)
    assert tested is not None
    if known:
        assert "Known of the scans: sex. Not known: age" in card
        assert tested[1] == "sex"
        assert "no difference of accuracy was found by sex" in card
    else:
        assert "Known of the scans" not in card
        assert tested[1] == "not measured"


_BY_CLASS: dict[str, Any] = {"n_by_class": 3, "sensitivity": {"value": None, "low": None, "high": None}}


def test_the_card_has_the_external_sets(results: Any, tmp_path: Path) -> None:
    accuracy = {"value": 0.75, "low": 0.5, "high": 0.9}
    scored: Any = {"set": "test-1", "n_predicted": 29, "n_labelled": 30, "refused": {"no-lungs": 1}}
    scored |= {"phantom_study": False, "n_phantom_scans": 0}
    scored |= {"intervals": {"wilson": {"accuracy": {"value": 0.8, "low": 0.6, "high": 0.9}}}}
    card = card_of(
        tmp_path, metrics=results.metrics, external=({**scored, "missing_as_wrong": {"accuracy": accuracy}},)
    )
    assert (
        "| accuracy on the external set test-1, % | 80.00 [60.0, 90.0]; with the refused counted as wrong 75.00 [50.0, "
        "90.0]; 30 scans given, 1 refused (no-lungs 1), 29 answered and rated |" in card
    )
    assert "accuracy on an external set" not in card


def test_the_card_names_no_scan(results: Any, tmp_path: Path) -> None:
    pair = {"training": "SECRET-1", "validation": "SECRET-2", "similarity": 0.95, "same_class": True}
    near = {"n": 4, "threshold": 0.8, "highest": 0.95, "pairs": [pair]}
    unread: Any = {"n": 3, "agreement": 1.0, "unread": {"SECRET-3": "damaged-file"}, "rows": {}}
    card = card_of(tmp_path, metrics={**results.metrics, "near_duplicates": near, "robustness": unread})
    assert "cannot be read as before: 1 of the scans." in card
    assert "(correlation of 0.8 or more): 1." in card
    assert "SECRET" not in card
    assert "P999" not in card
