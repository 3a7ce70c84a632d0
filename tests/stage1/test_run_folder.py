"""Run folders: finished, interrupted, or of another configuration; one split for each study."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cnr_iemn.config.schema.settings import ModelSettings, SplitSettings
from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.splits import read_split
from cnr_iemn.errors import RunError
from cnr_iemn.stage1.training.roles import save_split, study_split
from cnr_iemn.stage1.training.run_folder import RunFolder, finished_runs
from cnr_iemn.stage1.training.run_record import describe_config_diff

CONFIGURATION = {"seed": 0, "trainer": {"max_epochs": 3}}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.of(tmp_path, "study", "resnext50", "seed0")


def begin(run: RunFolder) -> None:
    run.start({"configuration": CONFIGURATION}, "seed: 0\n")


def test_a_missing_run_is_to_be_trained(run: RunFolder) -> None:
    assert run.finished_score(CONFIGURATION, overwrite=False) is None
    assert not run.path.exists()


def test_the_same_configuration_has_nothing_to_do(run: RunFolder) -> None:
    begin(run)
    run.finish(status="finished", score=0.75)
    assert run.finished_score(CONFIGURATION, overwrite=False) == 0.75
    assert run.finished_score(CONFIGURATION, overwrite=True) is None


def test_settings_are_read_as_they_were_written(run: RunFolder) -> None:
    """Lists stay lists: a tuple in their place would be another configuration."""
    data: dict[str, Any] = {
        "exclude": ["P001"],
        "folds": 3,
        "split": {"seed": 0, "file": None},
        "shuffle_training_labels": False,
    }
    data["lobes"] = False
    configuration = {
        "ingest": {"window": [-1000.0, 400.0], "size": 64, "crop": "none"},
        "data": data,
        "model": asdict(ModelSettings(name="resnext50", image_size=32)),
        "trainer": {"milestones": [1, 2], "learning_rate": 1e-4, "ema": None},
    }
    run.start({"configuration": configuration}, "")
    assert run.finished_score(configuration, overwrite=False) is None
    assert describe_config_diff((run.record() or {})["configuration"], configuration) == ""


def test_a_run_from_before_a_setting_was_trained_with_its_default(run: RunFolder) -> None:
    model = asdict(ModelSettings(name="resnext50", image_size=32))
    earlier = {key: value for key, value in model.items() if key != "tta"}
    run.start({"configuration": {"seed": 0, "model": earlier}}, "")
    run.finish(status="finished", score=0.75)
    assert run.finished_score({"seed": 0, "model": model}, overwrite=False) == 0.75
    assert (run.record() or {})["configuration"]["model"] == model
    with pytest.raises(RunError, match=r"model\.tta was none, now flip"):
        run.finished_score({"seed": 0, "model": {**model, "tta": "flip"}}, overwrite=False)


def test_another_configuration_is_refused_and_named(run: RunFolder) -> None:
    begin(run)
    run.finish(status="finished", score=0.75)
    other = {"seed": 0, "trainer": {"max_epochs": 4}}
    with pytest.raises(RunError, match=r"trainer\.max_epochs was 3, now 4.*tag=.*overwrite=true"):
        run.finished_score(other, overwrite=False)


def test_an_interrupted_run_is_to_be_resumed_unless_resuming_is_off(run: RunFolder) -> None:
    begin(run)
    assert run.finished_score(CONFIGURATION, overwrite=False) is None
    with pytest.raises(RunError, match=r"was interrupted.*resume=auto goes on.*overwrite=true"):
        run.finished_score(CONFIGURATION, overwrite=False, resume="never")
    with pytest.raises(RunError, match=r"interrupted with another configuration: seed was 0, now 1"):
        run.finished_score({**CONFIGURATION, "seed": 1}, overwrite=False)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.1, 73.77])
def test_a_score_outside_0_to_1_is_refused(score: float, run: RunFolder) -> None:
    begin(run)
    run.finish(status="finished", score=score)
    with pytest.raises(RunError, match=r"run\.json is damaged.*score"):
        run.finished_score(CONFIGURATION, overwrite=False)


def test_a_run_without_validation_slices_has_no_score(run: RunFolder) -> None:
    begin(run)
    run.finish(status="finished", score=None)
    score = run.finished_score(CONFIGURATION, overwrite=False)
    assert score is not None
    assert math.isnan(score)


@pytest.mark.parametrize("key", ["store", "scans", "hardware", "run_id"])
def test_a_run_with_an_incomplete_record_does_not_resume(key: str, run: RunFolder) -> None:
    scans = {"pixels": {"P1": "a1"}, "labels": {"P1": "b1"}, "roles": {"P1": "c1"}}
    record = {"configuration": CONFIGURATION, "store": "cache/a", "scans": scans, "hardware": "2 CPU cores"}
    run.start(record, "")
    run.write_record({name: value for name, value in (run.record() or {}).items() if name != key})
    with pytest.raises(RunError, match=rf"run\.json has no {key}: an earlier version.*overwrite=true"):
        run.resume(record, "")


def test_a_file_in_place_of_the_checkpoints_is_refused_before_an_epoch(run: RunFolder) -> None:
    scans = {"pixels": {"P1": "a1"}, "labels": {"P1": "b1"}, "roles": {"P1": "c1"}}
    record = {"configuration": CONFIGURATION, "store": "cache/a", "scans": scans, "hardware": "2 CPU cores"}
    run.start(record, "")
    run.checkpoints.touch()
    with pytest.raises(RunError, match=r"checkpoints is not a folder.*Remove it"):
        run.resume(record, "")


def test_a_folder_of_unknown_origin_is_refused(run: RunFolder) -> None:
    run.path.mkdir(parents=True)
    assert run.finished_score(CONFIGURATION, overwrite=False) is None  # killed before anything was written
    (run.path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds no run\.json"):
        run.finished_score(CONFIGURATION, overwrite=False)
    assert run.finished_score(CONFIGURATION, overwrite=True) is None


def test_a_run_resumes_with_the_same_pixels_only(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    scans = {"pixels": {"P1": "a1"}, "labels": {"P1": "b1"}, "roles": {"P1": "c1"}}
    record = {
        "configuration": CONFIGURATION,
        "store": "cache/a",
        "scans": scans,
        "hardware": "2 CPU cores, precision 32",
    }
    run.start(record, "seed: 0\n")
    (run.path / "checkpoints").mkdir()
    (run.path / "config.yaml").unlink()  # killed just before it was written
    run.resume(record, "seed: 0\n")
    assert (run.path / "config.yaml").read_text() == "seed: 0\n"
    assert capsys.readouterr().out == ""
    run.resume({**record, "hardware": "a GPU, precision bf16"}, "")
    assert "was begun on 2 CPU cores, precision 32" in capsys.readouterr().err
    entries = run.record()
    assert entries is not None
    assert entries["status"] == "running"
    assert [again["hardware"] for again in entries["resumed"]] == [record["hardware"], "a GPU, precision bf16"]
    assert (run.path / "checkpoints").is_dir()
    with pytest.raises(RunError, match=r"begun on the slices of cache/a, and these settings give those of cache/b"):
        run.resume({**record, "store": "cache/b"}, "")


def test_a_restart_removes_the_old_run(run: RunFolder) -> None:
    begin(run)
    (run.path / "checkpoints").mkdir()
    begin(run)
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "run.json"]


def test_missing_runs_are_listed_with_the_existing_ones(tmp_path: Path) -> None:
    finished = RunFolder.of(tmp_path, "study", "resnext50", "seed0")
    begin(finished)
    finished.finish(status="finished", score=1.0)
    finished.predictions.write_bytes(b"")
    begin(RunFolder.of(tmp_path, "study", "densenet161", "seed0"))
    assert finished_runs(tmp_path, "study", ("resnext50",), "seed0") == {"resnext50": finished}
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
    with pytest.raises(RunError, match=r"the same scans.*data\.split\.file=.* to use it as it is"):
        study_split(tmp_path / "study", cohort, SplitSettings(validation=0.3, seed=2))
    fewer = Cohort("small", Path(), SPGC_CLASSES, scans[:-3])
    with pytest.raises(
        RunError, match=r"begun on other scans\. All runs of a study share one split\. Give another study=\.$"
    ):
        study_split(tmp_path / "study", fewer, SplitSettings(validation=0.3, seed=1))
    (tmp_path / "odd" / "split.csv").mkdir(parents=True)
    with pytest.raises(RunError, match=r"split\.csv is a folder where the study's split should be"):
        study_split(tmp_path / "odd", cohort, SplitSettings(validation=0.3, seed=1))
    from_file = SplitSettings(file=str(tmp_path / "study" / "split.csv"))
    assert study_split(tmp_path / "other", cohort, from_file) == split


def test_of_two_runs_that_start_a_study_together_the_second_uses_the_first_s_split(tmp_path: Path) -> None:
    scans = tuple(ScanRecord(f"s{k}", f"s{k}", Path(), SPGC_CLASSES[k % 3]) for k in range(30))
    cohort = Cohort("small", Path(), SPGC_CLASSES, scans)
    splits = [study_split(tmp_path / "study", cohort, SplitSettings(validation=0.3, seed=seed)) for seed in range(8)]
    barrier = threading.Barrier(len(splits))

    def begin_study(split: dict[str, str]) -> bool:
        barrier.wait()
        try:
            save_split(tmp_path / "study", cohort, split)
        except RunError:
            return False
        return True

    with ThreadPoolExecutor(len(splits)) as threads:
        begun = list(threads.map(begin_study, splits))
    assert begun.count(True) == 1
    won = splits[begun.index(True)]
    assert read_split(tmp_path / "study" / "split.csv", cohort) == won
    save_split(tmp_path / "study", cohort, won)
