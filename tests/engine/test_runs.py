"""Run folders: finished, interrupted, taken by another configuration; one split for a study."""

from pathlib import Path

import pytest

from cnr_iemn.cohort.cohort import Cohort, ScanRecord
from cnr_iemn.engine.runs import RunFolder, finished_runs, save_split, study_split
from cnr_iemn.errors import RunError
from cnr_iemn.registry import SPGC_CLASSES
from cnr_iemn.settings.schema import SplitSettings

CONFIGURATION = {"seed": 0, "trainer": {"max_epochs": 3}}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.of(tmp_path, "study", "resnext50", "seed0")


def begin(run: RunFolder) -> None:
    run.begin({"configuration": CONFIGURATION}, "seed: 0\n")


def test_a_run_that_is_not_there_is_to_be_made(run: RunFolder) -> None:
    assert run.finished_score(CONFIGURATION, overwrite=False) is None
    assert not run.path.exists()


def test_the_same_configuration_has_nothing_to_do(run: RunFolder) -> None:
    begin(run)
    run.end(status="finished", score=0.75)
    assert run.finished_score(CONFIGURATION, overwrite=False) == 0.75
    assert run.finished_score(CONFIGURATION, overwrite=True) is None


def test_another_configuration_is_refused_and_named(run: RunFolder) -> None:
    begin(run)
    run.end(status="finished", score=0.75)
    other = {"seed": 0, "trainer": {"max_epochs": 4}}
    with pytest.raises(RunError, match=r"trainer\.max_epochs was 3, now 4.*tag=.*overwrite=true"):
        run.finished_score(other, overwrite=False)


def test_an_interrupted_run_is_to_be_resumed_unless_that_is_refused(run: RunFolder) -> None:
    begin(run)
    assert run.finished_score(CONFIGURATION, overwrite=False) is None
    with pytest.raises(RunError, match=r"was interrupted.*resume=auto goes on.*overwrite=true"):
        run.finished_score(CONFIGURATION, overwrite=False, resume="never")
    with pytest.raises(RunError, match=r"interrupted with another configuration: seed was 0, now 1"):
        run.finished_score({**CONFIGURATION, "seed": 1}, overwrite=False)


def test_a_folder_of_unknown_origin_is_refused(run: RunFolder) -> None:
    run.path.mkdir(parents=True)
    assert run.finished_score(CONFIGURATION, overwrite=False) is None  # killed before anything was written
    (run.path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds no run\.json"):
        run.finished_score(CONFIGURATION, overwrite=False)
    assert run.finished_score(CONFIGURATION, overwrite=True) is None


def test_a_run_goes_on_with_its_own_pixels_alone(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    record = {"configuration": CONFIGURATION, "store": "cache/a", "hardware": "2 CPU cores, precision 32"}
    run.begin(record, "seed: 0\n")
    (run.path / "checkpoints").mkdir()
    (run.path / "config.yaml").unlink()  # killed just before it was written
    run.resume(record, "seed: 0\n")
    assert (run.path / "config.yaml").read_text() == "seed: 0\n"
    assert capsys.readouterr().out == ""
    run.resume({**record, "hardware": "a GPU, precision bf16"}, "")
    assert "was begun on 2 CPU cores, precision 32" in capsys.readouterr().out
    found = run.record()
    assert found is not None
    assert found["status"] == "running"
    assert [again["hardware"] for again in found["resumed"]] == [record["hardware"], "a GPU, precision bf16"]
    assert (run.path / "checkpoints").is_dir()
    with pytest.raises(RunError, match=r"begun on the slices of cache/a, which now are cache/b"):
        run.resume({**record, "store": "cache/b"}, "")


def test_beginning_again_leaves_nothing_of_the_old_run(run: RunFolder) -> None:
    begin(run)
    (run.path / "checkpoints").mkdir()
    begin(run)
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "run.json"]


def test_missing_runs_are_listed_with_what_there_is(tmp_path: Path) -> None:
    there = RunFolder.of(tmp_path, "study", "resnext50", "seed0")
    begin(there)
    there.end(status="finished", score=1.0)
    there.predictions.write_bytes(b"")
    begin(RunFolder.of(tmp_path, "study", "densenet161", "seed0"))
    assert finished_runs(tmp_path, "study", ("resnext50",), "seed0") == {"resnext50": there}
    with pytest.raises(RunError) as caught:
        finished_runs(tmp_path, "study", ("resnext50", "densenet161", "inception_v3"), "seed0")
    for expected in (
        "densenet161's run seed0 was interrupted",
        "inception_v3 has no run seed0",
        "study/resnext50/seed0",
    ):
        assert expected in str(caught.value)


def test_a_study_has_one_split(tmp_path: Path) -> None:
    scans = tuple(ScanRecord(f"s{k}", f"s{k}", Path(), SPGC_CLASSES[k % 3]) for k in range(30))
    cohort = Cohort("small", Path(), SPGC_CLASSES, scans)
    split = study_split(tmp_path / "study", cohort, SplitSettings(validation=0.3, seed=1))
    assert not (tmp_path / "study").exists()
    save_split(tmp_path / "study", cohort, split)
    assert study_split(tmp_path / "study", cohort, SplitSettings(validation=0.3, seed=1)) == split
    with pytest.raises(RunError, match=r"All runs of a study share one split.*study="):
        study_split(tmp_path / "study", cohort, SplitSettings(validation=0.3, seed=2))
    from_file = SplitSettings(file=str(tmp_path / "study" / "split.csv"))
    assert study_split(tmp_path / "other", cohort, from_file) == split
