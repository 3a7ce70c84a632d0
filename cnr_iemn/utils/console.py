"""The terminal: messages of the package's loggers, and tables.

Modules write ``log = logging.getLogger(__name__)`` and ``log.info("wrote %s", path)``. Only the entry points install a
handler, so that a program that imports the package decides itself what it shows.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cnr_iemn.utils.text import visible

if TYPE_CHECKING:
    from rich.console import Console

_PACKAGE = "cnr_iemn"
_TABLE_WIDTH = 140
"""Columns of a table in a file or pipe."""
_LABEL = "CNR_IEMN_LINE_LABEL"
"""Environment variable with the label of this process's lines."""


class MessageHandler(logging.Handler):
    """Prints messages with rich: on stdout, warnings and errors on stderr.

    Text cannot steer the terminal and is never read as rich's markup, since names of files and scans stand in it; line
    breaks of the message itself stay, those within its arguments show as escapes.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        from rich.console import Console

        try:
            stream = sys.stdout if record.levelno < logging.WARNING else sys.stderr
            text = visible(os.environ.get(_LABEL, "") + self.format(_with_visible_arguments(record)), keep="\n")
            style = "yellow" if record.levelno >= logging.WARNING else None
            console = Console(file=stream, soft_wrap=True)
            console.print(text, style=style, markup=False, highlight=False, emoji=False)
            stream.flush()
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)


@contextmanager
def line_label(label: str) -> Iterator[None]:
    """Begin each message with a label, such as a job's number; also in the processes that are started meanwhile."""
    before = os.environ.get(_LABEL, "")
    os.environ[_LABEL] = f"{before}{visible(label)} "
    try:
        yield
    finally:
        os.environ[_LABEL] = before


def start_logging() -> None:
    """Show the messages of the package, from level INFO. For entry points; calling it again changes nothing."""
    logger = logging.getLogger(_PACKAGE)
    if not any(isinstance(handler, MessageHandler) for handler in logger.handlers):
        logger.addHandler(MessageHandler())
        logger.setLevel(logging.INFO)
        logger.propagate = False  # Hydra gives the root logger a handler of its own


def print_text(text: str) -> None:
    """Print what was asked for, such as a help text, on stdout."""
    print(visible(text, keep="\n"), flush=True)


def print_error(text: str) -> None:
    """Print on stderr what ends a command. Line breaks stay; nothing else in it can steer the terminal."""
    print(visible(text, keep="\n"), file=sys.stderr, flush=True)


def table_console() -> "Console":
    """Return a console for tables, as wide as the terminal or, in a file, wide enough."""
    from rich.console import Console

    return Console(width=None if Console().is_terminal else _TABLE_WIDTH)


def _with_visible_arguments(record: logging.LogRecord) -> logging.LogRecord:
    """Return a record whose arguments, which may name files, hold no line breaks and controls."""
    if isinstance(record.args, tuple):
        arguments = tuple(value if isinstance(value, int | float) else visible(str(value)) for value in record.args)
        record = logging.makeLogRecord({**record.__dict__, "args": arguments})
    return record
