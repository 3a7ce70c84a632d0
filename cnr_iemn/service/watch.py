"""The loop of predict.py watch=true: take a settled series, answer it, publish, send, and put the series away."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cnr_iemn.errors import CnrIemnError, InputError
from cnr_iemn.service.inbox import Inbox, Series
from cnr_iemn.service.outbox import Outbox
from cnr_iemn.service.receiver import Sender
from cnr_iemn.utils.text import visible

log = logging.getLogger(__name__)

Answer = Callable[[Path, Path], None]
"""Predicts the scans at a path into a folder; raises CnrIemnError where none of them has a prediction."""
_RETRY_SECONDS = 60.0
"""After an error of the system, such as a full disk."""


class FilesChangedError(CnrIemnError):
    """A series has got further files after it was taken."""


@dataclass
class Watch:
    """A watched inbox.

    Attributes:
        inbox: Its series.
        outbox: Its answers.
        answer: What predicts a series.
        sender: What sends the answers; None where no receiver is named.
        poll_seconds: Between two looks at the inbox.
    """

    inbox: Inbox
    outbox: Outbox
    answer: Answer
    sender: Sender | None = None
    poll_seconds: float = 1.0
    _answered: int = 0
    _refused: int = 0
    _retry_time: float = 0.0

    def run(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Serve the inbox until a signal ends the process. ``until``: asked after each look."""
        with self.inbox.lock():
            self.outbox.log("started")
            log.info("Watching %s; Ctrl-C ends it.", visible(str(self.inbox.folder)))
            try:
                while True:
                    self.look()
                    if until():
                        return
                    time.sleep(self.poll_seconds)
            finally:
                with suppress(OSError):  # a full disk must not hide what has ended the command
                    self.outbox.log("ended")

    def look(self) -> None:
        """Answer each series that has settled, and send what is to be sent; after an error of the system, rest."""
        if time.monotonic() < self._retry_time:
            return
        try:
            series = self.inbox.settled(time.monotonic())
            self._beat(None)
            for entry in series:
                self._serve(entry)
            if self.sender is not None:
                self.sender.send_due(time.monotonic())
        except OSError as error:  # nothing is lost: what was not finished is in the inbox, or in outgoing/
            self._retry_time = time.monotonic() + _RETRY_SECONDS
            log.warning(
                "%s (%s). Series stay in the inbox and are taken again in %.0f s; free space or mend the permissions.",
                error.strerror,
                visible(str(error.filename)),
                _RETRY_SECONDS,
            )

    def _serve(self, series: Series) -> None:
        if self.outbox.is_answered(series):  # a process was killed before it put the series away, or keep=true
            self.inbox.finish(series, refused=self.outbox.refusal(series))
            return
        self._beat(series.name)
        self.outbox.log("taken", series=series.name)
        begin = time.monotonic()
        try:
            place = self._publish(series)
        except FilesChangedError:
            log.info("%s: files were added while it was predicted; it waits until they settle.", visible(series.name))
            return
        except CnrIemnError as error:
            codes = [code.value for code in error.codes] if isinstance(error, InputError) else []
            self.outbox.refuse(series, str(error), codes)
            self._refused += 1
            self.outbox.log("refused", series=series.name, reason=str(error), codes=codes)
            log.warning("%s: refused: %s", visible(series.name), error)
            self.inbox.finish(series, refused=str(error))
            return
        self._answered += 1
        seconds = round(time.monotonic() - begin, 2)
        self.outbox.log("answered", series=series.name, folder=place.name, seconds=seconds)
        log.info("%s: answered in %.1f s", visible(series.name), seconds)
        self.inbox.finish(series)

    def _publish(self, series: Series) -> Path:
        place = self.outbox.place(series)
        if self.sender is not None:
            self.sender.announce(place)
        try:
            with self.outbox.answer(series, place) as folder:
                self.answer(series.path, folder)
                if not self.inbox.is_unchanged(series):
                    raise FilesChangedError(f"{series.name}: files were added while it was predicted.")
        except CnrIemnError:
            if self.sender is not None:
                self.sender.withdraw(place)
            raise
        return place

    def _beat(self, series: str | None) -> None:
        self.outbox.beat(
            series=series,
            waiting=self.inbox.n_waiting,
            answered=self._answered,
            refused=self._refused,
            unsent=0 if self.sender is None else self.sender.n_unsent,
        )
