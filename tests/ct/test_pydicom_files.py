"""Every file and folder of pydicom's own collections is read or refused in a sentence; none is downloaded."""

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.errors import ScanError
from cnr_iemn.utils.sandbox import run_limited


def read_or_refuse(folder: Path) -> tuple[str, str]:
    """Return the kind of the outcome and its text. Runs in a worker."""
    try:
        volume = read_scan(folder)
    except ScanError as error:
        return "refused", str(error)
    except Exception as error:  # noqa: BLE001 - a fault of the reader is what the test looks for
        return "fault", f"{type(error).__name__}: {error}"
    return "read", f"{len(volume.hu)} slices of {volume.hu.shape[1]}x{volume.hu.shape[2]}"


def _folder(package: str, below: str) -> Path:
    """Return the folder of files in an installed package, without importing it: pydicom's may start downloads."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed: pip install pydicom-data for its files")
    folder = Path(spec.origin).parent / below
    assert folder.is_dir()
    return folder


def _outcomes(files: Path, single: Path) -> dict[str, tuple[str, str]]:
    """Read each file alone and each folder; return the outcomes by scan and check that each is told in a sentence."""
    paths = sorted(path for path in files.rglob("*") if path.is_file())
    folders = [files, *sorted(path for path in files.rglob("*") if path.is_dir())]
    scans = list(folders)
    for number, path in enumerate(paths):
        scans.append(single / f"{number:03d}")
        scans[-1].mkdir()
        try:
            os.link(path, scans[-1] / path.name)
        except OSError:  # on another disk
            shutil.copy(path, scans[-1] / path.name)
    outcomes = {}
    for index, answer in run_limited(read_or_refuse, scans, workers=2, seconds=60):
        outcome = ("lost", str(answer)) if isinstance(answer, ScanError) else answer
        name = scans[index].name
        source = str(scans[index]) if index < len(folders) else str(paths[index - len(folders)])
        outcomes[source] = outcome
        kind, text = outcome
        assert kind in {"read", "refused"}, f"{source}: {kind}: {text}"
        if kind == "refused":
            assert re.match(rf"{re.escape(name)}[:/]", text), f"{source}: {text}"
            assert re.search(r" \w[^.]*\w\)?\.$", text), f"{source}: {text}"
            assert "Traceback" not in text
    assert len(outcomes) == len(scans)
    return outcomes


def test_files_of_pydicom(tmp_path: Path) -> None:
    """None of them holds a whole chest CT: single slices, scouts, other modalities, and files made to be odd."""
    outcomes = _outcomes(_folder("pydicom", "data/test_files"), tmp_path)
    assert len(outcomes) > 150


def test_files_of_pydicom_data(tmp_path: Path) -> None:
    outcomes = _outcomes(_folder("data_store", "data"), tmp_path)
    assert {Path(source).name for source, (kind, _) in outcomes.items() if kind == "read"} == {"eCT_Supplemental.dcm"}
    assert len(outcomes) > 60
