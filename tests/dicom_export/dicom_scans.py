"""Phantoms whose images have unique identifiers, and changes of their headers."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset


def phantoms(study: Path, *, with_uids: bool) -> list[Path]:
    """Return the folders of a study's phantoms whose images have a SOPInstanceUID each, or of those that have none."""
    folders = sorted(path for path in study.glob("cache/phantom-*/*subjects/*") if path.is_dir())
    assert folders
    return [
        folder
        for folder in folders
        if bool(pydicom.dcmread(min(folder.iterdir()), stop_before_pixels=True).SOPInstanceUID) is with_uids
    ]


def phantom_with_uids(study: Path) -> Path:
    return phantoms(study, with_uids=True)[0]


def edited(folder: Path, target: Path, change: Callable[[Dataset, int], None]) -> Path:
    """Return a copy of a scan whose headers have been changed, image by image, with whatever value."""
    shutil.copytree(folder, target)
    for index, path in enumerate(sorted(target.iterdir())):
        with disable_value_validation():
            image = pydicom.dcmread(path)
            change(image, index)
            image.save_as(path, enforce_file_format=False)
    return target


def dciodvfy_errors(path: Path) -> list[str]:
    """Return what dciodvfy finds wrong. Skips the test where it is not installed: to be called last."""
    command = shutil.which("dciodvfy")
    if command is None:
        pytest.skip("dciodvfy is not installed (Debian's dicom3tools): what is written cannot be verified by it")
    done = subprocess.run([command, str(path)], capture_output=True, text=True, errors="replace", check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert lines, "dciodvfy names the object at least"
    errors = [line for line in lines if "Error" in line or "Abort" in line]
    return errors or ([f"exit code {done.returncode}"] if done.returncode else [])
