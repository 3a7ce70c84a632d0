"""predict.py watch=true with a real Orthanc: a series that it receives comes back as results in the same study."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.dicom_export.dicom_scans import phantom_with_uids
from tests.pipeline import MODELS, ROOT, entry_point
from tests.service.orthanc_server import MISSING, TITLE, orthanc_server

pytestmark = pytest.mark.slow


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.3)


def start(study: Path, inbox: Path, outbox: Path, *more: str) -> "subprocess.Popen[str]":
    words = [f"input={inbox}", f"output={outbox}", "watch=true", "settle_seconds=1", "gpus=0", "engine=torch"]
    words += [f"runs={study / 'runs'}", "study=tiny", f"ensemble=[{','.join(MODELS)}]", "pages=false", *more]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "predict.py"), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_results_stand_in_the_study_that_they_are_of(tiny_study: Path, tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="DICOM output is an extra: pip install '.[dicom]'")
    inbox, outbox = tmp_path / "inbox", tmp_path / "outbox"
    inbox.mkdir()
    with orthanc_server(tmp_path / "orthanc") as server:
        poller = subprocess.Popen(
            [sys.executable, "-m", "cnr_iemn.service.orthanc", f"url={server.rest.url}", f"inbox={inbox}", "seconds=1"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        receiver = f"receiver={TITLE}@127.0.0.1:{server.dicom_port}"
        process = start(tiny_study, inbox, outbox, "dicom=true", "identify=true", "segmentation=true", receiver)
        try:
            server.store(phantom_with_uids(tiny_study))
            (study,) = server.modalities()
            wait_for(lambda: server.modalities()[study] == {"CT", "SR", "OT", "SEG"}, process)
            wait_for(lambda: not list((outbox / "outgoing").iterdir()), process)
        finally:
            poller.terminate()
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=120)
            poller.communicate(timeout=60)
        assert process.returncode == 143, said
        assert list(server.modalities()) == [study]
    (answer,) = (path.parent for path in outbox.glob("*/series.json"))
    assert {path.name for path in answer.rglob("*.dcm")} == {"report.dcm", "capture.dcm", "lungs.dcm"}
    assert len(json.loads((answer / "predictions.json").read_text())["scans"]) == 1
    assert not (answer / ".answers").exists()
    assert [path.name for path in (inbox / "done").iterdir()] == [f"{answer.name}.zip"]
    events = [json.loads(line)["event"] for line in (outbox / "events.jsonl").read_text().splitlines()]
    assert events == ["started", "taken", "answered", "sent", "ended"]


def events(outbox: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (outbox / "events.jsonl").read_text().splitlines()]


def test_one_series_after_the_other_is_answered_with_the_networks_loaded_once(tiny_study: Path, tmp_path: Path) -> None:
    inbox, outbox = tmp_path / "inbox", tmp_path / "outbox"
    inbox.mkdir()
    (inbox / "text.txt").write_text("no scan")
    shutil.copytree(phantom_with_uids(tiny_study), inbox / "cut")
    victim = min((inbox / "cut").iterdir())
    victim.write_bytes(victim.read_bytes()[:-200])
    (inbox / "P1").symlink_to(phantom_with_uids(tiny_study))
    process = start(tiny_study, inbox, outbox, "keep=true")
    try:
        wait_for(lambda: len(list(outbox.glob("*/series.json"))) == 3, process)
    finally:
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert {path.name for path in inbox.iterdir()} == {".lock", "text.txt", "cut", "P1"}
    assert (outbox / "P1" / "predictions.json").is_file()
    assert json.loads((outbox / "text.txt" / "series.json").read_text())["refused"]
    assert json.loads((outbox / "cut" / "series.json").read_text())["codes"] == ["damaged-pixels"]
    (entry,) = (entry for entry in events(outbox) if (entry["event"], entry.get("series")) == ("refused", "cut"))
    assert entry["codes"] == ["damaged-pixels"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["watch=true"], "Give output="),
        (["watch=true", "output=in/out"], "hold one another"),
        (["watch=true", "output=out", "anonymise_ids=true"], "must not show"),
        (["watch=true", "output=out", "redo=all"], "redo= needs a command that ends"),
        (["watch=true", "output=out", "receiver=A@b:1"], "Add dicom=true identify=true"),
        (["watch=true", "output=out", "input=nowhere"], "needs a folder"),
        (["keep=true"], "Add watch=true"),
        (["receiver=A@b:1"], "Add watch=true"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    given = words if any(word.startswith("input=") for word in words) else ["input=in", *words]
    assert entry_point("predict")(["bundle=b", *given]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
