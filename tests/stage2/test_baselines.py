import dataclasses

import numpy as np
import pytest

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.errors import RunError
from cnr_iemn.stage2.baselines import ScanSummary, baseline_predictions, slice_baselines
from cnr_iemn.statistics.metrics import Evaluation, evaluate
from tests.builders import FakeScan, make_predictions, make_scans, make_summaries

SCANS = make_scans(40, 20)
LABELS = {name: scan.label for name, scan in SCANS.items()}
SPLIT = {name: scan.split for name, scan in SCANS.items()}
NAMES = {
    "majority class",
    "lung litres",
    "mean HU in the lungs",
    "HU histogram",
    "laterality",
    "lesion volume by threshold",
    "XGBoost on mean HU in 20 groups",
}


def baselines(summaries: dict[str, ScanSummary]) -> dict[str, Evaluation]:
    truth = [label for name, label in LABELS.items() if SPLIT[name] == "validation"]
    answers = baseline_predictions(summaries, LABELS, SPLIT, SPGC_CLASSES)
    return {name: evaluate(truth, each, SPGC_CLASSES) for name, each in answers.items()}


def test_measurements_that_know_nothing_stay_near_chance() -> None:
    found = baselines(make_summaries(SCANS))
    assert set(found) == NAMES
    assert all(each["n_patients"] == 60 for each in found.values())
    assert found["majority class"]["accuracy"] == 1 / 3
    assert found["majority class"]["sensitivity"] == {"Normal": 1.0, "COVID-19": 0.0, "CAP": 0.0}
    # 0.55 is 3.6 standard deviations of chance above 1/3 for 60 scans
    assert all(each["accuracy"] < 0.55 for each in found.values())


def planted(field: str, values: dict[str, object]) -> dict[str, ScanSummary]:
    """Give each class its own value of one measurement, in an order that only a curve can tell apart."""
    rng = np.random.default_rng(1)
    summaries = make_summaries(SCANS)
    return {
        name: dataclasses.replace(summary, **{field: values[LABELS[name]] + 0.01 * rng.normal()})
        for name, summary in summaries.items()
    }


@pytest.mark.parametrize(
    ("field", "values", "finder"),
    [
        ("litres", {"Normal": 3.0, "COVID-19": 4.0, "CAP": 5.0}, "lung litres"),
        ("mean_hu", {"Normal": -800.0, "COVID-19": -799.0, "CAP": -798.0}, "mean HU in the lungs"),
        ("dense_left", {"Normal": 0.5, "COVID-19": 0.25, "CAP": 0.9}, "laterality"),
        ("dense_share", {"Normal": 0.1, "COVID-19": 0.3, "CAP": 0.5}, "lesion volume by threshold"),
        ("histogram", dict(zip(SPGC_CLASSES, np.eye(28)[[3, 9, 20]], strict=True)), "HU histogram"),
        (
            "group_mean_hu",
            dict(zip(SPGC_CLASSES, -800 + 9 * np.eye(20)[[3, 9, 15]], strict=True)),
            "XGBoost on mean HU in 20 groups",
        ),
    ],
)
def test_a_planted_rule_is_found_by_its_own_baseline_and_by_no_other(
    field: str, values: dict[str, object], finder: str
) -> None:
    found = baselines(planted(field, values))
    assert found[finder]["accuracy"] > 0.95
    assert all(each["accuracy"] < 0.55 for name, each in found.items() if name != finder)


def test_the_middle_class_of_a_scalar_and_its_outer_ones_are_told_apart() -> None:
    """Normal on both sides of COVID-19: a straight line cannot part them, the quadratic term can."""
    summaries = planted("litres", {"Normal": 4.0, "COVID-19": 4.0, "CAP": 9.0})
    rng = np.random.default_rng(2)
    for name, summary in summaries.items():
        if LABELS[name] == "Normal":
            summaries[name] = dataclasses.replace(summary, litres=4.0 + rng.choice([-1.0, 1.0]))
    assert baselines(summaries)["lung litres"]["accuracy"] > 0.95


def test_an_empty_lung_mask_does_not_stop_the_others() -> None:
    summaries = planted("litres", {"Normal": 3.0, "COVID-19": 4.0, "CAP": 5.0})
    for name in ("CAP-000", "CAP-059"):
        empty = {"mean_hu": np.nan, "dense_share": np.nan, "dense_left": np.nan, "histogram": np.full(28, np.nan)}
        summaries[name] = dataclasses.replace(summaries[name], **empty, group_mean_hu=np.full(20, np.nan))
    found = baselines(summaries)
    assert found["lung litres"]["accuracy"] > 0.95
    assert set(found) == NAMES


def test_classes_and_scans_that_are_missing_are_named() -> None:
    scans = {name: scan for name, scan in SCANS.items() if (scan.label, scan.split) != ("CAP", "training")}
    labels = {name: scan.label for name, scan in scans.items()}
    with pytest.raises(RunError, match="No training scan is of class CAP"):
        baseline_predictions(make_summaries(scans), labels, SPLIT, SPGC_CLASSES)
    nobody = baseline_predictions(make_summaries(SCANS), LABELS, dict.fromkeys(SCANS, "training"), SPGC_CLASSES)
    assert nobody == {"majority class": []}


def test_position_tells_slices_where_only_the_middle_third_is_infected() -> None:
    scans = {name: scan for name, scan in make_scans(10, 5).items() if scan.label == "CAP"}
    scans["Normal-000"] = FakeScan("Normal", n_slices=4)
    predictions = make_predictions(scans=scans)
    found = slice_baselines(predictions, make_summaries(scans))
    n_slices = sum(scan.n_slices for scan in scans.values() if scan.split == "validation")
    truth = [label for scan in scans.values() if scan.split == "validation" for label in scan.slice_truth(SPGC_CLASSES)]
    assert {each["n_slices"] for each in found.values()} == {n_slices}
    assert found["majority class"]["accuracy"] == pytest.approx(truth.count("Normal") / n_slices)
    assert found["position alone"]["accuracy"] > 0.9
    assert found["lung area alone"]["accuracy"] < 0.75


def test_lung_area_tells_slices_where_it_is_made_to() -> None:
    scans = make_scans(5, 3)
    order = list(SPGC_CLASSES)
    summaries = {
        name: dataclasses.replace(
            summary, slice_area=np.array([0.1 + 0.05 * order.index(label) for label in scans[name].slice_truth(order)])
        )
        for name, summary in make_summaries(scans).items()
    }
    found = slice_baselines(make_predictions(scans=scans), summaries)
    assert found["lung area alone"]["accuracy"] == 1.0
    assert found["position alone"]["accuracy"] < 0.9


def test_slices_without_labels() -> None:
    unlabelled = {name: dataclasses.replace(scan, slice_labelled=False) for name, scan in make_scans(3, 2).items()}
    with pytest.raises(RunError, match="No training slice has a label"):
        slice_baselines(make_predictions(scans=unlabelled), make_summaries(unlabelled))
    scans = make_scans(3, 0)
    found = slice_baselines(make_predictions(scans=scans), make_summaries(scans))
    assert {each["accuracy"] for each in found.values()} == {None}
    one_class = {"a": FakeScan("Normal"), "b": FakeScan("Normal", "validation")}
    found = slice_baselines(make_predictions(scans=one_class), make_summaries(one_class))
    assert {each["accuracy"] for each in found.values()} == {1.0}
