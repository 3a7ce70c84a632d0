"""Flow, Table 1 and subgroups in report, model card and CSV files; what was not measured, and small numbers."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cnr_iemn.data.demographics.group_table import coarse_table
from cnr_iemn.data.scan_features import ScanFeatures
from cnr_iemn.evaluation.aggregate import Results, assemble_results
from cnr_iemn.evaluation.evidence import EvidenceOptions
from cnr_iemn.evaluation.subgroups.scan_flow import scan_flow
from cnr_iemn.report.checklists.model_card import write_model_card
from cnr_iemn.report.checklists.study_facts import StudyFacts
from cnr_iemn.report.evidence_sentences import evidence_sentences
from cnr_iemn.report.population.flow_figure import flow_figure
from cnr_iemn.report.population.sentences import population_sentence, subgroup_sentence
from cnr_iemn.report.population.tables import cohort_result_table, write_population_files
from cnr_iemn.report.study_report import write_report
from tests.builders import FakeScan, make_predictions, make_summaries
from tests.report.test_study_report import ORIGIN, store_of, words

pytestmark = pytest.mark.slow

COUNTS = {"Normal": (52, 24), "COVID-19": (116, 55), "CAP": (41, 19)}
"""Training and validation scans of the paper's cohort."""
SCANS = {
    f"{label}-{k:03d}": FakeScan(label, "training" if k < training else "validation", 24)
    for label, (training, validation) in COUNTS.items()
    for k in range(training + validation)
}
SECRET = "Sarcophaga Memorial Clinic"
"""The site of three scans."""


def groups() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    n = len(SCANS)
    table = pd.DataFrame(
        {
            "sex": rng.choice(["female", "male"], n),
            "age": rng.choice(["30-39", "40-49", "50-59", "60-69", "70-79", "80-89", "90 and above"], n),
            "site": rng.choice(["Bari", "Lille"], n),
            "tube_voltage": rng.choice(["110 kV", "130 kV"], n),
        },
        index=list(SCANS),
        dtype="object",
    )
    table.loc[table["age"] == "90 and above", "age"] = "80-89"
    table.iloc[[3, 90, 200], table.columns.get_loc("age")] = "90 and above"
    table.iloc[[4, 91, 201], table.columns.get_loc("site")] = SECRET
    table.iloc[::13, table.columns.get_loc("sex")] = None
    return table


def results(table: pd.DataFrame) -> Results:
    shortcuts = pd.DataFrame({"slices": np.arange(len(SCANS)) % 7 + 24.0}, index=list(SCANS))
    volumes = {name: np.random.default_rng(k).random(8, np.float32) for k, name in enumerate(SCANS)}
    features = ScanFeatures(shortcuts, volumes, coarse_table(table))
    predictions = {"resnext50": make_predictions("resnext50", SCANS, skill=0.12)}
    made = assemble_results(
        predictions, make_summaries(SCANS), cohort="simulated", options=EvidenceOptions(), scan_features=features
    )
    made.metrics["scan_flow"] = scan_flow(
        made.patients,
        made.metrics["classes"],
        slice_labelled=list(SCANS)[:100],
        n_cohort=len(SCANS) + 4,
        left_out=["x", "y", "z"],
        refusals={"x": "x: 12 slices missing between 3 and 4.", "y": "y: only localizers, no slices. Copy."},
    )
    return made


@pytest.fixture(scope="module")
def study() -> Results:
    return results(groups())


@pytest.fixture(scope="module")
def folder(study: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ensemble")
    write_report(path, study, store_of(SCANS), ORIGIN, study="a study")
    facts = StudyFacts(metrics=study.metrics, provenance=ORIGIN)  # type: ignore[arg-type]
    write_model_card(path, facts, study="a study")
    return path


def test_the_page_shows_flow_table_and_groups(folder: Path, study: Results) -> None:
    page = (folder / "report.html").read_text()
    text = words(page)
    assert 'href="#subgroups"' in page
    assert 'href="#cohort"' in page
    for phrase in ("Scans by class and side of the split", "Validation scans by group, %", "Flow of scans"):
        assert phrase in text
    assert "314 scans found; 2 refused (1 for: n slices missing between n and n, 1 for: only localizers, no " in page
    tests = study.metrics["subgroups"]
    assert list(tests) == ["sex", "age", "site", "tube_voltage"]
    test = tests["sex"]["interaction"]
    assert test is not None
    assert f"sex: p = {test['p']:.2g}, with Holm {test['p_holm']:.2g}; a difference of" in text
    n = tests["sex"]["groups"]["female"]["n"]
    assert re.search(rf"female {n} \d+\.\d\d \[", text)
    assert (folder / "figures" / "flow.svg").is_file()


def test_the_model_card_says_what_was_measured(folder: Path, study: Results) -> None:
    card = (folder / "model_card.md").read_text()
    assert "Known of the scans: sex, age, site, tube voltage. Not known: manufacturer." in card
    assert "| difference of accuracy between groups, tested by | sex, age, site, tube voltage |" in card
    assert "Validation scans by group" in card
    without = results(groups()[["tube_voltage"]])
    assert population_sentence(without.metrics) == (
        "Known of the scans: tube voltage. Not known: sex, age, site, manufacturer."
    )


def test_no_file_tells_a_rare_group_or_a_small_number(folder: Path, study: Results) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            assert SECRET not in path.read_text()
            assert "90 and above" not in path.read_text()
    assert SECRET not in str(study.metrics)
    for variable in study.metrics["subgroups"].values():
        assert min(group["n"] for group in variable["groups"].values()) >= 5
        counts = [n for group in variable["groups"].values() for n in group["n_by_class"].values()]
        assert not {1, 2, 3, 4} & set(counts)
    table = study.metrics["cohort_table"]
    assert table is not None
    cells = [n for group in table["groups"].values() for row in group["counts"].values() for n in row]
    assert not {1, 2, 3, 4} & set(cells)
    assert None in cells
    shown = cohort_result_table(study.metrics)
    assert shown is not None
    assert "*: 1 to 4 scans" in str(shown.caption)


def test_the_csv_files_are_the_tables(folder: Path, study: Results) -> None:
    rows = list(csv.DictReader((folder / "subgroups.csv").open()))
    first = next(row for row in rows if (row["variable"], row["group"]) == ("sex", "male"))
    group = study.metrics["subgroups"]["sex"]["groups"]["male"]
    assert int(first["n"]) == group["n"]
    assert float(first["accuracy"]) == group["accuracy"]["value"]
    assert float(first["accuracy_low"]) == pytest.approx(group["accuracy"]["low"])
    cohort = list(csv.DictReader((folder / "cohort.csv").open()))
    assert cohort[0]["variable"] == "scans"
    assert cohort[0]["Normal, training"] == "52"
    write_population_files(folder, {**study.metrics, "cohort_table": None, "subgroups": {}})  # type: ignore[arg-type]
    assert not (folder / "subgroups.csv").exists()


def test_a_sentence_names_a_difference_or_none(study: Results) -> None:
    assert any(sentence.startswith("Subgroups: ") for sentence in evidence_sentences(study.metrics))
    test: dict[str, Any] = {"groups": 2, "n": 98, "p": 0.2, "p_holm": 0.4, "detectable": 0.3}
    metrics = {**study.metrics, "subgroups": {"sex": {"groups": {}, "interaction": test}}}
    assert "no difference of accuracy was found by sex" in subgroup_sentence(metrics)  # type: ignore[arg-type]
    test["p_holm"] = 0.01
    assert "accuracy differs by sex (p = 0.01" in subgroup_sentence(metrics)  # type: ignore[arg-type]


def test_a_flow_without_losses_has_no_boxes_for_them(study: Results) -> None:
    flow = study.metrics["scan_flow"]
    assert flow is not None
    assert "Not in the study" in flow_figure(flow).svg
    plain = flow_figure({**flow, "refused": {}, "excluded": 0, "unclassed": 0})
    assert "Not in the study" not in plain.svg
    assert "Without a class" not in plain.svg
