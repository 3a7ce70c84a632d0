"""What a run learns: the classes of slices (the paper), or those of patients from bags of their slices."""

from typing import Any

import numpy as np

from cnr_iemn.config.schema.settings import TrainerSettings, TrainSettings
from cnr_iemn.data.cohort import FROM_PATIENT, Cohort
from cnr_iemn.data.slice_store import SliceStore
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.stage1.data.bags import BagDataModule, BagLabels
from cnr_iemn.stage1.data.balancing import balance
from cnr_iemn.stage1.data.datamodule import SliceDataModule, SliceDataset
from cnr_iemn.stage1.models.network import SliceNetwork
from cnr_iemn.stage1.training import study_data
from cnr_iemn.stage1.training.bag_module import BagClassifier
from cnr_iemn.stage1.training.hardware import Hardware
from cnr_iemn.stage1.training.lightning_module import SliceClassifier
from cnr_iemn.stage1.training.roles import Roles

BAGS = "bags"


def check_task(settings: TrainSettings, hardware: Hardware) -> None:
    """Raise ConfigurationError where the settings do not fit the task."""
    if settings.task != BAGS:
        return
    if settings.data.slice_labels != FROM_PATIENT:
        raise ConfigurationError(
            f"task={BAGS} learns from the classes of patients, but with data.slice_labels={settings.data.slice_labels} "
            f"scans without slice labels train nothing. Add data.slice_labels={FROM_PATIENT}."
        )
    if hardware.processes > 1:
        raise ConfigurationError(
            f"task={BAGS} trains in one process, and {hardware.processes} were asked for. Give trainer.gpus=1, or "
            "trainer.gpus=0 trainer.cpu_processes=1."
        )


def shuffle_seed(settings: TrainSettings) -> int | None:
    """Return the seed of the negative control, None where the labels stay."""
    return settings.seed if settings.data.shuffle_training_labels else None


def build_task(
    settings: TrainSettings,
    network: SliceNetwork,
    *,
    cohort: Cohort,
    store: SliceStore,
    roles: Roles,
    workers: int,
    for_gpu: bool,
) -> tuple[SliceClassifier, SliceDataModule]:
    """Return the network with its losses, and its data. ``workers``: loading processes. ``for_gpu``: batches for one.

    Raises:
        CohortError: A class has nothing to learn from.
    """
    trainer = settings.trainer
    optimization = _optimization(trainer, cohort.classes)
    loading: dict[str, Any] = {
        "batch_size": trainer.batch_size,
        "workers": workers,
        "seed": settings.seed,
        "accumulate": trainer.accumulate,
        "for_gpu": for_gpu,
    }
    validation = _validation_dataset(settings, cohort, store, roles)
    if settings.task == BAGS:
        bags = _bag_dataset(settings, cohort, store, roles)
        labels, measured = _bag_labels(settings, cohort, roles, bags, validation)
        n_classes = len(cohort.classes)
        data = BagDataModule(bags, validation, labels, bag_size=trainer.bag_size, n_classes=n_classes, **loading)
        return BagClassifier(network, labels, measured, **optimization), data
    training = study_data.training_dataset(
        cohort,
        store,
        roles,
        image_size=settings.model.image_size,
        channels=study_data.input_channels(settings),
        balancing=settings.balancing,
        augmentation=settings.augmentation,
        seed=settings.seed,
        shuffle_seed=shuffle_seed(settings),
    )
    mixing = study_data.batch_mixing(settings)
    sample_classes = settings.balancing.sampling == "classes"
    slices = SliceDataModule(training, validation, sample_classes=sample_classes, **loading)
    return SliceClassifier(network, mixing=mixing, **optimization), slices


def _optimization(trainer: TrainerSettings, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the arguments of a classifier that say how it learns."""
    return {
        "classes": classes,
        "optimizer": study_data.optimizer_factory(trainer),
        "schedule": trainer.schedule,
        "milestones": tuple(trainer.milestones),
        "decay": trainer.decay,
        "warmup_epochs": trainer.warmup_epochs,
        "gamma": trainer.gamma,
        "region_weight": trainer.region_weight,
    }


def _validation_dataset(
    settings: TrainSettings, cohort: Cohort, store: SliceStore, roles: Roles
) -> SliceDataset | None:
    scans = [scan for scan in cohort.scans if roles.validates(scan)]
    if not scans:
        return None
    table = study_data.slice_table(cohort, store, scans).labelled()
    channels = study_data.input_channels(settings)
    return SliceDataset(store, table, image_size=settings.model.image_size, channels=channels)


def _bag_labels(
    settings: TrainSettings, cohort: Cohort, roles: Roles, training: SliceDataset, validation: SliceDataset | None
) -> tuple[BagLabels, BagLabels | None]:
    """Return the labels of the scans that train, and of those that validate."""
    scan_labels = study_data.scan_labels(cohort, roles.split, shuffle_seed=shuffle_seed(settings))
    use_readers = not settings.data.shuffle_training_labels
    labels = BagLabels.of(cohort, training.table, scan_labels, use_readers=use_readers)
    return labels, None if validation is None else BagLabels.of(cohort, validation.table, scan_labels)


def _bag_dataset(settings: TrainSettings, cohort: Cohort, store: SliceStore, roles: Roles) -> SliceDataset:
    """Return all training slices with lung, each warped anew in every epoch."""
    table = study_data.slice_table(cohort, store, [scan for scan in cohort.scans if roles.trains(scan)]).labelled()
    items = balance(np.zeros(len(table), dtype=np.int64), classes=("any",), copies=[0], augment="all_classes")
    return SliceDataset(
        store,
        table,
        image_size=settings.model.image_size,
        channels=study_data.input_channels(settings),
        items=items,
        augmentation=settings.augmentation,
        redraw=True,
        seed=settings.seed,
    )
