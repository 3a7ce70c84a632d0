"""Answers are sent by C-STORE to a real receiver; one that refuses, breaks off or is down loses nothing."""

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


@pytest.mark.parametrize("text", ["host:104", "A@host", "A@host:0", "A@host:70000", "@h:1", "A" * 17 + "@h:1"])
def test_addresses_that_name_no_receiver_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="names no DICOM receiver"):
        Receiver.of(text)


def test_an_address_has_title_host_and_port() -> None:
    assert Receiver.of("ORTHANC@127.0.0.1:4242") == Receiver("ORTHANC", "127.0.0.1", 4242)
