"""Checks of values and between fields, before anything heavy is imported or written."""

from cnr_iemn.errors import ConfigurationError
from cnr_iemn.registry import BACKBONES
from cnr_iemn.settings.aggregate_checks import check_aggregate
from cnr_iemn.settings.prediction_checks import check_predict
from cnr_iemn.settings.prediction_schema import ExportSettings, PredictSettings
from cnr_iemn.settings.ranges import search_space
from cnr_iemn.settings.schema import (
    AggregateSettings,
    BalancingSettings,
    DataSettings,
    IngestSettings,
    ModelSettings,
    PrepareSettings,
    SweepSettings,
    TrainerSettings,
    TrainSettings,
)
from cnr_iemn.settings.values import at_least, check_logger, folder_name, one_of

LUNGS = ("pleura", "border", "tutorial")


def check_settings(settings: object) -> None:
    """Check the settings of any entry point. Raises ConfigurationError."""
    if isinstance(settings, TrainSettings | PrepareSettings):
        one_of("lungs", settings.lungs, LUNGS)
        _check_ingest(settings.ingest)
        _check_data(settings.data)
    if isinstance(settings, TrainSettings):
        folder_name("study", settings.study)
        if settings.tag is not None:
            folder_name("tag", settings.tag)
        _check_model(settings.model)
        _check_balancing(settings.balancing)
        _check_trainer(settings.trainer)
        if settings.trainer.early_stopping is not None and settings.data.split.validation == 0:
            raise ConfigurationError(
                f"trainer.early_stopping={settings.trainer.early_stopping} looks at validation slices, and "
                "data.split.validation=0 leaves none. Give trainer.early_stopping=null, or a share for validation."
            )
        one_of("resume", settings.resume, ("auto", "never"))
        check_logger(settings.logger)
        if settings.sweep is not None:
            _check_sweep(settings, settings.sweep)
    if isinstance(settings, PredictSettings):
        check_predict(settings)
    if isinstance(settings, AggregateSettings):
        check_aggregate(settings)
    if isinstance(settings, AggregateSettings | PredictSettings | ExportSettings):
        folder_name("study", settings.study)
        ensemble_models(settings.ensemble)


def ensemble_models(ensemble: object) -> tuple[str, ...]:
    """Return the models that ``ensemble`` names: ``all`` (the paper's four, in its order), one name, or a list."""
    names = tuple(BACKBONES) if ensemble == "all" else (ensemble,) if isinstance(ensemble, str) else ensemble
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(
            f"ensemble={ensemble!r} names no model. Give all, one model's name, or a list such as "
            "'ensemble=[resnext50,densenet161]'."
        )
    if len(set(names)) < len(names):
        raise ConfigurationError(f"ensemble={ensemble!r} names a model twice. Name each once.")
    for name in names:
        folder_name("ensemble", name)  # whether it has been trained is looked at where the runs are
    return tuple(names)


def ensemble_name(ensemble: object) -> str:
    """Return the folder name of an ensemble: ``all``, a model's name, or names joined by ``+``."""
    return "all" if ensemble == "all" else "+".join(ensemble_models(ensemble))


def _check_data(data: DataSettings) -> None:
    one_of("data.reader", data.reader, ("covid_ct_md", "phantom", "manifest"))
    one_of("data.labels", data.labels, ("updated-1", "original"))
    if data.reader == "covid_ct_md" and data.root is None:
        raise ConfigurationError(
            f"data={data.name} needs the folder of the scans and none was given. "
            "Add data.root=/path/to/COVID-CT-MD (the folder that holds Index.csv)."
        )
    if data.reader == "manifest" and data.csv is None:
        raise ConfigurationError(
            "data=manifest needs the list of scans and none was given. Add data.csv=/path/to/scans.csv (columns "
            "scan_id, path, class)."
        )
    if data.reader == "phantom" and data.phantom is None:
        raise ConfigurationError("data.reader=phantom needs the section data.phantom. Start from data=phantom.")
    if not 0 <= data.split.validation < 1:
        raise ConfigurationError(
            f"data.split.validation={data.split.validation} is not a share of patients. "
            "Give a number from 0 (train on all) to below 1."
        )
    if data.folds < 2:
        raise ConfigurationError(f"data.folds={data.folds}: a fold needs others to train on. Give 2 or more.")
    if data.fold is not None and not 0 <= data.fold < data.folds:
        raise ConfigurationError(
            f"data.fold={data.fold} is not one of the {data.folds} folds. Give 0 to {data.folds - 1}, or null for none."
        )


def _check_ingest(ingest: IngestSettings) -> None:
    at_least("ingest.size", ingest.size, 32)
    one_of("ingest.crop", ingest.crop, ("none", "lungs"))
    if len(ingest.window) != 2 or ingest.window[0] >= ingest.window[1]:
        raise ConfigurationError(
            f"ingest.window={ingest.window} is not a window. Give two values in HU, the lower first: [-1000, 400]."
        )
    if ingest.workers is not None:
        at_least("ingest.workers", ingest.workers, 0)


def _check_model(model: ModelSettings) -> None:
    one_of("model.library", model.library, ("torchvision", "timm"))
    one_of("model.position", model.position, ("both", "location", "none"))
    at_least("model.image_size", model.image_size, 1)
    if model.library == "timm":
        folder_name("model.name", model.name)
        return
    one_of("model.name", model.name, BACKBONES)
    minimum = BACKBONES[model.name].minimum_size
    if model.image_size < minimum:
        raise ConfigurationError(
            f"model.image_size={model.image_size} is too small: {BACKBONES[model.name].paper_name} needs at least "
            f"{minimum} pixels."
        )


def _check_balancing(balancing: BalancingSettings) -> None:
    one_of("balancing.augment", balancing.augment, ("paper", "all_classes"))
    copies = balancing.copies
    if copies == "auto":
        return
    if not isinstance(copies, dict) or not all(isinstance(n, int) and n >= 0 for n in copies.values()):
        raise ConfigurationError(
            f"balancing.copies={copies!r} is neither auto nor a number of copies by class, such as "
            "'balancing.copies={COVID-19: 3, CAP: 10}'."
        )


def _check_trainer(trainer: TrainerSettings) -> None:
    one_of("trainer.schedule", trainer.schedule, ("steps", "cosine", "constant", "one_cycle"))
    one_of("trainer.checkpoint", trainer.checkpoint, ("best", "last"))
    one_of("trainer.precision", trainer.precision, ("auto", "32", "bf16"))
    at_least("trainer.max_epochs", trainer.max_epochs, 1)
    for key, number in (("nodes", trainer.nodes), ("cpu_processes", trainer.cpu_processes)):
        at_least(f"trainer.{key}", number, 1)
    at_least("trainer.accumulate", trainer.accumulate, 1)
    at_least("trainer.batch_size", trainer.batch_size, 2)
    for key, value in (("gpus", trainer.gpus), ("workers", trainer.workers)):
        if value is not None:
            at_least(f"trainer.{key}", value, 0)
    if trainer.ema is not None and not 0 < trainer.ema < 1:
        raise ConfigurationError(f"trainer.ema={trainer.ema} is no decay. Give one between 0 and 1, such as 0.999.")
    if trainer.clip is not None and trainer.clip <= 0:
        raise ConfigurationError(f"trainer.clip={trainer.clip} is no length of a gradient. Give one above 0, or null.")
    if trainer.early_stopping is not None:
        at_least("trainer.early_stopping", trainer.early_stopping, 1)
    if not 0 <= trainer.warmup_epochs < trainer.max_epochs:
        raise ConfigurationError(
            f"trainer.warmup_epochs={trainer.warmup_epochs} leaves nothing of trainer.max_epochs={trainer.max_epochs}. "
            f"Give 0 to below {trainer.max_epochs}."
        )
    if trainer.schedule == "one_cycle" and trainer.warmup_epochs > 0:
        raise ConfigurationError(
            f"trainer.warmup_epochs={trainer.warmup_epochs} is not for trainer.schedule=one_cycle, which rises over "
            "its first fifth. Give trainer.warmup_epochs=0, or trainer.schedule=cosine."
        )
    if trainer.learning_rate <= 0:
        raise ConfigurationError(f"trainer.learning_rate={trainer.learning_rate} trains nothing. Give a positive rate.")


def _check_sweep(settings: TrainSettings, sweep: SweepSettings) -> None:
    folder_name("sweep.name", sweep.name)
    one_of("sweep.score", sweep.score, ("inner_folds", "validation"))
    for key, value in (("trials", sweep.trials), ("parallel", sweep.parallel)):
        at_least(f"sweep.{key}", value, 1)
    for key in ("startup_trials", "prune_after_trials", "prune_after_epochs"):
        at_least(f"sweep.{key}", getattr(sweep, key), 0)
    folds = list(range(settings.data.folds)) if sweep.folds is None else sweep.folds
    if not folds or len(set(folds)) < len(folds) or not set(folds) <= set(range(settings.data.folds)):
        raise ConfigurationError(
            f"sweep.folds={folds} does not name some of the {settings.data.folds} folds, each once. "
            f"Give a list of numbers from 0 to {settings.data.folds - 1}, or null for all."
        )
    if settings.data.fold is not None or settings.tag is not None or settings.overwrite:
        raise ConfigurationError(
            "A sweep chooses the folds and folders of its runs itself and goes on where it was interrupted, so that "
            "data.fold, tag and overwrite cannot be given. Leave them out; another sweep.name= begins anew."
        )
    search_space(sweep.space)
