"""The secondary capture: its texts fit, its pixels are the page's, and it has the orientation."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageDraw

from cnr_iemn.constants import PHANTOM_NOTICE
from cnr_iemn.ct.io.slice_order import TURNED
from cnr_iemn.inference.explanation import Explanation
from cnr_iemn.inference.scan_result import ScanResult, result_sentence
from cnr_iemn.inference.slice_images import SIDE, slice_pictures
from cnr_iemn.stage2.ensemble import Ensemble
from tests.report.pages import ENSEMBLE, result_of

pytest.importorskip("highdicom", reason="DICOM output is an extra: pip install '.[dicom]'")

from cnr_iemn.dicom_export.coding import class_code
from cnr_iemn.dicom_export.secondary_capture import _orientation, _TextBlock, key_picture, shown_slice

RESULT = result_of()  # its only key slice is slice 17


def left_edges(picture: np.ndarray, detail: np.ndarray) -> list[int]:
    """Return the left edges of all places at which the picture contains the detail."""
    rows, columns = picture.shape[0] - SIDE + 1, picture.shape[1] - SIDE + 1
    first = (picture[:rows, :columns] == detail[0, 0]).all(axis=2)
    places = np.argwhere(first & (picture[:rows, SIDE - 1 :] == detail[0, -1]).all(axis=2))
    return sorted(
        {int(left) for top, left in places if np.array_equal(picture[top : top + SIDE, left:][:, :SIDE], detail)}
    )


def test_the_capture_has_both_pictures_of_the_page_unaltered() -> None:
    picture = key_picture(RESULT, ENSEMBLE)
    heatmap = np.full((SIDE, SIDE), 0.5, np.float32)
    plain, overlay = slice_pictures(RESULT.prepared, 17, heatmap, window=ENSEMBLE.pixels.window)
    assert overlay is not None
    assert picture.dtype == np.uint8
    assert left_edges(picture, plain[..., ::-1]) == [20]  # red first, where the page's are blue first
    assert left_edges(picture, overlay[..., ::-1]) == [20 + SIDE + 20]


def words_of(monkeypatch: pytest.MonkeyPatch, result: ScanResult, ensemble: Ensemble) -> str:
    """Return the words that are drawn in the picture of a result."""
    words: list[str] = []
    text = ImageDraw.ImageDraw.text

    def record(self: ImageDraw.ImageDraw, xy: tuple[float, float], line: str, **options: object) -> None:
        words.append(line)
        text(self, xy, line, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ImageDraw.ImageDraw, "text", record)
        key_picture(result, ensemble)
    return " ".join(words)


def test_the_prediction_and_the_disclaimer_are_above_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decided, undecided, and of a study of phantoms, which has no class to tell."""
    undecided = result_of(probabilities=(0.3, 0.36, 0.34))
    of_phantoms = replace(ENSEMBLE, phantom=True)
    texts = [
        words_of(monkeypatch, result, ensemble)
        for result, ensemble in ((RESULT, ENSEMBLE), (undecided, ENSEMBLE), (RESULT, of_phantoms))
    ]
    for words in texts:
        assert "Research use only, not a medical device." in words
        assert "Closed set: " in words
        assert "not verified by a person" in words
        assert "model sensitivity, not lesion or cause" in words
        assert "Slice 18 of " in words
    sentence = result_sentence(RESULT.prediction, ENSEMBLE)
    assert sentence in texts[0]
    assert "COVID-19" in sentence
    assert "ndecided" in texts[1]
    assert PHANTOM_NOTICE.lower() in texts[2].lower()
    assert "COVID-19" not in texts[2]


def test_without_a_supporting_slice_the_one_with_the_most_lung_is_shown() -> None:
    lungs = RESULT.prepared.lungs.copy()
    lungs[9, 5:45, 5:45] = True
    without_keys = replace(result_of(lungs=lungs), explanation=Explanation((), None))
    assert shown_slice(without_keys) == 9
    assert key_picture(without_keys, ENSEMBLE).shape[1] == 2 * SIDE + 60
    assert shown_slice(RESULT) == 17


def test_the_name_of_the_scan_is_not_in_the_picture_and_turned_scans_have_no_sides() -> None:
    picture = key_picture(RESULT, ENSEMBLE)
    assert np.array_equal(picture, key_picture(result_of("Name^Of^A^Patient"), ENSEMBLE))
    turned = key_picture(result_of(findings=(TURNED,)), ENSEMBLE)
    assert picture.shape == turned.shape
    assert (picture != turned).any()


def test_lines_fit_the_width() -> None:
    lines = _TextBlock(width=300)
    text = "one two three four five six seven eight nine ten eleven twelve " + "x" * 200 + " end"
    lines.add(text)
    wrapped = lines._lines
    assert len(wrapped) >= 3
    assert all(font.getlength(line) <= 300 for line, font, *_ in wrapped)
    words = " ".join(line for line, *_ in wrapped).split()
    assert words[:12] == text.split()[:12]
    assert words[-1] == "end"
    assert lines.height == 20 * len(wrapped)


@pytest.mark.parametrize(
    ("cosines", "letters"),
    [([1, 0, 0, 0, 1, 0], ("L", "P")), ([-1, 0, 0, 0, -1, 0], ("R", "A")), ([0.1, 0, 0.99, 0, 1, 0], ("H", "P"))],
)
def test_orientation_follows_the_cosines(cosines: list[float], letters: tuple[str, str]) -> None:
    """PS3.3 C.7.6.2.1.1: x runs to the left, y to the back, z to the head."""
    assert _orientation(cosines) == letters


def test_each_class_has_a_unique_code_for_any_name() -> None:
    names = ["Normal", "COVID-19", "a\\b", "x" * 200, "x" * 201, "ünïcode \x07"]
    codes = [class_code(name, calibrated=kind) for name in names for kind in (False, True)]
    assert len({code.value for code in codes}) == 12
    for code in codes:
        assert code.scheme_designator == "99CNRIEMN"
        assert len(code.value) <= 16
        assert len(code.meaning) <= 64
        assert "\\" not in code.meaning
        assert code.meaning.isprintable()
