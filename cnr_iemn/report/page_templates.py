"""The Jinja environment of all pages and of the model card."""

import re

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from cnr_iemn.report.tables import percentage
from cnr_iemn.utils.text import visible


def page_templates() -> Environment:
    """Return the templates of the pages. HTML templates escape all values."""
    templates = Environment(
        loader=PackageLoader("cnr_iemn.report"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"percentage": percentage, "line": markdown_line, "cell": markdown_cell}
    return templates


def markdown_line(text: object) -> str:
    """Return text for one line of Markdown: a name in it adds no line break and no HTML tag."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", visible(str(text)))


def markdown_cell(text: object) -> str:
    """Return text for one cell of a table in Markdown (GitHub Flavored Markdown, tables)."""
    return markdown_line(text).replace("|", r"\|")
