"""SIGTERM and SIGHUP end every command in order: exit code, one sentence, no process left, nothing ignored."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline import ROOT

pytestmark = pytest.mark.slow

# an entry point whose task waits, if asked also for a process that reads scans; "nested" is Lightning's way with Ctrl-C
SCRIPT = """
import os, sys, time
from cnr_iemn.config.schema import aggregate, prediction, settings
from cnr_iemn.config.entry_point import entry_point

name = os.environ["NAME"]
module = {"predict": prediction, "export": prediction, "aggregate": aggregate}.get(name, settings)
settings_class = getattr(module, f"{name.title()}Settings")

def wait(seconds):
    time.sleep(seconds)

@entry_point(name, settings_class)
def main(settings):
    if os.environ.get("READER"):
        from cnr_iemn.utils.sandbox import run_limited
        answers = run_limited(wait, [60.0], workers=1)
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("in order", flush=True)
    return 1.0

if __name__ == "__main__":
    code = main(sys.argv[1:])
    if os.environ.get("LATE"):
        print("task has ended", flush=True)
        time.sleep(2)
        print("still here", flush=True)
    raise SystemExit(code)
"""
_SECONDS = 300
"""That a command may take to end on a busy machine."""
WORDS = {
    "predict": ["input=x", "study=x"],
    "export": ["study=x"],
    "prepare": [],
    "aggregate": ["study=x"],
    "train": [],
}


def default_signals() -> None:
    """Undo what the tests were started with: in the background, or under nohup, signals are ignored."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def start(
    folder: Path, name: str, *words: str, before: tuple[str, ...] = (), **environment: str
) -> subprocess.Popen[str]:
    """Start the command in a process group of its own, and wait until its task runs."""
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    process = subprocess.Popen(
        [*before, sys.executable, "script.py", *WORDS[name], *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NAME": name, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=default_signals,  # noqa: PLW1509 - the tests have no other threads that could hold a lock here
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "ready\n":
            return process
    pytest.fail(f"it ended before its task: {process.communicate()[1]}")


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return what the command has said after its task began; its group has no process left."""
    said = process.communicate(timeout=_SECONDS)
    deadline = time.monotonic() + 60
    while True:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return said
        assert time.monotonic() < deadline, "a process was left"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("name", "number", "code", "sentence"),
    [
        *((name, signal.SIGTERM, 143, "Terminated by SIGTERM.\n") for name in WORDS),
        ("train", signal.SIGHUP, 129, "Terminated by SIGHUP.\n"),
        ("train", signal.SIGINT, 130, "Interrupted.\n"),
    ],
)
def test_a_signal_ends_a_command_in_order(
    name: str, number: signal.Signals, code: int, sentence: str, tmp_path: Path
) -> None:
    process = start(tmp_path, name, READER="1" if name == "prepare" else "")
    process.send_signal(number)
    assert ended(process) == ("in order\n", sentence)
    assert process.returncode == code


def test_a_signal_that_comes_twice_at_once_is_one(tmp_path: Path) -> None:
    process = start(tmp_path, "train", READER="1")
    process.send_signal(signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)  # as timeout does
    printed, said = ended(process)
    assert printed == "in order\n"
    # Python's resource tracker removes what the reading process had no time to, and says so
    assert [line for line in said.splitlines() if "resource_tracker" not in line] == ["Terminated by SIGTERM."]
    assert process.returncode == 143


def test_a_signal_that_comes_again_after_the_task_ends_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, "train", LATE="1")
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["in order\n", "task has ended\n"]
    process.send_signal(signal.SIGTERM)
    assert ended(process) == ("still here\n", "Terminated by SIGTERM.\n")
    assert process.returncode == 143


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    process = start(tmp_path, "train", before=("nohup",))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    ended(process)
    assert process.returncode == 143


def test_the_first_process_of_a_container_ends(tmp_path: Path) -> None:
    container = ("unshare", "--pid", "--fork", "--kill-child")
    if shutil.which("unshare") is None or subprocess.run([*container, "true"], check=False).returncode:
        pytest.skip("no namespace of processes can be made here")
    process = start(tmp_path, "train", before=container)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    assert ended(process) == ("in order\n", "Terminated by SIGTERM.\n")
    assert process.returncode == 143


@pytest.mark.parametrize(
    ("launcher", "sentence"),
    [
        ([], "0 of 3 jobs ended; stopped: seed=1; 2 did not run: seed=2; seed=3. Jobs"),
        (
            ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"],
            "0 of 3 jobs ended; stopped: seed=1; 2 did not run: seed=2; seed=3",
        ),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], "was stopped: 0 of 3 jobs ended; stopped: "),
    ],
)
def test_a_multirun_says_what_did_not_run(launcher: list[str], sentence: str, tmp_path: Path) -> None:
    process = start(tmp_path, "train", "-m", "seed=1,2,3", *launcher)
    process.send_signal(signal.SIGTERM)
    said, errors = ended(process)
    # also in the process that a launcher has started, beside which another may have announced its job
    assert "in order" in said.splitlines()
    assert sentence in errors
    assert errors.endswith("\nTerminated by SIGTERM.\n")
    assert "Traceback" not in errors
    assert process.returncode == 143
