"""Pages in a real browser, as their readers open them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str | None:
    """Return the system's browser, None where there is none."""
    return next(filter(None, map(shutil.which, _BROWSERS)), None)


@contextmanager
def opened_page(browser: Browser, uri: str, width: int, scheme: str) -> Iterator[tuple[Page, list[str]]]:
    """Give the page and what its browser complained of or asked the network for. `scheme`: light or dark."""
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request", lambda asked: complaints.extend([asked.url] if not asked.url.startswith(("file:", "data:")) else [])
    )
    page.goto(uri)
    page.wait_for_load_state("load")
    yield page, complaints
    context.close()


def scrolls_sideways(page: Page) -> bool:
    """Tell whether the page is wider than its window."""
    root = "document.scrollingElement"
    return bool(page.evaluate(f"{root}.scrollWidth > {root}.clientWidth"))
