"""Multiruns under each launcher: a job that fails stops no other, and the exit code tells."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cnr_iemn.errors import JobError, PartialFailureError
from tests.pipeline import QUICK, ROOT, TINY, entry_point

pytestmark = pytest.mark.slow

LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=20"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_failed_job_stops_no_other(
    launcher: str, tiny_study: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(tiny_study / "runs", runs)
    shutil.rmtree(runs / "tiny" / "ensembles")
    words = ["-m", *LAUNCHERS[launcher], f"runs={runs}", "study=tiny", "permutations=0", "refits=0", "methods=false"]
    assert entry_point("aggregate")([*words, "ensemble=resnext50,inception_v3,densenet161"]) == 1
    printed = capfd.readouterr().err
    assert "1 of 3 jobs failed:" in printed
    assert "ensemble=inception_v3: The study" in printed
    assert "inception_v3 has no run seed0" in printed
    for name in ("resnext50", "densenet161"):
        metrics = json.loads((runs / "tiny" / "ensembles" / name / "metrics.json").read_text())
        assert metrics["models"] == [name]
    assert not (runs / "tiny" / "ensembles" / "inception_v3").exists()
    if launcher == "joblib":
        assert entry_point("aggregate")([*words, "ensemble=inception_v3,wide_resnet50"]) == 2
        assert "2 of 2 jobs failed:" in capfd.readouterr().err
        assert entry_point("aggregate")([*words, "ensemble=resnext50,densenet161"]) == 0


def test_training_jobs_in_processes_of_their_own(
    tiny_study: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("timm")
    words = [*TINY, f"ingest.cache={tiny_study / 'cache'}", f"runs={tmp_path}", "study=tiny"]
    words += ["model=timm", "model.name=test_resnet"]
    launcher = LAUNCHERS["joblib"]
    assert entry_point("train")(["-m", *words, *launcher, "data.folds=2", "data.fold=0,1", "seed=0"]) == 0
    folders = sorted(path.parent.name for path in (tmp_path / "tiny" / "test_resnet").glob("*/predictions.parquet"))
    assert folders == ["seed0-fold0", "seed0-fold1"]
    # again, with one job whose training diverges
    capfd.readouterr()
    rates = ["trainer.learning_rate=1e-4,1e30", "data.fold=0", "data.folds=2", "tag=rate-${trainer.learning_rate}"]
    assert entry_point("train")(["-m", *words, *launcher, *rates]) == 1
    printed = capfd.readouterr().err
    assert "1 of 2 jobs failed:" in printed
    assert "training has diverged" in printed.split("1 of 2 jobs failed:")[1]
    records = {
        path.parent.name: json.loads(path.read_text())["status"]
        for path in (tmp_path / "tiny" / "test_resnet").glob("rate-*/run.json")
    }
    assert records == {"rate-0.0001": "finished", "rate-1e+30": "failed"}


FEW = (
    "data.phantom.scans={Normal: 3, COVID-19: 3, CAP: 3}",
    "data.phantom.labelled={COVID-19: 3, CAP: 3}",
    "data.labelled_normals=3",
)
"""Fewer scans than TINY has, written and read anew."""


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_jobs_write_and_read_scans_in_processes_of_their_own(
    launcher: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in TINY if word.startswith(("data", "ingest"))]
    places = [f"ingest.cache={tmp_path / 'cache'}", f"hydra.sweep.dir={tmp_path / 'jobs'}"]
    sizes = ["ingest.size=32,48", "ingest.workers=2"]
    code = entry_point("prepare")(["-m", *LAUNCHERS[launcher], *words, *FEW, *places, *sizes])
    assert code == 0, capfd.readouterr().err
    assert len(list(tmp_path.glob("cache/*/*/*/scan.json"))) == 2 * 9


@pytest.mark.parametrize("launcher", ["joblib", "submitit"])
def test_jobs_train_from_an_empty_cache_and_predict(
    launcher: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("timm")
    # whole paths: joblib's processes stay for the next multirun, in the folder in which the first began
    places = [f"runs={tmp_path / 'runs'}", "study=tiny"]
    multirun = ["-m", *LAUNCHERS[launcher], f"hydra.sweep.dir={tmp_path / 'jobs'}", *places]
    network = ["model=timm", "model.name=test_resnet", f"ingest.cache={tmp_path / 'cache'}"]
    jobs = ["seed=0,1", "trainer.workers=1"]  # a process that loads slices, too
    assert entry_point("train")([*multirun, *TINY, *FEW, *network, *jobs]) == 0, capfd.readouterr().err
    assert len(list(tmp_path.glob("runs/tiny/test_resnet/*/predictions.parquet"))) == 2
    if launcher == "joblib":
        assert entry_point("aggregate")([*places, "ensemble=test_resnet", *QUICK]) == 0
        scan = next(tmp_path.glob("cache/phantom-*/*subjects/P001"))
        outputs = ",".join(str(tmp_path / name) for name in ("one", "two"))
        answers = ["ensemble=test_resnet", f"input={scan}", f"output={outputs}", "pages=false"]
        assert entry_point("predict")([*multirun, *answers]) == 0, capfd.readouterr().err
        assert len(list(tmp_path.glob("*/predictions.json"))) == 2


# an entry point of its own: one job has a fault or is interrupted, or its process is killed
SCRIPT = """
import os, signal, sys
from cnr_iemn.config.entry_point import entry_point
from cnr_iemn.config.schema.settings import TrainSettings

@entry_point("train", TrainSettings)
def main(settings):
    if settings.seed == 2:
        match os.environ["WHAT"]:
            case "fault":
                raise RuntimeError("a fault")
            case "interrupt":
                raise KeyboardInterrupt
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
    print("done", settings.seed, flush=True)
    return 1.0

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
"""


def multirun(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "script.py", "-m", "seed=1,2,3", *words[1:]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "WHAT": words[0]},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_fault_of_the_program_is_shown_and_stops_no_other(launcher: str, tmp_path: Path) -> None:
    ended = multirun(tmp_path, "fault", *LAUNCHERS[launcher])
    assert ended.returncode == 1, ended.stderr
    assert sorted(line for line in ended.stdout.splitlines() if line.startswith("done")) == ["done 1", "done 3"]
    assert "Traceback" in ended.stderr
    assert "seed=2: RuntimeError: a fault (a fault of the program)" in ended.stderr


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_ctrl_c_in_a_job_ends_the_multirun(launcher: str, tmp_path: Path) -> None:
    ended = multirun(tmp_path, "interrupt", *LAUNCHERS[launcher])
    assert ended.returncode == 130, ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_killed_job_is_not_counted_as_done(tmp_path: Path) -> None:
    ended = multirun(tmp_path, "kill", *LAUNCHERS["joblib"])
    assert ended.returncode == 2, ended.stderr
    assert "The launcher lost its jobs" in ended.stderr


def test_without_the_extra_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert entry_point("train")(["-m", "hydra/launcher=joblib_of_another", "seed=1,2"]) == 2
    assert "pip install '.[launchers]'" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_a_job_raises_passes_between_processes() -> None:
    for error in (JobError("a reason"), PartialFailureError("some scans")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))
