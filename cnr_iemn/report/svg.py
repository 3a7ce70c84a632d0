"""Figures as SVG that follow the page: its text colour in light and dark, its fonts, a text in their place."""

import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_INK = "#010203"  # stands for the text's colour until the SVG is written; no figure uses it for anything else
PALETTE = ("#2b8cc4", "#d55e00", "#cc79a7", "#009e73", "#b87700", "#0072b2", "#9c9300", "#8c8c8c")
"""Of classes in their order: told apart by the colour-blind (after Okabe and Ito 2008), 3:1 on white and on black."""
ACCENT = "#0072b2"
SERIES = ("#0072b2", "#b87700", "#009e73", "#8f8f8f", "#cc79a7", "#d55e00")
"""Of models in their order; the first four are no colours of the first three classes."""

_BROAD_INCHES = 6.0
_STYLE: Any = {  # matplotlib's type is a dictionary of 300 literal names
    "svg.fonttype": "none",  # text stays text: searched, read aloud, in the page's font
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # a class may be called "$"
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Drawing:
    """A figure. ``svg``: one element, to stand in a page or in a file. ``text``: what it shows, in words.

    ``broad``: it wants the page's whole width.
    """

    name: str
    title: str
    text: str
    svg: str
    broad: bool = False

    def as_file(self) -> str:
        """Return the figure as an SVG file of its own, which follows light and dark as the page does."""
        head, rest = self.svg.split(">", 1)
        dark = "@media(prefers-color-scheme:dark){svg{color:#eee;background:#16181c}}"
        style = f"<style>svg{{color:#111;background:#fff}}{dark}</style>"
        return f'<?xml version="1.0" encoding="utf-8"?>\n{head}>{style}{rest}'


def draw(
    name: str, title: str, text: str, paint: Callable[[Figure], None], *, width: float = 4.4, height: float
) -> Drawing:
    """Return the figure that ``paint`` makes; the same figures give the same bytes.

    ``width``, ``height``: inches; 4.4 stays legible on a phone.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Drawing(name, title, text, _for_a_page(buffer.getvalue(), name, text), broad=width > _BROAD_INCHES)


def ink() -> str:
    """Return the colour that becomes the page's own."""
    return _INK


def single(figure: Figure) -> Axes:
    """Return the figure's only axes."""
    return figure.add_subplot()


def _for_a_page(svg: str, name: str, text: str) -> str:
    """Return the element alone, its ids unlike those of other figures, its ink that of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace(_INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(text)}"', 1)
