"""Series from a DICOMweb server: a small one on this machine with real QIDO and WADO answers, and its faults."""

import contextlib
import io
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from urllib.request import Request, urlopen

import numpy as np
import pytest
from pydicom.dataset import Dataset

from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.errors import CohortError, ConfigurationError
from cnr_iemn.inference.input_checks import find_new_scans, output_name
from cnr_iemn.inference.sources.dicomweb import TOKEN, parse_query
from cnr_iemn.inference.sources.local_input import local_input
from tests.ct.conftest import make_slices, write
from tests.pipeline import entry_point

pytest.importorskip("dicomweb_client", reason="DICOMweb is an extra: pip install '.[dicomweb]'")

STUDY = "1.2"
BOUNDARY = b"a-boundary"


@dataclass
class Server:
    """What it holds, by series, and how it behaves."""

    series: dict[str, list[Dataset]]
    page: int = 1000
    token: str = ""
    lost: int = 0
    cut: int = 0
    redirect: str = ""
    answers: object = None
    address: str = ""
    asked: list[str] = field(default_factory=list)


def encoded(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            server.asked.append(self.path)
            offset = int(parse_qs(url.query).get("offset", ["0"])[0])
            if server.redirect:
                self.send_response(302)
                self.send_header("Location", server.redirect)
                self.end_headers()
            elif server.token and self.headers["Authorization"] != f"Bearer {server.token}":
                self.send_error(401)
            elif server.answers is not None:
                self.answer("application/dicom+json", json.dumps(server.answers).encode())
            elif url.path == f"/dicom-web/studies/{STUDY}/series":
                rows = [{"0020000E": {"vr": "UI", "Value": [name]}} for name in server.series]
                for number, row in enumerate(rows):
                    row["00200011"] = {"vr": "IS", "Value": [len(rows) - number]}
                self.answer("application/dicom+json", json.dumps(rows[offset : offset + server.page]).encode())
            elif match := re.fullmatch(rf"/dicom-web/studies/{STUDY}/series/([\d.]+)(/instances)?", url.path):
                slices = server.series.get(match[1], [])
                if match[2]:
                    rows = [{"00080018": {"vr": "UI", "Value": [ds.SOPInstanceUID]}} for ds in slices]
                    self.answer("application/dicom+json", json.dumps(rows[offset : offset + server.page]).encode())
                else:
                    self.multipart([encoded(ds) for ds in slices[: len(slices) - server.lost]])
            else:
                self.send_error(404)

        def multipart(self, files: list[bytes]) -> None:
            parts = (b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (BOUNDARY, file) for file in files)
            body = b"".join(parts) + b"--%s--" % BOUNDARY
            kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY.decode()}'
            self.answer(kind, body, cut=server.cut)

        def answer(self, kind: str, body: bytes, *, cut: int = 0) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) - cut])

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server({"1.5": make_slices(5, series="1.5"), "1.4": make_slices(4, series="1.4")})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(made)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        made.address = f"dicomweb+http://127.0.0.1:{running.server_address[1]}/dicom-web/"
        yield made
        running.shutdown()


def test_all_ct_series_of_a_study_are_scans(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token, server.page = "secret", 2
    monkeypatch.setenv(TOKEN, "secret")
    with local_input(f"{server.address}?StudyInstanceUID={STUDY}") as given:
        found = find_new_scans(given.path, anonymous=False)
        assert [scan for scan, _ in found] == ["series-1", "series-2"]
        for (_, path), (name, slices) in zip(found, reversed(server.series.items()), strict=True):
            assert isinstance(path, Path)
            np.testing.assert_array_equal(read_scan(path).hu, read_scan(write(tmp_path / name, slices)).hu)
    assert not given.path.exists()
    assert any("Modality=CT" in path for path in server.asked)


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[str]:
    """The address of a running Orthanc with its DICOMweb plugin, both of Debian."""
    program, plugin = shutil.which("Orthanc"), Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
    if program is None or not plugin.exists():
        pytest.skip("Orthanc is not installed (Debian's orthanc and orthanc-dicomweb)")
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    settings = {
        "StorageDirectory": str(tmp_path / "db"),
        "IndexDirectory": str(tmp_path / "db"),
        "Plugins": [str(plugin)],
    }
    settings |= {
        "HttpPort": ports[0],
        "DicomPort": ports[1],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    address = f"127.0.0.1:{ports[0]}"
    with subprocess.Popen([program, tmp_path / "orthanc.json"], stderr=subprocess.DEVNULL) as running:
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), urlopen(f"http://{address}/system"):
                    break
                time.sleep(0.1)
            yield address
        finally:
            running.terminate()


@pytest.mark.slow
def test_an_orthanc_gives_back_what_it_was_sent(orthanc: str, tmp_path: Path) -> None:
    for k in (5, 4):
        slices = make_slices(k, series=f"1.{k}")
        for ds in slices:
            ds.PatientID, ds.SeriesNumber = "1", k
            with urlopen(Request(f"http://{orthanc}/instances", data=encoded(ds), method="POST")) as answer:
                assert answer.status == 200
        write(tmp_path / "sent" / f"{k}", slices)
    with local_input(f"dicomweb+http://{orthanc}/dicom-web?StudyInstanceUID={STUDY}") as given:
        for (_, path), k in zip(find_new_scans(given.path, anonymous=False), (4, 5), strict=True):
            assert isinstance(path, Path)
            np.testing.assert_array_equal(read_scan(path).hu, read_scan(tmp_path / "sent" / f"{k}").hu)
    assert signatures(f"dicomweb+http://{orthanc}/dicom-web") == signatures(f"dicomweb+http://{orthanc}/dicom-web")


def signatures(address: str) -> dict[str, str]:
    """Return the signature of each scan of a study."""
    with local_input(f"{address}?StudyInstanceUID={STUDY}") as given:
        return {scan: given.signature(path) for scan, path in find_new_scans(given.path, anonymous=False)}


def test_series_are_known_again_by_their_content(server: Server) -> None:
    """Whatever order a server gives the instances in."""
    first = signatures(server.address)
    server.series["1.4"].reverse()
    assert signatures(server.address) == first
    server.series["1.4"][0].PixelData = bytes(len(server.series["1.4"][0].PixelData))
    second = signatures(server.address)
    assert {scan for scan in first if first[scan] != second[scan]} == {"series-1"}  # of the lowest number


def test_one_series(server: Server) -> None:
    with local_input(f"{server.address}?StudyInstanceUID={STUDY}&SeriesInstanceUID=1.5") as given:
        ((_, path),) = find_new_scans(given.path, anonymous=False)
        assert isinstance(path, Path)
        assert len(read_scan(path).hu) == 5


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"lost": 1}, "lists 4 instances of a series and gave 3 of them"),
        ({"cut": 9000}, "cannot be reached or gives no DICOM"),
        ({"token": "another"}, "answers 401"),
        ({"redirect": "http://127.0.0.1:1/elsewhere"}, r"answers 302|TooManyRedirects"),
        ({"series": {}}, "has no CT series of this study"),
        ({"answers": ["1.4"]}, "gives no DICOM"),
        ({"answers": [{"0020000E": {"Value": "1"}, "00200011": {"Value": ["x"]}}]}, "gives no DICOM"),
        ({"answers": [{"0020000E": None}]}, "gives no DICOM"),
    ],
)
def test_what_a_server_does_wrong_ends_with_nothing_taken(
    fault: dict[str, object], reason: str, server: Server
) -> None:
    for key, value in fault.items():
        setattr(server, key, value)
    with (
        pytest.raises(CohortError, match=reason) as caught,
        local_input(f"{server.address}?StudyInstanceUID={STUDY}"),
    ):
        pass
    assert STUDY not in str(caught.value).replace("127.0.0.1", "")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("dicomweb+http://pacs.example/x?StudyInstanceUID=1", "unencrypted"),
        ("dicomweb+ftp://pacs.example/x?StudyInstanceUID=1", "unencrypted"),
        ("dicomweb+https://me:pw@pacs.example/x?StudyInstanceUID=1", "no user or password"),
        ("dicomweb+https:///x?StudyInstanceUID=1", "must name a host"),
        ("dicomweb+https://pacs.example/x", "one StudyInstanceUID"),
        ("dicomweb+https://pacs.example/x?1.2.3", "is not a DICOMweb address"),
        ("dicomweb+https://pacs.example/x?SeriesInstanceUID=1", "one StudyInstanceUID"),
        ("dicomweb+https://pacs.example/x?StudyInstanceUID=1&StudyInstanceUID=2", "one StudyInstanceUID"),
        ("dicomweb+https://pacs.example/x?StudyInstanceUID=1&Limit=2", "one StudyInstanceUID"),
    ],
)
def test_addresses_that_cannot_be_used(address: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        parse_query(address)
    assert "pw" not in str(caught.value)


def test_an_address_names_no_folder() -> None:
    name = output_name(Path("dicomweb+https://pacs.example/x?StudyInstanceUID=1.2.3"), anonymous=False)
    assert re.fullmatch(r"dicomweb-[0-9a-f]{8}", name)


def test_the_command_takes_an_address_as_it_is_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["input=dicomweb+https://pacs.example/x?StudyInstanceUID=1.2&SeriesInstanceUID=1.3", "--cfg", "job"]
    assert entry_point("predict")([*words, f"bundle={tmp_path}"]) == 0
    assert "dicomweb+https://pacs.example/x?StudyInstanceUID=1.2&SeriesInstanceUID=1.3" in capsys.readouterr().out
