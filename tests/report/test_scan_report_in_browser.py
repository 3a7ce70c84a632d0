"""The page of a scan in a real browser: wide and narrow, light and dark."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from cnr_iemn.report.slice_layers import HEAT_SIDE
from tests.browser import opened_page, scrolls_sideways
from tests.report.pages import page_of


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_opens_without_errors_and_shows_every_picture(
    browser: Browser, tmp_path: Path, width: int, scheme: str
) -> None:
    finding = "A lung mask in doubt, with one_very_long_word_" + 8 * "that_cannot_be_broken_"
    (tmp_path / "scan.html").write_text(page_of("P" + 60 * "0", findings=(finding,)), encoding="utf-8")
    with opened_page(browser, (tmp_path / "scan.html").as_uri(), width, scheme) as (page, complaints):
        assert complaints == []
        assert not scrolls_sideways(page)
        assert page.locator(".answer").inner_text().startswith("This scan most resembles COVID-19: ")
        pictures = page.locator(".layers img").all()
        assert len(pictures) == 2
        for picture, natural in zip(pictures, (288, HEAT_SIDE), strict=True):
            assert picture.evaluate("image => image.complete && image.naturalWidth") == natural
        for figure in (*pictures, *page.locator("svg").all()):
            box = figure.bounding_box()
            assert figure.is_visible()
            assert box is not None
            assert box["width"] > 200
            assert box["height"] > 5
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
        page.locator("summary").click()
        assert page.locator(".levels img").last.is_visible()
        assert not scrolls_sideways(page)


def test_map_and_outline_cover_the_slice_and_go_by_a_click(browser: Browser, tmp_path: Path) -> None:
    source = page_of()
    assert "<script" not in source
    (tmp_path / "scan.html").write_text(source, encoding="utf-8")
    with opened_page(browser, (tmp_path / "scan.html").as_uri(), 1280, "light") as (page, complaints):
        slice_box = page.locator(".layers img").first.bounding_box()
        for name, label in ((".heat", "Grad-CAM"), (".outline", "Outline of the lung mask")):
            layer = page.locator(f".layers {name}")
            assert layer.bounding_box() == slice_box
            page.get_by_role("checkbox", name=label).click()
            assert layer.is_hidden()
            assert page.locator(".layers img").first.is_visible()
            page.get_by_role("checkbox", name=label).click()
            assert layer.is_visible()
        assert complaints == []
