"""The page of a scan: what stands in place of the answer, what is said of the figures, and nothing taken as HTML."""

import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest

from cnr_iemn.ct.plan import TURNED
from cnr_iemn.deliver.key_slices import key_slices
from cnr_iemn.deliver.scan_page import PAGE_BYTES, page_name, scan_page
from cnr_iemn.engine.answers import answer_line, scan_answers
from cnr_iemn.registry import PHANTOM_NOTICE, PHANTOM_SCANS_NOTICE
from tests.deliver.pages import ENSEMBLE, FROZEN, MEMBERS, gone_by, page_of, prepared, slices


def text_of(page: str) -> str:
    body = page[page.index("<body>") :]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body)))


def test_the_answer_comes_first_with_what_calibrated_means() -> None:
    text = text_of(page_of())
    calibrated = FROZEN.calibrated(np.array([[0.05, 0.9, 0.05]]))[0]
    said = (
        f"This scan resembles COVID-19 most: probability {calibrated[1]:.2f}, calibrated on 24 training scans of three"
    )
    assert f"{said} & four, 2021-06-30." in text
    order = ("Research use only, not a medical device", "resembles COVID-19", "Closed set", "calibrated booster's own")
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "learnt on 24 training scans of three & four on 2021-06-30" in text
    assert f"COVID-19 {calibrated[1]:.3f} 0.900 9 (38%)" in text
    assert "learnt from 24 scans of the cohort three & four" in text
    assert "no diagnostic meaning" not in text


def test_undecided_stands_in_the_answer_s_place() -> None:
    text = text_of(page_of(probabilities=(0.3, 0.36, 0.34)))
    assert "Undecided: the most probable class, COVID-19, has a probability of 0.35 (calibrated on 24 training" in text
    assert "2021-06-30), and this study answers from 0.45 on" in text
    assert "resembles COVID-19 most" not in text


def test_nothing_is_called_calibrated_that_is_not() -> None:
    bare = replace(ENSEMBLE, calibration=None, training_counts={})
    text = text_of(page_of(ensemble=bare))
    assert "resembles COVID-19 most: probability 0.90, not calibrated." in text
    assert re.findall(r"\w* calibrated", text) == ["not calibrated"] * 2
    assert text.count("not known") == 3  # how many scans of each class it has learnt from


@pytest.mark.parametrize(
    ("study", "scan", "notice"), [(True, False, PHANTOM_NOTICE), (False, True, PHANTOM_SCANS_NOTICE)]
)
def test_the_notice_stands_in_place_of_the_class(study: bool, scan: bool, notice: str) -> None:
    ensemble = replace(ENSEMBLE, phantom=study)
    text = text_of(page_of(ensemble=ensemble, phantom=scan, probabilities=(0.3, 0.36, 0.34)))
    assert text.strip().startswith(notice)
    assert f"P001 {notice[0].upper()}{notice[1:]}." in text
    assert "resembles" not in text.split("Probabilities")[0]
    assert "Undecided" not in text
    (answer,) = scan_answers([slices("P001", phantom=scan)], np.array([[0, 1.0, 0]]), gone_by("P001"), ensemble)
    assert answer_line(answer, ensemble).startswith(f"P001: {notice}  Normal")


def test_the_slice_that_contributed_most_is_told_with_its_place() -> None:
    page = page_of()
    text = text_of(page)
    assert "Slice 18 of 40, z -64.8 mm" in text
    assert "its group +2.00 log-odds" in text
    assert text.count("Model sensitivity, not lesion or cause") == 2  # over pictures and over SHAP values
    assert "Percentage of slices called, not lung involvement" in text
    assert "level -600, width 1500 HU; values were kept from -1000 to 400 HU" in text
    assert "5% COVID-19" in text
    assert 'd="M2 6H18V10H2z"' in page  # the lungs: slices 4 to 35 of 40, on a strip of 20
    assert page.count("data:image/jpeg") == 2
    assert "input, which has 224, 299 a side" in text
    assert "Clear: no place of this slice" not in text
    assert "Clear: no place of this slice raises the answer" in text_of(page_of(raised=0.0))
    without = page_of(maps=False)
    assert without.count("data:image/jpeg") == 1
    assert "Grad-CAM" not in text_of(without)


def test_what_speaks_against_is_the_next_likely_class() -> None:
    text = text_of(page_of())
    assert "Spoke most for COVID-19 rather than CAP: ResNeXt-50, middle third (2.00)." in text
    assert "Spoke most for CAP: Inception-v3, lower third (0.60)." in text
    assert "Inception-v3 +0.00 +0.00 -0.60 -0.60" in text
    assert "before any slice +0.30" in text


def test_a_network_without_a_known_map_is_named() -> None:
    other = replace(MEMBERS[1], model="convnext_tiny", library="timm")
    text = text_of(page_of(ensemble=replace(ENSEMBLE, members=(MEMBERS[0], other))))
    assert "Grad-CAM leaves out convnext_tiny: of timm's backbones" in text


def test_a_turned_scan_has_no_sides() -> None:
    straight, turned = page_of(), page_of(findings=(TURNED,))
    assert "this one is turned" not in text_of(straight)
    assert "this one is turned" in text_of(turned)
    marked, bare = (re.findall(r'src="([^"]+)"', page) for page in (straight, turned))
    assert len(marked) == len(bare) == 2
    assert not set(marked) & set(bare)  # the letters are in the pictures


def test_names_and_findings_are_no_html_and_the_page_is_small() -> None:
    evil = "<script>alert(1)</script>"
    classes = ("Normal", "<b>COVID", "CAP&")
    frozen = replace(FROZEN, cohort=evil)
    ensemble = replace(
        ENSEMBLE,
        study=evil,
        cohort=evil,
        calibration=frozen,
        training_counts=dict.fromkeys(classes, 8),
        classes=classes,
    )
    scan, found = slices(evil, findings=(evil,)), replace(gone_by(evil), classes=classes)
    (answer,) = scan_answers([scan], np.array([[0.05, 0.9, 0.05]]), found, ensemble)
    sets = (np.stack(list(scan.probabilities.values())),)
    page = scan_page(answer, found, sets, prepared(scan), ensemble, key_slices(found.by_group[0, 1], sets, 1), None)
    assert "<script" not in page
    assert "<b>" not in page
    assert page.count("&lt;script&gt;") >= 5
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert len(page_of().encode()) < PAGE_BYTES


def test_a_page_has_a_file_name_of_its_own() -> None:
    assert page_name("P001") == "P001.html"
    names = [page_name(name) for name in ("a/b", "a b", "../x", ".x", "", "-x", "é", "a" * 300, "a" * 301)]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}\.html", name)


def test_contributions_of_the_answer_add_up_by_class_backbone_and_third() -> None:
    (answer,) = scan_answers([slices("P001")], np.array([[0.05, 0.9, 0.05]]), gone_by("P001"), ENSEMBLE)
    assert answer["contributions"]["COVID-19"] == {
        "base": 0.1,
        "models": {
            "resnext50": {"upper third": 0.0, "middle third": 2.0, "lower third": 0.0},
            "inception_v3": {"upper third": 0.0, "middle third": 0.0, "lower third": 0.0},
        },
    }
    assert answer["contributions"]["CAP"]["models"]["inception_v3"]["lower third"] == 0.6
