"""The message of a finished run about its validation slices."""

import re

import pytest

from cnr_iemn.data.predictions.slice_predictions import Predictions
from cnr_iemn.schemas import probability_columns
from cnr_iemn.stage1.training.loggers.accuracy_messages import validation_sentence
from cnr_iemn.statistics.metrics import evaluate_slices
from tests.builders import FakeScan, make_predictions, make_scans

CLASSES = ("healthy", "sick", "other")


def always(predictions: Predictions, answer: str) -> Predictions:
    """Return the predictions of a network that calls every slice the same."""
    names = probability_columns(predictions.metadata.classes)
    predictions.table[names] = [1.0 if name == f"p_{answer}" else 0.0 for name in names]
    return predictions


def sentence(predictions: Predictions, *, selected: bool = False) -> str:
    classes = predictions.metadata.classes
    scores = evaluate_slices(predictions.table, predictions.probabilities, classes)
    return validation_sentence(scores, classes, selected=selected)


@pytest.mark.parametrize("answer", CLASSES)
def test_a_network_that_predicts_one_class_is_reported(answer: str) -> None:
    """80% healthy slices: the accuracy of whoever says nothing else is 80%, and the sentence says so beside it."""
    scans = {f"v{k}": FakeScan("sick" if k < 6 else "other", "validation", n_slices=30) for k in range(9)}
    text = sentence(always(make_predictions(scans=make_scans(2, 0, classes=CLASSES) | scans, classes=CLASSES), answer))
    accuracy, balanced, largest = (float(value) for value in re.findall(r"([\d.]+)%", text))
    shares = {"healthy": 66.67, "sick": 22.22, "other": 11.11}
    assert (accuracy, balanced, largest) == (shares[answer], 33.33, 66.67)
    assert "; healthy alone are 66.67%" in text


def test_the_largest_class_need_not_be_the_healthy_one() -> None:
    truth = FakeScan("sick", "validation", n_slices=30)
    predictions = make_predictions(scans=make_scans(2, 0, classes=CLASSES) | {"v": truth}, classes=CLASSES)
    table = predictions.table
    table.loc[table["scan_id"].eq("v"), "slice_label"] = ["healthy"] * 12 + ["sick"] * 18
    text = sentence(always(predictions, "sick"), selected=True)
    assert text.startswith("validation slices: accuracy 60.00%, balanced accuracy 50.00%; sick alone are 60.00%")
    assert text.endswith("(selected on this set)")


def test_without_a_labelled_validation_slice_a_sentence_and_no_figure_is_printed() -> None:
    unlabelled = {"v": FakeScan("sick", "validation", slice_labelled=False)}
    scans = make_scans(2, 0, classes=CLASSES)
    text = sentence(make_predictions(scans=scans | unlabelled, classes=CLASSES))
    assert text.startswith("No slice of a validation scan has a label")
    text += validation_sentence(None, CLASSES, selected=False)
    assert "No scan is held out for validation" in text
    assert "nan" not in text
    assert "%" not in text
