"""Bundles on the Hugging Face Hub: from its cache without a network, refused clearly, and sent only when asked."""

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cnr_iemn.errors import ConfigurationError, RunError
from cnr_iemn.inference.bundle import check_files, write_checksums
from cnr_iemn.inference.sources.hub import local_bundle, parse_repository
from tests.pipeline import ROOT, entry_point

pytest.importorskip("huggingface_hub", reason="the Hub is an extra: pip install '.[hub]'")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"README.md": "# A card\n", "config.json": "{}", "ensemble.json": "{}", "model.safetensors": "weights"}


def fill(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    write_checksums(folder)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """HF_HOME with OWNER/NAME at tag v1, laid out as the Hub's client does: links to blobs, and refs."""
    repository = tmp_path / "home" / "hub" / "models--owner--name"
    source, snapshot, blobs = fill(tmp_path / "files"), repository / "snapshots" / COMMIT, repository / "blobs"
    for folder in (snapshot, blobs, repository / "refs"):
        folder.mkdir(parents=True)
    for number, path in enumerate(sorted(source.iterdir())):
        path.rename(blobs / f"{number:040x}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"{number:040x}")
    (repository / "refs" / "v1").write_text(COMMIT)
    return tmp_path / "home"


def ask(code: str, **environment: str) -> tuple[bool, str]:
    """Run code on the functions of hub.py in another process, since its client reads the environment at its start."""
    program = f"from cnr_iemn.inference.sources.hub import *\ntry: print({code})\n"
    program += "except Exception as error: print(type(error).__name__, error); raise SystemExit(1)\n"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0, done.stdout.strip()


def test_a_cached_bundle_needs_no_network(home: Path) -> None:
    for revision in ("v1", COMMIT):
        found, folder = ask(f"local_bundle('hf:owner/name@{revision}')", HF_HOME=str(home), HF_HUB_OFFLINE="1")
        assert found, folder
        assert Path(folder) == home / "hub" / "models--owner--name" / "snapshots" / COMMIT
        check_files(Path(folder))


def test_checksums_hold_for_a_cached_bundle(home: Path) -> None:
    folder = home / "hub" / "models--owner--name" / "snapshots" / COMMIT
    (folder / "model.safetensors").resolve().write_text("Weights")
    with pytest.raises(RunError, match=r"model\.safetensors is not what export\.py wrote"):
        check_files(folder)


@pytest.mark.parametrize("revision", ["v2", "f" * 40])
def test_a_bundle_that_is_not_cached_says_what_to_do_offline(revision: str, home: Path) -> None:
    found, words = ask(f"local_bundle('hf:owner/name@{revision}')", HF_HOME=str(home), HF_HUB_OFFLINE="1")
    assert not found
    assert words.startswith(f"RunError hf:owner/name@{revision} is missing or incomplete in the cache {home / 'hub'}")
    assert "HF_HUB_OFFLINE" in words


def test_names_without_a_revision_are_refused() -> None:
    for given in ("hf:owner/name", "hf:name@v1", "hf:owner/name@", "hf:../x@v1", "hf:owner/name/more@v1"):
        with pytest.raises(ConfigurationError, match="OWNER/NAME@REVISION"):
            local_bundle(given)
    assert local_bundle("owner/name@v1") == Path("owner/name@v1")  # a folder
    assert parse_repository("hf:owner/name") == "owner/name"
    with pytest.raises(ConfigurationError, match="push=owner/name names no repository"):
        parse_repository("owner/name")


def test_the_commands_take_names_as_they_are_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"input={tmp_path}", f"output={tmp_path / 'out'}", "bundle=hf:owner/name"]
    assert entry_point("predict")(words) == 2
    assert "bundle=hf:owner/name does not name a bundle and its revision" in capsys.readouterr().err
    assert entry_point("predict")([*words[:2], "bundle=hf:owner/name@v1", "--cfg", "job"]) == 0
    assert "bundle: hf:owner/name@v1" in capsys.readouterr().out.replace("'", "")
    assert entry_point("export")([f"runs={tmp_path}", "study=x", "push=owner/name"]) == 2
    assert "push=owner/name names no repository" in capsys.readouterr().err


class Hub(BaseHTTPRequestHandler):
    """The few requests that making a repository and a commit take; every file as a part of the commit."""

    status = 200
    received: dict[str, bytes]
    asked: list[tuple[str, object]]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if "/tree/" in self.path:
            self.answer([{"type": "file", "path": "old.bin", "size": 1, "oid": "0" * 40}])
        else:
            self.answer({"id": "owner/name", "sha": COMMIT, "siblings": [{"rfilename": "old.bin"}]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, body))
        if self.path.startswith("/api/repos/create"):
            self.answer({"url": f"http://{self.headers['Host']}/owner/name"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            answer = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self.answer({"files": answer})
        elif "/commit/" in self.path:
            for entry in map(json.loads, body.splitlines()):
                if entry["key"] == "file":
                    self.received[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"http://{self.headers['Host']}/owner/name/commit/{COMMIT}"
            self.answer({"commitUrl": url, "commitOid": COMMIT, "hookOutput": ""})
        else:
            self.answer({"errors": [], "warnings": []})

    def answer(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub() -> Iterator[tuple[type[Hub], str]]:
    kind = type("RunningHub", (Hub,), {"received": {}, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield kind, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_a_bundle_is_pushed_whole_into_a_private_repository(hub: tuple[type[Hub], str], tmp_path: Path) -> None:
    kind, address = hub
    folder = fill(tmp_path / "bundle")
    environment = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_x"}
    done, words = ask(f"push_bundle(Path({str(folder)!r}), 'owner/name')", **environment)
    assert (done, words) == (True, COMMIT)
    assert kind.received == {path.name: path.read_bytes() for path in folder.iterdir()}
    (created,) = [body for path, body in kind.asked if path.startswith("/api/repos/create")]
    assert isinstance(created, bytes)
    payload = json.loads(created)
    assert payload.get("private") or payload.get("visibility") == "private"  # by the client's version
    (commit,) = [body for path, body in kind.asked if "/commit/" in path]
    assert isinstance(commit, bytes)
    assert re.search(rb'"deletedFile".*"old\.bin"', commit)  # or the next download would be refused


def test_a_push_that_is_refused_keeps_the_bundle_and_says_so(hub: tuple[type[Hub], str], tmp_path: Path) -> None:
    kind, address = hub
    kind.status = 403
    folder = fill(tmp_path / "bundle")
    environment = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_x"}
    done, words = ask(f"push_bundle(Path({str(folder)!r}), 'owner/name')", **environment)
    assert not done
    assert words.startswith(f"RunError {folder} is written, but hf:owner/name was not changed (status 403)")
    check_files(folder)
