"""Compiled loops work where their machine code cannot be kept."""

import subprocess
import sys

import numpy as np
import pytest

from cnr_iemn.ct.compiled import compiled

WINDOW = """
import resource, signal, sys
import numba, numpy as np
numba.config.CACHE_DIR, bytes_in_a_file = sys.argv[1], int(sys.argv[2])
from cnr_iemn.ct import window
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_in_a_file, bytes_in_a_file))
print(window.window_to_uint8(np.array([[-1000, -300, 400]], np.int16)).tolist())
"""


def run(folder, bytes_in_a_file):
    program = [sys.executable, "-c", WINDOW, folder, str(bytes_in_a_file)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[[0, 128, 255]]", 0), done.stderr
    return [path for path in folder.rglob("*.nbc") if path.stat().st_size]


def test_without_a_folder_for_its_code():
    namespace = {}
    exec("def total(x):\n    n = 0\n    for v in x:\n        n += v\n    return n", namespace)  # of no file
    total = compiled(namespace["total"])
    assert total(np.arange(5)) == total(np.arange(5)) == 10
    assert total.__name__ == "total"


def test_a_full_disk_costs_no_more_than_the_time_to_compile(tmp_path):
    assert run(tmp_path, 0) == []


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("content", [b"", bytes(100)], ids=["empty", "zeros"])
def test_code_that_a_power_failure_cut_is_compiled_again(ending, content, tmp_path):
    run(tmp_path, 2**30)
    for path in tmp_path.rglob(f"*.{ending}"):
        path.write_bytes(content)
    run(tmp_path, 2**30)


def test_machine_code_is_kept_for_the_next_process(tmp_path):
    (kept,) = run(tmp_path, 2**30)
    made = kept.stat().st_mtime_ns
    assert run(tmp_path, 2**30) == [kept]
    assert kept.stat().st_mtime_ns == made
