"""Runs of several seeds as one network: means of their probabilities, in the study and of new scans."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cnr_iemn.config.schema.aggregate import BoosterSettings
from cnr_iemn.constants import BOOSTER_METHOD
from cnr_iemn.errors import RunError
from cnr_iemn.inference.networks import EnsembleNetworks
from cnr_iemn.stage1.training.hardware import Hardware
from cnr_iemn.stage2.ensemble import parse_ensemble, read_ensemble, signed_text, write_ensemble
from cnr_iemn.stage2.ensemble_runs import EnsembleRuns, describe_ensemble
from cnr_iemn.stage2.provenance import provenance
from cnr_iemn.stage2.seed_means import mean_predictions, read_seeds
from tests.builders import make_predictions
from tests.evaluation.test_study_replicates import MODELS, SCANS, change_record, write_study

TAGS = ("seed0", "seed1", "seed2")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_study(tmp_path, "here", tags={tag: seed for seed, tag in enumerate(TAGS)})
    return tmp_path


def read(root: Path, *tags: str, features: str = "paper") -> EnsembleRuns:
    return read_seeds(root, "here", MODELS, tags, features=features)


def test_probabilities_are_the_means_of_the_parts(root: Path) -> None:
    joined = read(root, *TAGS)
    for model in MODELS:
        parts = [make_predictions(model, SCANS, seed=seed).probabilities.astype(np.float64) for seed in range(3)]
        np.testing.assert_allclose(joined.predictions[model].probabilities, np.mean(parts, axis=0), atol=1e-6)
        assert np.abs(parts[0] - parts[1]).max() > 0.1
        regions = joined.predictions[model].table.filter(like="region_").sum(axis=1)
        np.testing.assert_allclose(regions, 1, atol=1e-5)
    assert joined.predictions["my_net"].metadata.tag == "seed0+seed1+seed2"
    assert [part.tag for part in (joined.first_run,)] == ["seed0"]


def test_rows_are_matched_by_slice_whatever_their_order() -> None:
    first, second = (make_predictions(scans=SCANS, seed=seed) for seed in (0, 1))
    shuffled = replace(second, table=second.table.sample(frac=1, random_state=0))
    expected = mean_predictions([first, second]).probabilities
    np.testing.assert_array_equal(mean_predictions([first, shuffled]).probabilities, expected)


def test_out_of_fold_each_fold_has_its_own_means(root: Path) -> None:
    write_study(root, "here", tags={f"seed{s}-fold{k}": s for s in (0, 1) for k in (0, 1)})
    joined = read(root, "seed0", "seed1", features="out_of_fold")
    assert joined.folds is not None
    for fold, runs in joined.folds.items():
        singles = [read(root, f"seed{s}-fold{fold}").predictions["my_net"].probabilities for s in (0, 1)]
        np.testing.assert_allclose(runs.predictions["my_net"].probabilities, np.mean(singles, axis=0), atol=1e-6)
    ensemble = describe_ensemble(joined)
    assert [member.name for member in ensemble.members[:4]] == [
        f"{model}-fold0-seed{seed}" for model in MODELS for seed in (0, 1)
    ]
    assert [(network.model, network.fold) for network in ensemble.networks] == [
        (model, fold) for fold in (0, 1) for model in MODELS
    ]


def test_one_tag_is_read_as_ever(root: Path) -> None:
    joined = read(root, "seed1")
    assert joined.parts == ()
    assert [member.name for member in describe_ensemble(joined).members] == list(MODELS)
    np.testing.assert_array_equal(
        joined.predictions["my_net"].probabilities, make_predictions("my_net", SCANS, seed=1).probabilities
    )


def test_tags_of_one_seed_and_of_other_settings_are_refused(root: Path) -> None:
    write_study(root, "here", tags={"again": 1})
    with pytest.raises(RunError, match=r"seed1 and again .* both trained with seed 1.*out of tag="):
        read(root, "seed0", "seed1", "again")
    change_record(root, "here/my_net/seed2", lambda record: record["configuration"]["model"].update(image_size=64))
    with pytest.raises(RunError, match=r"differ in more than seed, tag: model\.image_size was 224, now 64"):
        read(root, *TAGS)


def test_deep_features_have_no_mean(root: Path) -> None:
    with pytest.raises(RunError, match=r"attention over deep features, learns from deep features.*one tag="):
        describe_ensemble(read(root, *TAGS), method="attention over deep features")


def test_the_ensemble_names_every_network_and_is_read_as_written(root: Path) -> None:
    joined = read(root, *TAGS)
    assert [run["tag"] for run in provenance(joined, BoosterSettings(), method=BOOSTER_METHOD)["runs"]] == [
        *TAGS,
        *TAGS,
    ]
    ensemble = describe_ensemble(joined)
    assert len({network.checkpoint_sha256 for network in ensemble.networks}) == len(MODELS)
    write_ensemble(root / "here" / "ensembles" / "two", ensemble)
    assert read_ensemble(root, "here", "two") == ensemble
    path = root / "here" / "ensembles" / "two" / "ensemble.json"
    values = json.loads(path.read_text())
    del values["members"][1]  # a seed of one model only
    path.write_text(signed_text(values))
    with pytest.raises(RunError, match=r"must hold each model, with each of its seeds, once for each fold"):
        parse_ensemble(path, again="Again.")


def test_new_scans_get_the_mean_of_the_networks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks' own outputs are known here; loading them is tested with a trained study."""
    ensemble = describe_ensemble(read(root, *TAGS))
    monkeypatch.setattr(EnsembleNetworks, "_load", lambda *_: None)
    networks = EnsembleNetworks(root / "here", ensemble, Hardware(torch.device("cpu"), "32"), batch_size=4)
    rng = np.random.default_rng(0)
    channels = {member: rng.dirichlet(np.ones(3), 7).astype(np.float32) for member in ensemble.members}
    joined = networks.join(channels)
    assert joined.shape == (len(MODELS), 7, 3)
    for k, model in enumerate(MODELS):
        parts = [values for member, values in channels.items() if member.model == model]
        assert len(parts) == len(TAGS)
        np.testing.assert_allclose(joined[k], np.mean(np.array(parts, np.float64), axis=0), atol=1e-6)
