import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import TINY_STUDY
from tests.pipeline import ROOT


def test_engines_in_a_process_of_their_own(tiny_study: Path) -> None:
    # after OpenVINO has run in a process, forked loaders of slices there have given other batches, or crashed
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "tests/engine/engine_checks.py"]
    environment = {**os.environ, TINY_STUDY: str(tiny_study)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
