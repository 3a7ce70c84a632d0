"""Ids, names and tags are text from the command line, or a YAML file, to the settings."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cnr_iemn.config.command_line import split_texts, text_words
from cnr_iemn.config.composition import changed_texts
from cnr_iemn.config.entry_point import entry_point
from cnr_iemn.config.schema.aggregate import AggregateSettings
from cnr_iemn.config.schema.fields import text_keys
from cnr_iemn.config.schema.settings import TrainSettings

pytestmark = pytest.mark.slow

Run = Callable[..., tuple[int, list[TrainSettings]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run train.py's settings through Hydra's real command line, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, list[TrainSettings]]:
        seen: list[TrainSettings] = []

        def task(settings: TrainSettings) -> float:
            seen.append(settings)
            return 1.0

        return entry_point("train", TrainSettings)(task)(list(arguments)), seen

    return call


NUMBERS = ["12_3", "1_0", "1e-3", "007", "0x10", "true", "FALSE", "nan", "-inf", "1.50", "+5", "2021-03-15", "12:30"]


def test_texts_arrive_as_they_were_typed(run: Run) -> None:
    texts = [*NUMBERS, "NULL", "null", "Müller (2)", "日本-1", "O'Brien", "a b"]
    code, (arrived,) = run("tag=1e-3", f"data.exclude=[{','.join(texts)}]", "logger.project=12_3")
    assert code == 0
    assert (arrived.tag, arrived.data.exclude, arrived.logger.project) == ("1e-3", texts, "12_3")


@pytest.mark.parametrize("text", [*NUMBERS, "NULL", "Müller (2)"])
def test_one_text_is_quoted_where_hydra_needs_it(text: str) -> None:
    (parsed,) = OverridesParser.create().parse_overrides(text_words([f"tag={text}"], TrainSettings))
    assert parsed.value() == text


def test_lists_null_and_references(run: Run) -> None:
    code, (arrived,) = run("data.exclude=[12_3, 'a,b', ${study}]", "study=2021_03_15", "data.classes=null", "tag=null")
    assert (code, arrived.study, arrived.tag, arrived.data.classes) == (0, "2021_03_15", None, None)
    assert arrived.data.exclude == ["12_3", "a,b", "2021_03_15"]
    assert run("data.exclude=12_3")[1][0].data.exclude == ["12_3"]


def test_a_reference_that_was_quoted_is_text(run: Run) -> None:
    assert run(r'data.exclude=["\${study}"]')[1][0].data.exclude == ["${study}"]


def test_a_multirun_over_names(run: Run) -> None:
    code, seen = run("-m", "study=2021_03_15,b", "tag=choice(1_0,007)", "data.exclude=[1_0]")
    assert code == 0
    names = [(s.study, s.tag) for s in seen]
    assert names == [("2021_03_15", "1_0"), ("2021_03_15", "007"), ("b", "1_0"), ("b", "007")]
    assert {tuple(s.data.exclude) for s in seen} == {("1_0",)}


def test_the_sweepers_own_values_are_text(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    text = "# @package _global_\nhydra:\n  sweeper:\n    params:\n      tag: 1_0,2_0\n"
    (tmp_path / "mine" / "experiment" / "two.yaml").write_text(text, encoding="utf-8")
    code, seen = run("-m", "--config-dir", "mine", "experiment=two")
    assert (code, [s.tag for s in seen]) == (0, ["1_0", "2_0"])


@pytest.mark.parametrize("text", ["12_3", "007", "true"])
def test_a_yaml_file_keeps_its_text_or_is_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    lines = f'# @package _global_\ntag: "{text}"\ndata:\n  exclude: ["{text}", 2021-03-15, 123]\n'
    (folder / "mine.yaml").write_text(lines, encoding="utf-8")
    assert run("--config-dir=mine", "experiment=mine")[1][0].data.exclude == [text, "2021-03-15", "123"]
    (folder / "mine.yaml").write_text(lines.replace(f'["{text}"', f"[{text}"), encoding="utf-8")
    for flag in ("--config-dir=mine", "-m"):
        words = [flag] if flag != "-m" else ["-m", "-cd", "mine"]
        assert run(*words, "experiment=mine") == (2, [])
        assert f"data.exclude has {text}, which YAML reads as" in capsys.readouterr().err


def changed(text: str) -> list[str]:
    raw = yaml.load(text, yaml.BaseLoader)
    read = OmegaConf.to_container(OmegaConf.create(text))
    return [typed for _, typed, _ in changed_texts(raw, read, "", text_keys(TrainSettings))]


@pytest.mark.parametrize("text", ["12_3", "1e-3", "007", "0x10", "yes", "TRUE", "1.50", "12:30", "1_0.5", ".inf"])
def test_what_yaml_would_change_is_found(text: str) -> None:
    found = changed(f"tag: {text}\ndata:\n  exclude: [a, {text}]\n  split:\n    file: {text}\n")
    as_text = str(OmegaConf.to_container(OmegaConf.create(f"x: {text}"))["x"])
    assert found == ([] if as_text == text else [text] * 3)
    assert changed("seed: 1_0\ntrainer:\n  max_epochs: 0x10\ntag: null\nstudy: 123\n") == []


def test_home(run: Run, tmp_path: Path) -> None:
    home = os.path.expanduser("~")
    keys = ["data.root", "data.csv", "runs", "ingest.cache", "model.weights", "data.split.file", "data.slices"]

    def values(settings: TrainSettings) -> set[object]:
        return {functools.reduce(getattr, key.split("."), settings) for key in keys}

    for text, path in (("~/a b", f"{home}/a b"), ("'~/x'", f"{home}/x"), ("~", home), ("./~", "./~")):
        assert values(run(*(f"{key}={text}" for key in keys))[1][0]) == {path}
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    text = "# @package _global_\nruns: ~/x\ndata:\n  root: ~/x\n  csv: '~/x'\n  split: {file: ~/x}\n"
    (tmp_path / "mine" / "experiment" / "home.yaml").write_text(text, encoding="utf-8")
    keys = ["runs", "data.root", "data.csv", "data.split.file"]
    assert values(run("--config-dir=mine", "experiment=home")[1][0]) == {f"{home}/x"}


def test_no_such_home_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data.root=~nobody-of-this-name/x") == (2, [])
    assert "there is no home folder of that name" in capsys.readouterr().err


def test_the_folder_of_a_multirun_is_in_the_home_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert run("-m", "seed=1,2", "runs=~/r")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert (tmp_path / "home" / "r" / ".multirun").is_dir()


def test_lists_of_paths_and_models() -> None:
    words = text_words(["evaluate=[~/a.parquet,1_0]", "labels=~/l.csv", "ensemble=[1_0,b]"], AggregateSettings)
    assert words == ['evaluate=["~/a.parquet","1_0"]', 'labels="~/l.csv"', 'ensemble=["1_0",b]']


def test_other_keys_stay_hydras() -> None:
    words = ["trainer.gpus=1_0", "balancing.copies={a: 3}", "model=1_0", "~tag", "hydra.verbose=true", "seed=range(3)"]
    assert text_words(words, TrainSettings) == words


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0,'\"[](){}$\\"), min_size=1)))
def test_any_ids_between_commas_arrive(texts: list[str]) -> None:
    ids = [text.strip() for text in texts if text.strip()]
    (word,) = text_words([f"data.exclude=[{','.join(ids)}]"], TrainSettings)
    (parsed,) = OverridesParser.create().parse_overrides([word])
    assert parsed.value() == ids


def test_commas_in_quotes_and_brackets_part_nothing() -> None:
    assert list(split_texts("""a,"b,c",[d,'e]',f],g (h,i),O'Brien,j""")) == [
        "a", '"b,c"', "[d,'e]',f]", "g (h,i)", "O'Brien", "j",
    ]  # fmt: skip
