"""A real Orthanc on loopback for the tests, and storescu of dcmtk to fill it."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from cnr_iemn.service.orthanc import Orthanc

MISSING = [name for name in ("Orthanc", "storescu") if shutil.which(name) is None]
"""Programs that the tests lack here."""
TITLE = "ORTHANC"


@dataclass(frozen=True)
class Server:
    """``rest``: its REST API; ``dicom_port``: of its C-STORE receiver ``TITLE``."""

    rest: Orthanc
    dicom_port: int

    def store(self, folder: Path) -> None:
        """Send all files of a folder by C-STORE."""
        words = ["storescu", "-aec", TITLE, "+sd", "+r", "-xs", "127.0.0.1", str(self.dicom_port), str(folder)]
        subprocess.run(words, check=True, capture_output=True)

    def modalities(self) -> dict[str, set[str]]:
        """Return the modalities of the series of each study, by StudyInstanceUID."""
        studies = [self.rest.read(f"studies/{study}") for study in self.rest.read("studies")]
        return {
            study["MainDicomTags"]["StudyInstanceUID"]: {
                self.rest.read(f"series/{series}")["MainDicomTags"]["Modality"] for series in study["Series"]
            }
            for study in studies
        }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def orthanc_server(folder: Path) -> Iterator[Server]:
    """Run an Orthanc that keeps its files in a folder."""
    http, dicom = _free_port(), _free_port()
    configuration = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": TITLE,
        "RemoteAccessAllowed": True,
        "AuthenticationEnabled": False,
        "StableAge": 1,
        "Plugins": [],
    }
    folder.mkdir(exist_ok=True)
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    server = Server(Orthanc(f"http://127.0.0.1:{http}"), dicom)
    try:
        _await_start(server, process, folder / "log")
        yield server
    finally:
        process.terminate()
        process.wait(timeout=60)


def _await_start(server: Server, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, log.read_text()
        try:
            server.rest.read("system")
            return
        except URLError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
