"""The key picture: its texts fit, its pixels are the page's, and it says which way it looks."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageDraw

from cnr_iemn.ct.plan import TURNED
from cnr_iemn.deliver.key_slices import SIDE, KeySlice, slice_pictures
from cnr_iemn.deliver.scan_page import KeyEvidence
from cnr_iemn.deliver.scan_text import sentence
from cnr_iemn.engine.answers import scan_answers
from cnr_iemn.engine.ensembles import Ensemble
from cnr_iemn.registry import PHANTOM_NOTICE
from tests.deliver.pages import ENSEMBLE, gone_by, prepared, slices

pytest.importorskip("highdicom", reason="DICOM output is an extra: pip install 'cnr-iemn[dicom]'")

from cnr_iemn.deliver.dicom.capture import _Lines, _orientation, key_picture, shown_slice
from cnr_iemn.deliver.dicom.software import class_code

KEY = KeySlice(17, 8, 2.0, 0.9)
SEEN = KeyEvidence((KEY,), np.full((1, SIDE, SIDE), 0.5, np.float32))
SCAN = prepared(slices("P001"))
(ANSWER,) = scan_answers([slices("P001")], np.array([[0.05, 0.9, 0.05]]), gone_by("P001"), ENSEMBLE)


def holds(picture: np.ndarray, part: np.ndarray) -> list[int]:
    """Return the left edges at which the part lies whole in the picture, whatever its height."""
    rows, columns = picture.shape[0] - SIDE + 1, picture.shape[1] - SIDE + 1
    first = (picture[:rows, :columns] == part[0, 0]).all(axis=2)
    places = np.argwhere(first & (picture[:rows, SIDE - 1 :] == part[0, -1]).all(axis=2))
    return sorted(
        {int(left) for top, left in places if np.array_equal(picture[top : top + SIDE, left:][:, :SIDE], part)}
    )


def test_both_pictures_of_the_page_stand_side_by_side_unaltered() -> None:
    picture = key_picture(ANSWER, ENSEMBLE, SCAN, SEEN)
    plain, overlay = slice_pictures(SCAN, 17, np.full((SIDE, SIDE), 0.5, np.float32), kept=ENSEMBLE.pixels.window)
    assert overlay is not None
    assert picture.dtype == np.uint8
    assert holds(picture, plain[..., ::-1]) == [20]  # red first, where the page's are blue first
    assert holds(picture, overlay[..., ::-1]) == [20 + SIDE + 20]


def drawn_in(monkeypatch: pytest.MonkeyPatch, answer: dict, ensemble: Ensemble) -> str:
    """Return the words that are drawn in the picture of an answer."""
    words: list[str] = []
    text = ImageDraw.ImageDraw.text

    def noted(self: ImageDraw.ImageDraw, xy: tuple[float, float], said: str, **options: object) -> None:
        words.append(said)
        text(self, xy, said, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ImageDraw.ImageDraw, "text", noted)
        key_picture(answer, ensemble, SCAN, SEEN)
    return " ".join(words)


def test_the_answer_stands_above_the_pictures_with_what_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decided, undecided, and of a study of phantoms, which has no class to tell."""
    (undecided,) = scan_answers([slices("P001")], np.array([[0.3, 0.36, 0.34]]), gone_by("P001"), ENSEMBLE)
    of_phantoms = replace(ENSEMBLE, phantom=True)
    (phantom,) = scan_answers([slices("P001")], np.array([[0.05, 0.9, 0.05]]), gone_by("P001"), of_phantoms)
    told = [
        drawn_in(monkeypatch, answer, ensemble)
        for answer, ensemble in ((ANSWER, ENSEMBLE), (undecided, ENSEMBLE), (phantom, of_phantoms))
    ]
    for words in told:
        assert "Research use only, not a medical device." in words
        assert "Closed set: " in words
        assert "not verified by a person" in words
        assert "model sensitivity, not lesion or cause" in words
        assert "Slice 18 of " in words
    assert sentence(ANSWER, ENSEMBLE) in told[0]
    assert "COVID-19" in sentence(ANSWER, ENSEMBLE)
    assert "ndecided" in told[1]
    assert PHANTOM_NOTICE.lower() in told[2].lower()
    assert "COVID-19" not in told[2]


def test_without_a_slice_that_speaks_for_the_answer_the_one_with_most_lung_is_shown() -> None:
    lungs = SCAN.lungs.copy()
    lungs[9, 5:45, 5:45] = True
    nothing = KeyEvidence((), None)
    assert shown_slice(replace(SCAN, lungs=lungs), nothing) == 9
    assert key_picture(ANSWER, ENSEMBLE, replace(SCAN, lungs=lungs), nothing).shape[1] == 2 * SIDE + 60
    assert shown_slice(SCAN, SEEN) == 17


def test_the_name_of_the_scan_is_not_in_the_picture_and_turned_scans_have_no_sides() -> None:
    picture = key_picture(ANSWER, ENSEMBLE, SCAN, SEEN)
    assert np.array_equal(picture, key_picture({**ANSWER, "scan": "Name^Of^A^Patient"}, ENSEMBLE, SCAN, SEEN))
    turned = key_picture(ANSWER, ENSEMBLE, replace(SCAN, findings=(TURNED,)), SEEN)
    assert picture.shape == turned.shape
    assert (picture != turned).any()


def test_lines_are_no_wider_than_they_may_be() -> None:
    lines = _Lines(width=300)
    text = "one two three four five six seven eight nine ten eleven twelve " + "x" * 200 + " end"
    lines.add(text)
    told = lines._lines
    assert len(told) >= 3
    assert all(font.getlength(line) <= 300 for line, font, *_ in told)
    words = " ".join(line for line, *_ in told).split()
    assert words[:12] == text.split()[:12]
    assert words[-1] == "end"
    assert lines.height == 20 * len(told)


@pytest.mark.parametrize(
    ("cosines", "letters"),
    [([1, 0, 0, 0, 1, 0], ("L", "P")), ([-1, 0, 0, 0, -1, 0], ("R", "A")), ([0.1, 0, 0.99, 0, 1, 0], ("H", "P"))],
)
def test_orientation_follows_the_cosines(cosines: list[float], letters: tuple[str, str]) -> None:
    """PS3.3 C.7.6.2.1.1: x runs to the left, y to the back, z to the head."""
    assert _orientation(cosines) == letters


def test_a_class_has_a_code_of_its_own_whatever_its_name() -> None:
    names = ["Normal", "COVID-19", "a\\b", "x" * 200, "x" * 201, "ünïcode \x07"]
    codes = [class_code(name, calibrated=kind) for name in names for kind in (False, True)]
    assert len({code.value for code in codes}) == 12
    for code in codes:
        assert code.scheme_designator == "99CNRIEMN"
        assert len(code.value) <= 16
        assert len(code.meaning) <= 64
        assert "\\" not in code.meaning
        assert code.meaning.isprintable()
