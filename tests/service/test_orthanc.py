"""Series that Orthanc receives come into the inbox, each once, also where a server was down between."""

import time
import zipfile
from pathlib import Path

import pytest
from pydicom import dcmread

from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.service.orthanc import Orthanc, Poller, main
from tests.dicom_export.dicom_scans import phantom_with_uids
from tests.service.orthanc_server import MISSING, orthanc_server
from tests.service.series import capture

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


def poll_until(poller: Poller, inbox: Path, n_series: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(inbox.glob("*.zip"))) < n_series:
        poller.poll()
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_series_comes_once_and_results_do_not(tiny_study: Path, tmp_path: Path) -> None:
    scan = phantom_with_uids(tiny_study)
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    with orthanc_server(tmp_path / "orthanc") as server:
        server.store(scan)
        poll_until(Poller(server.rest, inbox), inbox, 1)
        (path,) = inbox.glob("*.zip")
        files = sorted(scan.glob("*.dcm")) or [file for file in scan.rglob("*") if file.is_file()]
        with zipfile.ZipFile(path) as archive:
            assert len(archive.namelist()) == len(files)
        assert (read_scan(path).hu == read_scan(scan).hu).all()
        path.unlink()
        (tmp_path / "result").mkdir()
        capture().save_as(tmp_path / "result" / "capture.dcm", enforce_file_format=True)
        server.store(tmp_path / "result")
        time.sleep(2.5)  # longer than StableAge
        assert Poller(server.rest, inbox).poll() == 0  # another process: what it had read is kept
    assert not list(inbox.glob("*.zip*"))
    assert dcmread(tmp_path / "result" / "capture.dcm").Modality == "OT"


def test_a_server_that_is_down_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="refused"):
        Poller(Orthanc("http://127.0.0.1:9"), tmp_path).poll()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["url=http://x"], ["url=http://x", "inbox=/nowhere"], ["inbox=.", "user=a"]])
def test_settings_that_cannot_work_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "Give url= of Orthanc's REST API" in capsys.readouterr().err
