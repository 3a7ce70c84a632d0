"""tune.py: measured inside the training scans, whole after a kill, refused where trials could not be compared."""

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.distributions import FloatDistribution

from cnr_iemn.config.schema.settings import SearchSettings, TrainSettings
from cnr_iemn.config.search_space import Range, search_space
from cnr_iemn.data.slice_store import SliceStore
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.tuning.report import best_command
from cnr_iemn.tuning.trials import claim_index, load_trials, next_sampler, suggest
from tests.pipeline import ROOT, SMALL, TINY, entry_point

pytestmark = pytest.mark.slow

pytest.importorskip("timm", reason="an extra: pip install '.[timm]'")

RATE = "search.space={trainer: {learning_rate: {low: 1e-5, high: 1e-3, log: true}}"
SPACE = f"{RATE}, augmentation: {{perspective_distortion: null}}}}"  # beside them, two of the default space

# tune.py in a process that is killed: at the end of an epoch of trial 1, or when trial 2 has but one of its settings
WRAPPER = """
import os, signal, sys
import optuna
import tune
from cnr_iemn.tuning import search

point, *words = sys.argv[1:]
report, suggest = search.EpochReport.on_train_epoch_end, optuna.trial.Trial.suggest_float

def reported(self, trainer, module):
    report(self, trainer, module)
    if point == "epoch" and self.trial.user_attrs["index"] == 1:
        os.kill(os.getpid(), signal.SIGKILL)

def suggested(self, name, *args, **kwargs):
    value = suggest(self, name, *args, **kwargs)
    if point == "draw" and self.user_attrs["index"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return value

search.EpochReport.on_train_epoch_end, optuna.trial.Trial.suggest_float = reported, suggested
raise SystemExit(tune.main(words))
"""


@pytest.fixture(scope="module")
def cache(tiny_study: Path) -> Path:
    """The store that all searches share."""
    return tiny_study / "cache"


def words(cache: Path, runs: Path, name: str, *more: str) -> list[str]:
    return [
        *TINY,
        *SMALL,
        "balancing.copies={Normal: 0}",
        "trainer.max_epochs=1",
        "trainer.batch_size=48",
        "data.folds=2",
        f"ingest.cache={cache}",
        f"runs={runs}",
        "study=tiny",
        f"search.name={name}",
        "search.folds=[0]",
        SPACE,
        *more,
    ]


def rows(runs: Path, name: str) -> list[dict[str, str]]:
    with (runs / "tiny" / "tuning" / name / "trials.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def searched(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Runs with the search ``whole`` of three trials, which was killed twice, and what it said in the end."""
    runs = tmp_path_factory.mktemp("searches")
    for point, code in (("epoch", -9), ("draw", -9), ("never", 0)):
        ended = subprocess.run(
            [sys.executable, "-c", WRAPPER, point, *words(cache, runs, "whole", "search.trials=3")],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert ended.returncode == code, f"{point}: {ended.stderr}"
    return runs, ended.stdout


def test_a_search_ends_with_its_trials_and_the_command_of_the_best(searched: tuple[Path, str]) -> None:
    runs, said = searched
    table = rows(runs, "whole")
    assert [(row["trial"], row["state"], row["selected_on"]) for row in table] == [
        (str(k), "finished", "inner_folds") for k in range(3)
    ]
    best = max(table, key=lambda row: float(row["value"]))
    command = said.strip().splitlines()[-1]
    assert f"trainer.learning_rate={best['trainer.learning_rate']}" in shlex.split(command)
    assert not any(word.startswith(("search", "hydra")) for word in shlex.split(command))
    assert said.count("selected on inner folds of the training scans") >= 2
    assert "validation scans" not in said
    for trial in range(3):
        run = runs / "tiny" / "tuning" / "whole" / "trials" / str(trial) / f"trial{trial}-fold0"
        record = json.loads((run / "run.json").read_text())
        assert record["status"] == "finished"
        assert record["configuration"]["data"]["fold"] == 0
        epochs = pd.read_csv(run / "metrics.csv")
        assert float(table[trial]["value"]) == pytest.approx(epochs["val/slice_balanced_accuracy"].iloc[-1])
        assert not list(run.rglob("*.ckpt"))
        assert not (run / "predictions.parquet").exists()


def test_killed_anywhere_a_search_ends_with_the_trials_it_would_have_had(
    searched: tuple[Path, str], tmp_path: Path
) -> None:
    runs, _ = searched
    search = SearchSettings()
    study = load_trials(tmp_path, search)
    space = {
        "augmentation.rotation_degrees": Range(0.0, 30.0),
        "trainer.learning_rate": Range(1e-5, 1e-3, log=True),
        "trainer.region_weight": Range(0.0, 2.0),
    }
    values = [float(row["value"]) for row in rows(runs, "whole")]
    for value in values:
        study.sampler = next_sampler(study, search)
        trial = study.ask()
        claim_index(study, trial)
        suggest(trial, space)
        study.tell(trial, value)
    table = rows(runs, "whole")
    assert [{key: float(row[key]) for key in space} for row in table] == [trial.params for trial in study.trials]
    trials = runs / "tiny" / "tuning" / "whole" / "trials"
    assert sorted(path.name for path in trials.glob("[0-9]*")) == ["0", "1", "2"]
    records = [json.loads((trials / str(k) / f"trial{k}-fold0" / "run.json").read_text()) for k in range(3)]
    assert [len(record.get("resumed", [])) for record in records] == [0, 1, 0]


def test_a_finished_search_is_not_made_again_and_another_is_refused(
    searched: tuple[Path, str], cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs, _ = searched
    command = words(cache, runs, "whole", "search.trials=3")
    assert entry_point("tune")(command) == 0
    assert "nothing to do" in (said := capfd.readouterr().out)
    assert "Best trial" in said
    for more, expected in (
        ("search.space.trainer.learning_rate.high=1e-2", "search.space.trainer.learning_rate.high was 0.001, now 0.01"),
        ("trainer.max_epochs=3", "trainer.max_epochs was 1, now 3"),
        ("search.seed=1", "search.seed was 0, now 1"),
    ):
        assert entry_point("tune")([*command, more]) == 2
        assert expected in capfd.readouterr().err


def test_validation_scans_are_not_looked_at_and_a_diverged_trial_is_recorded(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    read: set[str] = set()
    grey = SliceStore.grey

    def watched(store: SliceStore, scan_id: str) -> object:
        read.add(scan_id)
        return grey(store, scan_id)

    monkeypatch.setattr(SliceStore, "grey", watched)
    choices = "+search.space.trainer.learning_rate={type: choice, choices: [1.0e-4, 1.0e30]}"
    command = words(cache, tmp_path, "diverges", "search.trials=2", "search.seed=5")
    command[command.index(SPACE)] = choices
    assert entry_point("tune")(command) == 1
    assert "training has diverged" in capfd.readouterr().err
    states = {row["trainer.learning_rate"]: row["state"] for row in rows(tmp_path, "diverges")}
    assert states == {"0.0001": "finished", "1e+30": "failed"}
    split = pd.read_csv(tmp_path / "tiny" / "split.csv").set_index("scan_id")["split"]
    assert read
    assert set(split[sorted(read)]) == {"training"}


def test_a_trial_below_the_median_is_stopped_and_no_failure(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / "tuning" / "prunes"
    folder.mkdir(parents=True)
    study = load_trials(folder, SearchSettings())
    good = optuna.trial.create_trial(
        value=2.0,
        intermediate_values={0: 2.0, 1: 2.0},
        user_attrs={"index": 0},
        params={"trainer.learning_rate": 1e-4},
        distributions={"trainer.learning_rate": FloatDistribution(1e-5, 1e-3, log=True)},
    )
    study.add_trial(good)
    more = ["search.trials=2", "search.prune_after_trials=1", "search.prune_after_epochs=0", "trainer.max_epochs=2"]
    assert entry_point("tune")(words(cache, tmp_path, "prunes", *more)) == 0
    assert [row["state"] for row in rows(tmp_path, "prunes")] == ["finished", "pruned"]
    run = folder / "trials" / "1" / "trial1-fold0"
    assert len(pd.read_csv(run / "metrics.csv")) == 1
    assert not list(run.rglob("*.ckpt"))


def test_the_validation_scans_are_chosen_on_only_by_name(
    cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    more = ["search.trials=2", "search.score=validation", "search.process=range(2)"]
    more += ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]  # both at once
    assert entry_point("tune")(words(cache, tmp_path, "flatters", *more)) == 0
    table = rows(tmp_path, "flatters")
    assert [row["state"] for row in table] == ["finished", "finished"]
    assert table[0]["trainer.learning_rate"] != table[1]["trainer.learning_rate"]
    assert {row["selected_on"] for row in table} == {"validation"}
    assert entry_point("tune")(words(cache, tmp_path, "flatters", *more[:2])) == 0
    said = capfd.readouterr().out
    assert said.count("selected on the validation scans") >= 2  # table and best line
    assert "inner folds" not in said


def test_half_a_line_of_a_killed_writer_is_cut_off(tmp_path: Path) -> None:
    study = load_trials(tmp_path, SearchSettings())
    study.tell(study.ask(), 0.5)
    with (tmp_path / "journal.log").open("ab") as journal:
        journal.write(b'{"op_code":4,"worker_id"')
    study = load_trials(tmp_path, SearchSettings())
    study.tell(study.ask(), 0.75)
    assert [trial.value for trial in load_trials(tmp_path, SearchSettings()).trials] == [0.5, 0.75]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["+search.space.trainer.learning_rat={low: 1, high: 2}"], "Did you mean trainer.learning_rate"),
        (["+search.space.data={fold: {low: 1, high: 2}}"], "search.space.data is not a setting that a search can vary"),
        (["search.space.trainer.learning_rate.low=1"], "low must be below high"),
        (["search.space.trainer.region_weight.log=true"], "with log: true low must be above 0"),
        (["+search.space.trainer.batch_size={type: choice, choices: [32]}"], "needs two or more different"),
        (["+search.space.trainer.batch_size={low: 8.5, high: 9.5}"], "could not be converted to Integer"),
        (["+search.space.trainer.schedule={choices: [steps, cycle]}"], "trainer.schedule=cycle is not known"),
        (["search.trials=0"], "search.trials=0 is out of range"),
        (["search.folds=[5]"], "does not name some of the 5 folds"),
        (["search.score=test"], "Choose one of: inner_folds, validation"),
        (["data.fold=1"], "data.fold, tag and overwrite cannot be given"),
        (["model=resnext50,densenet161"], "Ambiguous value for argument"),
        (["search.seed=1", "-m", "trainer.gamma=interval(1,2)"], "is an interval, and -m cannot run all its values"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert entry_point("tune")(more) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_without_optuna_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)  # as where it is not installed
    for name in ("search", "report", "trials"):
        monkeypatch.delitem(sys.modules, f"cnr_iemn.tuning.{name}", raising=False)
    assert entry_point("tune")([]) == 2
    assert "pip install '.[tune]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_ranges_are_read_nested_or_dotted() -> None:
    space = {"trainer.batch_size": {"type": "int", "low": 8, "high": 64, "log": True}, "lungs": {"choices": ["a", "b"]}}
    assert search_space(space) == {
        "lungs": Range(choices=("a", "b")),
        "trainer.batch_size": Range(8.0, 64.0, integer=True, log=True),
    }
    with pytest.raises(ConfigurationError, match="there is nothing to search"):
        search_space({"trainer": {"decay": None}})


def test_the_best_command_arrives_as_it_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    odd = "/a 'b' (1), \\'c=$d"
    given = [
        "search.trials=3",
        "+search.space.x=1",
        "~search.y",
        "hydra/launcher=joblib",
        "data.split.file='/s p'",
        "seed=3",
    ]
    command = best_command(given, {"trainer.learning_rate": 1e-05, "model.weights": odd, "trainer.workers": None})
    seen: list[TrainSettings] = []

    def main(settings: TrainSettings) -> None:
        seen.append(settings)

    program, script, *arguments = shlex.split(command)
    assert (program, script) == ("python", "train.py")
    from cnr_iemn.config.entry_point import entry_point as wrapped

    assert wrapped("train", TrainSettings)(main)(arguments) == 0
    (settings,) = seen
    assert (settings.model.weights, settings.trainer.learning_rate) == (odd, 1e-05)
    assert (settings.data.split.file, settings.seed) == ("/s p", 3)
