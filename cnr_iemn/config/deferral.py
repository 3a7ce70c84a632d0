"""A signal that comes while a scan is being answered ends the command after it, and at once where none is."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cnr_iemn.config.signals import termination
from cnr_iemn.errors import Termination

_REPEAT_SECONDS = 1.0
"""``timeout`` sends its signal twice: what comes again so soon is the same one."""


class Deferral:
    """A handler of signals that raises at once, but within ``section()`` at its end; a second signal never waits."""

    def __init__(self) -> None:
        self._in_section = False
        self._number: int | None = None
        self._last = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal. Raises KeyboardInterrupt for SIGINT, else Termination, unless a section defers it."""
        before, self._last = self._last, time.monotonic()
        if self._last - before < _REPEAT_SECONDS:
            return
        if self._in_section and self._number is None:
            self._number = number
            return
        _raise(number)

    @contextmanager
    def section(self) -> Iterator[None]:
        """Defer a signal to the end of the block. Raises as the handler does."""
        self._in_section = True
        try:
            yield
        finally:
            self._in_section = False
        if self._number is not None:
            _raise(self._number)


@contextmanager
def deferral() -> Iterator[Deferral]:
    """Have SIGTERM, SIGHUP and SIGINT handled by the ``Deferral`` that is given, while the block runs."""
    handler = Deferral()
    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.getsignal(signal.SIGINT)
    with termination(handler):
        if callable(before):
            signal.signal(signal.SIGINT, handler)
        try:
            yield handler
        finally:
            if callable(before):
                signal.signal(signal.SIGINT, before)


def _raise(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Termination(number)
