"""Temperature and threshold are learnt on training scans alone, each answered by boosters that have not seen it."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from sklearn.metrics import log_loss

from cnr_iemn.evaluation.aggregate import assemble_results
from cnr_iemn.evaluation.evidence import EvidenceOptions
from cnr_iemn.report.tables.evidence import evidence_tables
from cnr_iemn.stage2.calibration import cross_validated_probabilities
from cnr_iemn.stage2.calibration_metrics import temperature_of, with_temperature
from cnr_iemn.stage2.methods.boosted import Boosted, TreeSettings
from cnr_iemn.stage2.methods.descriptions import PERCENTAGES
from cnr_iemn.stage2.methods.registry import stage2_methods
from cnr_iemn.stage2.out_of_fold import StudyScans, paper_scans
from cnr_iemn.stage2.scan_predictions import ScanPredictions, fit_and_predict
from tests.builders import make_predictions, make_scans, make_summaries

SCANS = {
    name: replace(
        scan, patient_id=f"p-{name[:-1]}" if name[-3:] in ("000", "001") else name
    )  # two scans of one patient
    for name, scan in make_scans(10, 8).items()
}
PREDICTIONS = {"resnext50": make_predictions("resnext50", SCANS, skill=0.3)}
CLASSES = PREDICTIONS["resnext50"].metadata.classes
STUDY = paper_scans(PREDICTIONS)


class Learn:
    """Stage 2, remembering who learnt from whom."""

    def __init__(self) -> None:
        method = Boosted(PERCENTAGES, TreeSettings(rounds=20, max_depth=3))
        self._fit = partial(fit_and_predict, method, table=PREDICTIONS["resnext50"].scans, seed=0)
        self.seen: list[tuple[set[str], set[str]]] = []

    def __call__(self, scans: StudyScans) -> ScanPredictions:
        self.seen.append((set(scans.training_ids), set(scans.held_out)))
        return self._fit(scans)


def test_each_training_scan_is_answered_once_by_other_patients() -> None:
    learn = Learn()
    training = learn(STUDY).patients.loc[list(STUDY.training_ids)]
    learn.seen.clear()
    found = cross_validated_probabilities(STUDY, training, learn, seed=0)
    assert found is not None
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    answered = [scan_id for _, part in learn.seen for scan_id in part]
    assert sorted(answered) == sorted(STUDY.training_ids)
    for learnt, part in learn.seen:
        assert not {SCANS[name].patient_id for name in learnt} & {SCANS[name].patient_id for name in part}
        assert not any(SCANS[name].split == "validation" for name in learnt | part)


def test_temperature_and_threshold_do_not_know_the_validation_scans() -> None:
    learn = Learn()
    chosen = learn(STUDY)
    training = chosen.patients.loc[list(STUDY.training_ids)]
    nested = cross_validated_probabilities(STUDY, training, learn, seed=0)
    assert nested is not None
    truth = np.array([CLASSES.index(label) for label in training["label"]])
    found = assemble_results(
        PREDICTIONS,
        make_summaries(SCANS),
        cohort="three",
        options=EvidenceOptions(answer_share=0.8),
        methods=stage2_methods(rounds=20, max_depth=3),
    ).metrics["calibration"]
    assert found["temperature"] == temperature_of(nested, truth)
    confidence = with_temperature(nested, found["temperature"]).max(axis=1)
    assert (confidence >= found["undecided"]["threshold"]).sum() == 25  # of 30: 80% of them and one more
    assert found["learnt_on"] == 30
    assert (found["before"]["n"], found["undecided"]["n"]) == (24, 24)
    told = chosen.held_out[[f"p_{name}" for name in CLASSES]].to_numpy()
    truth = np.array([CLASSES.index(label) for label in chosen.held_out["label"]])
    expected = log_loss(truth, with_temperature(told, found["temperature"]))
    assert found["after"]["log_loss"] == pytest.approx(expected)


def test_one_training_patient_of_a_class_gives_no_calibration() -> None:
    scans = {name: scan for name, scan in SCANS.items() if scan.label != "CAP" or name[-3:] in ("000", "001", "012")}
    predictions = {"resnext50": make_predictions("resnext50", scans)}
    metrics = assemble_results(predictions, make_summaries(scans), cohort="three").metrics
    assert metrics["calibration"] is None
    assert [table.title for table in evidence_tables(metrics)] == [
        "Confidence intervals, ResNeXt-50, %",
        "ResNeXt-50 against each baseline, scans",
        "Precision of the sample size",
    ]


def test_the_tables_say_what_was_learnt_where() -> None:
    metrics = assemble_results(
        PREDICTIONS, make_summaries(SCANS), cohort="three", options=EvidenceOptions(answer_share=0.7)
    ).metrics
    calibration, undecided = (
        next(table for table in evidence_tables(metrics) if table.title.startswith(title))
        for title in ("Calibration", "Selective prediction")
    )
    assert "fitted on 30 training scans" in str(calibration.caption)
    assert "some of which trained the networks that score them" in str(calibration.caption)
    assert "70.00% of new scans" in str(undecided.caption)
    assert [row[1] for row in undecided.rows] == ["8", "8", "8"]
