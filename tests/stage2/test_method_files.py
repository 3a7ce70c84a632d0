"""Every method of the registry: what is written and read again predicts the same to the bit, and runs no code."""

import importlib.util
import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnr_iemn.constants import SPGC_CLASSES, method_names
from cnr_iemn.errors import RunError
from cnr_iemn.stage2.booster import save_booster, train_booster
from cnr_iemn.stage2.group_features import feature_columns, group_features
from cnr_iemn.stage2.methods.descriptions import PERCENTAGES
from cnr_iemn.stage2.methods.logistic import LinearModel
from cnr_iemn.stage2.methods.registry import METHODS, stage2_methods
from cnr_iemn.stage2.out_of_fold import Axes, paper_scans
from cnr_iemn.stage2.shap_values import contributions
from tests.builders import make_predictions, make_scans

MODELS = ("resnext50", "densenet161")
AXES = Axes(MODELS, SPGC_CLASSES)
SCANS = make_scans(10, 4, n_slices=18)  # fewer slices than groups, too
PREDICTIONS = {model: make_predictions(model, SCANS, skill=0.4) for model in MODELS}
STUDY = paper_scans(PREDICTIONS)
LABELS = np.array([SPGC_CLASSES.index(SCANS[name].label) for name in STUDY.training_ids])
NEW = [array for (array,) in STUDY.held_out.values()]
FEWER_TREES = stage2_methods(rounds=8)


@pytest.mark.parametrize("name", method_names())
def test_what_is_read_again_predicts_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    fitted = FEWER_TREES[name].fit(STUDY.training, LABELS, STUDY.axes)
    path = tmp_path / METHODS[name].file
    fitted.save(path)
    again = METHODS[name].load(path, STUDY.axes, again="")
    expected = fitted.predict_proba(NEW)
    assert expected.dtype == np.float64
    np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-6)
    assert len({row.tobytes() for row in expected}) > 1
    np.testing.assert_array_equal(again.predict_proba(NEW), expected)
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    one_by_one = [again.predict_proba([scan])[0] for scan in NEW]
    np.testing.assert_array_equal(one_by_one, expected)


@pytest.mark.parametrize("name", method_names())
def test_a_method_of_other_models_or_classes_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / METHODS[name].file
    FEWER_TREES[name].fit(STUDY.training, LABELS, STUDY.axes).save(path)
    for axes in (Axes(MODELS, SPGC_CLASSES[::-1]), Axes(MODELS, (*SPGC_CLASSES, "other"))):
        with pytest.raises(RunError, match=r"(predicts|is for) the classes Normal, COVID-19, CAP.* Do it again"):
            METHODS[name].load(path, axes, again="Do it again.")
    if name not in ("XGBoost on few features",):  # whose features are those of all models together
        with pytest.raises(RunError, match=r"trained on \d+ features|is for the models resnext50, densenet161"):
            METHODS[name].load(path, Axes(MODELS[::-1], SPGC_CLASSES), again="Do it again.")


@pytest.mark.parametrize("name", [name for name in method_names() if METHODS[name].file == "method.json"])
def test_a_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "method.json"
    FEWER_TREES[name].fit(STUDY.training, LABELS, STUDY.axes).save(path)
    document = json.loads(path.read_text())
    assert set(document) == {"schema_version", "models", "classes", "parameters"}
    for damaged in ("", "[]", path.read_text()[:-20], json.dumps({**document, "parameters": None})):
        (tmp_path / "damaged.json").write_text(damaged)
        with pytest.raises(RunError, match=r"damaged\.json is damaged"):
            METHODS[name].load(tmp_path / "damaged.json", STUDY.axes, again="")
    for key, value in document["parameters"].items():
        changes = [None, "x", [1.0], {}] if value is not None else ["x"]
        for change in changes:
            parameters = {**document["parameters"], key: change}
            if key == "classifier" and change is None:
                continue  # of two classes there is none
            (tmp_path / "damaged.json").write_text(json.dumps({**document, "parameters": parameters}))
            with pytest.raises(RunError, match=r"damaged\.json"):
                METHODS[name].load(tmp_path / "damaged.json", STUDY.axes, again="")


def test_the_papers_method_is_xgboost_on_the_papers_features_to_the_byte(tmp_path: Path) -> None:
    features = group_features(PREDICTIONS).loc[list(STUDY.training_ids)]
    assert list(features.columns) == [name for model in MODELS for name in feature_columns(model, SPGC_CLASSES)]
    save_booster(tmp_path / "expected.ubj", train_booster(features, [SPGC_CLASSES[k] for k in LABELS], SPGC_CLASSES))
    METHODS["XGBoost on percentages"].fit(STUDY.training, LABELS, STUDY.axes).save(tmp_path / "booster.ubj")
    assert (tmp_path / "booster.ubj").read_bytes() == (tmp_path / "expected.ubj").read_bytes()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_linear_model_is_scikit_learns(n_classes: int) -> None:
    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=(60, 5)), np.arange(60) % n_classes
    values[:, 0] += labels
    values[rng.random(values.shape) < 0.1] = np.nan
    values[:, 4] = np.nan  # a group without a slice in any scan
    parts = SimpleImputer(keep_empty_features=True), StandardScaler(), LogisticRegression(C=0.1, max_iter=5000)
    expected = make_pipeline(*parts).fit(values, labels).predict_proba(values)
    np.testing.assert_allclose(LinearModel.fit(values, labels).predict_proba(values), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", method_names())
def test_contributions_sum_to_the_margins_or_there_are_none(name: str) -> None:
    fitted = FEWER_TREES[name].fit(STUDY.training, LABELS, STUDY.axes)
    found = contributions(fitted, STUDY.held_out)
    has_place = any(word in name for word in ("percentages", "mean probabilities", "both"))
    assert (found is not None) is has_place
    if found is None:
        assert "few" in name or not fitted.attribution
        return
    assert found.attribution == fitted.attribution != ""
    assert found.by_group.shape == (len(NEW), 3, len(MODELS), 20)
    margins = found.by_group.sum(axis=(2, 3)) + found.base
    odds = np.exp(margins - margins.max(axis=1, keepdims=True))
    np.testing.assert_allclose(odds / odds.sum(axis=1, keepdims=True), fitted.predict_proba(NEW), atol=1e-5)
    assert np.abs(found.by_group).sum(axis=(0, 1, 3)).min() > 0 or "XGBoost" in name


def test_the_names_of_a_description_are_as_many_as_its_numbers() -> None:
    assert len(PERCENTAGES.columns(AXES)) == len(PERCENTAGES.rows(NEW)[0]) == 2 * 20 * 3


def test_the_documented_method_works(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "developer" / "extending.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(    \"\"\"Mean probability.*?)    ```", page, flags=re.S)
    (tmp_path / "weighted_mean.py").write_text(textwrap.dedent(block))
    spec = importlib.util.spec_from_file_location("weighted_mean", tmp_path / "weighted_mean.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    method = module.WeightedMean()
    fitted = method.fit(STUDY.training, LABELS, STUDY.axes)
    fitted.save(tmp_path / "method.json")
    found = method.load(tmp_path / "method.json", STUDY.axes, again="").predict_proba(NEW)
    np.testing.assert_array_equal(found, fitted.predict_proba(NEW))
    np.testing.assert_allclose(found[0], NEW[0].mean(axis=(0, 1)), atol=1e-6)  # as many training scans of each class
    with pytest.raises(RunError, match="is for the classes"):
        method.load(tmp_path / "method.json", Axes(MODELS, SPGC_CLASSES[::-1]), again="")
