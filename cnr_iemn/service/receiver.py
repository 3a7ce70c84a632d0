"""DICOM objects to a receiver by C-STORE (PS3.4, annex B), with the extra ``pacs``: again until it takes them.

What is to be sent has a file of its name in ``outgoing/`` of the outbox, made before the answer appears. It is removed
when the receiver has every object, and goes to ``unsent/`` with the reason when the attempts are used up, or at once
where an object is damaged.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import dcmread

from cnr_iemn.ct.io.dicom_file import PARSE_ERRORS
from cnr_iemn.errors import CnrIemnError, ConfigurationError, RunError
from cnr_iemn.service.outbox import OUTGOING, UNSENT, Outbox
from cnr_iemn.utils.atomic_io import write_text_atomic
from cnr_iemn.utils.packages import require_package
from cnr_iemn.utils.text import visible

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID
    from pynetdicom.association import Association

log = logging.getLogger(__name__)

ATTEMPTS = 10
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
"""Seconds before the second attempt, and the most between two; each is twice the one before: 20 minutes in all."""
_TIMEOUT = 30.0
"""Seconds that the receiver may take for a connection or an answer."""
_ADDRESS = re.compile(r"(?P<title>[^@:\\\s][^@:\\]{0,15})@(?P<host>[^@\s]+):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class Receiver:
    """A C-STORE SCP. ``title``: its application entity title."""

    title: str
    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> "Receiver":
        """Return the receiver of ``TITLE@HOST:PORT``. Raises ConfigurationError for another text."""
        match = _ADDRESS.fullmatch(text)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise ConfigurationError(
                f"receiver={text} names no DICOM receiver. Give its title, host and port, such as "
                "receiver=ORTHANC@pacs.example:4242."
            )
        return cls(match["title"], match["host"], int(match["port"]))

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


class SendingError(CnrIemnError):
    """The receiver has not taken every object."""


def send(receiver: Receiver, paths: Sequence[Path], *, title: str = "CNR-IEMN") -> None:
    """Send DICOM files over one association.

    Args:
        receiver: Who takes them.
        paths: The files.
        title: The sender's application entity title.

    Raises:
        SendingError: The receiver cannot be reached, or refuses an object; or an object is damaged.
        ConfigurationError: The extra ``pacs`` is missing.
    """
    require_package("pynetdicom", "receiver=", "or leave receiver out", extra="pacs")
    from pynetdicom import AE

    datasets = [_read(path) for path in paths]
    entity = AE(title)
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _TIMEOUT
    for syntax in {syntax for _, syntax in datasets}:
        entity.add_requested_context(*syntax)
    association = entity.associate(receiver.host, receiver.port, ae_title=receiver.title)
    if not association.is_established:
        reason = "it refuses the association" if association.is_rejected else "no connection"
        raise SendingError(f"{receiver}: {reason}. Check its address, its title and that it is running.")
    try:
        for path, (data, _) in zip(paths, datasets, strict=True):
            _store(association, data, path, receiver)
    finally:
        association.release()


def _read(path: Path) -> "tuple[Dataset, tuple[UID, UID]]":
    """Return an object with its class and transfer syntax. Raises SendingError."""
    try:
        data = dcmread(path)
        return data, (data.SOPClassUID, data.file_meta.TransferSyntaxUID)
    except (*PARSE_ERRORS, OSError) as error:  # whose words may quote the file
        raise SendingError(f"{path.name} cannot be read as DICOM ({type(error).__name__}).") from error


def _store(association: "Association", data: "Dataset", path: Path, receiver: Receiver) -> None:
    """Send one object. Raises SendingError unless the receiver has stored it."""
    try:
        status = association.send_c_store(data)
    except (RuntimeError, *PARSE_ERRORS) as error:  # the connection is gone; a value cannot be encoded
        raise SendingError(f"{receiver}: {path.name} could not be sent ({type(error).__name__}).") from error
    code = status.get("Status")
    if code is None:
        raise SendingError(f"{receiver}: no answer to {path.name}; the connection broke off.")
    if code != 0 and code >> 12 != 0xB:  # 0xBxxx: stored, with a warning
        raise SendingError(f"{receiver}: refuses {path.name} with status 0x{code:04X} (PS3.4, table B.2-1).")


@dataclass
class _Attempts:
    count: int = 0
    next_time: float = 0.0


class Sender:
    """Sends what is in ``outgoing/``.

    Args:
        outbox: Whose answers are sent.
        receiver: Who takes them.
    """

    def __init__(self, outbox: Outbox, receiver: Receiver) -> None:
        self._outbox, self._receiver = outbox, receiver
        self._attempts: dict[str, _Attempts] = {}
        for name in (OUTGOING, UNSENT):
            (outbox.folder / name).mkdir(exist_ok=True)

    @property
    def n_unsent(self) -> int:
        """Number of answers that the receiver does not have."""
        return sum(1 for name in (OUTGOING, UNSENT) for _ in (self._outbox.folder / name).iterdir())

    def announce(self, place: Path) -> None:
        """Note that the answer which will appear as ``place`` is to be sent, whatever became of an earlier one."""
        (self._outbox.folder / UNSENT / place.name).unlink(missing_ok=True)
        write_text_atomic(self._outbox.folder / OUTGOING / place.name, "")

    def withdraw(self, place: Path) -> None:
        """Take the announcement of an answer back that will not come."""
        (self._outbox.folder / OUTGOING / place.name).unlink(missing_ok=True)

    def send_due(self, now: float) -> None:
        """Send every answer whose time has come. ``now``: seconds of a clock that never goes back."""
        for note in sorted((self._outbox.folder / OUTGOING).iterdir()):
            attempts = self._attempts.setdefault(note.name, _Attempts())
            if now < attempts.next_time or not (self._outbox.folder / note.name).is_dir():
                continue  # without its folder: the answer was interrupted, and comes again
            try:
                send(self._receiver, self._objects(note.name))
            except (SendingError, OSError) as error:
                reason = f"its files cannot be read ({error.strerror})." if isinstance(error, OSError) else str(error)
                self._note_failure(note, attempts, reason, now)
            except RunError as error:
                self._give_up(note, str(error))
            else:
                note.unlink()
                del self._attempts[note.name]
                self._outbox.log("sent", series=note.name, receiver=str(self._receiver))
                log.info("sent %s to %s", visible(note.name), self._receiver)

    def _objects(self, name: str) -> list[Path]:
        """Return what is to be sent of an answer. Raises RunError where no attempt could succeed."""
        objects = self._outbox.objects(name)
        if not objects:
            raise RunError(f"{name} has no DICOM files; its predictions.json says why.")
        return objects

    def _note_failure(self, note: Path, attempts: _Attempts, reason: str, now: float) -> None:
        attempts.count += 1
        attempts.next_time = now + min(_FIRST_PAUSE * 2 ** (attempts.count - 1), _LONGEST_PAUSE)
        self._outbox.log("failed", series=note.name, reason=reason)
        if attempts.count < ATTEMPTS:
            log.warning("%s: not sent (attempt %d of %d): %s", visible(note.name), attempts.count, ATTEMPTS, reason)
            return
        self._give_up(
            note, reason, f"Its files are in {note.name}/. To send them again, move this file to {OUTGOING}/."
        )

    def _give_up(self, note: Path, reason: str, remedy: str = "") -> None:
        """Move a note to ``unsent/``, with the reason and what to do."""
        target = self._outbox.folder / UNSENT / note.name
        write_text_atomic(target, "".join(f"{line}\n" for line in (reason, remedy) if line))
        note.unlink()
        del self._attempts[note.name]
        self._outbox.log("unsent", series=note.name, reason=reason)
        log.warning("%s: not sent: %s See %s.", visible(note.name), reason, target)
