"""One run of stage 1, from checked parts to a finished folder."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from torch import Tensor
from torch.utils.data import Subset

from cnr_iemn.cohort.cohort import Cohort
from cnr_iemn.cohort.splits import split_csv, split_sha256
from cnr_iemn.cohort.store import SliceStore
from cnr_iemn.engine import assemble
from cnr_iemn.engine.distributed import Share, loader_workers, other_processes
from cnr_iemn.engine.hardware import Hardware, choose_hardware, deterministic
from cnr_iemn.engine.loggers import log_outcome, run_loggers
from cnr_iemn.engine.progress import show_progress
from cnr_iemn.engine.run_record import lasting_configuration, run_record
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
from cnr_iemn.slices.inference import SliceProbabilities, predict_slices
from cnr_iemn.slices.network import SliceNetwork


def build_network(settings: TrainSettings, classes: tuple[str, ...]) -> SliceNetwork:
    """Return the network with its start weights; random ones come from ``seed``."""
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    model = settings.model
    network = SliceNetwork(
        model.name, n_classes=len(classes), position=model.position, weights=model.weights, library=model.library
    )
    network.check_size(model.image_size)
    return network


@dataclass(frozen=True)
class Parts:
    """What every process of a run works with."""

    network: SliceNetwork
    cohort: Cohort
    store: SliceStore
    roles: assemble.Roles
    hardware: Hardware

    @property
    def phantom(self) -> bool:
        """Whether any scan is synthetic."""
        return any(self.store.scan(scan.scan_id).phantom for scan in self.cohort.scans)


def train_and_predict(settings: TrainSettings, run: RunFolder, parts: Parts) -> float:
    """Train, predict every slice of the cohort, and write all of it into the run's folder. Returns the score.

    Has the run's other processes take part.
    """
    with (
        _running(settings, run, parts),
        other_processes(take_part, settings, parts.hardware),
        run_loggers(settings.logger, run, lasting_configuration(settings)) as loggers,
    ):
        fitted, data = _fit(settings, run, parts, loggers)
        predictions = _predict_cohort(settings, fitted, parts)
        log_outcome(loggers, settings.logger, fitted, predictions, data.validation, gamma=settings.trainer.gamma)
    write_predictions(run.predictions, predictions)
    _finish(run, fitted, predictions)
    return fitted.score


def train_trial(settings: TrainSettings, run: RunFolder, parts: Parts, watch: Callback) -> float:
    """Train a run of a sweep's trial, of which nothing is predicted. Returns the score of its last epoch.

    ``watch``: see ``fit``.
    """
    with _running(settings, run, parts), run_loggers(settings.logger, run, lasting_configuration(settings)) as loggers:
        fitted, _ = _fit(settings, run, parts, loggers, watch)
    run.end(status="finished", score=fitted.metrics[SWEPT])
    return fitted.metrics[SWEPT]


@contextmanager
def _running(settings: TrainSettings, run: RunFolder, parts: Parts) -> Iterator[None]:
    """Note in the run's folder that it begins, or goes on, and whether it is cut off."""
    record = run_record(
        settings, parts.cohort, store=parts.store.root, phantom=parts.phantom, hardware=str(parts.hardware)
    )
    if run.record() is None or settings.overwrite:
        run.begin(record, to_yaml(settings))
    else:
        run.resume(record, to_yaml(settings))
    try:
        yield
    except (KeyboardInterrupt, TrainingError) as error:
        run.end(status="failed" if isinstance(error, TrainingError) else "interrupted")
        print(f"{run.path} is kept: the same command goes on with it after its last finished epoch.", flush=True)
        raise


def take_part(settings: TrainSettings) -> None:
    """Do the work of one of a run's other processes; the first one has checked everything and writes everything."""
    run = RunFolder.of(Path(settings.runs), settings.study, settings.model.name, settings.run_tag)
    if (run.record() or {}).get("status") == "finished" and not settings.overwrite:
        return  # the first process has nothing to do either, and waits for nobody
    trainer = settings.trainer
    hardware = choose_hardware(
        trainer.gpus, trainer.precision, nodes=trainer.nodes, cpu_processes=trainer.cpu_processes
    )
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):  # the first process talks
        cohort = assemble.open_cohort(settings.data, settings.ingest)
        roles = assemble.roles_of(settings, cohort)
        network = build_network(settings, cohort.classes)
        store, failures = assemble.prepared_store(cohort, settings.ingest, settings.lungs)
        assemble.require_all_scans(failures)
        parts = Parts(network, cohort, store, roles, hardware)
        fitted, _ = _fit(settings, run, parts, [])
        _predict_cohort(settings, fitted, parts)


def _fit(
    settings: TrainSettings, run: RunFolder, parts: Parts, loggers: list[Logger], watch: Callback | None = None
) -> tuple[FittedRun, SliceDataModule]:
    shuffle_seed = settings.seed if settings.data.shuffle_training_labels else None
    training = assemble.training_dataset(
        parts.cohort,
        parts.store,
        parts.roles,
        image_size=settings.model.image_size,
        balancing=settings.balancing,
        augmentation=AugmentationSettings(**asdict(settings.augmentation)),
        seed=settings.seed,
        shuffle_seed=shuffle_seed,
    )
    data = SliceDataModule(
        training,
        _validation_dataset(settings, parts),
        batch_size=settings.trainer.batch_size,
        workers=_workers(settings, parts.hardware),
        seed=settings.seed,
        parts=settings.trainer.accumulate,
        for_gpu=parts.hardware.on_gpu,
    )
    fitted = fit(
        _classifier(settings, parts.network, parts.cohort.classes),
        data,
        run,
        classes=parts.cohort.classes,
        hardware=parts.hardware,
        settings=settings.trainer,
        loggers=loggers,
        watch=watch,
    )
    return fitted, data


def _finish(run: RunFolder, fitted: FittedRun, predictions: Predictions) -> None:
    on_validation = slice_accuracy(predictions) if predictions.table["split"].eq("validation").any() else None
    notice = {"notice": PHANTOM_NOTICE} if predictions.metadata.phantom else {}
    metrics = {
        **notice,
        "schema_version": SCHEMA_VERSION,
        "checkpoint": fitted.checkpoint,
        "selected_on": "validation" if fitted.selected else None,
        "validation_slices": on_validation,
        "last_epoch": fitted.metrics,
    }
    write_text_atomic(run.path / "metrics.json", json.dumps(metrics, indent=1))
    run.end(status="finished", score=fitted.score, checkpoint=fitted.checkpoint)
    if notice:
        print(PHANTOM_NOTICE)
    if on_validation is not None:
        selected = " (selected on this set)" if fitted.selected else ""
        print(f"validation slice accuracy {100 * fitted.score:.2f}%{selected}")
    print(f"wrote {run.path}", flush=True)


def _predict_cohort(settings: TrainSettings, fitted: FittedRun, parts: Parts) -> Predictions:
    cohort, roles = parts.cohort, parts.roles
    table = assemble.slice_table(cohort, parts.store, list(cohort.scans))
    dataset = SliceDataset(parts.store, table, image_size=settings.model.image_size)
    share = Share.mine()
    mine = Subset(dataset, share.rows(len(dataset)))
    workers, for_gpu = _workers(settings, parts.hardware), parts.hardware.on_gpu
    loader = plain_loader(mine, settings.trainer.batch_size, workers, for_gpu=for_gpu)
    batches: Iterable[dict[str, Tensor]] = loader
    if share.rank == 0:  # the first process talks
        batches = show_progress(loader, len(mine), doing="Predicting", unit="slices", size=lambda b: len(b["label"]))
    device, precision = parts.hardware.device, parts.hardware.precision
    with deterministic(settings.trainer.deterministic):
        found = predict_slices(parts.network, batches, device=device, precision=precision)
    probabilities = SliceProbabilities(share.joined(found.classes), share.joined(found.regions))
    shuffle_seed = settings.seed if settings.data.shuffle_training_labels else None
    rows = assemble.prediction_table(
        cohort,
        table,
        roles,
        probabilities,
        labels=assemble.scan_labels(cohort, roles.split, shuffle_seed=shuffle_seed),
        selected=fitted.selected,
    )
    metadata = PredictionMetadata(
        model=settings.model.name,
        classes=cohort.classes,
        tag=settings.run_tag,
        seed=settings.seed,
        precision=precision,
        checkpoint=fitted.checkpoint,
        checkpoint_sha256=fitted.checkpoint_sha256,
        store=parts.store.fingerprint,
        split_sha256=split_sha256(split_csv(cohort, roles.split)),
        training_scan_ids=tuple(scan.scan_id for scan in cohort.scans if roles.trains(scan)),
        phantom=parts.phantom,
    )
    return Predictions(rows, metadata)


def _validation_dataset(settings: TrainSettings, parts: Parts) -> SliceDataset | None:
    scans = [scan for scan in parts.cohort.scans if parts.roles.validates(scan)]
    if not scans:
        return None
    table = assemble.slice_table(parts.cohort, parts.store, scans)
    return SliceDataset(parts.store, table, image_size=settings.model.image_size)


def _classifier(settings: TrainSettings, network: SliceNetwork, classes: tuple[str, ...]) -> SliceClassifier:
    trainer = settings.trainer
    return SliceClassifier(
        network,
        n_classes=len(classes),
        learning_rate=trainer.learning_rate,
        schedule=trainer.schedule,
        milestones=tuple(trainer.milestones),
        decay=trainer.decay,
        warmup_epochs=trainer.warmup_epochs,
        gamma=trainer.gamma,
        region_weight=trainer.region_weight,
    )


def _workers(settings: TrainSettings, hardware: Hardware) -> int:
    return loader_workers(hardware) if settings.trainer.workers is None else settings.trainer.workers
