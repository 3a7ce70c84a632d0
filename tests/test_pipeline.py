"""The whole way from DICOM files to a patient's class, through the entry points."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax

from cnr_iemn.constants import PHANTOM_NOTICE
from cnr_iemn.data.predictions.slice_predictions import read_predictions
from cnr_iemn.data.slice_store import SliceStore, StoredScan
from cnr_iemn.stage2.ensemble import load_ensemble_method, read_ensemble, signed_text
from cnr_iemn.stage2.new_scans import read_new_scans
from cnr_iemn.stage2.scan_predictions import predict_sets
from tests.pipeline import MODELS, SMALL, TINY, entry_point, measured_rows

pytestmark = pytest.mark.slow

ENSEMBLE = "resnext50+densenet161"


def study(folder: Path) -> list[str]:
    return [f"ingest.cache={folder / 'cache'}", f"runs={folder / 'runs'}", "study=tiny"]


@pytest.fixture
def copy(tiny_study: Path, tmp_path: Path) -> Path:
    """A copy of the runs that a test may change, with the store where it was."""
    shutil.copytree(tiny_study / "runs", tmp_path / "runs")
    return tmp_path


def test_a_run_leaves_what_the_contract_says(tiny_study: Path) -> None:
    for model in MODELS:
        run = tiny_study / "runs" / "tiny" / model / "seed0"
        names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
        assert names == {
            "config.yaml",
            "run.json",
            "metrics.csv",
            "metrics.json",
            "predictions.parquet",
            "features.npy",
            "checkpoints/best.ckpt",
        }
        record = json.loads((run / "run.json").read_text())
        assert (record["status"], record["notice"], record["phantom"]) == ("finished", PHANTOM_NOTICE, True)
        assert json.loads((run / "metrics.json").read_text())["notice"] == PHANTOM_NOTICE
        (epoch,) = pd.read_csv(run / "metrics.csv").to_dict("records")
        assert set(epoch) >= {"epoch", "learning_rate", "train/loss", "val/slice_accuracy", "val/recall_CAP"}
        assert epoch["learning_rate"] == pytest.approx(1e-4)
        state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True, map_location="cpu")["state_dict"]
        assert "network.class_head.weight" in state


def test_every_slice_of_every_scan_is_predicted_labelled_or_not(tiny_study: Path) -> None:
    split = pd.read_csv(tiny_study / "runs" / "tiny" / "split.csv").set_index("scan_id")
    assert len(split) == 15
    for model in MODELS:
        predictions = read_predictions(tiny_study / "runs" / "tiny" / model / "seed0" / "predictions.parquet")
        table = predictions.table
        assert set(table["scan_id"]) == set(split.index)
        sides = table.groupby("scan_id")["split"].first()
        assert (sides == split["split"].loc[sides.index]).all()
        assert table.loc[table["scan_id"] == "P005", "slice_label"].isna().all()
        trained = set(table.loc[table["seen_in_training"], "scan_id"])
        assert trained == set(predictions.metadata.training_scan_ids)
        assert trained == set(split.index[(split["split"] == "training") & split["slice_labelled"]])


def test_no_patient_is_on_both_sides(tiny_study: Path) -> None:
    split = pd.read_csv(tiny_study / "runs" / "tiny" / "split.csv")
    assert (split.groupby("patient_id")["split"].nunique() == 1).all()


def test_the_ensemble_joins_the_backbones(tiny_study: Path) -> None:
    folder = tiny_study / "runs" / "tiny" / "ensembles" / ENSEMBLE
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["models"] == list(MODELS)
    assert metrics["n_features"] == 120
    assert metrics["n_patients"] == 6
    assert metrics["notice"] == PHANTOM_NOTICE
    assert json.loads((folder / "ensemble.json").read_text())["notice"] == PHANTOM_NOTICE
    assert (pd.read_csv(folder / "patients.csv")["notice"] == PHANTOM_NOTICE).all()


def test_a_scan_under_two_names_on_two_sides_is_refused(
    tiny_study: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    split = pd.read_csv(copy / "runs" / "tiny" / "split.csv").set_index("scan_id")["split"]
    learnt, judged = (split.index[split == side][0] for side in ("training", "validation"))
    as_stored = SliceStore.scan

    def twins(store: SliceStore, scan_id: str) -> StoredScan:
        scan = as_stored(store, scan_id)
        return replace(scan, grey_sha256="one and the same") if scan_id in (learnt, judged) else scan

    monkeypatch.setattr(SliceStore, "scan", twins)
    train = [*TINY, f"ingest.cache={tiny_study / 'cache'}", *study(copy)[1:], "model=resnext50", "tag=twins"]
    aggregate = [*study(copy)[1:], f"ensemble=[{','.join(MODELS)}]"]
    for name, words in (("train", train), ("aggregate", aggregate)):
        assert entry_point(name)(words) == 2
        said = capsys.readouterr().err
        assert all(twin in said for twin in (f"{learnt} (training)", f"{judged} (validation)"))
    assert not (copy / "runs" / "tiny" / "resnext50" / "twins").exists()


def test_a_finished_run_is_not_made_again(tiny_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = tiny_study / "runs" / "tiny" / "resnext50" / "seed0" / "predictions.parquet"
    before = predictions.stat().st_mtime_ns
    assert entry_point("train")([*TINY, *study(tiny_study), "model=resnext50"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert predictions.stat().st_mtime_ns == before


def test_training_twice_with_one_seed_gives_the_same_metrics(tiny_study: Path, copy: Path) -> None:
    arguments = [*TINY, *study(copy), f"ingest.cache={tiny_study / 'cache'}", "model=resnext50"]
    assert entry_point("train")([*arguments, "overwrite=true"]) == 0
    runs = [folder / "runs" / "tiny" / "resnext50" / "seed0" for folder in (tiny_study, copy)]
    first, second = (measured_rows(run) for run in runs)
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    one, other = (read_predictions(run / "predictions.parquet") for run in runs)
    assert np.array_equal(one.probabilities, other.probabilities)
    assert one.metadata.checkpoint == other.metadata.checkpoint == "best"


def test_predict_gives_the_answer_of_the_study(
    tiny_study: Path, varied_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path
    shutil.copytree(varied_study / "runs", copy / "runs")
    (cohort,) = tiny_study.glob("cache/phantom-*/Index.csv")
    scan = cohort.parent / "COVID-19 subjects" / "P005"
    words = [f"input={scan}", *study(copy)[1:], f"ensemble=[{','.join(MODELS)}]", "gpus=0", "engine=torch"]
    assert entry_point("predict")(words) == 0
    assert PHANTOM_NOTICE in capsys.readouterr().out
    output = copy / "runs" / "tiny" / "predictions" / "P005"
    document = json.loads((output / "predictions.json").read_text())
    (answer,) = document["scans"]
    assert document["notice"] == PHANTOM_NOTICE
    patients = pd.read_csv(copy / "runs" / "tiny" / "ensembles" / ENSEMBLE / "patients.csv").set_index("scan_id")
    assert answer["class"] == patients.loc["P005", "predicted"]
    assert answer["probabilities"]["CAP"] == pytest.approx(patients.loc["P005", "p_CAP"], abs=1e-6)
    for model in MODELS:
        predictions = read_predictions(copy / "runs" / "tiny" / model / "seed0" / "predictions.parquet")
        rows = predictions.table[predictions.table["scan_id"] == "P005"]
        found = [entry["probabilities"][model]["COVID-19"] for entry in answer["slices"]]
        assert found == pytest.approx(rows["p_COVID-19"].tolist(), abs=2e-2)  # bf16, other batches
    for name in ("predictions.csv", "slices.csv"):
        assert (pd.read_csv(output / name)["notice"] == PHANTOM_NOTICE).all()
    calibrated = pd.Series({name: patients.loc["P005", f"calibrated_{name}"] for name in document["classes"]})
    assert answer["calibrated"] == pytest.approx(calibrated.to_dict(), abs=1e-6)
    assert calibrated.sum() == pytest.approx(1)
    frozen = document["calibration"]
    assert answer["undecided"] is bool(calibrated.max() < frozen["threshold"])
    metrics = json.loads((copy / "runs" / "tiny" / "ensembles" / ENSEMBLE / "metrics.json").read_text())
    assert frozen["temperature"] == metrics["calibration"]["temperature"]
    assert (frozen["n"], frozen["answer_share"], frozen["cohort"]) == (9, 0.9, metrics["cohort"])
    (row,) = pd.read_csv(output / "predictions.csv").to_dict("records")
    assert (row["class"], row["undecided"], row["phantom"]) == (answer["class"], answer["undecided"], True)
    assert row["calibrated_CAP"] == pytest.approx(answer["calibrated"]["CAP"])
    new = read_new_scans(output / "predictions.parquet")
    ensemble = read_ensemble(copy / "runs", "tiny", ENSEMBLE)
    method = load_ensemble_method(copy / "runs" / "tiny" / "ensembles" / ENSEMBLE, ensemble, again="")
    assert predict_sets(method, new.sets)[0].tolist() == list(answer["probabilities"].values())
    margins = [
        each["base"] + sum(sum(thirds.values()) for thirds in each["models"].values())
        for each in (answer["contributions"][name] for name in document["classes"])
    ]
    assert softmax(margins).tolist() == pytest.approx(list(answer["probabilities"].values()), abs=1e-5)
    page = (output / answer["page"]).read_text()
    assert answer["page"] == "P005.html"
    assert page.index(PHANTOM_NOTICE) < page.index("Model output: ") < page.index("<table")
    assert page.count('<div class="layers">') == page.count("data:image/png") in (1, 2, 3)  # slices, each with Grad-CAM
    assert page.count("3 (33%)") == 3  # nine training scans


def test_one_bad_scan_stops_no_other(tiny_study: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cohort,) = tiny_study.glob("cache/phantom-*/Index.csv")
    for name in ("P004", "P005"):
        shutil.copytree(cohort.parent / "COVID-19 subjects" / name, copy / "scans" / name)
    victim = sorted((copy / "scans" / "P004").iterdir())[3]
    victim.write_bytes(victim.read_bytes()[:-200])
    output = copy / "runs" / "tiny" / "predictions" / "scans"
    output.mkdir(parents=True)
    earlier = {"scans": [{"page": page} for page in ("P004.html", "P005.html", "../P.html", "predictions.csv", None)]}
    (output / "predictions.json").write_text(json.dumps(earlier))
    for name in ("P004.html", "P005.html", "another.html", "../P.html"):
        (output / name).write_text("an earlier answer")
    words = [f"input={copy / 'scans'}", *study(copy)[1:], f"ensemble=[{','.join(MODELS)}]", "gpus=0"]
    assert entry_point("predict")([*words, f"output={output}", "pages=false"]) == 1
    document = json.loads((output / "predictions.json").read_text())
    assert [answer["scan"] for answer in document["scans"]] == ["P005"]
    assert list(document["refused"]) == ["P004"]
    assert document["scans"][0]["page"] is None
    assert [path.name for path in output.glob("*.html")] == ["another.html"]  # which nothing says is of predict.py
    assert (output / "../P.html").is_file()
    assert victim.name in capsys.readouterr().err


def test_labelled_scans_are_scored_and_a_study_compared(
    tiny_study: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cohort,) = tiny_study.glob("cache/phantom-*/Index.csv")
    split = pd.read_csv(copy / "runs" / "tiny" / "split.csv").set_index("scan_id")["split"]
    held_out, seen = (split.index[split == side] for side in ("validation", "training"))
    for scan_id in held_out[:3]:
        (source,) = cohort.parent.glob(f"*/{scan_id}")
        shutil.copytree(source, copy / "T1" / scan_id)
    victim = sorted((copy / "T1" / held_out[0]).iterdir())[3]
    victim.write_bytes(victim.read_bytes()[:-200])
    ensemble = [*study(copy)[1:], f"ensemble=[{','.join(MODELS)}]"]
    assert entry_point("predict")([*ensemble, "gpus=0", "engine=torch", f"input={copy / 'T1'}"]) == 1  # as validated
    folder = copy / "runs" / "tiny" / "ensembles" / ENSEMBLE
    patients = pd.read_csv(folder / "patients.csv").set_index("scan_id")
    lines = [f"{scan_id.upper()},{patients.loc[scan_id, 'label'].lower()}" for scan_id in held_out[:3]]
    (copy / "T1-labels.csv").write_text("\ufeffStudy,Label\n" + "\n".join(lines), encoding="utf-8")
    predictions = copy / "runs" / "tiny" / "predictions" / "T1" / "predictions.parquet"
    words = [*ensemble, f"evaluate={predictions}", f"labels={copy / 'T1-labels.csv'}"]
    capsys.readouterr()
    assert entry_point("aggregate")(words) == 0
    said = capsys.readouterr().out
    assert PHANTOM_NOTICE in said
    assert f"of class {patients.loc[held_out[0], 'label']}: {held_out[0]}" in said
    scored = pd.read_csv(folder / "external" / "T1" / "patients.csv").set_index("scan_id")
    code = json.loads(predictions.with_suffix(".json").read_text())["codes"][held_out[0]]
    assert json.loads((folder / "external" / "T1" / "metrics.json").read_text())["refused"] == {code: 1}
    assert scored.loc[held_out[0], "code"] == code
    columns = ["p_Normal", "p_COVID-19", "p_CAP", "calibrated_CAP"]
    assert scored.loc[held_out[1:3], columns].to_numpy() == pytest.approx(
        patients.loc[held_out[1:3], columns].to_numpy(), abs=1e-6
    )

    ensemble_file = json.loads((folder / "ensemble.json").read_text())
    (stored,) = tiny_study.glob(f"cache/phantom-*/*/{held_out[1]}/scan.json")
    assert set(ensemble_file["learnt_from"]) == set(seen)
    ensemble_file["learnt_from"][seen[0]] = json.loads(stored.read_text())["grey_sha256"]
    (folder / "ensemble.json").write_text(signed_text(ensemble_file))
    assert entry_point("aggregate")(words) == 2
    assert f"The study was trained on {held_out[1]} (training scan {seen[0]})" in capsys.readouterr().err

    shutil.copytree(copy / "runs" / "tiny" / "ensembles", copy / "runs" / "other" / "ensembles")
    assert entry_point("aggregate")([*ensemble, "compare=other"]) == 0
    found = json.loads((folder / "comparison-other.json").read_text())
    assert (found["n"], found["accuracy"]["comparison"]["difference"]) == (6, 0)
    assert entry_point("aggregate")([*ensemble, "compare=other", "compare_on=T1"]) == 0
    assert (folder / "external" / "T1" / "comparison-other.json").is_file()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trainer.max_epochs=2"], "trainer.max_epochs was 1, now 2"),
        (["trainer.gpus=99"], "gpus=99 was asked for, but torch finds"),
        (["data.split.seed=7", "tag=other"], "All runs of a study share one split"),
        (["data.reader=covid_ct_md", "data.root=/nowhere"], "data.root=/nowhere is not a folder"),
        (["data.labelled_normals=0", "study=fresh"], "No slice-labelled training scan of class Normal"),
        (["model.weights=/nowhere.pth", "study=fresh"], "model.weights=/nowhere.pth is neither imagenet nor none"),
    ],
)
def test_what_cannot_be_trained_writes_nothing(
    tiny_study: Path, copy: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    before = sorted(copy.rglob("*"))
    cache = f"ingest.cache={tiny_study / 'cache'}"
    assert entry_point("train")([*TINY, *study(copy), cache, "model=resnext50", *words]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert sorted(copy.rglob("*")) == before


def test_aggregation_refuses_what_is_missing_or_of_another_store(
    tiny_study: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aggregate = entry_point("aggregate")
    assert aggregate([*study(copy)[1:], "ensemble=all"]) == 2
    assert "inception_v3 has no run seed0" in capsys.readouterr().err
    pytest.importorskip("timm", reason="an extra: pip install '.[timm]'")
    words = [*TINY, *study(copy), f"ingest.cache={tiny_study / 'cache'}", *SMALL]
    assert entry_point("train")([*words, "ingest.size=48"]) == 0
    capsys.readouterr()
    assert aggregate([*study(copy)[1:], "ensemble=[resnext50,test_resnet]"]) == 2
    error = capsys.readouterr().err
    assert "on store" in error
    assert "resnext50" in error
    assert "test_resnet" in error


def test_predict_refuses_a_folder_without_dicom_and_an_untrained_study(
    tiny_study: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "empty").mkdir()
    predict = entry_point("predict")
    words = [*study(copy)[1:], f"ensemble=[{','.join(MODELS)}]", "gpus=0", f"input={copy / 'empty'}"]
    assert predict(words) == 2
    assert "No CT scan (DICOM, zip, NIfTI)" in capsys.readouterr().err
    assert predict([*words, "study=none"]) == 2
    assert "There is no trained ensemble" in capsys.readouterr().err
    checkpoint = copy / "runs" / "tiny" / "densenet161" / "seed0" / "checkpoints" / "best.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    (scan,) = tiny_study.glob("cache/phantom-*/COVID-19 subjects/P005")
    assert predict([*words[:-1], f"input={scan}"]) == 2
    assert "SHA-256 differs" in capsys.readouterr().err


def test_shuffled_training_labels_leave_the_validation_labels_alone(tiny_study: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="an extra: pip install '.[timm]'")
    words = [*TINY, *study(tmp_path), f"ingest.cache={tiny_study / 'cache'}", *SMALL]
    assert entry_point("train")([*words, "data.shuffle_training_labels=true"]) == 0
    runs = [tiny_study / "runs/tiny/resnext50/seed0", tmp_path / "runs/tiny/test_resnet/seed0"]
    true, shuffled = (read_predictions(run / "predictions.parquet").scans for run in runs)
    held_out = true["split"] == "validation"
    assert (true.loc[held_out, "label"] == shuffled.loc[held_out, "label"]).all()
    assert (true.loc[~held_out, "label"] != shuffled.loc[~held_out, "label"]).any()
    assert sorted(true["label"]) == sorted(shuffled["label"])
