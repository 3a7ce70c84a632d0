"""Exit codes and messages of the entry points' wrapper, through Hydra's real command line."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cnr_iemn.config.entry_point import configuration_folder, entry_point
from cnr_iemn.config.schema.settings import TrainSettings
from cnr_iemn.errors import CohortError, PartialFailureError


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, list[TrainSettings]]]:
    """Run a task in an empty folder; the test sees the exit code and the settings of every job that ran."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, raises: Callable[[TrainSettings], Exception | None] = lambda s: None):
        seen: list[TrainSettings] = []

        def task(settings: TrainSettings) -> float:
            seen.append(settings)
            error = raises(settings)
            if error is not None:
                raise error
            return 1.0

        return entry_point("train", TrainSettings)(task)(list(arguments)), seen

    return call


def test_settings_arrive_typed_and_nothing_is_written(run, tmp_path: Path) -> None:
    code, seen = run("model=densenet161", "trainer.gpus=1")
    assert code == 0
    assert isinstance(seen[0], TrainSettings)
    assert (seen[0].model.name, seen[0].trainer.gpus) == ("densenet161", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["model=densenet16"], "Could not find 'model/densenet16'"),
        (["trainer.max_epoch=3"], "Did you mean trainer.max_epochs=..."),
        (["logger.log_checkpoint=true"], "a W&B artifact, which logger=csv cannot do"),
        (["logger=wandb", "logger.worst_slices=-1"], "logger.worst_slices=-1 is out of range"),
        (["trainer.warmup_epochs=10"], "Give 0 to below 10"),
        (["trainer.warmup_epochs=1", "trainer.schedule=one_cycle"], "which rises over its first fifth"),
        (["trainer.ema=1"], "trainer.ema=1.0 is out of range. Give a number above 0 and below 1"),
        (["trainer.clip=0"], "trainer.clip=0.0 is out of range. Give a number above 0"),
        (["trainer.cpu_processes=0"], "trainer.cpu_processes=0 is out of range"),
        (["trainer.early_stopping=0"], "trainer.early_stopping=0 is out of range"),
        (["trainer.early_stopping=2", "data.split.validation=0"], "data.split.validation=0 leaves none"),
        (["model.library=keras"], "model.library=keras is not known"),
        (["+trainer.max_epoch=3"], "Did you mean trainer.max_epochs=..."),
        (["+anything=3"], "'anything' is not a setting of this command"),
        (["trainer.gpus=many"], "could not be converted to Integer"),
        (["experiment=none_such"], "Could not find 'experiment/none_such'"),
        (["data=covid_ct_md"], "Add data.root=/path/to/COVID-CT-MD"),
        (["balancing.copies=a (1)"], "'balancing.copies=\"a (1)\"'"),
        (["model.image_size=16"], "ResNeXt-50 needs at least 32 pixels"),
        (["model=inception_v3", "model.image_size=74"], "Inception-v3 needs at least 75 pixels"),
        (["data.split.validation=1.2"], "data.split.validation=1.2 is out of range"),
        (["data.fold=5"], "Give 0 to 4"),
        (["lungs=none"], "Choose one of: pleura, border, tutorial"),
        (["ingest.window=[400,-1000]"], "the lower first"),
        (["study=a/b"], "becomes a folder's name"),
        (["balancing.copies=many"], "neither auto nor a number"),
        (["experiment=null"], "experiment=null cannot be composed"),
        (["model=null"], "For none, leave it out"),
        (["-m", "data=phantom,null"], "--help lists them"),
        (["-m", "model=resnext50,densenet16"], "Could not find 'model/densenet16'"),
        (["-m", "seed=1,2", "lungs=none"], "Choose one of: pleura, border, tutorial"),
    ],
)
def test_a_wrong_configuration_ends_with_2_before_anything_runs(
    run, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], expected: str
) -> None:
    code, seen = run(*arguments)
    printed = capsys.readouterr()
    assert code == 2
    assert seen == []
    assert expected in printed.err
    assert "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_key_in_an_experiment_file(run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "quick.yaml").write_text("# @package _global_\ntrainer:\n  max_epoch: 1\n", encoding="utf-8")
    code, seen = run("--config-dir", str(tmp_path / "mine"), "experiment=quick")
    assert (code, seen) == (2, [])
    assert "Key 'max_epoch' not in 'TrainerSettings'" in capsys.readouterr().err


def test_a_users_error_ends_with_2_and_its_message(run, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = run(raises=lambda s: CohortError("The folder is empty. Fill it."))
    assert code == 2
    assert capsys.readouterr().err == "Error: The folder is empty. Fill it.\n"


@pytest.mark.parametrize(("before", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_openmp_sleep_while_they_wait(run, before, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if before is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", before)
    policies = []
    run(raises=lambda _: policies.append(os.environ["OMP_WAIT_POLICY"]))
    assert policies == [expected]


def test_some_scans_failed_ends_with_1(run) -> None:
    assert run(raises=lambda s: PartialFailureError("2 scans were refused"))[0] == 1


def test_ctrl_c_ends_with_130(run) -> None:
    assert run(raises=lambda s: KeyboardInterrupt())[0] == 130


def test_a_fault_of_the_program_keeps_its_traceback(run) -> None:
    with pytest.raises(ZeroDivisionError):
        run(raises=lambda s: ZeroDivisionError())


@pytest.mark.slow
def test_a_failed_job_of_a_multirun_stops_no_other(run, capsys: pytest.CaptureFixture[str]) -> None:
    code, seen = run("-m", "seed=1,2,3", raises=lambda s: CohortError("No.") if s.seed == 2 else None)
    assert code == 1
    assert [s.seed for s in seen] == [1, 2, 3]
    assert "1 of 3 jobs failed" in capsys.readouterr().err
    assert run("-m", "seed=1,2", raises=lambda s: CohortError("No."))[0] == 2


def test_every_yaml_file_is_reached_by_an_entry_point() -> None:
    names = {path.stem for path in configuration_folder().glob("*.yaml")}
    assert {"train", "aggregate", "predict", "prepare", "export", "tune"} <= names
