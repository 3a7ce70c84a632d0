"""Other seeds and splits of a study count as replicates only if nothing else differs."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.aggregate import write_store
from cnr_iemn.config.schema.settings import AugmentationSettings, BalancingSettings, SplitSettings, TrainerSettings
from cnr_iemn.data.predictions.slice_predictions import write_predictions
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.errors import RunError
from cnr_iemn.evaluation.stability import Repeats, find_repeats
from cnr_iemn.read_options import ReadOptions
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage2.ensemble import write_ensemble
from cnr_iemn.stage2.ensemble_runs import describe_ensemble, read_runs
from cnr_iemn.stage2.group_features import group_features, percentages
from cnr_iemn.utils.atomic_io import sha256_of_file
from cnr_iemn.utils.checksums import file_digests
from tests.builders import NO_SCANS, FakeScan, make_predictions, make_scans
from tests.pipeline import entry_point

pytestmark = pytest.mark.slow

MODELS = ("resnext50", "my_net")
SCANS = {
    name: FakeScan(scan.label, scan.split, n_slices=40, fold=k % 2)
    for k, (name, scan) in enumerate(make_scans(4, 2).items())
}
STORE = PixelSettings(size=32).fingerprint()
METRICS = {
    "schema_version": 2,
    "accuracy": 0.5,
    "balanced_accuracy": 0.4,
    "sensitivity": {"Normal": 0.7, "COVID-19": 0.3, "CAP": 0.2},
    "intervals": {"patient_bootstrap": {"macro_auc": {"value": 0.6, "low": 0.5, "high": 0.7}}},
}


def replicate_of(metrics: dict[str, Any]) -> dict[str, Any]:
    auc = metrics["intervals"]["patient_bootstrap"]["macro_auc"]["value"]
    return {**{name: metrics[name] for name in ("accuracy", "balanced_accuracy", "sensitivity")}, "macro_auc": auc}


def write_run(root: Path, study: str, model: str, tag: str, seed: int, *, split: int = 0, **metadata: object) -> None:
    run = RunFolder.of(root, study, model, tag)
    data = {"reader": "covid_ct_md", "fold": None, "folds": 2, "split": vars(SplitSettings(seed=split)), "exclude": []}
    data |= {"shuffle_training_labels": False, "pseudo_labels": None, "lobes": False}
    configuration: dict[str, Any] = {
        "study": study,
        "seed": seed,
        "tag": tag,
        "lungs": "pleura",
        "task": "slices",
        "trainer": vars(TrainerSettings()),
        "augmentation": vars(AugmentationSettings()),
        "balancing": vars(BalancingSettings()),
        "data": data,
        "model": {
            "image_size": 224,
            "position": "none",
            "library": "torchvision",
            "weights": "none",
            "tta": "none",
            "channels": ["grey", "mask", "product"],
        },
        "ingest": {"size": 32, "window": [-1000, 400], "crop": "none", **vars(ReadOptions())},
    }
    cohort = {"name": "three", "root": "/data/three", "n_scans": len(SCANS)}
    machine = {"hardware": "2 CPU cores", "versions": {"torch": "2.14"}, "scans": NO_SCANS}
    run.start({"configuration": configuration, "cohort": cohort, "store": str(root / STORE), **machine}, "")
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
    run.finish(status="finished", predictions_sha256=sha256_of_file(run.predictions))


def write_study(root: Path, study: str, *, split: int = 0, tags: dict[str, int], **metadata: object) -> None:
    for tag, seed in tags.items():
        for model in MODELS:
            write_run(root, study, model, tag, seed, split=split, **metadata)
    (root / study / "split.csv").write_text(f"split {split}")


def aggregated(root: Path, study: str, metrics: dict[str, Any] | None = None, **changes: object) -> None:
    joined = read_runs(root, study, MODELS, "seed0", features="paper")
    ensemble = describe_ensemble(joined)
    vars(ensemble).update(changes)
    folder = root / study / "ensembles" / "two"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(METRICS if metrics is None else metrics))
    write_ensemble(folder, replace(ensemble, files=file_digests(folder)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_study(tmp_path, "here", tags={"seed0": 0, "seed1": 1})
    return tmp_path


def repeats(root: Path, *, features: str = "paper", **asked: list[str]) -> Repeats:
    joined = read_runs(root, "here", MODELS, "seed0", features=features)
    ensemble = describe_ensemble(joined)
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
    assert list(found.seeds["seed1"].training_ids) == training
    rows = [percentages(array) for array in found.seeds["seed1"].training]
    np.testing.assert_array_equal(rows, features.loc[training])


def test_out_of_fold_the_folds_of_the_other_seed_are_joined(root: Path) -> None:
    write_study(root, "here", tags={f"seed{s}-fold{k}": s for s in (0, 1) for k in (0, 1)})
    found = repeats(root, features="out_of_fold", seeds=["seed1"]).seeds["seed1"]
    assert {len(sets) for sets in found.held_out.values()} == {2}
    rows = dict(zip(found.training_ids, map(percentages, found.training), strict=True))
    joined = read_runs(root, "here", MODELS, "seed1", features="out_of_fold")
    assert joined.folds is not None
    for fold, fold_runs in joined.folds.items():
        own = group_features(fold_runs.predictions)
        names = [name for name, scan in SCANS.items() if scan.split == "training" and scan.fold == fold]
        np.testing.assert_array_equal([rows[name] for name in names], own.loc[names])


def test_a_missing_tag_lists_the_existing_ones(root: Path) -> None:
    with pytest.raises(RunError, match=r"resnext50 has no run seed7.*here/my_net/seed1, here/resnext50/seed0"):
        repeats(root, seeds=["seed7"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: r["configuration"].update(lungs="border"), "lungs was pleura, now border"),
        (lambda r: r["configuration"]["data"]["split"].update(seed=3), "data.split.seed was 0, now 3"),
        (lambda r: r.update(store="cache/other"), "store was .*, now cache/other"),
        (lambda r: r["cohort"].update(root="/data/four"), "cohort.root was /data/three, now /data/four"),
    ],
)
def test_a_tag_that_differs_in_more_than_its_seed(
    root: Path, change: Callable[[dict[str, Any]], None], expected: str
) -> None:
    change_record(root, "here/my_net/seed1", change)  # not the first model: all are looked at
    with pytest.raises(RunError, match=rf"my_net/seed1 does not repeat .*my_net/seed0.*{expected}"):
        repeats(root, seeds=["seed1"])


def test_a_tag_on_another_split_or_with_an_existing_seed(root: Path) -> None:
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
    assert found == {"there": replicate_of(METRICS)}
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
    with pytest.raises(
        RunError, match=r"\(intervals: Field required\). Run python aggregate.py study=there ensemble=two .*again"
    ):
        repeats(root, splits=["there"])
    change_record(root, "there/my_net/seed0", lambda r: r["cohort"].update(n_scans=3))
    with pytest.raises(RunError, match=rf"cohort.n_scans was {len(SCANS)}, now 3"):
        repeats(root, splits=["there"])
    (root / "there" / "split.csv").write_text("split 0")
    with pytest.raises(RunError, match=r"here and there have the same split\.csv"):
        repeats(root, splits=["there"])


def test_square_brackets_in_a_folder_s_name_are_printed_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("[/red]", "[bold]"):
        root = tmp_path / name
        write_store(root / STORE, SCANS, 32)
        write_study(root, "here", tags={"seed0": 0})
        words = [f"runs='{root}'", "ensemble=resnext50", "permutations=0", "methods=false", "refits=0", "study=here"]
        assert entry_point("aggregate")(words) == 0
        assert f"{root}/here/ensembles/resnext50/report.html" in capsys.readouterr().out


def test_aggregate_takes_both_from_the_command_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_store(root / STORE, SCANS, 32)
    write_study(root, "there", split=1, tags={"seed0": 0})
    words = [f"runs={root}", "ensemble=[resnext50,my_net]", "permutations=0", "methods=false"]
    assert entry_point("aggregate")([*words, "study=there", "refits=0"]) == 0
    assert (
        entry_point("aggregate")([*words, "study=here", "refits=2", "seeds=[seed1]", "splits=[there]", "verbose=true"])
        == 0
    )
    folders = [root / study / "ensembles" / "resnext50+my_net" for study in ("here", "there")]
    here, there = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
    stability = here["stability"]
    assert stability["refits"]["n"] == 2
    assert stability["seeds"]["replicates"]["seed0"] == stability["splits"]["replicates"]["here"] == replicate_of(here)
    assert list(stability["seeds"]["replicates"]) == ["seed0", "seed1"]
    assert stability["splits"]["replicates"]["there"] == replicate_of(there)
    assert there["stability"] == {"refits": None, "seeds": None, "splits": None}
    assert "2 splits, mean" in capsys.readouterr().out
    assert entry_point("aggregate")([*words, "study=here", "seeds=[seed9]"]) == 2
    assert "resnext50 has no run seed9" in capsys.readouterr().err
