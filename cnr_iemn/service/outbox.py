"""The outbox: a folder for each series, there whole or not at all, a heartbeat, and a log for programs."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from typing_extensions import TypedDict

from cnr_iemn.errors import RunError
from cnr_iemn.schemas import SCHEMA_VERSION
from cnr_iemn.service.inbox import Series, free_path
from cnr_iemn.utils.atomic_io import finished_folder, json_text, sha256_of_file, write_text_atomic
from cnr_iemn.utils.json_io import read_json

RECORD, HEARTBEAT, EVENTS = "series.json", "heartbeat.json", "events.jsonl"
OUTGOING, UNSENT = "outgoing", "unsent"
"""Folders of the outbox: what is to be sent to the receiver, and what could not be."""
_OBJECTS = "dicom/*/*.dcm"
_AGAIN = "Remove this folder, and have its series in the inbox: it is predicted again."


class SeriesRecord(TypedDict):
    """``series.json`` in the folder of an answer.

    ``refused``: the reason, None where there is an answer. ``codes``: those of its refused scans, each once.
    ``objects``: the SHA-256 of the answer's DICOM files, by their path in the folder.
    """

    schema_version: int
    series: str
    signature: str
    refused: str | None
    codes: list[str]
    objects: dict[str, str]


class Heartbeat(TypedDict):
    """``heartbeat.json``. ``time``: ISO 8601, UTC. ``series``: what is being predicted. Counts since the start."""

    time: str
    process: int
    series: str | None
    waiting: int
    answered: int
    refused: int
    unsent: int


class Outbox:
    """The answers of an inbox.

    Args:
        folder: The outbox, made where missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._answered: dict[tuple[str, str], tuple[Path, str | None]] = {}
        for path in sorted(folder.glob(f"*/{RECORD}")):
            record = _read_record(path.parent)
            self._answered[record["series"], record["signature"]] = path.parent, record["refused"]

    def is_answered(self, series: Series) -> bool:
        """Return whether these files of the series have their folder already, and nobody has removed it."""
        place, _ = self._answered.get((series.name, series.signature), (None, None))
        return place is not None and (place / RECORD).is_file()

    def refusal(self, series: Series) -> str | None:
        """Return why an answered series was refused; None where it was not."""
        return self._answered[series.name, series.signature][1]

    def objects(self, name: str) -> list[Path]:
        """Return the DICOM files of an answer, which ``name`` is the folder of.

        Raises:
            RunError: One is damaged or missing.
            OSError: One cannot be read at the moment.
        """
        folder = self.folder / name
        record = _read_record(folder)
        for path, digest in record["objects"].items():
            try:
                damage = None if sha256_of_file(folder / path) == digest else "damaged: its checksum differs"
            except FileNotFoundError:
                damage = "missing"
            if damage is not None:
                raise RunError(f"{name}/{path} is {damage}. {_AGAIN}")
        return [folder / path for path in record["objects"]]

    def place(self, series: Series) -> Path:
        """Return the folder that the answer to a series takes."""
        reserved = series.name in (OUTGOING, UNSENT, HEARTBEAT, EVENTS)
        return free_path(self.folder / (f"{series.name}-2" if reserved else series.name))

    @contextmanager
    def answer(self, series: Series, place: Path) -> Iterator[Path]:
        """Give a folder to fill, which appears as ``place`` when the block ends, whole."""
        with finished_folder(place) as folder:
            yield folder
            self._write_record(folder, series, None, ())
        self._answered[series.name, series.signature] = place, None

    def refuse(self, series: Series, reason: str, codes: Sequence[str] = ()) -> None:
        """Leave a folder that says why a series has no answer. ``codes``: of its refused scans, each once."""
        place = self.place(series)
        with finished_folder(place) as folder:
            self._write_record(folder, series, reason, codes)
        self._answered[series.name, series.signature] = place, reason

    def _write_record(self, folder: Path, series: Series, refused: str | None, codes: Sequence[str]) -> None:
        record: SeriesRecord = {
            "schema_version": SCHEMA_VERSION,
            "series": series.name,
            "signature": series.signature,
            "refused": refused,
            "codes": list(codes),
            "objects": {
                path.relative_to(folder).as_posix(): sha256_of_file(path) for path in sorted(folder.glob(_OBJECTS))
            },
        }
        write_text_atomic(folder / RECORD, json_text(record))

    def beat(self, *, series: str | None, waiting: int, answered: int, refused: int, unsent: int) -> None:
        """Write ``heartbeat.json``, by which others see that the inbox is watched."""
        heartbeat: Heartbeat = {
            "time": now_text(),
            "process": os.getpid(),
            "series": series,
            "waiting": waiting,
            "answered": answered,
            "refused": refused,
            "unsent": unsent,
        }
        write_text_atomic(self.folder / HEARTBEAT, json_text(heartbeat))

    def log(self, event: str, **values: str | float | list[str]) -> None:
        """Add a line to ``events.jsonl``. ``event``: taken, answered, refused, failed, sent, unsent, started, ended."""
        line = json.dumps({"time": now_text(), "event": event, **values}) + "\n"
        with (self.folder / EVENTS).open("a", encoding="utf-8") as file:
            file.write(line)


def _read_record(folder: Path) -> SeriesRecord:
    return read_json(folder / RECORD, SeriesRecord, again=_AGAIN)


def now_text() -> str:
    """Return the time as ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
