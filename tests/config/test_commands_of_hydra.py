"""What Hydra's own flags and section may do: find the user's files, but run none of their code and change no folder."""

import errno
import importlib
import os
from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

from cnr_iemn.config.entry_point import configuration_folder, entry_point
from cnr_iemn.config.messages import system_error
from cnr_iemn.config.schema.prediction import PredictSettings
from cnr_iemn.config.schema.settings import TrainSettings
from cnr_iemn.errors import CnrIemnError

Run = Callable[..., tuple[int, list[TrainSettings]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run train.py's settings through Hydra's real command line, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, task: Callable[[TrainSettings], None] = lambda s: None) -> tuple[int, list]:
        seen: list[TrainSettings] = []

        def job(settings: TrainSettings) -> float:
            seen.append(settings)
            task(settings)
            return 1.0

        return entry_point("train", TrainSettings)(job)(list(arguments)), seen

    return call


def write_group(folder: Path, group: str, name: str, text: str) -> None:
    (folder / group).mkdir(parents=True, exist_ok=True)
    (folder / group / f"{name}.yaml").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("flags", [["--config-dir", "mine"], ["--config-dir=mine"], ["-cd", "mine"]])
@pytest.mark.slow
def test_a_multirun_finds_the_users_files(run: Run, tmp_path: Path, flags: list[str]) -> None:
    write_group(tmp_path / "mine", "experiment", "quick", "# @package _global_\ntrainer:\n  max_epochs: 1\n")
    code, seen = run("-m", *flags, "experiment=quick", "seed=1,2")
    assert (code, [s.trainer.max_epochs for s in seen]) == (0, [1, 1])


@pytest.mark.slow
def test_a_glob_names_all_models_the_users_too(run: Run, tmp_path: Path) -> None:
    write_group(tmp_path / "mine", "model", "mine", "defaults:\n  - resnext50\nimage_size: 48\n")
    code, seen = run("-m", "--config-dir=mine", "model=glob(*,exclude=[timm])")
    assert (code, len(seen)) == (0, 5)
    assert [s.model.image_size for s in seen].count(48) == 1


def test_every_job_is_checked_before_the_first(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_group(tmp_path / "mine", "experiment", "good", "# @package _global_\nseed: 1\n")
    write_group(tmp_path / "mine", "experiment", "bad", "# @package _global_\nlungs: none\n")
    assert run("-m", "--config-dir", "mine", "experiment=good,bad") == (2, [])
    assert "Choose one of: pleura" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}
    assert run("--config-dir", "none", "seed=1") == (2, [])
    assert "--config-dir=none is not a folder" in capsys.readouterr().err


PLANTED = {
    "callbacks": "callbacks:\n    x: {_target_: pickle.load, file: x}",
    "_target_": "launcher:\n    _target_: subprocess.call",
    "an attribute of a plugin's module": "launcher:\n    _target_: hydra_plugins.hydra_joblib_launcher._core.os.system",
    "another sweeper": "sweeper:\n    _target_: hydra_plugins.mine.Sweeper",
    "nested": "env:\n    x: {_target_: os.system}",
    "a factory of logging": "job_logging:\n    handlers: {x: {(): os.system, command: touch planted}}",
    "a handler's class": "hydra_logging:\n    handlers: {x: {class: logging.os.system, command: touch planted}}",
    "an object by its name": "job_logging:\n    handlers: {x: {class: logging.StreamHandler, stream: 'ext://os.environ'}}",
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_a_configuration_runs_no_code(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], planted: str
) -> None:
    write_group(tmp_path / "mine", "experiment", "x", f"# @package _global_\nhydra:\n  {planted}\n")
    assert run("--config-dir=mine", "experiment=x") == (2, [])
    assert "eave it out" in (told := capsys.readouterr().err) or "Use a handler" in told
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


@pytest.mark.parametrize("words", [["--experimental-rerun", "c.pickle"], ["--exp=c.pickle"]])
def test_no_pickle_is_read(run: Run, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert run(*words) == (2, [])
    assert "reads a pickle" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["hydra.job.chdir=true"], ["-m", "hydra.job.chdir=true", "seed=1,2"]])
def test_no_job_changes_its_folder(run: Run, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert run(*words) == (2, [])
    assert "hydra.job.chdir=true would give each job" in capsys.readouterr().err


def test_hydras_own_folders_change_nothing_for_the_job(run: Run, tmp_path: Path) -> None:
    places: list[Path] = []
    code, _ = run("hydra.run.dir=elsewhere", task=lambda s: places.append(Path.cwd()))
    assert (code, places) == (0, [tmp_path])
    assert run("-m", "hydra.sweep.dir=there", "seed=1,2", task=lambda s: places.append(Path.cwd()))[0] == 0
    assert places == [tmp_path] * 3


def test_the_process_may_use_hydra_itself(run: Run) -> None:
    with hydra.initialize_config_dir(version_base="1.2", config_dir=str(configuration_folder())):
        own = GlobalHydra.instance().hydra
        assert run("seed=1")[0] == 0
        assert run("lungs=none")[0] == 2
        assert GlobalHydra.instance().hydra is own
        assert hydra.compose("train", ["+x=1"]).x == 1


ANONYMOUS = {
    "two inputs": (["-m", "input=/h/Smith,/h/Jones", "anonymise_ids=true"], "without -m"),
    "one input": (["-m", "input=/h/Smith", "anonymise_ids=true"], "without -m"),
    "Hydra's own sweeper": (
        ["-m", "hydra/sweeper=basic", "input=/h/Smith", "anonymise_ids=true"],
        "without -m",
    ),
    "some jobs": (["-m", "input=/h/Smith", "anonymise_ids=false,true"], "without -m"),
    "mode by a key": (["hydra.mode=MULTIRUN", "input=/h/Smith", "anonymise_ids=true"], "without -m"),
    "Hydra's own folder": (["input=/h/Smith", "anonymise_ids=true", "hydra.output_subdir=.hydra"], "output_subdir"),
}


@pytest.mark.parametrize(("words", "message"), ANONYMOUS.values(), ids=ANONYMOUS)
def test_hydra_keeps_no_name_of_an_anonymous_input(
    tmp_path: Path, monkeypatch, capsys, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[PredictSettings] = []
    assert entry_point("predict", PredictSettings)(seen.append)([*words, "study=x"]) == 2
    assert seen == list(tmp_path.iterdir()) == []
    printed = capsys.readouterr()
    assert "Smith" not in printed.err + printed.out
    assert message in printed.err


FILE_IN_PLACE = {
    "runs": ("export", ["study=x", "runs=file/runs"]),
    "output of export": ("export", ["study=x", "output=file/bundle"]),
    "output": ("predict", ["input=x", "study=x", "output=file"]),
    "answers beside the study": ("predict", ["input=x", "study=x", "runs=file"]),
    "aggregate": ("aggregate", ["study=x", "runs=file"]),
    "cache": ("prepare", ["ingest.cache=file/cache"]),
    "multirun": ("train", ["-m", "runs=file", "seed=1,2"]),
    "a sweep's": ("train", ["-m", "hydra.sweep.dir=file/x", "seed=1,2"]),
    "hydra's own": ("train", ["hydra.run.dir=file/x"]),
}


@pytest.mark.parametrize(("name", "words"), FILE_IN_PLACE.values(), ids=FILE_IN_PLACE)
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, monkeypatch, capsys, name: str, words: list[str]
) -> None:
    """A file in place of a folder: what root cannot write either."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    schema = vars(importlib.import_module(name))[f"{name.capitalize()}Settings"]
    ran: list[object] = []
    code = entry_point(name, schema)(ran.append)(words)
    told = capsys.readouterr().err
    assert (code, ran) == (2, []), told
    assert "file" in told
    assert "Not a directory" in told
    assert "Traceback" not in told
    assert any(f"{key}=" in told for key in ("runs", "output", "ingest.cache", "hydra.sweep.dir")) or "Correct" in told


@pytest.mark.parametrize(
    "number",
    [errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT,
     errno.EISDIR, errno.ENOTDIR, errno.ESTALE, errno.ELOOP],
)  # fmt: skip
def test_whatever_the_system_refuses_is_a_sentence(run: Run, capsys: pytest.CaptureFixture[str], number: int) -> None:
    error = system_error(OSError(number, os.strerror(number), "/data/scan\x1b.csv"))
    assert isinstance(error, CnrIemnError)
    assert str(error).startswith("/data/scan\x1b.csv cannot be")
    hidden = system_error(OSError(number, os.strerror(number), "/data/Smith/1.dcm"), hidden="/data")
    assert "Smith" not in str(hidden)


@pytest.mark.parametrize("words", [["seed=1"], ["-m", "seed=1,2"]])
def test_it_ends_with_2_and_no_traceback(run: Run, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    def refuse(settings: TrainSettings) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/data/bad\x1b]0;x.csv")

    assert run(*words, task=refuse)[0] == 2
    told = capsys.readouterr().err
    assert r"/data/bad\x1b]0;x.csv cannot be used (Permission denied)" in told
    assert "\x1b" not in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"trainer:\n\tmax_epochs: 1\n", "bad.yaml"),
        (b"study: [1\n", "bad.yaml"),
        (b"study: a\nstudy: b\n", "duplicate key study"),
        (b"study: !!python/object/apply:os.system [true]\n", "python/object"),
        ("study: é\n".encode("latin-1"), "not UTF-8"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_a_file_that_cannot_be_used_is_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, message: str, flags: list[str]
) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    head = b"# @package _global_\n"
    (folder / "bad.yaml").write_bytes(head + data)
    (folder / "good.yaml").write_bytes(head + b"study: a\n")
    words = ["--config-dir", "mine", "experiment=good,bad" if flags else "experiment=bad"]
    assert run(*flags, *words) == (2, [])
    assert message in capsys.readouterr().err
    assert run("--config-dir=mine", "experiment=good")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "model=glob(zzz*)"], "names no job"),
        (["data=covid_ct_md", "data.phantom.rows=5"], "sets a key of a section that is empty here"),
        (["-m", "data=manifest", "data.csv=x.csv", "data.phantom.rows=64,96"], "is empty here"),
        (["--config-dir=~/nowhere"], "write $HOME"),
        (["-m", "--cfg", "job"], "Give one of them"),
        (["-m", "seed=interval(1,3)"], "is an interval, and -m cannot run all its values"),
    ],
)
def test_a_command_that_can_do_nothing_is_refused(
    run: Run, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(*words) == (2, [])
    assert message in capsys.readouterr().err


def test_a_fault_of_the_program_is_none_of_the_systems() -> None:
    assert system_error(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
    assert system_error(OSError("no number")) is None
