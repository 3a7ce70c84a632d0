"""SIGTERM and SIGHUP end a command as Ctrl-C does: in order, with a sentence, and with an exit code that tells."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from types import FrameType

from cnr_iemn.errors import Termination

Handler = Callable[[int, FrameType | None], None]
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_REPEAT_SECONDS = 5.0
"""``timeout`` sends its signal to the process and then to its group: what comes again so soon is the same one."""


class _Raiser:
    """Raises Termination, and again where a signal comes later: the first may have been lost in a destructor."""

    def __init__(self) -> None:
        self._silent_until = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now < self._silent_until:
            return
        self._silent_until = now + _REPEAT_SECONDS
        raise Termination(number)


_RAISER = _Raiser()


@contextmanager
def termination(handler: Handler = _RAISER, *, process_ends: bool = False) -> Iterator[None]:
    """Have SIGTERM and SIGHUP call ``handler`` in the main thread while the block runs; by default, raise Termination.

    A signal that is ignored, as under nohup, stays so. The first process of a container ends by no signal that it does
    not handle. With ``process_ends`` the handlers stay where Termination leaves the block: the same signal may come
    once more, to the process's group, before the process has ended.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        before = {number: old for number, old in before.items() if old not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    except Termination:
        if process_ends:
            before.clear()
        raise
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def termination_of_jobs() -> Iterator[None]:
    """Pass the signals on to the processes that this one waits for, so that their jobs end in order, then raise.

    A launcher that is interrupted itself would kill them at once. Raises Termination where a signal has come.
    """
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        children = active_children()
        if received or not children:
            _RAISER(number, frame)
            return
        received.append(number)
        for child in children:
            child.terminate()

    try:
        with termination(pass_on):
            yield
    except Exception as error:
        if received:  # what the loss of its processes looks like to the launcher
            raise Termination(received[0]) from error
        raise
    if received:
        raise Termination(received[0])
