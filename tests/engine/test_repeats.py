"""Other seeds and other splits of a study are taken as such only where nothing else differs."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.aggregate import write_store
from cnr_iemn.engine.ensembles import describe_ensemble, write_ensemble
from cnr_iemn.engine.joined import join_runs
from cnr_iemn.engine.repeats import find_repeats
from cnr_iemn.engine.runs import RunFolder
from cnr_iemn.errors import RunError
from cnr_iemn.patients.evidence.spread import Repeats, figures_in
from cnr_iemn.patients.group_features import group_features
from cnr_iemn.patients.predictions import write_predictions
from cnr_iemn.permissions import Permissions
from cnr_iemn.settings.schema import SplitSettings
from tests.builders import FakeScan, make_predictions, make_scans
from tests.pipeline import entry_point

MODELS = ("resnext50", "my_net")
SCANS = {
    name: FakeScan(scan.label, scan.split, n_slices=40, fold=k % 2)
    for k, (name, scan) in enumerate(make_scans(4, 2).items())
}
METRICS = {
    "schema_version": 1,
    "accuracy": 0.5,
    "balanced_accuracy": 0.4,
    "sensitivity": {"Normal": 0.7, "COVID-19": 0.3, "CAP": 0.2},
    "intervals": {"patient_bootstrap": {"macro_auc": {"value": 0.6, "low": 0.5, "high": 0.7}}},
}


def write_run(root: Path, study: str, model: str, tag: str, seed: int, *, split: int = 0, **metadata: object) -> None:
    run = RunFolder.of(root, study, model, tag)
    data = {"fold": None, "folds": 2, "split": vars(SplitSettings(seed=split)), "exclude": []}
    data["shuffle_training_labels"] = False
    configuration: dict[str, Any] = {
        "study": study,
        "seed": seed,
        "tag": tag,
        "lungs": "pleura",
        "data": data,
        "model": {"image_size": 224, "position": "none", "library": "torchvision", "weights": "none"},
        "ingest": {"size": 32, "window": [-1000, 400], "crop": "none", **vars(Permissions())},
    }
    cohort = {"name": "three", "root": "/data/three", "n_scans": len(SCANS)}
    machine = {"hardware": "2 CPU cores", "versions": {"torch": "2.14"}}
    run.begin({"configuration": configuration, "cohort": cohort, "store": str(root / "store"), **machine}, "")
    fold = int(tag[-1]) if "fold" in tag else None
    scans = (
        SCANS
        if fold is None
        else {k: FakeScan(**{**vars(s), "slice_labelled": s.fold != fold}) for k, s in SCANS.items()}
    )
    predictions = make_predictions(model, scans, seed=seed, **{"tag": tag, "checkpoint": "last", **metadata})
    table = predictions.table
    table["used_for_selection"] = False
    table["slice_label"] = make_predictions(model, SCANS).table["slice_label"]
    write_predictions(run.predictions, predictions)
    run.end(status="finished")


def write_study(root: Path, study: str, *, split: int = 0, tags: dict[str, int], **metadata: object) -> None:
    for tag, seed in tags.items():
        for model in MODELS:
            write_run(root, study, model, tag, seed, split=split, **metadata)
    (root / study / "split.csv").write_text(f"split {split}")


def aggregated(root: Path, study: str, metrics: dict[str, Any] | None = None, **changes: object) -> None:
    joined = join_runs(root, study, MODELS, "seed0", features="paper")
    ensemble = describe_ensemble(study, joined.runs, joined.predictions)
    vars(ensemble).update(changes)
    folder = root / study / "ensembles" / "two"
    write_ensemble(folder, ensemble)
    (folder / "metrics.json").write_text(json.dumps(METRICS if metrics is None else metrics))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_study(tmp_path, "here", tags={"seed0": 0, "seed1": 1})
    return tmp_path


def repeats(root: Path, *, features: str = "paper", **asked: list[str]) -> Repeats:
    joined = join_runs(root, "here", MODELS, "seed0", features=features)
    ensemble = describe_ensemble("here", joined.runs, joined.predictions, joined.folds)
    return find_repeats(root, joined, ensemble, "two", **{"seeds": [], "splits": [], **asked})


def change_record(root: Path, place: str, change: Callable[[dict[str, Any]], None]) -> None:
    study, model, tag = place.split("/")
    run = RunFolder.of(root, study, model, tag)
    record = copy.deepcopy(run.record() or {})
    change(record)
    run.write_record(record)


def test_another_seed_s_runs_are_joined_as_the_first_s(root: Path) -> None:
    found = repeats(root, seeds=["seed1"])
    assert (found.tag, found.study, list(found.seeds), found.splits) == ("seed0", "here", ["seed1"], {})
    features = group_features({model: make_predictions(model, SCANS, seed=1) for model in MODELS})
    training = [name for name, scan in SCANS.items() if scan.split == "training"]
    pd.testing.assert_frame_equal(found.seeds["seed1"].training, features.loc[training], check_names=False)


def test_out_of_fold_the_folds_of_the_other_seed_are_joined(root: Path) -> None:
    write_study(root, "here", tags={f"seed{s}-fold{k}": s for s in (0, 1) for k in (0, 1)})
    found = repeats(root, features="out_of_fold", seeds=["seed1"]).seeds["seed1"]
    assert len(found.answering) == 2
    joined = join_runs(root, "here", MODELS, "seed1", features="out_of_fold")
    assert joined.folds is not None
    for fold, (_, predictions) in joined.folds.items():
        own = group_features(predictions)
        names = [name for name, scan in SCANS.items() if scan.split == "training" and scan.fold == fold]
        pd.testing.assert_frame_equal(found.training.loc[names], own.loc[names])


def test_a_missing_tag_lists_what_there_is(root: Path) -> None:
    with pytest.raises(RunError, match=r"resnext50 has no run seed7.*here/my_net/seed1, here/resnext50/seed0"):
        repeats(root, seeds=["seed7"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: r["configuration"].update(lungs="border"), "lungs was pleura, now border"),
        (lambda r: r["configuration"]["data"]["split"].update(seed=3), "data.split.seed was 0, now 3"),
        (lambda r: r.update(store="cache/other"), "store was .*/store, now cache/other"),
        (lambda r: r["cohort"].update(root="/data/four"), "cohort.root was /data/three, now /data/four"),
    ],
)
def test_a_tag_that_differs_in_more_than_its_seed(
    root: Path, change: Callable[[dict[str, Any]], None], expected: str
) -> None:
    change_record(root, "here/my_net/seed1", change)  # not the first model: all are looked at
    with pytest.raises(RunError, match=rf"my_net/seed1 does not repeat .*my_net/seed0.*{expected}"):
        repeats(root, seeds=["seed1"])


def test_a_tag_on_another_split_or_with_a_seed_that_is_there(root: Path) -> None:
    write_study(root, "here", tags={"elsewhere": 2}, split_sha256="0ther")
    with pytest.raises(RunError, match="on split 0ther"):
        repeats(root, seeds=["elsewhere"])
    write_study(root, "here", tags={"again": 1})
    with pytest.raises(RunError, match=r"seed1 and again .* both trained with seed 1"):
        repeats(root, seeds=["seed1", "again"])


def test_other_splits_bring_their_figures(root: Path) -> None:
    write_study(root, "there", split=1, tags={"seed0": 4})
    aggregated(root, "there")
    found = repeats(root, splits=["there"]).splits
    assert found == {"there": figures_in(METRICS)}
    assert found["there"]["macro_auc"] == 0.6


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"phantom": True}, "phantom False, that of there True"),
        ({"cohort": "four"}, "cohort three, that of there four"),
        ({"classes": ("Normal", "COVID-19")}, "classes Normal, COVID-19, CAP, that of there Normal, COVID-19"),
        ({"features": "out_of_fold"}, "features paper, that of there out_of_fold"),
    ],
)
def test_an_ensemble_of_another_kind(root: Path, changes: dict[str, Any], expected: str) -> None:
    write_study(root, "there", split=1, tags={"seed0": 0})
    aggregated(root, "there", **changes)
    with pytest.raises(RunError, match=expected):
        repeats(root, splits=["there"])


def test_a_study_on_the_same_split_with_other_settings_or_not_aggregated(root: Path) -> None:
    with pytest.raises(RunError, match=r"There is no trained ensemble at .*nowhere"):
        repeats(root, splits=["nowhere"])
    write_study(root, "there", split=1, tags={"seed0": 0})
    aggregated(root, "there", {key: value for key, value in METRICS.items() if key != "intervals"})
    with pytest.raises(RunError, match=r"lacks 'intervals'. Run python aggregate.py study=there ensemble=two again"):
        repeats(root, splits=["there"])
    change_record(root, "there/my_net/seed0", lambda r: r["cohort"].update(n_scans=3))
    with pytest.raises(RunError, match=rf"cohort.n_scans was {len(SCANS)}, now 3"):
        repeats(root, splits=["there"])
    (root / "there" / "split.csv").write_text("split 0")
    with pytest.raises(RunError, match=r"here and there have the same split\.csv"):
        repeats(root, splits=["there"])


def test_aggregate_takes_both_from_the_command_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_store(root / "store", SCANS, 32)
    write_study(root, "there", split=1, tags={"seed0": 0})
    words = [f"runs={root}", "ensemble=[resnext50,my_net]", "permutations=0", "methods=false"]
    assert entry_point("aggregate")([*words, "study=there", "refits=0"]) == 0
    assert entry_point("aggregate")([*words, "study=here", "refits=2", "seeds=[seed1]", "splits=[there]"]) == 0
    folders = [root / study / "ensembles" / "resnext50+my_net" for study in ("here", "there")]
    here, there = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
    spread = here["spread"]
    assert spread["refits"]["n"] == 2
    assert spread["seeds"]["each"]["seed0"] == spread["splits"]["each"]["here"] == figures_in(here)
    assert list(spread["seeds"]["each"]) == ["seed0", "seed1"]
    assert spread["splits"]["each"]["there"] == figures_in(there)
    assert there["spread"] == {"refits": None, "seeds": None, "splits": None}
    assert "these 2 splits, mean" in capsys.readouterr().out
    assert entry_point("aggregate")([*words, "study=here", "seeds=[seed9]"]) == 2
    assert "resnext50 has no run seed9" in capsys.readouterr().err
