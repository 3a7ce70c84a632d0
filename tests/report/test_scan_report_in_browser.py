"""The page of a scan in a real browser: wide and narrow, light and dark."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

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
        pictures = page.locator(".pair img").all()
        assert len(pictures) == 2
        for picture in pictures:
            assert picture.evaluate("image => image.complete && image.naturalWidth") == 384
        for figure in (*pictures, *page.locator("svg").all()):
            box = figure.bounding_box()
            assert figure.is_visible()
            assert box is not None
            assert box["width"] > 200
            assert box["height"] > 5
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
