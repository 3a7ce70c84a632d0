"""Answers are sent by C-STORE to a real receiver; one that refuses, breaks off or is down loses nothing."""

import errno
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.sop_class import SecondaryCaptureImageStorage  # type: ignore[attr-defined]

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.service import receiver as receiver_module
from cnr_iemn.service.inbox import Inbox
from cnr_iemn.service.outbox import Outbox
from cnr_iemn.service.receiver import ATTEMPTS, Receiver, Sender, SendingError, send
from cnr_iemn.service.watch import Watch
from tests.service.series import answer, capture, put


@contextmanager
def storage(store: Callable[[evt.Event], int], *, title: str = "PACS") -> Iterator[Receiver]:
    """Run a receiver that requires its title."""
    entity = AE(title)
    entity.require_called_aet = True
    entity.add_supported_context(SecondaryCaptureImageStorage)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield Receiver("PACS", "127.0.0.1", server.server_address[1])
    finally:
        server.shutdown()


def keep_in(received: list[UID]) -> Callable[[evt.Event], int]:
    def store(event: evt.Event) -> int:
        received.append(event.dataset.SOPInstanceUID)
        return 0x0000

    return store


def make_files(folder: Path, n: int = 2) -> list[Path]:
    paths = [folder / f"{k}.dcm" for k in range(n)]
    for path in paths:
        capture(side=64).save_as(path, enforce_file_format=True)
    return paths


def test_every_object_arrives(tmp_path: Path) -> None:
    received: list[UID] = []
    with storage(keep_in(received)) as receiver:
        send(receiver, make_files(tmp_path, 3))
    assert len(set(received)) == 3


@pytest.mark.parametrize(
    ("status", "message"), [(0xA700, "refuses 0.dcm with status 0xA700"), (0xB000, None), (0xC210, "status 0xC210")]
)
def test_a_status_is_success_warning_or_failure(status: int, message: str | None, tmp_path: Path) -> None:
    paths = make_files(tmp_path)
    with storage(lambda _: status) as receiver:
        if message is None:
            send(receiver, paths)
        else:
            with pytest.raises(SendingError, match=message):
                send(receiver, paths)


def test_another_title_is_refused(tmp_path: Path) -> None:
    with storage(lambda _: 0, title="OTHER") as receiver, pytest.raises(SendingError, match="refuses the association"):
        send(receiver, make_files(tmp_path))


def test_a_connection_that_breaks_off_is_no_success(tmp_path: Path) -> None:
    def abort(event: evt.Event) -> int:
        event.assoc.abort()
        return 0

    with storage(abort) as receiver, pytest.raises(SendingError, match=r"broke off|could not be sent"):
        send(receiver, make_files(tmp_path))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_an_answer_waits_until_the_receiver_is_there(tmp_path: Path) -> None:
    put(tmp_path / "in", "A")
    put(tmp_path / "in", "damaged")
    outbox, received = Outbox(tmp_path / "out"), list[UID]()
    sender = Sender(outbox, Receiver("PACS", "127.0.0.1", free_port()))
    watch = Watch(Inbox(tmp_path / "in", settle_seconds=0), outbox, answer, sender)
    watch.look()
    assert [path.name for path in (tmp_path / "out/outgoing").iterdir()] == ["A"]  # a refused series sends nothing
    with storage(keep_in(received)) as receiver:
        Sender(outbox, receiver).send_due(0)  # another process
    assert len(received) == 2
    assert sender.n_unsent == 0


def test_attempts_are_limited_and_the_rest_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "in", "A")
    outbox, received = Outbox(tmp_path / "out"), list[UID]()
    sender = Sender(outbox, Receiver("PACS", "127.0.0.1", free_port()))
    Watch(Inbox(tmp_path / "in", settle_seconds=0), outbox, answer).look()
    sender.announce(tmp_path / "out/A")
    monkeypatch.setattr(receiver_module, "_TIMEOUT", 1.0)
    times = iter(range(10**6))
    n_calls = 0
    while (tmp_path / "out/outgoing/A").exists():
        sender.send_due(next(times))
        n_calls += 1
    assert 5 * 2 ** (ATTEMPTS - 5) < n_calls < 5 * 2**ATTEMPTS  # pauses double, up to a limit
    note = (tmp_path / "out/unsent/A").read_text()
    assert "no connection" in note
    assert "move this file to outgoing/" in note
    assert sender.n_unsent == 1
    (tmp_path / "out/unsent/A").rename(tmp_path / "out/outgoing/A")  # as the note says
    with storage(keep_in(received)) as receiver:
        Sender(outbox, receiver).send_due(0)
    assert len(received) == 2
    assert sender.n_unsent == 0


def flip_last_byte(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])  # which pydicom reads


@pytest.mark.parametrize("damage", [cut, flip_last_byte, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_object_goes_to_unsent_and_the_next_answer_is_sent(
    damage: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The running program predicts the series again, once the note's advice was followed."""
    for name in "AB":
        put(tmp_path / "in", name)
    outbox, received = Outbox(tmp_path / "out"), list[UID]()
    inbox = Inbox(tmp_path / "in", settle_seconds=0)
    with storage(keep_in(received)) as receiver:
        sender = Sender(outbox, receiver)
        watch = Watch(inbox, outbox, answer, sender)
        with monkeypatch.context() as patch:
            patch.setattr(sender, "send_due", lambda now: None)
            watch.look()
        for name in "AB":
            sender.announce(tmp_path / "out" / name)
        damage(tmp_path / "out/A/dicom/A/report.dcm")
        sender.send_due(0)
        assert len(received) == 2  # of B
        note = (tmp_path / "out/unsent/A").read_text()
        assert note.startswith("A/dicom/A/report.dcm is ")
        assert note.endswith("Remove this folder, and have its series in the inbox: it is predicted again.\n")
        assert sender.n_unsent == 1
        events = [json.loads(line) for line in (tmp_path / "out/events.jsonl").read_text().splitlines()]
        assert [entry["event"] for entry in events if entry.get("series") == "A"][-1] == "unsent"
        shutil.rmtree(tmp_path / "out/A")  # as the note says
        (tmp_path / "in/done/A").rename(tmp_path / "in/A")
        watch.look()
    assert len(received) == 4
    assert sender.n_unsent == 0


def test_files_out_of_reach_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "in", "A")
    outbox, received = Outbox(tmp_path / "out"), list[UID]()

    def stale(path: Path) -> str:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    with storage(keep_in(received)) as receiver:
        sender = Sender(outbox, receiver)
        with monkeypatch.context() as patch:
            Watch(Inbox(tmp_path / "in", settle_seconds=0), outbox, answer).look()
            sender.announce(tmp_path / "out/A")
            patch.setattr("cnr_iemn.service.outbox.sha256_of_file", stale)
            sender.send_due(0)
        assert (received, sender.n_unsent) == ([], 1)
        assert not (tmp_path / "out/unsent/A").exists()
        sender.send_due(1_000)
    assert len(received) == 2


def test_an_answer_without_dicom_files_goes_to_unsent(tmp_path: Path) -> None:
    put(tmp_path / "in", "A")
    outbox = Outbox(tmp_path / "out")
    sender = Sender(outbox, Receiver("PACS", "127.0.0.1", free_port()))
    Watch(Inbox(tmp_path / "in", settle_seconds=0), outbox, lambda *_: None, sender).look()
    assert "A has no DICOM files; its predictions.json says why." in (tmp_path / "out/unsent/A").read_text()


def test_a_file_that_is_no_dicom_is_not_sent(tmp_path: Path) -> None:
    path = make_files(tmp_path, 1)[0]
    path.write_bytes(b"x" * 200)
    with pytest.raises(SendingError, match=r"0\.dcm cannot be read as DICOM \(InvalidDicomError\)"):
        send(Receiver("PACS", "127.0.0.1", free_port()), [path])


@pytest.mark.parametrize("text", ["host:104", "A@host", "A@host:0", "A@host:70000", "@h:1", "A" * 17 + "@h:1"])
def test_addresses_that_name_no_receiver_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="names no DICOM receiver"):
        Receiver.of(text)


def test_an_address_has_title_host_and_port() -> None:
    assert Receiver.of("ORTHANC@127.0.0.1:4242") == Receiver("ORTHANC", "127.0.0.1", 4242)
