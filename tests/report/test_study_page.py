"""report.html and model_card.md: complete, honest, self-contained, and nothing of a name taken as HTML."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from cnr_iemn.cohort.store import StoredScan
from cnr_iemn.patients.contributions import Contributions
from cnr_iemn.patients.evidence.beside import Wanted
from cnr_iemn.patients.evidence.results import Results, assemble_results, write_results
from cnr_iemn.registry import BACKBONES, PHANTOM_NOTICE, SPGC_CLASSES
from cnr_iemn.report import patients as patients_module
from cnr_iemn.report import study as study_module
from cnr_iemn.report.patients import group_shares, patient_rows, slice_shares, strip_paths
from cnr_iemn.report.study import PAGE_BYTES, write_report
from tests.builders import FakeScan, make_predictions, make_scans, make_summaries

SCANS = make_scans(8, 6)
NOTHING = Wanted()
ORIGIN: dict[str, Any] = {
    "command": "python aggregate.py study=x",
    "versions": {"python": "3.11"},
    "booster_seed": 0,
    "split_seed": 0,
    "split_sha256": "5b117",
    "store": "5707e",
    "left_out": ["P999"],
    "runs": [
        {
            "model": "resnext50",
            "tag": "seed0",
            "command": None,
            "seed": 0,
            "weights": "/home/someone/weights.pth",
            "checkpoint": "best",
            "checkpoint_sha256": "ab" * 32,
            "selected_on_validation": True,
            "labels_permuted": False,
            "hardware": "2 CPU cores",
            "ended": None,
            "versions": {"torch": "2.14"},
        }
    ],
}


class FakeStore:
    """Two round lungs in every slice but the first and the last; one scan's mask is in doubt."""

    def __init__(self, n_slices: Mapping[str, int], doubtful: str = "") -> None:
        self.n_slices = n_slices
        self.doubtful = doubtful

    def scan(self, scan_id: str) -> StoredScan:
        findings = ("lung mask in doubt: small & <odd>",) if scan_id == self.doubtful else ()
        n = self.n_slices[scan_id]
        return StoredScan(scan_id, n, 48, (2.0, 1.0, 1.0), tuple(range(n)), 4.0, findings, True, "", "")

    def grey(self, scan_id: str) -> np.ndarray:
        lungs = self.lungs(scan_id)
        return np.where(lungs, 30, 180).astype(np.uint8)

    def lungs(self, scan_id: str) -> np.ndarray:
        rows, columns = np.mgrid[:48, :48]
        lung = ((rows - 24) ** 2 + (columns - 14) ** 2 < 80) | ((rows - 24) ** 2 + (columns - 34) ** 2 < 80)
        found = np.repeat(lung[None].astype(np.uint8), self.n_slices[scan_id], axis=0)
        found[[0, -1]] = 0
        return found


def store_of(scans: Mapping[str, FakeScan], doubtful: str = "") -> Any:
    return FakeStore({scan_id: scan.n_slices for scan_id, scan in scans.items()}, doubtful)


def study(scans: Mapping[str, FakeScan] = SCANS, wanted: Wanted = NOTHING, **metadata: Any) -> Results:
    models = list(BACKBONES)[:2]
    predictions = {name: make_predictions(name, scans, skill=0.3, **metadata) for name in models}
    return assemble_results(predictions, make_summaries(scans), cohort="phantom", wanted=wanted)


@pytest.fixture(scope="module")
def results() -> Results:
    return study(wanted=Wanted(permutations=3, methods=True), phantom=True)


@pytest.fixture(scope="module")
def folder(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ensemble")
    write_report(path, results, store_of(SCANS, "CAP-009"), ORIGIN, study="a study")
    return path


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text()


def words(html: str) -> str:
    """Return what a reader sees."""
    body = re.sub(r"<(style|svg).*?</\1>", " ", html[html.index("<body>") :], flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body))).strip()


def test_the_answer_comes_first_after_the_notice(page: str, results: Results) -> None:
    text, metrics = words(page), results.metrics
    assert text.startswith(PHANTOM_NOTICE)
    right = int(np.trace(metrics["confusion_matrix"]))
    sentence = f"answers {right} of 18 validation scans rightly: {100 * right / 18:.2f}% ["
    assert text.index("selected on this very set") < text.index(sentence) < text.index("Results")
    assert "would be right for 6 of them, 33.33%" in text
    for name in SPGC_CLASSES:
        assert f"{name} {100 * metrics['sensitivity'][name]:.2f}%" in text
    assert "forced into one; the first means only that a scan resembles this cohort's Normal scans" in text
    assert "not a medical device" in text


def test_every_table_and_figure_is_there(page: str, folder: Path) -> None:
    text = words(page)
    for title in (
        "Table 1.",
        "Table 2.",
        "Figure 4.",
        "figures can be trusted, %",
        "Could stage 2 be as good by chance?",
        "against each backbone",
        "Calibration, 18",
        "Undecided, %",
        "Ways from slices to patients, validation",
        "Findings of preparation",
        "Aggregation",
        "Networks",
    ):
        assert title in text
    figures = {"confusion", "accuracy", "contributions", "reliability", "risk", "methods"}
    assert {path.stem for path in (folder / "figures").iterdir()} == figures
    assert page.count('<figure class="drawing">') == len(figures)
    assert "Model sensitivity, not lesion or cause" in text


def test_errors_come_first_and_each_is_explained(page: str, results: Results) -> None:
    held_out = results.patients[results.patients["split"] == "validation"]
    rows = re.findall(r"<li( class=\"wrong\")?>\n<h3>(.*?)</h3>(.*?)</li>", page, flags=re.DOTALL)
    wrong = [bool(mark) for mark, _, _ in rows]
    assert wrong == sorted(wrong, reverse=True)
    assert sum(wrong) == (~held_out["correct"]).sum() > 0
    assert {name for _, name, _ in rows} == set(held_out.index)
    for mark, name, body in rows:
        assert len(re.findall(r"<img ", body)) == 3
        patient = held_out.loc[name]
        if mark:
            assert f"{patient['label']}, answered {patient['predicted']}" in body
            assert f"Spoke most for {patient['predicted']} rather than {patient['label']}: " in body
    assert "Percentage of slices called, not lung involvement." in page


def test_data_quality_and_origin_are_told(page: str) -> None:
    text = words(page)
    assert "42 scans; 41 without any finding; 1 with a lung mask in doubt." in text
    assert "lung mask in doubt: small & <odd>" in text
    assert "Look at these masks before their answers are believed: CAP-009. The page" in text
    assert "Left out by data.exclude: P999." in text
    assert "python aggregate.py study=x" in text
    assert "not recorded" in text
    assert "weights.pth" in text
    assert "/home/someone" not in text


def test_the_page_stands_alone_and_tells_its_pictures_in_words(page: str) -> None:
    assert len(page.encode()) < PAGE_BYTES
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert not re.search(r"url\((?!#)", page)
    assert all(re.search(r"aria-label=\"[^\"]{20,}\"", svg) for svg in re.findall(r"<svg[^>]*>", page))
    assert all('alt="Slice ' in image for image in re.findall(r"<img[^>]*>", page))
    ids = re.findall(r"\bid=\"([^\"]+)\"", page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"href=\"#([^\"]+)\"", page)) | set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_figures_follow_the_page_s_colours_and_are_the_same_again(
    folder: Path, results: Results, tmp_path: Path
) -> None:
    for path in (folder / "figures").iterdir():
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert "currentColor" in path.read_text()
        assert "#010203" not in path.read_text()
    write_report(tmp_path, results, store_of(SCANS, "CAP-009"), ORIGIN, study="a study")
    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()


def test_names_are_text_and_never_html(tmp_path: Path) -> None:
    classes = ("i>well", "a&b$x$", 'q"q')
    scans = {f"<b>{name}": scan for name, scan in make_scans(4, 2, classes=classes).items()}
    found = study(scans, classes=classes)
    write_report(tmp_path, found, store_of(scans), ORIGIN, study="<u>study")
    page = (tmp_path / "report.html").read_text()
    assert not any(tag in page for tag in ("<b>", "i>well", "<u>", "&b$"))
    assert "a&amp;b$x$" in page


def test_what_was_not_measured_has_no_section_and_the_card_says_so(tmp_path: Path) -> None:
    found = study()
    metrics = {**found.metrics, "calibration": None, "operating_point": None}
    assert metrics["permutation_test"] is metrics["audit"] is metrics["methods"] is None
    write_report(tmp_path, replace(found, metrics=metrics), store_of(SCANS), ORIGIN, study="x")
    page, card = ((tmp_path / name).read_text() for name in ("report.html", "model_card.md"))
    assert PHANTOM_NOTICE not in page + card
    for absent in ("probabilities", "shortcuts", "methods"):
        assert f'id="{absent}"' not in page
    unmeasured = "p of stage 2 against permuted labels", "expected calibration error, as given", "AUC of shortcuts"
    for figure in (*unmeasured, "accuracy on an external set"):
        assert re.search(rf"\| {figure}[^|]*\| not measured \|", card)
    assert not re.search(r"macro AUC \| not measured", card)


def test_the_card_is_of_the_same_numbers(folder: Path, results: Results) -> None:
    card, metrics = (folder / "model_card.md").read_text(), results.metrics
    assert PHANTOM_NOTICE in card
    assert f"| macro AUC | {metrics['intervals']['patient_bootstrap']['macro_auc']['value']:.3f} |" in card
    assert f"| p of stage 2 against permuted labels | {metrics['permutation_test']['p']:.3f} |" in card
    assert f"{100 * metrics['accuracy']:.2f} [" in card


def test_the_card_has_the_external_sets_that_this_very_booster_was_scored_on(results: Results, tmp_path: Path) -> None:
    write_results(tmp_path, results)
    own = hashlib.sha256((tmp_path / "booster.ubj").read_bytes()).hexdigest()
    for name, booster in (("test-1", own), ("test-2", "another")):
        accuracy = {"value": 0.75, "low": 0.5, "high": 0.9}
        scored = {"set": name, "booster_sha256": booster, "n_answered": 29, "n_labelled": 30}
        (tmp_path / "external" / name).mkdir(parents=True)
        (tmp_path / "external" / name / "metrics.json").write_text(
            json.dumps({**scored, "missing_as_wrong": {"accuracy": accuracy}})
        )
    write_report(tmp_path, results, store_of(SCANS), ORIGIN, study="x")
    card = (tmp_path / "model_card.md").read_text()
    assert "| accuracy on the external set test-1, %, the others as wrong | 75.00 [50.0, 90.0], 29 of 30" in card
    assert "test-2" not in card
    assert "accuracy on an external set" not in card


def test_drawings_of_an_earlier_aggregation_do_not_stay(results: Results, tmp_path: Path) -> None:
    write_report(tmp_path, results, store_of(SCANS), ORIGIN, study="x")
    less = replace(results, metrics={**results.metrics, "methods": None})
    write_report(tmp_path, less, store_of(SCANS), ORIGIN, study="x")
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert "methods" not in names
    assert "confusion" in names


def test_findings_count_by_their_kind_and_once_a_scan() -> None:
    said = [("139 ml of dense tissue", "3.5 ml of dense tissue"), ("7 ml of dense tissue",), ()]
    scans = [StoredScan(str(k), 9, 48, (2, 1, 1), (), 4.0, each, True, "", "") for k, each in enumerate(said)]
    found = study_module.quality(scans)
    assert found["findings"] == [("# ml of dense tissue", 2)]
    assert (found["n"], found["without"]) == (3, 1)


def test_permuted_labels_leaks_and_alarms_are_the_first_lines(results: Results) -> None:
    control = {**ORIGIN, "runs": [{**ORIGIN["runs"][0], "labels_permuted": True}]}
    metrics = {**results.metrics, "permutation_test": {"leaks": True}, "audit": {"alarm": True}}
    found = study_module.warnings(metrics, control)
    assert len(found) == 4
    for phrase, text in zip(("leaks", "permuted labels", "alarm", "flatter"), found, strict=True):
        assert phrase in text


def test_a_large_study_stays_small_enough(results: Results) -> None:
    """Three quarters of the budget on pictures, the rest on rows without; errors are the last to be left out."""
    held_out = results.patients[results.patients["split"] == "validation"]
    arguments = held_out, results.contributions, results.slices, store_of(SCANS)
    whole = patient_rows(*arguments, budget=10**9)
    assert len(whole) == 18
    assert all(row.thumbnails for row in whole)
    rows = patient_rows(*arguments, budget=60_000)
    pictured = [bool(row.thumbnails) for row in rows]
    assert 0 < sum(pictured) < len(rows) < 18
    assert pictured == sorted(pictured, reverse=True)
    spent = sum(len(each.picture) for row in rows for each in row.thumbnails) + 1500 * len(rows)
    assert spent < 1.2 * 60_000
    assert [row.scan_id for row in rows] == [row.scan_id for row in whole][: len(rows)]


def test_a_strip_is_a_stack_of_the_groups_shares() -> None:
    shares = np.zeros((20, 2))
    shares[0], shares[1], shares[2] = (0.25, 0.75), (1, 0), math.nan
    first, second = strip_paths(shares)
    assert first == "M0 75h1v25h-1zM1 0h1v100h-1z"
    assert second == "M0 0h1v75h-1z"


def test_shares_are_those_of_the_slices_over_all_networks() -> None:
    answers = np.array([[0] * 20 + [1] * 20, [0] * 40])  # two networks, 40 slices: two in each group
    array = np.eye(3, dtype=np.float32)[answers]
    assert slice_shares([array]).tolist() == [0.75, 0.25, 0.0]
    groups = group_shares([array, array])
    assert groups.shape == (20, 3)
    assert groups[:10, 0].tolist() == [1.0] * 10
    assert groups[10:, 1].tolist() == [0.5] * 10


def test_the_thumbnails_are_the_slices_that_the_networks_hold_most_for_the_answer() -> None:
    probability = np.full((2, 11, 2), 0.5, np.float32)
    probability[:, [2, 5, 9], 1] = 0.9  # lungs from 1 to 9: thirds 1-3, 4-6, 7-9
    probability[:, [0, 10], 1] = 1.0  # no lung there
    probability[..., 0] = 1 - probability[..., 1]
    found = patients_module._thumbnails(FakeStore({"x": 11}), "x", [probability], 1)  # type: ignore[arg-type]
    assert [each.index for each in found] == [2, 5, 9]
    assert [each.probability for each in found] == pytest.approx([0.9] * 3)


def test_an_error_is_explained_by_what_tipped_it_against_the_true_class() -> None:
    by_group = np.zeros((1, 3, 2, 20))
    by_group[0, 2, 1, 19] = 1.5  # densenet161's base speaks for CAP
    by_group[0, 1, 0, 0] = 0.4  # resnext50's top for COVID-19
    found = Contributions(("x",), SPGC_CLASSES, ("resnext50", "densenet161"), by_group, np.zeros(3))
    said, against = patients_module.reasons(found, 0, answered=2, true=1)
    assert said == "Spoke most for CAP rather than COVID-19: DenseNet-161, lower third (1.50)."
    assert against == "Spoke most for COVID-19: ResNeXt-50, upper third (0.40)."
