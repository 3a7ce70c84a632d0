import numpy as np
import pandas as pd
import pytest

from cnr_iemn.constants import PAPER_BACKBONES, SPGC_CLASSES
from cnr_iemn.data.predictions.slice_predictions import Predictions
from cnr_iemn.errors import RunError
from cnr_iemn.stage2.group_features import feature_columns, group_features, group_percentages
from tests.builders import FakeScan, make_predictions, make_scans


def by_direct_loop(predicted: np.ndarray, n_classes: int, n_groups: int) -> np.ndarray:
    result = np.full((n_groups, n_classes), np.nan)
    for group in range(n_groups):
        members = [value for i, value in enumerate(predicted) if n_groups * i // len(predicted) == group]
        if members:
            result[group] = [100 * members.count(each) / len(members) for each in range(n_classes)]
    return result


@pytest.mark.parametrize("n_slices", [1, 7, 19, 20, 21, 150, 187])
@pytest.mark.parametrize(("n_classes", "n_groups"), [(3, 20), (2, 20), (5, 7)])
def test_percentages_equal_a_direct_loop(n_slices: int, n_classes: int, n_groups: int) -> None:
    predicted = np.random.default_rng(n_slices).integers(n_classes, size=n_slices)
    found = group_percentages(predicted, n_classes=n_classes, n_groups=n_groups)
    np.testing.assert_allclose(found, by_direct_loop(predicted, n_classes, n_groups))


def test_empty_groups_are_missing_and_filled_ones_sum_to_100() -> None:
    found = group_percentages(np.array([0, 1, 2, 1, 0, 0, 2]), n_classes=3)
    filled = np.array([0, 2, 5, 8, 11, 14, 17])  # floor(20 i / 7)
    assert np.isfinite(found).all(axis=1).nonzero()[0].tolist() == filled.tolist()
    np.testing.assert_array_equal(np.nansum(found, axis=1)[filled], 100.0)
    assert np.isnan(np.delete(found, filled, axis=0)).all()
    assert not np.isnan(group_percentages(np.zeros(20, dtype=int), n_classes=3)).any()


def test_feature_names_and_counts_are_the_paper_s() -> None:
    one = group_features({"resnext50": make_predictions("resnext50")})
    assert one.shape == (27, 60)
    assert list(one.columns[:4]) == [
        "resnext50/g00/Normal",
        "resnext50/g00/COVID-19",
        "resnext50/g00/CAP",
        "resnext50/g01/Normal",
    ]
    assert one.columns[-1] == "resnext50/g19/CAP"
    four = group_features({name: make_predictions(name) for name in PAPER_BACKBONES})
    assert four.shape == (27, 240)
    assert list(four.columns) == [each for name in PAPER_BACKBONES for each in feature_columns(name, SPGC_CLASSES)]
    assert four.columns.is_unique
    pd.testing.assert_frame_equal(four[one.columns], one)


def test_features_equal_pandas_own_grouping() -> None:
    scans = {**make_scans(2, 1, n_slices=33), "short": FakeScan("CAP", n_slices=7)}
    predictions = make_predictions(scans=scans, skill=0.5)
    table = predictions.table
    names = table[["p_Normal", "p_COVID-19", "p_CAP"]].idxmax(axis=1).str.removeprefix("p_")
    group = (20 * table["slice_index"] / table["n_slices"]).astype(
        int
    )  # exact here: no quotient lies within 1e-12 below an integer
    shares = pd.crosstab([table["scan_id"], group.rename("group")], names, normalize="index") * 100
    found = group_features({"resnext50": predictions})
    for (scan_id, number), row in shares.iterrows():
        for name, value in row.items():
            assert found.loc[scan_id, f"resnext50/g{number:02d}/{name}"] == pytest.approx(value)
    assert found.notna().sum().sum() == 3 * len(shares)


def test_rows_follow_the_first_model_and_slices_their_index_not_their_row() -> None:
    scans = make_scans(2, 1)
    first, second = make_predictions("resnext50", scans), make_predictions("densenet161", scans)
    expected = group_features({"resnext50": first, "densenet161": second})
    assert expected.index.tolist() == list(scans)
    shuffled = Predictions(second.table.sample(frac=1, random_state=0).reset_index(drop=True), second.metadata)
    pd.testing.assert_frame_equal(group_features({"resnext50": first, "densenet161": shuffled}), expected)


def test_predictions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RunError, match="on store 5707e, densenet161 on store x"):
        group_features({"resnext50": make_predictions(), "densenet161": make_predictions("densenet161", store="x")})


def test_two_and_five_classes() -> None:
    for classes in (("none", "edema"), tuple("abcde")):
        features = group_features({"m": make_predictions("m", classes=classes)})
        assert features.shape[1] == 20 * len(classes)
