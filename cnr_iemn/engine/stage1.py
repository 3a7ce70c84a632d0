"""One run of stage 1, from checked parts to a finished folder."""

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from cnr_iemn.cohort.cohort import Cohort
from cnr_iemn.cohort.splits import split_csv, split_sha256
from cnr_iemn.cohort.store import SliceStore
from cnr_iemn.engine import assemble
from cnr_iemn.engine.hardware import Hardware
from cnr_iemn.engine.loggers import run_loggers
from cnr_iemn.engine.runs import RunFolder
from cnr_iemn.engine.training import SWEPT, FittedRun, fit
from cnr_iemn.errors import TrainingError
from cnr_iemn.files import write_text_atomic
from cnr_iemn.patients.evaluation import slice_accuracy
from cnr_iemn.patients.predictions import Predictions, write_predictions
from cnr_iemn.records import SCHEMA_VERSION, PredictionMetadata
from cnr_iemn.registry import PHANTOM_NOTICE
from cnr_iemn.settings.render import to_yaml
from cnr_iemn.settings.schema import TrainSettings
from cnr_iemn.slices.augmentation import AugmentationSettings
from cnr_iemn.slices.classifier import SliceClassifier
from cnr_iemn.slices.datamodule import SliceDataModule, SliceDataset, plain_loader
from cnr_iemn.slices.inference import predict_slices
from cnr_iemn.slices.network import SliceNetwork

_PASSING = {
    "overwrite": None,
    "resume": None,
    "runs": None,
    "logger": None,
    "sweep": None,
    "trainer": ("gpus", "workers"),
    "ingest": ("cache", "workers"),
}
"""Settings that do not change what is learned; a finished run may be asked for again with others."""


def lasting_configuration(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that make a run what it is, as plain values."""
    values = asdict(settings)
    for group, keys in _PASSING.items():
        if keys is None:
            del values[group]
        else:
            for key in keys:
                del values[group][key]
    return values


def build_network(settings: TrainSettings, classes: tuple[str, ...]) -> SliceNetwork:
    """Return the network with its start weights; random ones come from ``seed``."""
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    model = settings.model
    return SliceNetwork(model.name, n_classes=len(classes), position=model.position, weights=model.weights)


def train_and_predict(
    settings: TrainSettings,
    run: RunFolder,
    network: SliceNetwork,
    *,
    cohort: Cohort,
    store: SliceStore,
    roles: assemble.Roles,
    hardware: Hardware,
    watch: Callback | None = None,
) -> float:
    """Train, predict every slice of the cohort, and write all of it into the run's folder. Returns the score.

    Goes on with a run that was interrupted, unless ``overwrite``. ``watch``: of a sweep's trial, of which nothing is
    predicted; its score is that of the last epoch.
    """
    shuffle_seed = settings.seed if settings.data.shuffle_training_labels else None
    training = assemble.training_dataset(
        cohort,
        store,
        roles,
        image_size=settings.model.image_size,
        balancing=settings.balancing,
        augmentation=AugmentationSettings(**asdict(settings.augmentation)),
        seed=settings.seed,
        shuffle_seed=shuffle_seed,
    )
    data = SliceDataModule(
        training,
        _validation_dataset(settings, cohort, store, roles),
        batch_size=settings.trainer.batch_size,
        workers=_workers(settings, hardware),
        seed=settings.seed,
    )
    phantom = any(store.scan(scan.scan_id).phantom for scan in cohort.scans)
    record = _run_record(settings, cohort, store, hardware, phantom)
    if run.record() is None or settings.overwrite:
        run.begin(record, to_yaml(settings))
    else:
        run.resume(record, to_yaml(settings))
    try:
        with run_loggers(settings.logger, run, lasting_configuration(settings)) as loggers:
            fitted = fit(
                _classifier(settings, network, cohort.classes),
                data,
                run,
                hardware=hardware,
                max_epochs=settings.trainer.max_epochs,
                checkpoint=settings.trainer.checkpoint,
                loggers=loggers,
                watch=watch,
            )
    except (KeyboardInterrupt, TrainingError) as error:
        run.end(status="failed" if isinstance(error, TrainingError) else "interrupted")
        print(f"{run.path} is kept: the same command goes on with it after its last finished epoch.", flush=True)
        raise
    if watch is not None:
        run.end(status="finished", score=fitted.metrics[SWEPT])
        return fitted.metrics[SWEPT]
    predictions = _predict_cohort(
        settings, network, fitted, cohort=cohort, store=store, roles=roles, hardware=hardware, phantom=phantom
    )
    write_predictions(run.predictions, predictions)
    _finish(run, fitted, predictions)
    return fitted.score


def _finish(run: RunFolder, fitted: FittedRun, predictions: Predictions) -> None:
    on_validation = slice_accuracy(predictions) if predictions.table["split"].eq("validation").any() else None
    notice = {"notice": PHANTOM_NOTICE} if predictions.metadata.phantom else {}
    metrics = {
        **notice,
        "schema_version": SCHEMA_VERSION,
        "checkpoint": fitted.checkpoint,
        "selected_on": "validation" if fitted.checkpoint == "best" else None,
        "validation_slices": on_validation,
        "last_epoch": fitted.metrics,
    }
    write_text_atomic(run.path / "metrics.json", json.dumps(metrics, indent=1))
    run.end(status="finished", score=fitted.score, checkpoint=fitted.checkpoint)
    if notice:
        print(PHANTOM_NOTICE)
    if on_validation is not None:
        selected = " (checkpoint selected on this set)" if fitted.checkpoint == "best" else ""
        print(f"validation slice accuracy {100 * fitted.score:.2f}%{selected}")
    print(f"wrote {run.path}", flush=True)


def _predict_cohort(
    settings: TrainSettings,
    network: SliceNetwork,
    fitted: FittedRun,
    *,
    cohort: Cohort,
    store: SliceStore,
    roles: assemble.Roles,
    hardware: Hardware,
    phantom: bool,
) -> Predictions:
    table = assemble.slice_table(cohort, store, list(cohort.scans))
    dataset = SliceDataset(store, table, image_size=settings.model.image_size)
    loader = plain_loader(dataset, settings.trainer.batch_size, _workers(settings, hardware))
    probabilities = predict_slices(network, loader, device=hardware.device, precision=hardware.precision)
    shuffle_seed = settings.seed if settings.data.shuffle_training_labels else None
    rows = assemble.prediction_table(
        cohort,
        table,
        roles,
        probabilities,
        labels=assemble.scan_labels(cohort, roles.split, shuffle_seed=shuffle_seed),
        selected=fitted.checkpoint == "best",
    )
    metadata = PredictionMetadata(
        model=settings.model.name,
        classes=cohort.classes,
        tag=settings.run_tag,
        seed=settings.seed,
        precision=hardware.precision,
        checkpoint=fitted.checkpoint,
        checkpoint_sha256=fitted.checkpoint_sha256,
        store=store.fingerprint,
        split_sha256=split_sha256(split_csv(cohort, roles.split)),
        training_scan_ids=tuple(scan.scan_id for scan in cohort.scans if roles.trains(scan)),
        phantom=phantom,
    )
    return Predictions(rows, metadata)


def _validation_dataset(
    settings: TrainSettings, cohort: Cohort, store: SliceStore, roles: assemble.Roles
) -> SliceDataset | None:
    scans = [scan for scan in cohort.scans if roles.validates(scan)]
    if not scans:
        return None
    return SliceDataset(store, assemble.slice_table(cohort, store, scans), image_size=settings.model.image_size)


def _classifier(settings: TrainSettings, network: SliceNetwork, classes: tuple[str, ...]) -> SliceClassifier:
    trainer = settings.trainer
    return SliceClassifier(
        network,
        n_classes=len(classes),
        learning_rate=trainer.learning_rate,
        schedule=trainer.schedule,
        milestones=tuple(trainer.milestones),
        decay=trainer.decay,
        gamma=trainer.gamma,
        region_weight=trainer.region_weight,
    )


def _workers(settings: TrainSettings, hardware: Hardware) -> int:
    return hardware.loader_workers if settings.trainer.workers is None else settings.trainer.workers


def _run_record(
    settings: TrainSettings, cohort: Cohort, store: SliceStore, hardware: Hardware, phantom: bool
) -> dict[str, Any]:
    packages = (
        "torch",
        "torchvision",
        "pytorch-lightning",
        "numpy",
        "pydicom",
        "imagecodecs",
        "opencv-python-headless",
    )
    return {
        **({"notice": PHANTOM_NOTICE} if phantom else {}),
        "configuration": lasting_configuration(settings),
        "cohort": {"name": cohort.name, "root": str(cohort.root), "n_scans": len(cohort.scans)},
        "store": str(store.root),
        "classes": list(cohort.classes),
        "phantom": phantom,
        "hardware": str(hardware),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }
