"""Cohorts that are not COVID-CT-MD, through the entry points: other classes, images, and slices without a scan."""

import csv
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cnr_iemn.config.search_space import setting_words
from tests.pipeline import QUICK, SMALL, entry_point

pytestmark = pytest.mark.slow

pytest.importorskip("timm", reason="an extra: pip install '.[timm]'")

WORDS = (
    "data=manifest",
    *SMALL,
    "model.weights=none",
    "model.image_size=32",
    "ingest.size=48",
    "ingest.workers=1",
    "trainer.max_epochs=1",
    "trainer.batch_size=8",
    "trainer.gpus=0",
    "balancing=auto",
    "study=own",
)


def write_cohort(folder: Path, *, slices: int, empty_last: bool = False) -> Path:
    """Write 8 healthy and 8 sick scans of so many PNG slices, the sick with an opacity, and their manifest.

    `empty_last`: the last slice of each shows no lung.
    """
    rng = np.random.default_rng(0)
    lines = ["scan_id,path,class,split"]
    for k in range(16):
        label = "sick" if k % 2 else "healthy"
        paths = []
        for index in range(slices):
            hu = np.full((48, 48), -1000.0)
            hu[6:42, 4:44] = 40
            hu[12:34, 8:21] = hu[12:34, 27:40] = -850
            if k % 2:
                hu[20:28, 10:18] = -450
            if empty_last and index == slices - 1:
                hu[6:42, 4:44] = 40
            path = folder / f"images/{k}-{index}.png"
            path.parent.mkdir(exist_ok=True)
            grey = (hu + rng.normal(0, 10, hu.shape) + 1000).clip(0, 1400) / 1400 * 255
            assert cv2.imwrite(str(path), np.rint(grey).astype(np.uint8))
            paths.append(f"images/{path.name}")
        lines.append(f"s{k},{';'.join(paths)},{label},{'validation' if k >= 12 else 'training'}")
    manifest = folder / "scans.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def test_loose_slices_train_and_say_why_they_cannot_be_aggregated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_cohort(tmp_path, slices=1)
    runs = f"runs={tmp_path / 'runs'}"
    words = [*WORDS, runs, f"data.csv={manifest}", f"ingest.cache={tmp_path / 'cache'}"]
    assert entry_point("train")(words) == 0
    run = tmp_path / "runs" / "own" / "test_resnet" / "seed0"
    table = pd.read_parquet(run / "predictions.parquet")
    assert {"p_healthy", "p_sick"} <= set(table.columns)
    assert table.groupby("split").size().to_dict() == {"training": 12, "validation": 4}
    assert (table["slice_label"] == table["label"]).all()
    metrics = json.loads((run / "metrics.json").read_text())
    assert "notice" not in metrics
    assert metrics["validation_slices"]["n_slices"] == 4
    capsys.readouterr()
    assert entry_point("aggregate")([runs, "study=own", "ensemble=test_resnet"]) == 2
    assert "Every scan of this study has one slice" in capsys.readouterr().err


def test_scans_of_image_slices_reach_the_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_cohort(tmp_path, slices=3)
    labels = tmp_path / "labels.csv"
    rows = [f"s{k},{index},sick" for k in range(1, 16, 2) for index in range(3)]
    labels.write_text("\n".join(["scan_id,slice_index,class", *rows]) + "\n")
    runs = f"runs={tmp_path / 'runs'}"
    words = [runs, f"data.csv={manifest}", f"data.slices={labels}", f"ingest.cache={tmp_path / 'cache'}"]
    assert entry_point("train")([*WORDS, *words]) == 0
    assert entry_point("aggregate")([runs, "study=own", "ensemble=test_resnet", *QUICK]) == 0
    metrics = json.loads((tmp_path / "runs/own/ensembles/test_resnet/metrics.json").read_text())
    assert metrics["classes"] == ["healthy", "sick"]
    assert metrics["n_features"] == 40
    assert metrics["n_patients"] == 4


def test_without_labelled_validation_slices_there_is_a_sentence_and_nothing_to_stop_early_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_cohort(tmp_path, slices=3)
    labels = tmp_path / "labels.csv"
    rows = [f"s{k},{index},sick" for k in range(1, 12, 2) for index in range(3)]  # of training scans alone
    labels.write_text("\n".join(["scan_id,slice_index,class", *rows]) + "\n")
    words = [*WORDS, f"runs={tmp_path / 'runs'}", f"data.csv={manifest}", f"data.slices={labels}"]
    words += [f"ingest.cache={tmp_path / 'cache'}", "data.labelled_normals=6"]
    assert entry_point("train")([*words, "trainer.early_stopping=2"]) == 2
    said = capsys.readouterr()
    assert "trainer.early_stopping=2 looks at validation slices, and no scan" in said.err
    assert not (tmp_path / "runs").exists()
    assert entry_point("train")(words) == 0
    said = capsys.readouterr()
    assert "No slice of a validation scan has a label, so that no figure tells how good this network is" in said.out
    assert "nan" not in (said.out + said.err).lower()


ODD = "CT-1 (<25%), 'a' = [b] | \"c\""


def write_odd_cohort(folder: Path) -> list[str]:
    """Write a cohort of an odd class without slice labels, and three scans without a class with the pixels of others.

    The last slice of each shows no lung. Returns words of train.py.
    """
    manifest = write_cohort(folder, slices=3, empty_last=True)
    rows = [line.split(",") for line in manifest.read_text().splitlines()[1:]]
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["scan_id", "path", "class", "split"])
        writer.writerows([scan, path, ODD if label == "sick" else label, side] for scan, path, label, side in rows)
        writer.writerows([f"u{k}", rows[k][1], "", ""] for k in (0, 13, 15))
    return [*WORDS, f"runs={folder / 'runs'}", f"data.csv={manifest}", f"ingest.cache={folder / 'cache'}"]


def test_what_to_do_without_classes_or_slice_labels_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = write_odd_cohort(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert entry_point("train")(words) == 2
    assert "the class is empty; data.empty_class=predict takes scans without one" in capsys.readouterr().err
    assert entry_point("train")([*words, "data.empty_class=predict"]) == 2
    told = capsys.readouterr().err
    assert f"No slice-labelled training scan of class {ODD}" in told
    assert "data.slice_labels=from_patient gives every slice with lung its scan's class" in told
    assert sorted(tmp_path.rglob("*")) == before


def test_weak_labels_scans_without_a_class_and_odd_names_go_through_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = f"data.classes=[healthy,{setting_words({'x': ODD})[0][2:]}]"
    words = [*write_odd_cohort(tmp_path), classes, "balancing.copies=[0,1]", "data.empty_class=predict"]
    assert entry_point("train")([*words, "data.slice_labels=from_patient"]) == 0
    told = capsys.readouterr().out
    assert "3 scans have no class: they are predicted, but neither trained nor scored on." in told
    assert "Weak slice labels (data.slice_labels=from_patient): every slice with lung of 16 scans" in told
    assert "12 of 36 slices of training scans show no lung: they train nothing." in told
    run = tmp_path / "runs" / "own" / "test_resnet" / "seed0"
    table = pd.read_parquet(run / "predictions.parquet")
    assert [name for name in table if name.startswith("p_")] == ["p_healthy", f"p_{ODD}"]
    check_rows(table)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["slice_labels"] == "from_patient"
    assert metrics["validation_slices"]["n_slices"] == 8

    assert entry_point("aggregate")([f"runs={tmp_path / 'runs'}", "ensemble=test_resnet", *QUICK]) == 0
    assert "Weak slice labels" in " ".join(capsys.readouterr().out.split())
    check_ensemble(tmp_path / "runs/own/ensembles/test_resnet")


def check_rows(table: pd.DataFrame) -> None:
    """Check that scans without a class are predicted and nothing else, and that slices without lung have no label."""
    assert table.groupby("split").size().to_dict() == {"": 9, "training": 36, "validation": 12}
    none = table[table["scan_id"].str.startswith("u")]
    assert (none["label"] == "").all()
    assert none["slice_label"].isna().all()
    assert not none[["seen_in_training", "used_for_selection"]].any(axis=None)
    known = table.drop(none.index)
    assert known.groupby("slice_index")["slice_label"].count().to_dict() == {0: 16, 1: 16, 2: 0}
    assert (known["slice_label"].dropna() == known["label"][known["slice_label"].notna()]).all()


def check_ensemble(folder: Path) -> None:
    """Check that stage 2 is of the scans with a class alone, and that it says what its slices' labels are."""
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["classes"], metrics["n_patients"], metrics["n_features"]) == (["healthy", ODD], 4, 40)
    assert metrics["slice_labels"] == "from_patient"
    patients = pd.read_csv(folder / "patients.csv")
    assert set(patients["scan_id"]) == {f"s{k}" for k in range(16)}
    assert set(patients["label"]) == {"healthy", ODD}
    assert json.loads((folder / "ensemble.json").read_text())["training_counts"] == {"healthy": 6, ODD: 6}
    report = (folder / "report.html").read_text()
    assert "Weak slice labels (data.slice_labels=from_patient)" in report
    assert "&lt;25%" in report
    assert "(<25%" not in report
    assert "(<25%), 'a' = [b] \\| \"c\"" in (folder / "model_card.md").read_text()


def test_a_manifest_with_problems_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_cohort(tmp_path, slices=1)
    manifest.write_text(manifest.read_text().replace("s3,", "s2,").replace("sick", "ill", 1))
    before = sorted(tmp_path.rglob("*"))
    words = [f"runs={tmp_path / 'runs'}", f"data.csv={manifest}", f"ingest.cache={tmp_path / 'cache'}"]
    assert entry_point("train")([*WORDS, *words, "data.classes=[healthy,sick]"]) == 2
    error = capsys.readouterr().err
    assert "scans.csv:3: class 'ill' is none of healthy, sick" in error
    assert "scans.csv:4: scan_id 's2' is given 2 times" in error
    assert "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before


def test_copies_for_other_classes_are_refused_before_a_scan_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_cohort(tmp_path, slices=1)
    before = sorted(tmp_path.rglob("*"))
    words = [f"runs={tmp_path / 'runs'}", f"data.csv={manifest}", f"ingest.cache={tmp_path / 'cache'}"]
    paper = [word for word in WORDS if word != "balancing=auto"]
    assert entry_point("train")([*paper, *words, "data.classes=[healthy,sick]"]) == 2
    error = capsys.readouterr().err
    assert "balancing.copies names COVID-19, CAP, but the classes are healthy, sick" in error
    assert "balancing=auto" in error
    assert sorted(tmp_path.rglob("*")) == before


def test_labels_that_do_not_fit_a_scan_begin_no_study(
    tiny_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = sorted(path for path in tiny_study.glob("cache/phantom-*/* subjects/*") if any(path.glob("*.dcm")))
    assert len(scans) == 15
    lines = [f"{path.name},{path},{'healthy' if path.name.startswith('normal') else 'sick'}" for path in scans]
    manifest = tmp_path / "scans.csv"
    manifest.write_text("\n".join(["scan_id,path,class", *lines]) + "\n")
    sick = [line.partition(",")[0] for line in lines if line.endswith("sick")]
    labels = tmp_path / "labels.csv"
    labels.write_text(f"scan_id,slice_index,class\n{sick[0]},150,sick\n" + "".join(f"{name},9,sick\n" for name in sick))
    words = [*WORDS, f"runs={tmp_path / 'runs'}", f"data.csv={manifest}", f"ingest.cache={tmp_path / 'cache'}"]
    capsys.readouterr()
    assert entry_point("train")([*words, f"data.slices={labels}"]) == 2
    error = capsys.readouterr().err
    assert re.search(rf"{sick[0]}: 2\d slices were read, but its labels name slice 150\. Slices are missing", error)
    assert not (tmp_path / "runs").exists()
