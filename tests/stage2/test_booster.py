from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xgboost

from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.errors import RunError
from cnr_iemn.stage2.booster import (
    booster_classes,
    booster_parameters,
    load_booster,
    predict_probabilities,
    save_booster,
    train_booster,
)

COLUMNS = [f"resnext50/g{group:02d}/{name}" for group in range(2) for name in SPGC_CLASSES]


def planted(n: int, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """The class is decided by two of six features; a tenth of the values is missing elsewhere."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0, 100, (n, 6))
    index = np.where(values[:, 1] > 60, 1, np.where(values[:, 4] > 50, 2, 0))
    holes = rng.random((n, 6)) < 0.1
    holes[:, [1, 4]] = False
    values[holes] = np.nan
    return pd.DataFrame(values, columns=COLUMNS), [SPGC_CLASSES[i] for i in index]


def test_it_learns_a_planted_rule_on_unseen_rows() -> None:
    booster = train_booster(*planted(300, 0), SPGC_CLASSES)
    features, labels = planted(300, 1)
    probabilities = predict_probabilities(booster, features)
    assert probabilities.shape == (300, 3)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert np.mean([SPGC_CLASSES[i] for i in probabilities.argmax(axis=1)] == np.array(labels)) > 0.95


def test_it_equals_the_classifier_interface_given_the_same_parameters() -> None:
    features, labels = planted(150, 2)
    given = booster_parameters(n_classes=3, max_depth=6, eta=0.3, seed=0, threads=1)
    renamed = {"eta": "learning_rate", "nthread": "n_jobs", "seed": "random_state"}
    given = {renamed.get(name, name): value for name, value in given.items() if name != "num_class"}
    classifier = xgboost.XGBClassifier(n_estimators=100, missing=np.nan, **given)
    classifier.fit(features, [SPGC_CLASSES.index(name) for name in labels])
    booster = train_booster(features, labels, SPGC_CLASSES, rounds=100, max_depth=6, eta=0.3, seed=0)
    np.testing.assert_array_equal(predict_probabilities(booster, features), classifier.predict_proba(features))


def test_the_parameters_reach_the_trees() -> None:
    features, labels = planted(150, 2)
    stumps = train_booster(features, labels, SPGC_CLASSES, rounds=7, max_depth=1)
    assert stumps.num_boosted_rounds() == 7
    assert stumps.trees_to_dataframe().groupby("Tree").size().max() == 3  # one split and two leaves
    slow = train_booster(features, labels, SPGC_CLASSES, rounds=7, max_depth=1, eta=0.01)
    assert predict_probabilities(slow, features).max() < predict_probabilities(stumps, features).max()


def test_missing_values_are_missing_not_zero() -> None:
    features = pd.DataFrame({"x": [np.nan, 0.0, 50.0] * 20})
    booster = train_booster(features, ["a", "b", "c"] * 20, "abc")
    found = predict_probabilities(booster, features.iloc[:3]).argmax(axis=1)
    assert found.tolist() == [0, 1, 2]


def test_the_class_order_is_the_given_one_and_kept(tmp_path: Path) -> None:
    features, labels = planted(200, 0)
    classes = ("CAP", "Normal", "COVID-19")
    booster = train_booster(features, labels, classes)
    save_booster(tmp_path / "all" / "booster.ubj", booster)
    loaded = load_booster(tmp_path / "all" / "booster.ubj")
    assert booster_classes(loaded) == classes
    assert loaded.feature_names == COLUMNS
    np.testing.assert_array_equal(predict_probabilities(loaded, features), predict_probabilities(booster, features))
    as_spgc = predict_probabilities(train_booster(features, labels, SPGC_CLASSES), features)
    reordered = predict_probabilities(loaded, features)[:, [1, 2, 0]]
    np.testing.assert_allclose(reordered, as_spgc, atol=1e-3)


def test_features_of_another_name_or_order_are_refused() -> None:
    features, labels = planted(100, 0)
    booster = train_booster(features, labels, SPGC_CLASSES, rounds=2)
    swapped = features[[COLUMNS[1], COLUMNS[0], *COLUMNS[2:]]]
    with pytest.raises(
        RunError, match="first at position 0: trained on resnext50/g00/Normal, given resnext50/g00/COVID-19"
    ):
        predict_probabilities(booster, swapped)
    with pytest.raises(RunError, match=r"trained on 6 features, 5 were given; .* position 5: .* given nothing"):
        predict_probabilities(booster, features.iloc[:, :5])
    with pytest.raises(RunError, match="position 6: trained on nothing, given more"):
        predict_probabilities(booster, features.assign(more=0.0))


def test_faulty_training_sets_are_refused_by_name() -> None:
    features, labels = planted(100, 0)
    without_cap = [name if name != "CAP" else "Normal" for name in labels]
    with pytest.raises(RunError, match=r"No training scan is of class CAP.*data.split.seed"):
        train_booster(features, without_cap, SPGC_CLASSES)
    with pytest.raises(RunError, match="labels '', 'flu', the classes are Normal, COVID-19, CAP"):
        train_booster(features, ["", "flu", *labels[2:]], SPGC_CLASSES)
    with pytest.raises(RunError, match="100 rows of features and 99 labels"):
        train_booster(features, labels[:-1], SPGC_CLASSES)
    with pytest.raises(RunError, match="Feature names must be unique; given twice"):
        train_booster(features.rename(columns={COLUMNS[0]: COLUMNS[1]}), labels, SPGC_CLASSES)


def test_missing_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "booster.ubj"
    with pytest.raises(RunError, match=r"no booster at .*Run aggregate.py"):
        load_booster(path)
    path.write_bytes(b"not a booster")
    with pytest.raises(RunError, match="not a readable booster"):
        load_booster(path)
    features, labels = planted(50, 0)
    booster = train_booster(features, labels, SPGC_CLASSES, rounds=1)
    save_booster(path, booster)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RunError, match="not a readable booster"):
        load_booster(path)
    booster.set_attr(classes=None)
    save_booster(path, booster)
    with pytest.raises(RunError, match="lists no classes"):
        load_booster(path)


def test_two_classes_give_two_columns() -> None:
    features, labels = planted(100, 0)
    two = ["sick" if name == "CAP" else "well" for name in labels]
    assert predict_probabilities(train_booster(features, two, ("well", "sick")), features).shape == (100, 2)


ODD = (
    "CT-1 (<25%)",
    "CT-1 [25%5D",
    "a, \"b\" | c = 'd'",
    "p_region_0",
    "n_slices",
    "auto",
    "%3C",
    "<",
    "\u00e9\u00df \U0001f9ea",
)


@pytest.mark.parametrize("name", ODD)
def test_any_class_name_is_learnt_and_answered(name: str, tmp_path: Path) -> None:
    features, labels = planted(100, 0)
    renamed = features.rename(columns=lambda column: f"{column}/{name}")
    classes = [name if each == "CAP" else each for each in SPGC_CLASSES]
    given = [name if each == "CAP" else each for each in labels]
    booster = train_booster(renamed, given, classes, rounds=3)
    save_booster(tmp_path / "booster.ubj", booster)
    again = load_booster(tmp_path / "booster.ubj")
    assert booster_classes(again) == tuple(classes)
    plain = predict_probabilities(train_booster(features, labels, SPGC_CLASSES, rounds=3), features)
    np.testing.assert_array_equal(predict_probabilities(again, renamed), plain)
    with pytest.raises(RunError, match="differ first at position 0") as told:
        predict_probabilities(again, renamed.rename(columns={renamed.columns[0]: "other"}))
    assert f"trained on {renamed.columns[0]}, given other" in str(told.value)


def test_names_that_escapes_could_make_alike_stay_two() -> None:
    features, labels = planted(100, 0)
    twins = features.rename(columns=dict(zip(features.columns, ("a<", "a%3C", "a%253C"), strict=False)))
    booster = train_booster(twins, labels, SPGC_CLASSES, rounds=1)
    assert len(set(booster.feature_names or [])) == features.shape[1]
