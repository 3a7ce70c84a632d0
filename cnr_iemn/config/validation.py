"""The settings of a command as a whole: rules between its keys, its study, and folders that can be written."""

from collections.abc import Sequence
from pathlib import Path

from cnr_iemn.config.ensemble_names import ensemble_models, ensemble_name, run_tags
from cnr_iemn.config.group_rules import (
    check_balancing,
    check_channels,
    check_data,
    check_debug,
    check_ingest,
    check_logger,
    check_model,
    check_part,
    check_trainer,
)
from cnr_iemn.config.schema.aggregate import AggregateSettings
from cnr_iemn.config.schema.fields import check_fields, check_folder_name, setting_paths
from cnr_iemn.config.schema.prediction import ExportSettings, PredictSettings
from cnr_iemn.config.schema.settings import PrepareSettings, TrainSettings, TuneSettings
from cnr_iemn.config.search_space import search_space
from cnr_iemn.config.service_rules import check_service
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.utils.packages import require_package
from cnr_iemn.utils.shell_words import override
from cnr_iemn.utils.writable import require_writable


def check_settings(settings: object) -> None:
    """Check the settings of any command. Raises ConfigurationError."""
    check_fields(settings)
    if isinstance(settings, TrainSettings | PrepareSettings):
        check_data(settings.data)
        check_ingest(settings.ingest)
    if isinstance(settings, TrainSettings):
        _check_pseudo_labels(settings)
        _check_bags(settings)
        _check_lobes(settings)
        check_model(settings.model)
        check_channels(settings.model, settings.ingest)
        check_balancing(settings.balancing)
        check_trainer(settings.trainer, settings.data)
        check_logger(settings.logger)
        check_debug(settings.debug)
    if isinstance(settings, PrepareSettings):
        check_part(settings.part, settings.parts)
    if isinstance(settings, TuneSettings):
        _check_search(settings)
    if isinstance(settings, PredictSettings):
        _check_predict(settings)
    if isinstance(settings, ExportSettings) and settings.push is not None:
        require_package("huggingface_hub", "push", "or leave push out", extra="hub")
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


def check_places(settings: object) -> None:
    """Check that a command can write where it is to.

    ``train.py`` looks itself: a finished run needs no place, nor does a store that holds every scan.

    Raises:
        ConfigurationError: As ``require_writable``.
    """
    if isinstance(settings, PrepareSettings):
        require_writable("ingest.cache", Path(settings.ingest.cache))
    elif isinstance(settings, AggregateSettings):
        folder = Path(settings.runs) / settings.study / "ensembles" / ensemble_name(settings.ensemble, settings.tag)
        require_writable("runs", folder)
        require_writable("runs", folder / "figures")
    elif isinstance(settings, PredictSettings | ExportSettings):
        if isinstance(settings, PredictSettings) and settings.report is not None:
            _check_report(Path(settings.report))
        study = Path(settings.runs) / settings.study
        if settings.output is not None:
            output = Path(settings.output)
            require_writable("output", output if isinstance(settings, PredictSettings) else output.absolute().parent)
        elif isinstance(settings, ExportSettings):
            require_writable("output", study / "bundles")
        else:
            require_writable("output", Path("predictions") if settings.bundle else study / "predictions")


def _check_report(path: Path) -> None:
    if path.is_dir():
        raise ConfigurationError(
            f"report={path} is a folder, and the report is one file. Give report={path / 'run.json'}."
        )
    require_writable("report", path.absolute().parent)


def _check_pseudo_labels(settings: TrainSettings) -> None:
    value = settings.data.pseudo_labels
    if value is None:
        return
    if _check_study("data.pseudo_labels", value) == settings.study:
        raise ConfigurationError(
            f"data.pseudo_labels={value} is this very study: its runs and those that learn from them would have "
            "the same names. Give another study=."
        )
    if settings.data.slice_labels != "reader":
        raise ConfigurationError(
            f"data.pseudo_labels={value} labels slices that have no label, and data.slice_labels="
            f"{settings.data.slice_labels} leaves none. Give one of the two."
        )


def _check_lobes(settings: TrainSettings) -> None:
    if not settings.data.lobes:
        return
    if settings.data.reader == "manifest" or settings.task == "bags" or settings.data.shuffle_training_labels:
        raise ConfigurationError(
            "data.lobes=true reads COVID-CT-MD's lobe labels to train on slices, so that data=manifest, task=bags and "
            "data.shuffle_training_labels=true exclude it. Give data.lobes=false."
        )


def _check_bags(settings: TrainSettings) -> None:
    if settings.task != "bags":
        return
    of_slices = {
        "augmentation.mixup": settings.augmentation.mixup > 0,
        "augmentation.cutmix": settings.augmentation.cutmix > 0,
        "trainer.label_smoothing": settings.trainer.label_smoothing > 0,
        "balancing.sampling": settings.balancing.sampling == "classes",
        "data.pseudo_labels": settings.data.pseudo_labels is not None,
    }
    keys = [key for key, used in of_slices.items() if used]
    if keys:
        raise ConfigurationError(
            f"task=bags learns from classes of patients, and {', '.join(keys)} would change labels or batches of "
            "slices. Leave them at their defaults, or give task=slices."
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
    if settings.debug.mode is not None:
        raise ConfigurationError("debug= is for train.py: a search measures whole trainings. Leave it out.")
    search_space(search.space)


def _check_predict(settings: PredictSettings) -> None:
    check_service(settings)
    if not settings.join:
        check_part(settings.part, settings.parts)
    elif settings.part is not None or settings.redo != "changed":
        raise ConfigurationError(
            "join=true joins answers of all parts and predicts nothing. Leave part= and redo= out."
        )
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
        require_package("highdicom", "dicom=true", "or leave dicom=true out", extra="dicom")
    if settings.input.startswith("dicomweb+"):
        require_package("dicomweb_client", "input=dicomweb+...", "or give files", extra="dicomweb")
    if settings.bundle is not None and settings.bundle.startswith("hf:"):
        require_package("huggingface_hub", "bundle=hf:...", "or give the bundle as a folder", extra="hub")
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
    check_logger(settings.logger)
    if settings.logger.name in ("tensorboard", "mlflow") or settings.logger.log_checkpoint:
        raise ConfigurationError(
            "aggregate.py logs tables and figures, which only W&B takes, and no checkpoint. Give "
            "logger=wandb, or leave logger out: report.html holds everything."
        )
    tags = run_tags(settings.tag)
    if len(tags) > 1 and settings.seeds:
        raise ConfigurationError(
            f"{override('seeds', settings.seeds)} repeats the runs of one tag, and {override('tag', tags)} takes the "
            "mean of several. Give one of the two."
        )
    _check_repeats("seeds", settings.seeds, "tag", tags[0])
    _check_repeats("splits", settings.splits, "study", settings.study)
    _check_scoring(settings)
    _ = settings.checklists  # refuses an unknown one
    if settings.prevalences and settings.threshold_class is None:
        raise ConfigurationError(
            "prevalence= is the share of threshold_class, which is null. Name the class, or leave prevalence out."
        )


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
        _check_study("compare", settings.compare)


def _check_study(key: str, value: str) -> str:
    """Check the names in a study, or in a study and a folder in it, joined by a slash. Returns the study's."""
    study, slash, folder = value.partition("/")
    for name in (study, folder) if slash else (study,):
        check_folder_name(key, name)
    return study


def _check_repeats(key: str, names: Sequence[str], reference_key: str, reference: str) -> None:
    for name in names:
        check_folder_name(key, name)
    if reference in names or len(set(names)) < len(names):
        raise ConfigurationError(
            f"{override(key, names)} names one twice, or {override(reference_key, reference)}, which is included "
            "anyway. Name each of the others once."
        )
