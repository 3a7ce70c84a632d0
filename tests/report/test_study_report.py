"""report.html is complete, self-contained, and escape names."""

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

from cnr_iemn.constants import BACKBONES, PHANTOM_NOTICE, SPGC_CLASSES
from cnr_iemn.data.slice_store import PixelSettings, StoredScan
from cnr_iemn.evaluation.aggregate import Results, assemble_results
from cnr_iemn.evaluation.evidence import EvidenceOptions
from cnr_iemn.report import patient_rows as patients_module
from cnr_iemn.report import study_report as study_module
from cnr_iemn.report.patient_rows import group_shares, patient_rows, slice_shares, strip_paths
from cnr_iemn.report.study_report import PAGE_BYTES, write_report
from cnr_iemn.report.svg import PALETTE, SERIES
from cnr_iemn.report.training_curves import TrainingCurve
from cnr_iemn.stage2.shap_values import Contributions
from tests.builders import FakeScan, make_predictions, make_scans, make_summaries

pytestmark = pytest.mark.slow

SCANS = make_scans(8, 6)
NOTHING = EvidenceOptions()
ORIGIN: dict[str, Any] = {
    "command": "python aggregate.py study=x",
    "versions": {"python": "3.11"},
    "booster_seed": 0,
    "split_seed": 0,
    "phantom_disease": None,
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

    settings = PixelSettings()

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


TRAINING_CURVES = {
    name: TrainingCurve(*(np.array(values) for values in ([0.9, 0.5], [0.8, 0.6], [0.4, 0.7], [0.35, 0.6])))
    for name in list(BACKBONES)[:2]
}


def store_of(scans: Mapping[str, FakeScan], doubtful: str = "") -> Any:
    return FakeStore({scan_id: scan.n_slices for scan_id, scan in scans.items()}, doubtful)


def study(scans: Mapping[str, FakeScan] = SCANS, options: EvidenceOptions = NOTHING, **metadata: Any) -> Results:
    models = list(BACKBONES)[:2]
    predictions = {name: make_predictions(name, scans, skill=0.3, **metadata) for name in models}
    return assemble_results(predictions, make_summaries(scans), cohort="phantom", options=options)


@pytest.fixture(scope="module")
def results() -> Results:
    return study(options=EvidenceOptions(permutations=3, methods=True), phantom=True)


@pytest.fixture(scope="module")
def folder(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ensemble")
    write_report(path, results, store_of(SCANS, "CAP-009"), ORIGIN, study="a study", training=TRAINING_CURVES)
    return path


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text()


def words(html: str) -> str:
    """Return what a reader sees."""
    body = re.sub(r"<(style|svg).*?</\1>", " ", html[html.index("<body>") :], flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body))).strip()


def test_the_prediction_follows_the_notice(page: str, results: Results) -> None:
    text, metrics = words(page), results.metrics
    assert text.startswith(PHANTOM_NOTICE)
    right = int(np.trace(metrics["confusion_matrix"]))
    answer = f"{100 * right / 18:.2f}% accuracy: {right} of 18 validation scans correct, 95% interval ["
    test = metrics["baseline_comparisons"][metrics["strongest_baseline"]]
    against = f"{100 * test['difference']:+.2f} points against the strongest of 7 simple baselines, "
    order = ("selected on this very set", "Results", answer, against, "Always predicting the majority class", "Table 2")
    places = [text.index(phrase) for phrase in order]
    assert places == sorted(places)
    assert f"exact McNemar p = {test['p_holm']:.2g} (Holm)" in text
    assert page.index("confusion-") < page.index('id="comparison"')
    for name in SPGC_CLASSES:
        assert f"{name} {100 * metrics['sensitivity'][name]:.2f} [" in text
    assert (
        "still assigned to one of these classes; Normal means only that a scan resembles this cohort's Normal scans"
        in text
    )
    assert "not a medical device" in text


def test_no_text_calls_a_permuted_mean_a_leak(page: str, folder: Path, results: Results) -> None:
    assert results.metrics["permutation_test"] is not None
    assert "leak" not in page.lower()
    assert study_module.warnings(results.metrics, ORIGIN) == [
        "The networks' checkpoints were selected on this very set (validation): the results are optimistic."
    ]


def test_the_report_has_every_table_and_figure(page: str, folder: Path) -> None:
    text = words(page)
    for title in (
        "Table 1.",
        "against backbones and baselines (Table 2 of the paper)",
        "(Figure 4 of the paper)",
        "Operating point of each class",
        "Decision for COVID-19 at a probability of",
        "Of 1000 scans, the decision for COVID-19",
        "Precision of the sample size",
        "Confidence intervals, ",
        "Permutation test of stage 2",
        "Calibration, 18",
        "Selective prediction, %",
        "Stage-2 methods, validation",
        "Findings of preparation",
        "Aggregation",
        "Networks",
    ):
        assert title in text
    shown = {"confusion", "roc", "precision-recall", "decision", "contributions", "reliability", "risk", "training"}
    assert {path.stem for path in (folder / "figures").iterdir()} == shown | {"accuracy", "methods"}
    assert page.count('<figure class="drawing') == len(shown)  # the page prints the two others as forest plots
    assert page.count('class="forest"') == 2
    assert "Model sensitivity, not lesion or cause" in text


def gallery_of(page: str) -> list[tuple[str, str, str]]:
    """Return "wrong" or "", the scan and the rest of each entry of the gallery."""
    entries = re.findall(r"<li(?: class=\"(wrong)\")?>\n<div>\n<h3>(.*?)</h3>(.*?)</li>", page, flags=re.DOTALL)
    return [(mark, name, body) for mark, name, body in entries]


def test_errors_come_first_and_correct_scans_are_folded(page: str, results: Results) -> None:
    held_out = results.patients[results.patients["split"] == "validation"]
    entries = gallery_of(page)
    assert {name for _, name, _ in entries} == set(held_out.index)
    assert [mark == "" for mark, _, _ in entries] == sorted(mark == "" for mark, _, _ in entries)
    n_wrong = int((~held_out["correct"].to_numpy(dtype=bool)).sum())
    assert sum(mark == "wrong" for mark, _, _ in entries) == n_wrong > 0
    column = "calibrated_{}" if results.metrics["calibration"] is not None else "p_{}"
    probability = [float(held_out.loc[name, column.format(held_out.loc[name, "predicted"])]) for _, name, _ in entries]
    shown = [float(re.search(r"probability (\d\.\d\d);", body)[1]) for _, _, body in entries]  # type: ignore[index]
    assert shown == pytest.approx(probability, abs=0.005)
    undecided = {name for _, name, body in entries if "(undecided, probability" in body}
    assert undecided == set(held_out.index[held_out["undecided"].fillna(False)]) != set()
    assert probability[:n_wrong] == sorted(probability[:n_wrong], reverse=True)
    assert probability[n_wrong:] == sorted(probability[n_wrong:])
    folded = page[page.index('<details class="fold"><summary>Correct: ') :]
    folded = folded[: folded.index("\n</details>\n</section>")]
    assert {name for _, name, _ in gallery_of(folded)} == set(held_out.index[held_out["correct"]])


def test_each_scan_shows_three_slices_and_why(page: str, results: Results) -> None:
    held_out = results.patients[results.patients["split"] == "validation"]
    for mark, name, body in gallery_of(page):
        side = patients_module.ERROR_SIDE if mark else patients_module.CORRECT_SIDE
        assert len(re.findall(rf'<img [^>]*width="{side}" height="{side}"', body)) == 3
        patient = held_out.loc[name]
        for level in ("upper", "middle", "lower"):
            assert re.search(rf"{level} third, slice \d+: P\({patient['predicted']}\) = 0\.\d\d<", body)
        if mark:
            assert f"{patient['label']}, predicted {patient['predicted']}" in body
            assert f"Strongest evidence for {patient['predicted']} over {patient['label']}: " in body
    assert "Percentage of slices, not lung involvement." in page


def test_the_report_has_data_quality_and_origin(page: str) -> None:
    text = words(page)
    assert "42 scans; 41 without any finding; 1 with a lung mask in doubt." in text
    assert "lung mask in doubt: small & <odd>" in text
    assert "Check these lung masks before you trust the predictions: CAP-009. The page" in text
    assert "Left out by data.exclude: P999." in text
    for heading in ("Methods", "Data quality: ", "Provenance: "):
        assert f'<details class="fold"><summary>{heading}' in page
    assert "python aggregate.py study=x" in text
    assert "not recorded" in text
    assert "weights.pth" in text
    assert "/home/someone" not in text


def test_the_page_is_self_contained_and_its_pictures_have_text_alternatives(page: str) -> None:
    assert len(page.encode()) < PAGE_BYTES
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert not re.search(r"url\((?!#)", page)
    assert all(re.search(r"aria-label=\"[^\"]{20,}\"", svg) for svg in re.findall(r"<svg[^>]*>", page))
    assert all('alt="Slice ' in image for image in re.findall(r"<img[^>]*>", page))
    ids = re.findall(r"\bid=\"([^\"]+)\"", page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"href=\"#([^\"]+)\"", page)) | set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


@pytest.mark.parametrize("ground", ["#ffffff", "#16181c"])
@pytest.mark.parametrize("colour", [*PALETTE, *SERIES])
def test_colours_of_figures_are_seen_on_both_grounds(colour: str, ground: str) -> None:
    """WCAG 2.1, 1.4.11: a contrast of 3 for what is needed to understand a figure."""
    dark, light = sorted(map(_luminance, (colour, ground)))
    assert (light + 0.05) / (dark + 0.05) >= 3


def _luminance(colour: str) -> float:
    red, green, blue = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_figures_use_the_page_s_colours_and_are_reproducible(folder: Path, results: Results, tmp_path: Path) -> None:
    for path in (folder / "figures").iterdir():
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert "currentColor" in path.read_text()
        assert "#010203" not in path.read_text()
    write_report(tmp_path, results, store_of(SCANS, "CAP-009"), ORIGIN, study="a study", training=TRAINING_CURVES)
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


def test_missing_analyses_have_no_section(tmp_path: Path) -> None:
    found = study()
    metrics = {**found.metrics, "calibration": None, "operating_point": None, "clinical_use": None}
    assert metrics["permutation_test"] is metrics["audit"] is metrics["methods"] is None
    write_report(tmp_path, replace(found, metrics=metrics), store_of(SCANS), ORIGIN, study="x")
    page = (tmp_path / "report.html").read_text()
    assert PHANTOM_NOTICE not in page
    for absent in ("calibration", "shortcuts", "methods"):
        assert f'id="{absent}"' not in page
        assert f'href="#{absent}"' not in page


def test_figures_of_an_earlier_aggregation_are_removed(results: Results, tmp_path: Path) -> None:
    write_report(tmp_path, results, store_of(SCANS), ORIGIN, study="x")
    less = replace(results, metrics={**results.metrics, "methods": None})
    write_report(tmp_path, less, store_of(SCANS), ORIGIN, study="x")
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert "methods" not in names
    assert "confusion" in names


def test_findings_count_by_their_kind_and_once_a_scan() -> None:
    said = [("139 ml of dense tissue", "3.5 ml of dense tissue"), ("7 ml of dense tissue",), ()]
    scans = [StoredScan(str(k), 9, 48, (2, 1, 1), (), 4.0, each, True, "", "") for k, each in enumerate(said)]
    found = study_module.data_quality(scans)
    assert found.findings == [("n ml of dense tissue", 2)]
    assert (found.n, found.n_without_finding) == (3, 1)


def test_permuted_labels_and_alarms_come_first(results: Results) -> None:
    control = {**ORIGIN, "runs": [{**ORIGIN["runs"][0], "labels_permuted": True}]}
    metrics = {**results.metrics, "audit": {"alarm": True}}
    found = study_module.warnings(metrics, control)
    assert len(found) == 3
    for phrase, text in zip(("permuted labels", "alarm", "optimistic"), found, strict=True):
        assert phrase in text


def test_a_large_study_stays_small_enough(results: Results) -> None:
    """Three quarters of the budget on pictures, the rest on rows without; errors are the last to be left out."""
    held_out = results.patients[results.patients["split"] == "validation"]
    arguments = held_out, results.contributions, results.slices, store_of(SCANS)
    whole = patient_rows(*arguments, budget=10**9)
    assert len(whole) == 18
    assert all(row.thumbnails for row in whole)
    rows = patient_rows(*arguments, budget=120_000)
    pictured = [bool(row.thumbnails) for row in rows]
    assert 0 < sum(pictured) < len(rows) < 18
    assert pictured == sorted(pictured, reverse=True)
    spent = sum(len(each.picture) for row in rows for each in row.thumbnails) + 1500 * len(rows)
    assert spent < 1.2 * 120_000
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


def test_the_thumbnails_are_the_slices_with_the_highest_probability_of_the_predicted_class() -> None:
    probability = np.full((2, 11, 2), 0.5, np.float32)
    probability[:, [2, 5, 9], 1] = 0.9  # lungs from 1 to 9: thirds 1-3, 4-6, 7-9
    probability[:, [0, 10], 1] = 1.0  # no lung there
    probability[..., 0] = 1 - probability[..., 1]
    store: Any = FakeStore({"x": 11})
    found = patients_module._thumbnails(store, "x", [probability], 1, side=64)
    assert [each.index for each in found] == [2, 5, 9]
    assert [each.probability for each in found] == pytest.approx([0.9] * 3)


def test_a_slice_with_little_lung_represents_no_third() -> None:
    """The neck and the bowel: a network may be sure of them, but there is nothing to see."""
    store: Any = FakeStore({"x": 12})
    lungs = store.lungs("x")
    lungs[1:3, :, 24:] = 0
    lungs[1:3, :26] = 0  # a sixth of the others
    store.lungs = lambda _: lungs
    probability = np.full((1, 12, 2), 0.5, np.float32)
    probability[:, 1:3, 1] = 0.99
    found = patients_module._thumbnails(store, "x", [probability], 1, side=64)
    assert len(found) == 3
    assert min(each.index for each in found) == 3


def test_an_error_is_explained_by_the_evidence_against_the_true_class() -> None:
    by_group = np.zeros((1, 3, 2, 20))
    by_group[0, 2, 1, 19] = 1.5  # densenet161's base speaks for CAP
    by_group[0, 1, 0, 0] = 0.4  # resnext50's top for COVID-19
    found = Contributions(("x",), SPGC_CLASSES, ("resnext50", "densenet161"), by_group, np.zeros(3))
    said, against = patients_module.reasons(found, "x", predicted=2, true=1)
    assert said == "Strongest evidence for CAP over COVID-19: DenseNet-161, lower third (1.50)."
    assert against == "Strongest evidence for COVID-19: ResNeXt-50, upper third (0.40)."
