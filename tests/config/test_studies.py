"""Which study is meant where none is named: the cohort's in training, the only one that will do elsewhere."""

from pathlib import Path

import pytest

from tests.pipeline import TINY, entry_point

pytestmark = pytest.mark.slow


def make_study(runs: Path, name: str, *files: str) -> None:
    for file in files:
        path = runs / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


RUN, ENSEMBLE = "resnext50/seed0/run.json", "ensembles/all/ensemble.json"
WORDS = {"aggregate": [], "predict": ["input=nowhere"], "export": []}


@pytest.mark.parametrize("data", ["phantom", "covid_ct_md", "manifest"])
def test_a_study_is_named_after_its_cohort(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry_point("train")([f"data={data}", "--cfg", "job", "--resolve"]) == 0
    assert f"study: {data}\n" in capsys.readouterr().out
    assert entry_point("train")([f"data={data}", "study=mine", "--cfg", "job", "--resolve"]) == 0
    assert "study: mine\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", WORDS)
def test_the_only_study_is_taken_and_of_several_none(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"runs={tmp_path}", *WORDS[name]]
    make_study(tmp_path, ".multirun", RUN, ENSEMBLE)
    make_study(tmp_path, "empty", "split.csv")
    assert entry_point(name)(words) == 2
    assert f"No study is named, and {tmp_path} holds none to work with" in capsys.readouterr().err
    make_study(tmp_path, "one", RUN, ENSEMBLE)
    assert entry_point(name)(words) == 2
    assert "/one" in capsys.readouterr().err  # it is at work on that study's empty files
    make_study(tmp_path, "two", RUN, ENSEMBLE)
    assert entry_point(name)(words) == 2
    assert "holds several: one, two. Add study=one." in capsys.readouterr().err


@pytest.mark.parametrize("words", [["logger=tensorboard"], ["model=timm", "model.name=convnext_tiny"]])
def test_a_missing_extra_is_told_before_anything_is_written(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for package in ("tensorboard", "timm"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    assert entry_point("train")([*words, "model.weights=none"]) == 2
    assert "which is not installed. Install it with pip install" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["augmentation.probability=1.5", "augmentation.rotation_degrees=-3"])
def test_a_warp_outside_its_range_begins_no_study(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "model=resnext50", f"runs={tmp_path / 'runs'}", f"ingest.cache={tmp_path / 'cache'}", word]
    assert entry_point("train")(words) == 2
    assert word.partition("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
