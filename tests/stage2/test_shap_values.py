"""What the booster goes by: exact, by hand for one tree, and gathered without loss."""

import numpy as np
import pandas as pd
import pytest
import xgboost

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.evaluation.aggregate import assemble_results
from cnr_iemn.evaluation.evidence import EvidenceOptions
from cnr_iemn.stage2.booster import margin_contributions, train_booster
from cnr_iemn.stage2.group_features import group_features
from cnr_iemn.stage2.methods.boosted import Boosted, FittedBooster
from cnr_iemn.stage2.methods.descriptions import PERCENTAGES
from cnr_iemn.stage2.out_of_fold import Axes, SliceSets, paper_sets
from cnr_iemn.stage2.shap_values import LEVELS, Contributions, contributions
from tests.builders import make_predictions, make_scans, make_summaries

MODELS = ("resnext50", "densenet161")
SCANS = make_scans(8, 4)
PREDICTIONS = {name: make_predictions(name, SCANS, skill=0.6) for name in MODELS}
FEATURES, SETS = group_features(PREDICTIONS), paper_sets(PREDICTIONS)
LABELS = [scan.label for scan in SCANS.values()]
AXES = Axes(MODELS, SPGC_CLASSES)
BOOSTER = train_booster(FEATURES, LABELS, SPGC_CLASSES)


def contributions_of(booster: xgboost.Booster, sets: SliceSets) -> Contributions:
    found = contributions(FittedBooster(AXES, PERCENTAGES, booster), {name: sets[name] for name in SCANS})
    assert found is not None
    return found


def margins(features: pd.DataFrame) -> np.ndarray:
    data = xgboost.DMatrix(features.to_numpy(), feature_names=list(features.columns))
    return BOOSTER.predict(data, output_margin=True)


def test_they_sum_to_the_margin() -> None:
    found = contributions_of(BOOSTER, SETS)
    total = found.by_group.sum(axis=(2, 3)) + found.base
    np.testing.assert_allclose(total, margins(FEATURES), atol=1e-4)
    np.testing.assert_allclose(found.by_level.sum(axis=-1), found.by_group.sum(axis=-1))
    assert found.by_level.shape == (len(SCANS), 3, 2, len(LEVELS))


def test_over_several_sets_they_sum_to_the_mean_margin() -> None:
    predictions = {name: make_predictions(name, SCANS, skill=0.3, seed=1) for name in MODELS}
    other, others = group_features(predictions), paper_sets(predictions)
    found = contributions_of(BOOSTER, {name: (*SETS[name], *others[name]) for name in SCANS})
    total = found.by_group.sum(axis=(2, 3)) + found.base
    np.testing.assert_allclose(total, (margins(FEATURES) + margins(other)) / 2, atol=1e-4)


def test_one_split_is_told_by_hand() -> None:
    """A single tree of one split: the contribution is its leaf less the mean leaf (Lundberg et al. 2020)."""
    values = pd.DataFrame({"f": [0.0] * 6 + [1.0] * 2})
    booster = train_booster(values, ["a"] * 6 + ["b"] * 2, ("a", "b"), rounds=1, max_depth=1)
    found = margin_contributions(booster, values)
    margin = booster.predict(xgboost.DMatrix(values.to_numpy(), feature_names=["f"]), output_margin=True)
    # the mean leaf, weighted by the hessian: equal for all scans of the first round
    np.testing.assert_allclose(found[..., -1], np.tile(margin.mean(axis=0), (8, 1)), atol=1e-6)
    np.testing.assert_allclose(found[..., 0], margin - margin.mean(axis=0), atol=1e-6)


def test_a_group_of_a_model_has_its_own_place() -> None:
    """Only one model's eighth group tells the class: nothing else contributes."""
    labels = np.array([SPGC_CLASSES.index(label) for label in LABELS])
    sets = {}
    for name, label in zip(SCANS, labels, strict=True):
        array = np.zeros((2, 20, 3), dtype=np.float32)  # a slice in each group
        array[:, :, 0] = 1
        array[1, 7] = np.eye(3)[label]
        sets[name] = (array,)
    fitted = Boosted(PERCENTAGES).fit([array for (array,) in sets.values()], labels, AXES)
    found = contributions_of(fitted.booster, sets)
    size = np.abs(found.by_group).sum(axis=(0, 1))
    assert np.argwhere(size > 0).tolist() == [[1, 7]]
    assert np.abs(found.by_level).sum(axis=(0, 1)).argmax() == 3 + LEVELS.index("middle third")
    summary = found.summary()
    assert summary["CAP"]["densenet161"][7] == pytest.approx(np.abs(found.by_group[:, 2, 1, 7]).mean())
    assert sum(summary["CAP"]["resnext50"]) == 0


def test_the_results_explain_the_validation_scans_alone() -> None:
    predictions = {name: make_predictions(name, SCANS) for name in MODELS}
    results = assemble_results(predictions, make_summaries(SCANS), cohort="x", options=EvidenceOptions())
    held_out = results.patients[results.patients["split"] == "validation"]
    assert results.contributions.scan_ids == tuple(held_out.index)
    margin = results.contributions.by_group.sum(axis=(2, 3)) + results.contributions.base
    probability = np.exp(margin) / np.exp(margin).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probability, held_out[[f"p_{name}" for name in SPGC_CLASSES]], atol=1e-5)
    assert set(results.metrics["contributions"]) == set(SPGC_CLASSES)
    assert [len(each) for each in results.metrics["contributions"]["CAP"].values()] == [20, 20]
