import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from cnr_iemn.constants import PAPER_BACKBONES, PHANTOM_NOTICE, SPGC_CLASSES
from cnr_iemn.data.predictions.parquet import METADATA_KEY
from cnr_iemn.errors import RunError
from cnr_iemn.evaluation.aggregate import Results, assemble_results, write_results
from cnr_iemn.evaluation.evidence import EvidenceOptions
from cnr_iemn.stage2.booster import load_booster, predict_probabilities
from cnr_iemn.statistics.metrics import evaluate_slices
from cnr_iemn.utils import atomic_io
from tests.builders import make_predictions, make_scans, make_summaries

SCANS = make_scans(8, 8)


def results(*, phantom: bool = True, models: tuple[str, ...] = tuple(PAPER_BACKBONES), **metadata: object) -> Results:
    predictions = {name: make_predictions(name, SCANS, phantom=phantom, **metadata) for name in models}
    return assemble_results(
        predictions, make_summaries(SCANS), cohort="phantom", options=EvidenceOptions(permutations=5)
    )


@pytest.fixture(scope="module")
def of_four() -> Results:
    return results()


def test_metrics_have_the_documented_keys(of_four: Results) -> None:
    metrics = of_four.metrics
    assert next(iter(metrics.items())) == ("notice", PHANTOM_NOTICE)
    assert metrics["schema_version"] == 2
    assert metrics["models"] == list(PAPER_BACKBONES)
    assert metrics["n_features"] == of_four.features.shape[1] - 2 == 240
    assert metrics["n_patients"] == 24
    assert metrics["selected_on"] == "validation"
    assert np.array(metrics["confusion_matrix"]).sum(axis=1).tolist() == [8, 8, 8]
    assert set(metrics["sensitivity"]) == set(SPGC_CLASSES)
    assert len(metrics["baselines"]) == 7
    assert len(metrics["slice_baselines"]) == 3
    assert "notice" not in results(phantom=False).metrics
    assert results(models=("resnext50",), checkpoint="last").metrics["selected_on"] is None


def test_the_permutation_test_uses_the_configured_booster(of_four: Results) -> None:
    test = of_four.metrics["permutation_test"]
    assert test["permutations"] == 5
    assert test["observed"] == pytest.approx(of_four.metrics["intervals"]["patient_bootstrap"]["macro_auc"]["value"])
    assert test["p"] == pytest.approx(1 / 6)


def test_good_slices_give_good_patients_and_a_small_p(of_four: Results) -> None:
    metrics = of_four.metrics
    right = np.trace(metrics["confusion_matrix"])
    assert metrics["accuracy"] == right / 24 > 0.9
    strongest = metrics["strongest_baseline"]
    assert metrics["baselines"][strongest]["accuracy"] == max(
        each["accuracy"] for each in metrics["baselines"].values()
    )
    assert metrics["baseline_comparisons"][strongest]["p_holm"] < 0.01
    assert all(metrics["accuracy"] > each["accuracy"] for each in metrics["baselines"].values())


def test_slices_at_random_give_patients_at_chance() -> None:
    predictions = {"resnext50": make_predictions(scans=SCANS, skill=0.0)}
    metrics = assemble_results(predictions, make_summaries(SCANS), cohort="phantom").metrics
    assert metrics["baseline_comparisons"][metrics["strongest_baseline"]]["p_holm"] > 0.01


def test_each_backbone_s_result_equals_that_of_its_ensemble_of_one(of_four: Results) -> None:
    alone = results(models=("densenet161",)).metrics
    assert alone["n_features"] == 60
    assert of_four.metrics["backbones"]["densenet161"] == alone["backbones"]["densenet161"]
    assert alone["backbones"]["densenet161"] == {key: alone[key] for key in alone["backbones"]["densenet161"]}
    densenet = make_predictions("densenet161", SCANS)
    expected = evaluate_slices(densenet.table, densenet.probabilities, SPGC_CLASSES)
    assert of_four.metrics["slices"]["densenet161"] == expected


def test_the_files_have_the_values_of_the_results(tmp_path: Path, of_four: Results) -> None:
    folder = tmp_path / "ensembles" / "all"
    write_results(folder, of_four)
    assert {each.name for each in folder.iterdir()} == {
        "metrics.json",
        "patients.csv",
        "features.parquet",
        "booster.ubj",
    }
    assert json.loads((folder / "metrics.json").read_text()) == of_four.metrics
    patients = pd.read_csv(folder / "patients.csv")
    probabilities = ["p_Normal", "p_COVID-19", "p_CAP"]
    fixed = ["notice", "schema_version", "scan_id", "patient_id", "split", "label", "predicted"]
    calibrated = [f"calibrated_{name}" for name in SPGC_CLASSES]
    assert list(patients.columns) == [*fixed, *probabilities, "correct", *calibrated, "undecided"]
    assert set(patients["notice"]) == {PHANTOM_NOTICE}
    assert patients["scan_id"].tolist() == list(SCANS)
    held_out = patients[patients["split"] == "validation"]
    assert held_out["correct"].mean() == of_four.metrics["accuracy"]
    table = pq.read_table(folder / "features.parquet")
    assert json.loads(table.schema.metadata[METADATA_KEY]) == {"notice": PHANTOM_NOTICE, "schema_version": 2}
    features = table.to_pandas()
    pd.testing.assert_frame_equal(features, of_four.features, check_dtype=False)
    assert features["fold"].isna().all()  # one set of networks scored all
    given = features.set_index("scan_id").drop(columns="fold").loc[patients["scan_id"]]
    again = predict_probabilities(load_booster(folder / "booster.ubj"), given)
    np.testing.assert_allclose(patients[probabilities], again)


def test_without_phantoms_no_file_carries_the_notice(tmp_path: Path) -> None:
    write_results(tmp_path, results(phantom=False, models=("resnext50",)))
    assert not any(PHANTOM_NOTICE.encode() in path.read_bytes() for path in tmp_path.iterdir())


def test_a_failing_write_leaves_the_old_files(
    tmp_path: Path, of_four: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(tmp_path, of_four)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(atomic_io.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_results(tmp_path, results(models=("resnext50",)))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_same_predictions_give_the_same_results(of_four: Results) -> None:
    again = results()
    assert again.metrics == of_four.metrics
    pd.testing.assert_frame_equal(again.patients, of_four.patients)


def test_studies_that_cannot_be_evaluated_or_trained_are_refused() -> None:
    scans = make_scans(4, 0)
    with pytest.raises(RunError, match=r"no validation scan.*data.split.validation=0"):
        assemble_results({"resnext50": make_predictions(scans=scans)}, make_summaries(scans), cohort="x")
    scans = {name: scan for name, scan in SCANS.items() if (scan.label, scan.split) != ("CAP", "training")}
    with pytest.raises(RunError, match="No training scan is of class CAP"):
        assemble_results({"resnext50": make_predictions(scans=scans)}, make_summaries(scans), cohort="x")
