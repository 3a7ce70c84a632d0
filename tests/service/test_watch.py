"""The watched inbox: series are taken once they have settled, answered whole, and neither lost nor answered twice."""

import errno
import json
import os
from pathlib import Path

import pytest

from cnr_iemn.errors import InputError, RefusalCode, RunError
from cnr_iemn.service.inbox import Inbox
from cnr_iemn.service.outbox import Outbox
from cnr_iemn.service.watch import Watch
from tests.service.series import answer, put


def make_watch(folder: Path, *, settle_seconds: float = 0.0, keep: bool = False) -> Watch:
    (folder / "in").mkdir(exist_ok=True)
    inbox = Inbox(folder / "in", settle_seconds=settle_seconds, keep=keep)
    return Watch(inbox, Outbox(folder / "out"), answer)


def events(folder: Path) -> list[tuple[str, str | None]]:
    lines = (folder / "out/events.jsonl").read_text().splitlines()
    return [(event["event"], event.get("series")) for event in map(json.loads, lines)]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_series_is_answered_and_put_away(tmp_path: Path) -> None:
    put(tmp_path / "in", "A", files=3)
    put(tmp_path / "in", "damaged")
    make_watch(tmp_path).look()
    assert (tmp_path / "out/A/predictions.csv").read_text() == "A,3\n"
    assert names(tmp_path / "in") == {"done", "refused"}
    assert names(tmp_path / "in/done") == {"A"}
    assert names(tmp_path / "in/refused") == {"damaged", "damaged.txt"}
    assert (tmp_path / "in/refused/damaged.txt").read_text() == "damaged: the files are damaged.\n"
    assert json.loads((tmp_path / "out/damaged/series.json").read_text())["refused"].startswith("damaged: the files")
    assert events(tmp_path) == [("taken", "A"), ("answered", "A"), ("taken", "damaged"), ("refused", "damaged")]
    beat = json.loads((tmp_path / "out/heartbeat.json").read_text())
    assert (beat["process"], beat["answered"], beat["waiting"]) == (os.getpid(), 1, 1)


def test_programs_get_the_codes_of_a_refused_series(tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise InputError("None of the 2 scans can be classified.", [RefusalCode.NO_LUNGS, RefusalCode.NOT_HU])

    put(tmp_path / "in", "A")
    watch = make_watch(tmp_path)
    watch.answer = refuse
    watch.look()
    assert json.loads((tmp_path / "out/A/series.json").read_text())["codes"] == ["no-lungs", "not-hu"]
    last = json.loads((tmp_path / "out/events.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["codes"]) == ("refused", ["no-lungs", "not-hu"])


def test_a_series_is_taken_when_nothing_has_changed_for_a_while(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, settle_seconds=10)
    folder = put(tmp_path, "A")
    assert inbox.settled(0) == []
    (folder / "late.dcm").write_bytes(b"x")
    assert inbox.settled(9) == []  # changed since
    assert inbox.settled(18.9) == []
    (folder / "late.dcm").write_bytes(b"xy")  # grows
    assert inbox.settled(19) == []
    assert [series.name for series in inbox.settled(29)] == ["A"]


@pytest.mark.parametrize("name", [".hidden", "A.part", "B.zip.PARTIAL", "done", "refused"])
def test_what_is_no_series_stays(name: str, tmp_path: Path) -> None:
    put(tmp_path, name)
    (tmp_path / "empty").mkdir()
    assert Inbox(tmp_path, settle_seconds=0).settled(0) == []


def test_files_that_come_while_a_series_is_predicted_make_it_wait(tmp_path: Path) -> None:
    watch = make_watch(tmp_path)
    folder = put(tmp_path / "in", "A", files=2)

    def slow(source: Path, output: Path) -> None:
        answer(source, output)
        if len(list(folder.iterdir())) == 2:
            (folder / "2.dcm").write_bytes(b"late")

    watch.answer = slow
    watch.look()
    assert names(tmp_path / "out") == {"events.jsonl", "heartbeat.json"}
    watch.look()
    assert (tmp_path / "out/A/predictions.csv").read_text() == "A,3\n"
    assert names(tmp_path / "in/done") == {"A"}


def test_a_name_that_comes_again_has_a_folder_of_its_own(tmp_path: Path) -> None:
    for files in (1, 2, 3):
        put(tmp_path / "in", "A", files=files)
        make_watch(tmp_path).look()
    assert names(tmp_path / "out") == {"A", "A-2", "A-3", "events.jsonl", "heartbeat.json"}
    assert names(tmp_path / "in/done") == {"A", "A-2", "A-3"}
    assert [(tmp_path / f"out/{name}/predictions.csv").read_text() for name in ("A", "A-2", "A-3")] == [
        "A,1\n",
        "A,2\n",
        "A,3\n",
    ]


def test_kept_series_are_answered_once_and_again_when_they_change(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", "A", files=1)
    put(tmp_path / "in", "damaged")
    watch = make_watch(tmp_path, keep=True)
    for _ in range(3):
        watch.look()
    make_watch(tmp_path, keep=True).look()  # another process
    assert names(tmp_path / "in") == {"A", "damaged"}
    assert len(events(tmp_path)) == 4
    (folder / "more.dcm").write_bytes(b"1")
    watch.look()
    assert (tmp_path / "out/A-2/predictions.csv").read_text() == "A,2\n"


@pytest.mark.parametrize("moment", ["published", "predicting"])
def test_a_killed_process_repeats_at_most_one_series(moment: str, tmp_path: Path) -> None:
    for name in "ABC":
        put(tmp_path / "in", name)
    child = os.fork()
    if child == 0:
        watch = make_watch(tmp_path)
        if moment == "published":
            watch.inbox.finish = lambda *_, **__: os._exit(9)  # type: ignore[method-assign, assignment]
        else:
            watch.answer = lambda source, folder: (answer(source, folder), os._exit(9))  # type: ignore[assignment]
        watch.look()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert names(tmp_path / "in") == {"A", "B", "C"}
    make_watch(tmp_path).look()
    assert names(tmp_path / "in") == {"done"}
    assert {name for name in names(tmp_path / "out") if "." not in name} == {"A", "B", "C"}
    answered = [series for event, series in events(tmp_path) if event == "answered"]
    assert sorted(answered) == ["A", "B", "C"]
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.suffix == ".tmp"]


def test_a_full_disk_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "in", "A")
    watch = make_watch(tmp_path)

    def full(source: Path, folder: Path) -> None:
        (folder / "predictions.csv").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", "predictions.csv")

    watch.answer = full
    watch.look()
    assert names(tmp_path / "in") == {"A"}
    assert names(tmp_path / "out") == {"events.jsonl", "heartbeat.json"}
    assert "No space left on device (predictions.csv). Series stay in the inbox" in caplog.text
    watch.answer = answer
    watch.look()
    assert names(tmp_path / "in") == {"A"}  # not at once: the disk is asked again after a while
    watch._retry_time = 0.0
    watch.look()
    assert names(tmp_path / "in") == {"done"}


@pytest.mark.parametrize("name", ["beat", "log"])
def test_a_heartbeat_or_a_log_that_cannot_be_written_ends_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "in", "A")
    watch = make_watch(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", name)

    with monkeypatch.context() as patch:
        patch.setattr(watch.outbox, name, full)
        watch.look()
    assert names(tmp_path / "in") == {"A"}
    assert f"No space left on device ({name})" in caplog.text
    watch._retry_time = 0.0
    watch.look()
    assert names(tmp_path / "in") == {"done"}
    assert (tmp_path / "out/A/predictions.csv").read_text() == "A,3\n"


def test_one_process_serves_an_inbox(tmp_path: Path) -> None:
    first, second = make_watch(tmp_path), make_watch(tmp_path)
    with first.inbox.lock():
        child = os.fork()
        if child == 0:
            try:
                second.run(until=lambda: True)
            except RunError as error:
                os._exit(0 if "Another predict.py watches" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    second.run(until=lambda: True)
    assert [event for event, _ in events(tmp_path)] == ["started", "ended"]
