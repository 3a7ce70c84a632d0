"""The report of a real study in a real browser: wide and narrow, light and dark, and printed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from cnr_iemn.report.patient_rows import CORRECT_SIDE, ERROR_SIDE
from tests.browser import opened_page, scrolls_sideways
from tests.pipeline import MODELS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tiny_study: Path) -> str:
    return (tiny_study / "runs" / "tiny" / "ensembles" / "+".join(MODELS) / "report.html").as_uri()


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["wide", "narrow"])
def opened(request: pytest.FixtureRequest, browser: Browser, report: str) -> Iterator[tuple[Page, list[str]]]:
    """The page and what its browser complained of or asked the network for."""
    with opened_page(browser, report, *request.param) as found:
        yield found


def test_the_report_opens_without_errors_and_horizontal_scrolling(opened: tuple[Page, list[str]]) -> None:
    page, complaints = opened
    assert complaints == []
    assert not scrolls_sideways(page)
    assert page.locator("h1").inner_text().startswith("ResNeXt-50 + DenseNet-161")
    assert page.locator("p.notice").first.inner_text() == "phantom study: no diagnostic meaning"


def test_no_figure_is_cut_off(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    width = page.evaluate("document.scrollingElement.clientWidth")
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    assert not scrolls_sideways(page)
    figures = page.locator("figure.drawing svg, svg.strip").all()
    assert len(figures) == 9 + 6  # drawings; a strip for each of six scans
    for figure in figures:
        assert figure.is_visible()
        box = figure.bounding_box()
        assert box is not None
        assert box["width"] > 30
        assert box["height"] > 20
        assert box["x"] >= 0
        inside = page.evaluate("svg => Boolean(svg.closest('.broad'))", figure.element_handle())
        assert box["x"] + box["width"] <= width or inside  # a broad figure scrolls within itself on a phone
    sizes = "texts => texts.map(text => text.getBoundingClientRect().height)"
    assert min(page.locator("figure.drawing svg text").evaluate_all(sizes)) > 7  # legible on a phone


def test_slices_of_errors_are_large_enough_to_see_disease(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    assert page.locator(".slices img").count() == 3 * 6
    for kind, natural, shown in ((".wrong", ERROR_SIDE, 200), ("li:not(.wrong)", CORRECT_SIDE, 100)):
        for image in page.locator(f".gallery {kind} .slices img").all():
            assert image.evaluate("image => image.complete && image.naturalWidth") == natural
            box = image.bounding_box()
            assert box is not None
            assert box["width"] >= shown


def test_contents_stay_in_view_where_there_is_room(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    page.evaluate("window.scrollTo({top: document.body.scrollHeight, behavior: 'instant'})")
    wide = page.evaluate("innerWidth") > 1024
    box = page.locator(".contents").bounding_box()
    assert box is not None
    assert (0 <= box["y"] < page.evaluate("innerHeight")) is wide
    for link in page.locator(".contents a").all():
        target = str(link.get_attribute("href"))
        assert page.locator(target).count() == 1


def test_the_text_has_enough_contrast(opened: tuple[Page, list[str]]) -> None:
    """WCAG's contrast of 4.5 for the text of page and figures, in light and in dark."""
    page, _ = opened
    colours = page.evaluate(
        """() => ["body", ".note", "figure.drawing svg text", ".notice", "figcaption", ".reason", "thead th",
              ".primary .bar", ".contents strong", ".contents a", "dd", "summary"].map(name => {
            const style = getComputedStyle(document.querySelector(name));
            return name.includes("svg") ? style.fill : style.color;
        }).concat(getComputedStyle(document.body).backgroundColor)"""
    )
    *texts, ground = ([int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]] for colour in colours)
    for text in texts:
        light, dark = sorted((_luminance(text), _luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5, colours


def _luminance(colour: list[int]) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_report_can_be_printed(browser: Browser, report: str, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(report)
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    folded = page.locator("details:not([open]) > p, details:not([open]) table").all()
    assert folded
    assert all(each.evaluate("part => part.checkVisibility({contentVisibilityAuto: true})") for each in folded)
    pdf = page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") >= 3
    page.close()
