"""The space of deep features: networks whose features have nothing in common agree in it, and stage 2 learns there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cnr_iemn.data.predictions.slice_features import SliceFeatures, write_features
from cnr_iemn.data.predictions.slice_predictions import Predictions
from cnr_iemn.errors import RunError
from cnr_iemn.schemas import TRAINING, VALIDATION
from cnr_iemn.stage2.feature_space import FeatureSpace, fit_feature_space
from cnr_iemn.stage2.methods.attention import Attention, DeepAttention
from cnr_iemn.stage2.out_of_fold import OUT_OF_FOLD, scans_by_mode
from cnr_iemn.stage2.scan_predictions import fit_and_predict
from tests.builders import make_predictions, make_scans

MODELS = ("resnext50", "densenet161")
WIDTH = 24
SCANS = {
    scan_id: replace(scan, fold=number % 3 if scan.split == TRAINING else None)
    for number, (scan_id, scan) in enumerate(make_scans(18, 8, n_slices=22).items())
}
CLASSES = ("Normal", "COVID-19", "CAP")


def truth() -> NDArray[np.float64]:
    """What every slice shows, [slices, 6]: one slice of a scan tells its class, by the sign of two numbers."""
    rng, rows = np.random.default_rng(1), []
    for scan in SCANS.values():
        values = rng.normal(0, 1, (scan.n_slices, 6))
        values[:, :2] *= 0.3
        values[rng.integers(scan.n_slices), :2] = {"Normal": (0, 0), "COVID-19": (4, 4), "CAP": (4, -4)}[scan.label]
        rows.append(values)
    return np.concatenate(rows)


def network(folder: Path, model: str, fold: int | None, rng: np.random.Generator) -> Predictions:
    """Probabilities that tell nothing, and features that are the truth in a basis of the network's own."""
    seen = [name for name, scan in SCANS.items() if scan.split == TRAINING and scan.fold != fold]
    tag = "seed0" if fold is None else f"seed0-fold{fold}"
    run = make_predictions(
        model, SCANS, skill=0, tag=tag, training_scan_ids=tuple(seen), checkpoint="last" if fold is not None else "best"
    )
    run.table["seen_in_training"] = run.table["scan_id"].isin(seen)
    run.table["used_for_selection"] = False
    values = (
        truth() @ rng.normal(0, 1, (6, WIDTH)) + rng.normal(0, 0.1, (len(run.table), WIDTH)) + rng.normal(0, 3, WIDTH)
    )
    path = folder / f"{model}-{tag}.npy"
    write_features(path, values.astype(np.float16))
    return replace(run, features=SliceFeatures.open(path, n_rows=len(run.table)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictions]:
    folder, rng = tmp_path_factory.mktemp("whole"), np.random.default_rng(2)
    return {model: network(folder, model, None, rng) for model in MODELS}


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Predictions]]:
    folder, rng = tmp_path_factory.mktemp("folds"), np.random.default_rng(3)
    return {fold: {model: network(folder, model, fold, rng) for model in MODELS} for fold in range(3)}


@pytest.fixture(scope="module")
def space(whole: dict[str, Predictions], folds: dict[int, dict[str, Predictions]]) -> FeatureSpace:
    return fit_feature_space(whole, folds)


@pytest.mark.slow
def test_networks_without_anything_in_common_agree_in_the_space(
    whole: dict[str, Predictions], folds: dict[int, dict[str, Predictions]], space: FeatureSpace
) -> None:
    assert space.components == 16
    assert set(space.projections) == {
        f"{model}{end}" for model in MODELS for end in ("", *(f"-fold{k}" for k in range(3)))
    }
    for model in MODELS:
        table = whole[model].table
        reference = space.projections[model](whole[model].features.read())[:, :4]  # type: ignore[union-attr]
        for fold, runs in folds.items():
            values = runs[model].features.read()  # type: ignore[union-attr]
            held_out = ((table["fold"] == fold) | (table["split"] == VALIDATION)).to_numpy(dtype=bool)
            ours, theirs = space.projections[f"{model}-fold{fold}"](values)[held_out, :4], reference[held_out]
            for k in range(4):
                assert np.corrcoef(ours[:, k], theirs[:, k])[0, 1] > 0.98
                raw = np.corrcoef(values[held_out, k].astype(float), whole[model].features.read()[held_out, k])  # type: ignore[union-attr]
                assert abs(raw[0, 1]) < 0.98  # without the space they do not


def test_attention_over_features_learns_out_of_fold_what_no_probability_tells(
    whole: dict[str, Predictions], folds: dict[int, dict[str, Predictions]], space: FeatureSpace
) -> None:
    table = whole["resnext50"].scans
    modes = scans_by_mode(whole, folds, space)
    assert next(iter(modes)) == OUT_OF_FOLD
    for name, scans in modes.items():  # by the full-data networks as well, since the space is one
        assert scans.axes.components == 16
        assert scans.training[0].shape[2] == 3 + 16
        deep = fit_and_predict(DeepAttention(gated=True), scans, table, seed=0)
        assert deep.correct.mean() > 0.8, name
        plain = fit_and_predict(Attention(), scans, table, seed=0)
        assert plain.correct.mean() < 0.6
        assert plain.fitted.axes.components == 0
    without = scans_by_mode(whole, folds)[OUT_OF_FOLD]
    assert without.axes.components == 0
    for ours, theirs in zip(without.training, modes[OUT_OF_FOLD].training, strict=True):
        np.testing.assert_array_equal(ours, theirs[:, :, :3])


def test_what_is_read_again_projects_to_the_bit(space: FeatureSpace, tmp_path: Path) -> None:
    path = tmp_path / "projections.safetensors"
    space.save(path)
    again = FeatureSpace.load(path, again="Do it again.")
    values = np.random.default_rng(0).normal(0, 3, (31, WIDTH)).astype(np.float16)
    probabilities = np.full((31, 3), 1 / 3, dtype=np.float32)
    for model in MODELS:
        expected = space.channels(model, 1, probabilities, values)
        assert expected.dtype == np.float32
        np.testing.assert_array_equal(again.channels(model, 1, probabilities, values), expected)
        np.testing.assert_array_equal(expected[:, :3], probabilities)
    with pytest.raises(RunError, match="gives 23 features of a slice, and its projection takes 24"):
        again.channels("resnext50", None, probabilities, values[:, 1:])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"projections\.safetensors is damaged.*Do it again\."):
        FeatureSpace.load(path, again="Do it again.")


def test_no_label_and_no_validation_scan_shapes_the_space(
    whole: dict[str, Predictions], folds: dict[int, dict[str, Predictions]], space: FeatureSpace, tmp_path: Path
) -> None:
    """Other features of validation scans, and of a fold's own scans, leave all projections as they were."""
    changed = {}
    for fold, runs in folds.items():
        changed[fold] = {}
        for model, run in runs.items():
            values = run.features.read()  # type: ignore[union-attr]
            values[(run.table["split"] == VALIDATION) | (run.table["fold"] == fold).fillna(value=False)] = 99
            path = tmp_path / f"{model}-{fold}.npy"
            write_features(path, values)
            changed[fold][model] = replace(run, features=SliceFeatures.open(path, n_rows=len(values)))
    permuted = {model: replace(run, table=run.table.assign(label="CAP")) for model, run in whole.items()}
    again = fit_feature_space(permuted, changed)
    for name, projection in space.projections.items():
        np.testing.assert_array_equal(again.projections[name].matrix, projection.matrix)
        np.testing.assert_array_equal(again.projections[name].offset, projection.offset)


def test_a_run_without_features_is_named(whole: dict[str, Predictions]) -> None:
    runs = {**whole, "densenet161": replace(whole["densenet161"], features=None)}
    with pytest.raises(RunError, match=r"densenet161's run seed0 keeps no features.*features=true"):
        fit_feature_space(runs, None)


def test_damaged_features_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "features.npy"
    write_features(path, np.ones((5, 4), dtype=np.float16))
    assert SliceFeatures.open(path, n_rows=5).select(np.array([3, 1])).read().shape == (2, 4)
    with pytest.raises(RunError, match="has 5 rows for 6 slices"):
        SliceFeatures.open(path, n_rows=6)
    np.save(path, np.ones((5, 4)))
    with pytest.raises(RunError, match="no table of float16"):
        SliceFeatures.open(path, n_rows=5)
    np.save(path, np.array([{"code": print}], dtype=object), allow_pickle=True)
    with pytest.raises(RunError, match="is damaged"):
        SliceFeatures.open(path, n_rows=5)
    path.write_bytes(b"")
    with pytest.raises(RunError, match="is damaged"):
        SliceFeatures.open(path, n_rows=5)
