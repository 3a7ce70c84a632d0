"""Compiled loops work where their machine code cannot be kept."""

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import numba
import numpy as np
import pytest

from cnr_iemn.ct import kept_code
from cnr_iemn.ct.compiled import compiled
from cnr_iemn.ct.kept_code import tell_once
from cnr_iemn.ct.lungs import refine

WINDOW = """
import logging, resource, signal, sys
import numba, numpy as np
logging.basicConfig()
numba.config.CACHE_DIR, bytes_in_a_file = sys.argv[1], int(sys.argv[2])
from cnr_iemn.ct import window
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_in_a_file, bytes_in_a_file))
print(window.window_to_uint8(np.array([[-1000, -300, 400]], np.int16)).tolist())
"""
PLENTY = 2**30


def run(folder, bytes_in_a_file=PLENTY):
    """Window three values in a new process; return the code that is kept then, and what was said."""
    program = [sys.executable, "-c", WINDOW, folder, str(bytes_in_a_file)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[[0, 128, 255]]", 0), done.stderr
    return [path for path in folder.rglob("*") if path.is_file()], done.stderr


def test_without_a_folder_for_its_code(caplog):
    tell_once.cache_clear()
    namespace = {}
    exec("def total(x):\n    n = 0\n    for v in x:\n        n += v\n    return n", namespace)  # of no file
    total = compiled(namespace["total"])
    assert total(np.arange(5)) == total(np.arange(5)) == 10
    assert total.__name__ == "total"
    assert caplog.text.count("Compiled code cannot be kept (numba finds no folder for it)") == 1


def test_a_full_disk_costs_no_more_than_the_time_to_compile(tmp_path):
    kept, said = run(tmp_path, 0)
    assert kept == []
    assert f"Compiled code cannot be kept ({next(tmp_path.iterdir())}: File too large)" in said


def test_machine_code_is_kept_for_the_next_process(tmp_path):
    (kept,), said = run(tmp_path)
    assert said == ""
    made = kept.stat().st_mtime_ns
    assert run(tmp_path) == ([kept], "")
    assert kept.stat().st_mtime_ns == made


@pytest.mark.parametrize("damage", [lambda code: b"", lambda code: code[:-1], lambda code: code[:999] + bytes(4096)])
def test_code_that_was_damaged_is_compiled_again(damage, tmp_path):
    (kept,), _ = run(tmp_path)
    code = kept.read_bytes()
    kept.write_bytes(damage(code))
    assert run(tmp_path) == ([kept], "")
    assert len(kept.read_bytes()) == len(code)


def test_code_of_other_sources_is_not_taken(tmp_path, monkeypatch):
    """A constant that a function takes from another file is part of its code."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    value = np.array([[-320, -319]], np.int16)
    found = []
    for threshold in (-320, -319, -320):
        monkeypatch.setattr(refine, "THRESHOLD_HU", threshold)
        monkeypatch.setattr(kept_code, "_sources", lambda threshold=threshold: f"sources with {threshold}")
        air = np.empty((1, 2), np.uint8)
        compiled(refine._find_air.__wrapped__)(np.ones((1, 2), np.uint8), value, 0, 0, 1, air)
        found.append(air.tolist())
    assert found == [[[1, 0]], [[1, 1]], [[1, 0]]]
    assert len([*tmp_path.rglob("*.code")]) == 2


def test_functions_of_one_name_have_code_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    value = np.array([[-320]], np.int16)
    for module in ("first", "second"):
        one = FunctionType(refine._find_air.__wrapped__.__code__, refine.__dict__, "one")
        one.__module__ = module
        compiled(one)(np.ones((1, 1), np.uint8), value, 0, 0, 1, np.empty((1, 1), np.uint8))
    assert len([*tmp_path.rglob("one.*.code")]) == 2


def test_functions_take_nothing_from_outside_the_sources_that_are_hashed():
    package = Path(kept_code.__file__).parent
    functions = {
        each.__wrapped__
        for info in pkgutil.walk_packages([str(package)], "cnr_iemn.ct.")
        for each in vars(importlib.import_module(info.name)).values()
        if inspect.isfunction(each) and each.__code__.co_filename == compiled.__code__.co_filename and each != compiled
    }
    assert len(functions) >= 12
    for function in functions:
        taken = set(function.__code__.co_names) & function.__globals__.keys()
        for name, value in ((name, function.__globals__[name]) for name in taken):
            assert value is np or isinstance(value, int | float | tuple), (function.__name__, name)


ODD = """
import imagecodecs, numpy as np
from cnr_iemn.ct import jpeg_lossless, rows
from cnr_iemn.ct.prepare import prepare_volume
from cnr_iemn.ct.volume import Volume

def chest(shape, spacing):
    n, rows, columns = shape
    z, y, x = np.ogrid[-1:1:n * 1j, -1:1:rows * 1j, -1:1:columns * 1j]
    hu = np.full(shape, -1000, np.int16)
    hu[np.broadcast_to(y**2 + x**2 < 0.9, shape)] = 40
    hu[np.broadcast_to((y**2 + x**2 > 0.62) & (y**2 + x**2 < 0.68), shape)] = 700
    for side in (-1, 1):
        hu[y**2 / 0.3 + (x - side * 0.5) ** 2 / 0.1 + z**2 * 0.8 < 1] = -850
    hu[n // 3 : n // 2, rows // 2 :, : columns // 4] = 30
    return Volume(hu, spacing, -np.arange(n) * 1.0, (), True, "")

SHAPES = ((9, 97, 121), 3.1), ((24, 130, 90), 2.9), ((1, 64, 64), 5.0), ((6, 512, 470), 0.074), ((40, 201, 199), 1.0)
for shape, pixel in SHAPES:
    volume = chest(shape, (5.0 if shape[0] < 30 else 1.0, pixel, pixel))
    for size, crop in ((37, "none"), (64, "lungs"), (300, "none")):
        found = prepare_volume(volume, size=size, lungs="pleura", window=(-1000, 400), crop=crop)
        print(found.lungs.sum(), found.grey.sum())
image = (chest((1, 256, 300), (1, 1, 1)).hu[0] + 1024).astype(np.uint16)
image[100, 120:] += 90
stream = imagecodecs.jpeg8_encode(image, lossless=True, predictor=1, bitspersample=12)
print(jpeg_lossless.decode(stream, jpeg_lossless.only_image(stream)).sum())
ends = np.empty((256, 1 + rows._N_BLOCKS), np.float32)
rows._average_ends(image, ends)
print(rows._first_shifted(ends, 10.0))
"""


def test_no_loop_leaves_its_arrays(tmp_path):
    """Compiled once more with every index checked, on slices of odd sizes."""
    checked = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    run_odd = [
        subprocess.run([sys.executable, "-c", ODD], capture_output=True, text=True, check=False, env=os.environ | more)
        for more in ({}, checked)
    ]
    assert [each.stderr for each in run_odd] == ["", ""]
    assert run_odd[0].stdout == run_odd[1].stdout
    assert len(run_odd[0].stdout.split()) > 30
