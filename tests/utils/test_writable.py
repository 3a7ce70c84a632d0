"""A place that cannot be written is named so that it can be found, with the key that gives another one."""

import errno
import tempfile
from pathlib import Path

import pytest

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.utils.writable import require_writable


def test_the_folder_above_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError) as raised:
        require_writable("runs", Path("runs/demo"))
    message = str(raised.value)
    assert message.startswith(f"runs/demo: {tmp_path} cannot be written (Read-only file system).")
    assert "runs=" in message


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigurationError, match=r"runs cannot be written \(Not a directory\).*ingest\.cache="):
        require_writable("ingest.cache", tmp_path / "runs" / "demo")


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    require_writable("runs", tmp_path / "a" / "b")
    assert not any(tmp_path.iterdir())
