"""The report of a scan: notices instead of a class, explanations of the figures, and escaped names."""

import base64
import re
from dataclasses import replace
from html import unescape

import cv2
import numpy as np
import pytest

from cnr_iemn.constants import PHANTOM_DISEASES, PHANTOM_NOTICE, PHANTOM_SCANS_NOTICE
from cnr_iemn.ct.io.slice_order import TURNED
from cnr_iemn.ct.preprocess import DisplaySlices
from cnr_iemn.inference.scan_result import file_stem, result_line
from cnr_iemn.report.scan_report import MAX_PAGE_BYTES, scan_page
from cnr_iemn.report.slice_layers import HEAT_SIDE, body_mask, enlarge, heat_uri
from tests.report.pages import CALIBRATION, ENSEMBLE, MEMBERS, N_SLICES, page_of, result_of


def text_of(page: str) -> str:
    body = page[page.index("<body>") :]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body)))


def test_the_prediction_comes_first_and_calibrated_is_explained() -> None:
    text = text_of(page_of())
    calibrated = CALIBRATION.calibrated(np.array([[0.05, 0.9, 0.05]]))[0]
    sentence = f"This scan most resembles COVID-19: probability {calibrated[1]:.2f}, calibrated on 24 training scans of"
    assert f"{sentence} three & four, 2021-06-30." in text
    order = ("Research use only, not a medical device", "resembles COVID-19", "Closed set", "calibrated uncalibrated")
    places = [text.index(phrase) for phrase in order]
    assert places == sorted(places)
    assert "calibrated (temperature 1.70) on 24 training scans of three & four on 2021-06-30" in text
    assert f"COVID-19 {calibrated[1]:.3f} 0.900 9 (38%)" in text
    assert "trained on 24 scans of the cohort three & four" in text
    assert "no diagnostic meaning" not in text


def test_undecided_replaces_the_class() -> None:
    text = text_of(page_of(probabilities=(0.3, 0.36, 0.34)))
    assert "Undecided: the most probable class, COVID-19, has a probability of 0.35 (calibrated on 24 training" in text
    assert "2021-06-30), below this study's threshold of 0.45" in text
    assert "most resembles COVID-19" not in text


def test_only_calibrated_probabilities_are_called_calibrated() -> None:
    bare = replace(ENSEMBLE, calibration=None, training_counts={})
    text = text_of(page_of(ensemble=bare))
    assert "most resembles COVID-19: probability 0.90, not calibrated." in text
    assert re.findall(r"\w* calibrated", text) == ["not calibrated"] * 2
    assert text.count("not known") == 3  # how many training scans of each class


@pytest.mark.parametrize(
    ("study", "scan", "notice"), [(True, False, PHANTOM_NOTICE), (False, True, PHANTOM_SCANS_NOTICE)]
)
def test_the_notice_replaces_the_class(study: bool, scan: bool, notice: str) -> None:
    ensemble = replace(ENSEMBLE, phantom=study)
    text = text_of(page_of(ensemble=ensemble, phantom=scan, probabilities=(0.3, 0.36, 0.34)))
    assert text.strip().startswith(notice)
    assert text.count(notice) == 1
    assert "P001 Model output: undecided; the most probable class is COVID-19. Closed set" in text
    assert "this scan most resembles" not in text.lower()
    assert "Undecided: " not in text
    assert "P001 Model output: COVID-19, probability 0." in text_of(page_of(ensemble=ensemble, phantom=scan))
    result = result_of(probabilities=(0, 1.0, 0), ensemble=ensemble, phantom=scan)
    assert result_line(result.prediction, ensemble).startswith(f"P001: {notice}; predicted COVID-19  Normal")


def test_the_slice_with_the_largest_contribution_and_its_position_are_named() -> None:
    page = page_of()
    text = text_of(page)
    assert "Slice 18 of 40, z -64.8 mm" in text
    assert "Contribution of its group to COVID-19, all backbones: +2.00 log-odds" in text
    assert text.count("Model sensitivity, not lesion or cause") == 2  # over pictures and over SHAP values
    assert "Percentage of slices, not lung involvement" in text
    assert "level -600, width 1500 HU" in text
    assert "5% COVID-19" in text
    assert 'd="M2 6H18V10H2z"' in page  # the lungs: slices 4 to 35 of 40, on a strip of 20
    assert "input, which is 224 or 299 pixels wide" in text
    assert "Grad-CAM is clear" not in text
    assert "Grad-CAM is clear: nothing in this slice raises the output" in text_of(page_of(heat=0.0))
    assert "Grad-CAM" not in text_of(page_of(maps=False))


def key_layers(page: str) -> list[tuple[np.ndarray, np.ndarray | None, str]]:
    """Return of each key slice its picture, its map with transparency, and the path of its outline."""
    layers = []
    for entry in re.findall(r'<div class="layers">(.*?)</figure>', page, flags=re.DOTALL):
        pictures = [
            cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
            for data in re.findall(r'src="data:image/\w+;base64,([^"]+)"', entry)
        ]
        (outline,) = re.findall(r'<path d="([^"]*)"', entry)
        layers.append((pictures[0], pictures[1] if len(pictures) > 1 else None, outline))
    return layers


def test_key_slices_are_drawn_from_the_scan_at_its_own_resolution() -> None:
    """A line one pixel wide in the scan of 512 pixels, which the networks' 48 pixels cannot hold, is in the picture."""
    side = 512
    grey, lungs = np.full((N_SLICES, side, side), 200, np.uint8), np.zeros((N_SLICES, side, side), np.uint8)
    lungs[4:36, 128:384, 64:224] = lungs[4:36, 128:384, 288:448] = 1
    grey[lungs.astype(bool)] = 60
    grey[17, 200:300, 100] = 255
    display = DisplaySlices(grey, np.packbits(lungs, axis=-1))
    page = page_of(display=display)
    (picture, heat, outline), *_ = key_layers(page)
    assert picture.shape == (side, side)
    assert picture[250, 100] > 180
    assert max(picture[250, 97], picture[250, 103]) < 110
    assert f'viewBox="0 0 {side} {side}"' in page
    corners = {tuple(map(int, point.split())) for point in re.findall(r"\d+ \d+", outline)}
    assert {(64, 128), (223, 128), (223, 383), (64, 383)} <= corners
    assert heat is not None
    assert f"own resolution, {side} pixels a side" in text_of(page)
    assert len(page.encode()) < MAX_PAGE_BYTES


def test_maps_end_where_the_body_ends() -> None:
    """A disc of tissue with lungs in it, on a table: the map of a constant is shown in the disc and nowhere else."""
    rows, columns = np.mgrid[:256, :256]
    body = (rows - 128) ** 2 + (columns - 128) ** 2 < 90**2
    lung = (rows - 128) ** 2 + (columns - 100) ** 2 < 30**2
    image = np.where(lung, 60, np.where(body, 220, 20)).astype(np.uint8)
    image[226:230] = 240  # a table
    assert (body_mask(image) != body).mean() < 0.005
    data = heat_uri(np.ones((384, 384), np.float32), body_mask(image)).split(",")[1]
    layer = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
    assert layer.shape == (HEAT_SIDE, HEAT_SIDE, 4)
    shown = layer[..., 3] > 0
    assert shown[lung].all()
    assert (shown != body).mean() < 0.02
    assert 100 < layer[128, 128, 3] < 200  # the slice stays visible below


def test_a_slice_that_is_all_air_has_a_map_everywhere() -> None:
    assert body_mask(np.zeros((64, 64), np.uint8)).all()


def test_coarse_slices_are_enlarged_and_others_stay_as_they_are() -> None:
    image, mask = np.zeros((512, 512), np.uint8), np.ones((512, 512), np.uint8)
    assert enlarge(image, mask)[0] is image
    assert enlarge(image, mask)[1] is mask
    large, inside = enlarge(np.full((48, 48), 90, np.uint8), np.ones((48, 48), np.uint8))
    assert large.shape == inside.shape == (288, 288)
    assert set(np.unique(large)) == {90}
    assert inside.all()


def test_the_whole_scan_is_shown_by_group() -> None:
    page = page_of()
    levels = re.findall(r"<figcaption>slice (\d+): ([^<]+)</figcaption>", page)
    assert [int(number) for number, _ in levels] == list(range(2, 41, 2))  # the middle ones of 20 pairs
    assert levels[8] == ("18", "100% COVID-19")
    assert levels[0] == ("2", "100% Normal")


def test_without_key_slices_the_page_opens_with_the_whole_scan() -> None:
    result = result_of()
    assert result.explanation is not None
    bare = replace(result, explanation=replace(result.explanation, keys=(), heatmaps=None))
    page = scan_page(bare, ENSEMBLE)
    assert "No group of slices supports COVID-19" in page
    assert '<details class="fold" open>' in page
    assert "own resolution" not in page
    assert 'type="checkbox"' not in page
    assert '<details class="fold">' in page_of()


@pytest.mark.parametrize("disease", ["published", "clear"])
def test_a_phantom_study_says_which_disease_its_phantoms_have(disease: str) -> None:
    page = page_of(ensemble=replace(ENSEMBLE, phantom=True, phantom_disease=disease))
    assert unescape(page).count(PHANTOM_DISEASES[disease]) == 1
    assert not any(text in unescape(page_of()) for text in PHANTOM_DISEASES.values())


def test_the_evidence_against_is_of_the_second_most_likely_class() -> None:
    text = text_of(page_of())
    assert "Strongest evidence for COVID-19 over CAP: ResNeXt-50, middle third (2.00)." in text
    assert "Strongest evidence for CAP: Inception-v3, lower third (0.60)." in text
    assert "Inception-v3 +0.00 +0.00 -0.60 -0.60" in text
    assert "before any slice +0.30" in text


def test_a_network_without_a_known_map_is_named() -> None:
    other = replace(MEMBERS[1], model="convnext_tiny", library="timm")
    text = text_of(page_of(ensemble=replace(ENSEMBLE, members=(MEMBERS[0], other))))
    assert "No Grad-CAM for convnext_tiny: the last convolutional layer of timm's backbones" in text


def test_a_turned_scan_has_no_sides() -> None:
    straight, turned = page_of(), page_of(findings=(TURNED,))
    assert "this one is turned" not in text_of(straight)
    assert "this one is turned" in text_of(turned)
    letters = '<span class="right">R</span><span class="left">L</span>'
    assert straight.count(letters) == 1
    assert letters not in turned


def test_names_and_findings_are_no_html_and_the_page_is_small() -> None:
    evil = "<script>alert(1)</script>"
    classes = ("Normal", "<b>COVID", "CAP&")
    calibration = replace(CALIBRATION, cohort=evil)
    ensemble = replace(
        ENSEMBLE,
        study=evil,
        cohort=evil,
        calibration=calibration,
        training_counts=dict.fromkeys(classes, 8),
        classes=classes,
    )
    page = page_of(evil, ensemble=ensemble, findings=(evil,), maps=False)
    assert "<script" not in page
    assert "<b>" not in page
    assert page.count("&lt;script&gt;") >= 5
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert len(page_of().encode()) < MAX_PAGE_BYTES


def test_each_page_has_a_unique_file_name() -> None:
    assert file_stem("P001") == "P001"
    names = [file_stem(name) for name in ("a/b", "a b", "../x", ".x", "", "-x", "é", "a" * 300, "a" * 301)]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name)


def test_contributions_to_the_prediction_add_up_by_class_backbone_and_third() -> None:
    shap = result_of().prediction["contributions"]
    assert shap["COVID-19"] == {
        "base": 0.1,
        "models": {
            "resnext50": {"upper third": 0.0, "middle third": 2.0, "lower third": 0.0},
            "inception_v3": {"upper third": 0.0, "middle third": 0.0, "lower third": 0.0},
        },
    }
    assert shap["CAP"]["models"]["inception_v3"]["lower third"] == 0.6
