"""Every option composes and passes its checks; experiment=paper has the paper's numbers."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from cnr_iemn.config.ensemble_names import ensemble_models, ensemble_name, run_tags
from cnr_iemn.config.entry_point import configuration_folder
from cnr_iemn.config.schema.aggregate import AggregateSettings
from cnr_iemn.config.schema.prediction import ExportSettings, PredictSettings
from cnr_iemn.config.schema.settings import PrepareSettings, TrainSettings
from cnr_iemn.config.validation import check_settings
from cnr_iemn.constants import BACKBONES, PAPER_BACKBONES, method_name, method_names
from cnr_iemn.errors import ConfigurationError

SCHEMAS = {
    "train": TrainSettings,
    "prepare": PrepareSettings,
    "aggregate": AggregateSettings,
    "export": ExportSettings,
    "predict": PredictSettings,
}


def compose(name: str, *overrides: str) -> Any:
    ConfigStore.instance().store(name=f"{name}_schema", node=SCHEMAS[name])
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(configuration_folder())):
        settings = OmegaConf.to_object(hydra.compose(name, overrides=list(overrides)))
    check_settings(settings)
    return settings


def options() -> list[str]:
    """Every option of every group of train.py."""
    groups = ("data", "model", "ingest", "augmentation", "balancing", "trainer", "logger", "experiment")
    return [f"{g}={path.stem}" for g in groups for path in sorted(Path(configuration_folder(), g).glob("*.yaml"))]


@pytest.mark.parametrize("option", options())
def test_every_option_composes(option: str) -> None:
    name = ["model.name=convnext_tiny"] if option == "model=timm" else []  # any of timm's
    readers = ["data.root=/data", "data.csv=/data/scans.csv", "data.classes=[healthy,sick]"]  # what one of them needs
    compose("train", *readers, option, *name)


def test_every_entry_point_composes() -> None:
    compose("prepare")
    compose("aggregate")
    compose("predict", "input=/data")
    compose("export")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("permutations=1", "permutations=1 is out of range: give 0 for none, or 2 or more"),
        ("permutations=-3", "permutations=-3 is out of range"),
        ("answer_share=0", "answer_share=0.0 is out of range. Give a number above 0 and of at most 1"),
        ("evaluate=a.parquet", "evaluate= and labels= belong together"),
        ("labels=a.csv", "evaluate= and labels= belong together"),
        ("evaluate={a:b} labels=b.csv", "evaluate={'a': 'b'} names no file"),
        ("evaluate=a.parquet labels=b.csv compare=c", "compare= and evaluate= are two tasks"),
        ("compare_on=T1", "compare_on= says on which scans to compare. Name the other study"),
        ("compare=a/b/c", "compare='b/c' becomes a folder's name"),
        ("compare=a/", "compare='' becomes a folder's name"),
        ("answer_share=1.1", "answer_share=1.1 is out of range"),
        ("refits=1", "refits=1 is out of range: give 0 for none, or 2 or more"),
        ("seeds=[seed1,seed0]", "seeds=[seed1,seed0] names one twice, or tag=seed0, which is included anyway"),
        ("splits=[a,b,a]", "splits=[a,b,a] names one twice"),
        ("splits=[a/b]", "splits='a/b' becomes a folder's name"),
        (
            "primary_method=best",
            "primary_method=best is not known. Choose one of: booster, majority vote of the slices,",
        ),
        ("threshold_sensitivity=0", "threshold_sensitivity=0.0 is out of range"),
        ("method_repeats=0", "method_repeats=0 is out of range. Give a number of at least 1"),
        ("booster.features=best", "booster.features=best is not known. Choose one of: paper, out_of_fold"),
    ],
)
def test_what_aggregate_cannot_do_is_said_before_anything_is_read(words: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        compose("aggregate", *words.split())


@pytest.mark.parametrize(
    "word",
    [
        "augmentation.mixup=0.2",
        "augmentation.cutmix=1.0",
        "trainer.label_smoothing=0.1",
        "balancing=sampling",
        "data.pseudo_labels=other",
    ],
)
def test_bags_take_no_option_of_slice_labels(word: str) -> None:
    with pytest.raises(ConfigurationError, match="task=bags learns from classes of patients, and "):
        compose("train", "task=bags", "model=resnext50", word)
    compose("train", "model=resnext50", word)


def test_every_method_may_be_the_primary_one_with_or_without_the_table_of_methods() -> None:
    assert compose("aggregate").primary_method == "booster"
    for name in (method_names()[k] for k in (1, 5, 10)):  # a per cent sign, a comma
        assert compose("aggregate", f'primary_method="{name}"').primary_method == name
    alone = compose("aggregate", 'primary_method="infected first, then which"', "methods=false")
    assert method_name(alone.primary_method) == "infected first, then which"
    assert method_name("booster") == "XGBoost on percentages"
    assert compose("aggregate", "threshold_class=null").threshold_class is None


def test_the_demo_gives_each_backbone_a_size_it_takes() -> None:
    sizes = {name: compose("train", "experiment=demo", f"model={name}").model.image_size for name in PAPER_BACKBONES}
    assert sizes == {"resnext50": 40, "densenet161": 40, "inception_v3": 75, "wide_resnet50": 32}
    asked = compose("train", "experiment=demo", "model=inception_v3", "model.image_size=96")
    assert asked.model.image_size == 96
    assert compose("train", "model=inception_v3").model.image_size == 299


def test_experiment_paper_has_the_papers_numbers() -> None:
    settings = compose("train", "experiment=paper", "data.root=/data")
    assert settings.trainer.max_epochs == 10  # section 3.1.1
    assert settings.trainer.batch_size == 64
    assert settings.trainer.learning_rate == 0.0001
    assert settings.trainer.milestones == [3, 6]
    assert settings.trainer.decay == 0.1
    assert settings.trainer.schedule == "steps"
    assert settings.trainer.gamma == 1.5
    assert settings.augmentation.brightness == settings.augmentation.contrast == 0.2  # section 2.1.2
    assert settings.augmentation.jitter_probability == settings.augmentation.flip_probability == 0.2
    assert settings.augmentation.perspective_distortion == 0.5
    assert settings.augmentation.rotation_degrees == 30
    assert settings.balancing.copies == {"COVID-19": 3, "CAP": 10}
    assert (settings.balancing.augment, settings.balancing.redraw) == ("paper", False)
    assert settings.data.labelled_normals == 30  # section 2
    assert settings.lungs == "tutorial"  # [14]
    # where the paper is silent: docs/method/paper.md
    assert settings.augmentation.crop_ratio == pytest.approx(224 / 244)
    assert settings.augmentation.perspective_probability == 1.0
    assert settings.ingest.window == [-1000, 400]
    assert (settings.ingest.crop, settings.ingest.size) == ("none", 336)
    assert settings.trainer.precision == "32"
    assert settings.model.weights == "imagenet"
    assert settings.model.position == "both"
    assert settings.trainer.region_weight == 1.0
    assert settings.trainer.checkpoint == "best"
    assert settings.data.split.validation == 0.325
    assert (settings.data.reader, settings.data.labels) == ("covid_ct_md", "updated-1")
    for name in PAPER_BACKBONES:
        info = BACKBONES[name]
        model = compose("train", "experiment=paper", "data.root=/data", f"model={name}").model
        assert (model.name, model.image_size) == (name, 299 if name == "inception_v3" else 224)
        assert model.image_size == info.image_size
    booster = compose("aggregate").booster
    assert booster.features == "paper"
    assert (booster.rounds, booster.max_depth, booster.eta) == (100, 6, 0.3)


PAPERS_AUGMENTATION = {
    "brightness": 0.2,
    "contrast": 0.2,
    "jitter_probability": 0.2,
    "flip_probability": 0.2,
    "perspective_distortion": 0.5,
    "perspective_probability": 1.0,
    "rotation_degrees": 30.0,
    "crop_ratio": 224 / 244,
    "probability": 1.0,
    "mixup": 0.0,
    "cutmix": 0.0,
}
PAPERS_BALANCING = {"copies": {"COVID-19": 3, "CAP": 10}, "augment": "paper", "redraw": False, "sampling": "all"}


@pytest.mark.parametrize(
    "words", [("experiment=paper", "data.root=/data"), ("data=covid_ct_md", "data.root=/data"), ("data=phantom",)]
)
def test_the_papers_augmentation_stays_the_papers_and_the_default(words: tuple[str, ...]) -> None:
    settings = compose("train", *words)
    assert asdict(settings.augmentation) == PAPERS_AUGMENTATION
    assert asdict(settings.balancing) == PAPERS_BALANCING


def test_own_cohorts_do_not_train_on_warped_slices_alone_unless_asked_to() -> None:
    own = ("data=manifest", "data.csv=x.csv", "balancing=auto")
    settings = compose("train", *own)
    drawn = {"augment": "all_classes", "redraw": True}
    assert asdict(settings.balancing) == {"copies": "auto", **drawn, "sampling": "all"}
    sampled = compose("train", *own[:2], "balancing=sampling")
    assert asdict(sampled.balancing) == {"copies": {}, **drawn, "sampling": "classes"}
    assert sampled.augmentation == settings.augmentation
    assert settings.augmentation == compose("train", *own, "augmentation=standard").augmentation
    assert settings.augmentation.probability < 1
    papers = asdict(compose("train", *own, "augmentation=paper").augmentation)
    assert papers == PAPERS_AUGMENTATION
    milder = ("perspective_distortion", "perspective_probability", "rotation_degrees", "brightness", "contrast")
    assert all(getattr(settings.augmentation, key) < papers[key] for key in milder)


def test_the_demo_has_its_own_augmentation() -> None:
    settings = compose("train", "experiment=demo")
    gentler = {"perspective_probability": 0.0, "rotation_degrees": 0.0, "jitter_probability": 0.0}
    more = {"flip_probability": 0.5, "crop_ratio": 0.93}
    assert asdict(settings.augmentation) == PAPERS_AUGMENTATION | gentler | more


@pytest.mark.parametrize(
    ("ensemble", "models", "name"),
    [
        ("all", PAPER_BACKBONES, "all"),
        ("densenet161", ("densenet161",), "densenet161"),
        (["inception_v3", "resnext50"], ("inception_v3", "resnext50"), "inception_v3+resnext50"),
    ],
)
def test_ensembles(ensemble: object, models: tuple[str, ...], name: str) -> None:
    assert ensemble_models(ensemble) == models
    assert ensemble_name(ensemble) == ensemble_name(ensemble, "seed1") == ensemble_name(ensemble, ["seed1"]) == name
    assert ensemble_name(ensemble, ["seed0", "seed1"]) == f"{name}@seed0+seed1"
    assert ensemble_name(f"{name}@seed0+seed1") == f"{name}@seed0+seed1"  # as predict.py is given it


def test_tags() -> None:
    assert run_tags(compose("aggregate", "study=s").tag) == ("seed0",)
    assert run_tags(compose("aggregate", "study=s", "tag=[seed0,seed1]").tag) == ("seed0", "seed1")
    for words, message in (
        (["tag=[seed0,seed0]"], "names a run twice"),
        (["tag=[]"], "names no run"),
        (["tag=[a/b]"], "becomes a folder's name"),
        (["tag=[seed0,seed1]", "seeds=[seed2]"], "Give one of the two"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            compose("aggregate", "study=s", *words)


@pytest.mark.parametrize(("name", "words"), [("aggregate", []), ("predict", ["input=x"])])
def test_networks_answer_on_one_gpu(name: str, words: list[str]) -> None:
    for gpus, allowed in (("null", None), ("0", 0), ("1", 1)):
        assert compose(name, *words, f"gpus={gpus}").gpus == allowed
    for gpus in ("2", "-1"):
        with pytest.raises(ConfigurationError, match=f"gpus={gpus} is out of range"):
            compose(name, *words, f"gpus={gpus}")
