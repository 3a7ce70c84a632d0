"""Rules between settings, and what a command needs: a study, optional packages, folders that can be written."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from cnr_iemn.config.aggregate_schema import AggregateSettings
from cnr_iemn.config.prediction_schema import ExportSettings, PredictSettings
from cnr_iemn.config.schema import (
    BalancingSettings,
    DataSettings,
    IngestSettings,
    LoggerSettings,
    ModelSettings,
    PrepareSettings,
    TrainerSettings,
    TrainSettings,
    TuneSettings,
)
from cnr_iemn.config.schema_fields import check_fields, check_folder_name, setting_paths
from cnr_iemn.config.search_space import search_space
from cnr_iemn.constants import BACKBONES, PAPER_BACKBONES
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.utils.shell_words import override
from cnr_iemn.utils.writable import require_writable


def check_settings(settings: object) -> None:
    """Check the settings of any command. Raises ConfigurationError."""
    check_fields(settings)
    if isinstance(settings, TrainSettings | PrepareSettings):
        _check_data(settings.data)
        _check_ingest(settings.ingest)
    if isinstance(settings, TrainSettings):
        _check_model(settings.model)
        _check_balancing(settings.balancing)
        _check_trainer(settings.trainer, settings.data)
        _check_logger(settings.logger)
    if isinstance(settings, TuneSettings):
        _check_search(settings)
    if isinstance(settings, PredictSettings):
        _check_predict(settings)
    if isinstance(settings, AggregateSettings):
        _check_aggregate(settings)
    if isinstance(settings, AggregateSettings | PredictSettings | ExportSettings):
        if settings.study:  # a bundle is not in one
            check_folder_name("study", settings.study)
        ensemble_models(settings.ensemble)


def name_study(settings: object) -> None:
    """Fill in the study of a command that works with one where none is named. Raises ConfigurationError."""
    if isinstance(settings, AggregateSettings) and not settings.study:
        settings.study = _only_study(Path(settings.runs), "*/*/run.json", "Run train.py first, or give runs=.")
    if isinstance(settings, PredictSettings) and settings.bundle is not None:
        return
    if isinstance(settings, PredictSettings | ExportSettings) and not settings.study:
        remedy = "Run train.py and aggregate.py first, or give runs=."
        settings.study = _only_study(Path(settings.runs), "ensembles/*/ensemble.json", remedy)


def _only_study(runs: Path, pattern: str, remedy: str) -> str:
    """Return the one study below ``runs`` that has a file of this pattern."""
    studies = sorted(path.name for path in runs.glob("[!.]*") if any(path.glob(pattern)))
    if len(studies) == 1:
        return studies[0]
    if not studies:
        raise ConfigurationError(f"No study is named, and {runs} holds none to work with. {remedy}")
    raise ConfigurationError(
        f"No study is named, and {runs} holds several: {', '.join(studies)}. Add study={studies[0]}."
    )


def ensemble_models(ensemble: object) -> tuple[str, ...]:
    """Return the models that ``ensemble`` names: ``all`` (the paper's four, in its order), one name, or a list."""
    names = PAPER_BACKBONES if ensemble == "all" else (ensemble,) if isinstance(ensemble, str) else ensemble
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(
            f"ensemble={ensemble!r} names no model. Give all, one model's name, or a list such as "
            "'ensemble=[resnext50,densenet161]'."
        )
    if len(set(names)) < len(names):
        raise ConfigurationError(f"ensemble={ensemble!r} names a model twice. Name each once.")
    for name in names:
        check_folder_name("ensemble", name)  # whether it has been trained is looked at where the runs are
    return tuple(names)


def ensemble_name(ensemble: object) -> str:
    """Return the folder name of an ensemble: ``all``, a model's name, or names joined by ``+``."""
    return "all" if ensemble == "all" else "+".join(ensemble_models(ensemble))


def check_places(settings: object) -> None:
    """Check that a command can write where it is to.

    ``train.py`` looks itself: a finished run needs no place, nor does a store that holds every scan.

    Raises:
        ConfigurationError: As ``require_writable``.
    """
    if isinstance(settings, PrepareSettings):
        require_writable("ingest.cache", Path(settings.ingest.cache))
    elif isinstance(settings, AggregateSettings):
        folder = Path(settings.runs) / settings.study / "ensembles" / ensemble_name(settings.ensemble)
        require_writable("runs", folder)
        require_writable("runs", folder / "figures")
    elif isinstance(settings, PredictSettings | ExportSettings):
        study = Path(settings.runs) / settings.study
        if settings.output is not None:
            output = Path(settings.output)
            require_writable("output", output if isinstance(settings, PredictSettings) else output.absolute().parent)
        elif isinstance(settings, ExportSettings):
            require_writable("output", study / "bundles")
        else:
            require_writable("output", Path("predictions") if settings.bundle else study / "predictions")


def _check_data(data: DataSettings) -> None:
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
    if data.fold is not None and not 0 <= data.fold < data.folds:
        raise ConfigurationError(
            f"data.fold={data.fold} is not one of the {data.folds} folds. Give 0 to {data.folds - 1}, or null for none."
        )


def _check_ingest(ingest: IngestSettings) -> None:
    if len(ingest.window) != 2 or ingest.window[0] >= ingest.window[1]:
        raise ConfigurationError(
            f"ingest.window={ingest.window} is not a window. Give two values in HU, the lower first: [-1000, 400]."
        )


def _check_model(model: ModelSettings) -> None:
    if model.library == "timm":
        check_folder_name("model.name", model.name)
        _require_package("timm", f"model.library=timm (model.name={model.name})", "or use a backbone of the paper")
        return
    if model.name not in BACKBONES:
        raise ConfigurationError(f"model.name={model.name} is not known. Choose one of: {', '.join(BACKBONES)}.")
    backbone = BACKBONES[model.name]
    if model.image_size < backbone.minimum_size:
        raise ConfigurationError(
            f"model.image_size={model.image_size} is too small: {backbone.paper_name} needs at least "
            f"{backbone.minimum_size} pixels."
        )


def _check_balancing(balancing: BalancingSettings) -> None:
    copies = balancing.copies
    if copies == "auto":
        return
    numbers = list(copies.values()) if isinstance(copies, dict) else copies
    if not isinstance(numbers, list) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ConfigurationError(
            f"balancing.copies={copies!r} is neither auto nor a number of copies by class, such as "
            "'balancing.copies={COVID-19: 3, CAP: 10}', or in class order: 'balancing.copies=[0,3,10]'."
        )


def _check_trainer(trainer: TrainerSettings, data: DataSettings) -> None:
    if trainer.warmup_epochs >= trainer.max_epochs:
        raise ConfigurationError(
            f"trainer.warmup_epochs={trainer.warmup_epochs} leaves nothing of trainer.max_epochs={trainer.max_epochs}. "
            f"Give 0 to below {trainer.max_epochs}."
        )
    if trainer.schedule == "one_cycle" and trainer.warmup_epochs > 0:
        raise ConfigurationError(
            f"trainer.warmup_epochs={trainer.warmup_epochs} does not apply to trainer.schedule=one_cycle, which rises "
            "over its first fifth. Give trainer.warmup_epochs=0, or trainer.schedule=cosine."
        )
    if trainer.early_stopping is not None and data.split.validation == 0:
        raise ConfigurationError(
            f"trainer.early_stopping={trainer.early_stopping} looks at validation slices, and "
            "data.split.validation=0 leaves none. Give trainer.early_stopping=null, or a share for validation."
        )


def _check_logger(logger: LoggerSettings) -> None:
    if logger.name == "tensorboard":
        _require_package("tensorboard", "logger=tensorboard", "or use logger=csv")
    if logger.log_checkpoint and logger.name != "wandb":
        raise ConfigurationError(
            f"logger.log_checkpoint=true keeps the checkpoint as a W&B artifact, which logger={logger.name} has not. "
            "Add logger=wandb, or leave it out: the run's folder holds its checkpoints anyway."
        )


def _check_search(settings: TuneSettings) -> None:
    search, n_folds = settings.search, settings.data.folds
    folds = list(range(n_folds)) if search.folds is None else search.folds
    if not folds or len(set(folds)) < len(folds) or not set(folds) <= set(range(n_folds)):
        raise ConfigurationError(
            f"search.folds={folds} does not name some of the {n_folds} folds, each once. "
            f"Give a list of numbers from 0 to {n_folds - 1}, or null for all."
        )
    if settings.data.fold is not None or settings.tag is not None or settings.overwrite:
        raise ConfigurationError(
            "A search chooses the folds and folders of its runs itself and resumes where it was interrupted, so that "
            "data.fold, tag and overwrite cannot be given. Leave them out; another search.name= begins anew."
        )
    search_space(search.space)


def _check_predict(settings: PredictSettings) -> None:
    if settings.dicom and not settings.identify:
        raise ConfigurationError(
            "dicom=true writes files into the patient's study, and they must carry the patient's name, id and dates, "
            "as far as the scan has them; nothing else that predict.py writes does. Add identify=true if they may be "
            "written to the output folder, or leave dicom=true out."
        )
    for key in ("identify", "segmentation"):
        if getattr(settings, key) and not settings.dicom:
            raise ConfigurationError(f"{key}=true needs DICOM output. Add dicom=true, or leave {key} out.")
    if settings.dicom:
        _require_package("highdicom", "dicom=true", "or leave dicom=true out", extra="dicom")
    if settings.bundle is not None:
        for key, value, default in (("study", settings.study, ""), ("ensemble", settings.ensemble, "all")):
            if value != default:
                raise ConfigurationError(
                    f"bundle={settings.bundle} and {key}={value} exclude each other: a bundle is one ensemble of one "
                    "study. Leave one of them out."
                )


def _check_aggregate(settings: AggregateSettings) -> None:
    for key in ("permutations", "refits"):
        if getattr(settings, key) == 1:
            raise ConfigurationError(f"{key}=1 is out of range: give 0 for none, or 2 or more.")
    _check_logger(settings.logger)
    if settings.logger.name == "tensorboard" or settings.logger.log_checkpoint:
        raise ConfigurationError(
            "aggregate.py has tables and drawings, for which TensorBoard has no place, and no checkpoint. Give "
            "logger=wandb, or leave logger out: report.html holds everything."
        )
    _check_repeats("seeds", settings.seeds, "tag", settings.tag)
    _check_repeats("splits", settings.splits, "study", settings.study)
    _check_scoring(settings)


def _check_scoring(settings: AggregateSettings) -> None:
    evaluate, labels = setting_paths("evaluate", settings.evaluate), setting_paths("labels", settings.labels)
    if bool(evaluate) != bool(labels):
        raise ConfigurationError(
            "evaluate= and labels= belong together: the predictions.parquet that predict.py has written, and the true "
            "classes of its scans (CSV, columns Study and Label). Give both."
        )
    if settings.compare is None:
        if settings.compare_on != "validation":
            raise ConfigurationError("compare_on= says on which scans to compare. Name the other study with compare=.")
        return
    if evaluate:
        raise ConfigurationError("compare= and evaluate= are two tasks. Give one, then the other.")
    check_folder_name("compare_on", settings.compare_on)
    if not settings.compare.endswith(".csv"):  # a table of published predictions
        study, slash, name = settings.compare.partition("/")
        for folder in (study, name) if slash else (study,):
            check_folder_name("compare", folder)


def _check_repeats(key: str, names: Sequence[str], reference_key: str, reference: str) -> None:
    for name in names:
        check_folder_name(key, name)
    if reference in names or len(set(names)) < len(names):
        raise ConfigurationError(
            f"{override(key, names)} names one twice, or {override(reference_key, reference)}, which is included "
            "anyway. Name each of the others once."
        )


def _require_package(package: str, key: str, alternative: str, *, extra: str | None = None) -> None:
    """Check that an optional package is installed.

    Args:
        package: Its import name.
        key: The setting that needs it.
        alternative: The end of the sentence, what to do without it.
        extra: Name of the extra, where it is not the package's.
    """
    if find_spec(package) is None:
        raise ConfigurationError(
            f"{key} needs the package {package}, which is not installed. Install it with "
            f"pip install '.[{extra or package}]', {alternative}."
        )
