"""Build what stage 1 works with from the settings: cohort, slice store, datasets, table of predictions."""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch.optim import Optimizer

from cnr_iemn.config.schema.settings import (
    AugmentationSettings,
    BalancingSettings,
    DataSettings,
    IngestSettings,
    TrainerSettings,
    TrainSettings,
)
from cnr_iemn.constants import PAPER_COHORT, PAPER_TRAINING_SLICES
from cnr_iemn.data.build_store import prepare_store
from cnr_iemn.data.cohort import FROM_PATIENT, UNLABELLED, Cohort, ScanRecord
from cnr_iemn.data.demographics.store_files import store_demographics
from cnr_iemn.data.readers.covid_ct_md import read_covid_ct_md
from cnr_iemn.data.readers.lobe_labels import lobe_labels
from cnr_iemn.data.readers.manifest import read_manifest
from cnr_iemn.data.refusals import store_refusals
from cnr_iemn.data.slice_store import PixelSettings, SliceStore
from cnr_iemn.errors import CohortError, ScanError, reasons
from cnr_iemn.phantom.cohort_writer import RECIPE_VERSIONS, write_cohort
from cnr_iemn.read_options import ReadOptions
from cnr_iemn.schemas import SCORE, TRAINING, probability_columns, region_columns
from cnr_iemn.stage1.data.balancing import balance
from cnr_iemn.stage1.data.batch_mixing import BatchMixing
from cnr_iemn.stage1.data.datamodule import SliceDataset, SliceTable
from cnr_iemn.stage1.data.input_channels import InputChannels
from cnr_iemn.stage1.models.optimizers import make_optimizer
from cnr_iemn.stage1.models.predict import SliceOutputs
from cnr_iemn.stage1.training.hardware import usable_cores
from cnr_iemn.stage1.training.loggers.progress import show_progress
from cnr_iemn.stage1.training.roles import Roles
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage1.training.run_record import RunScans, stored_pixels
from cnr_iemn.utils.exclusions import FILE_NAME, offer_exclusion
from cnr_iemn.utils.text import grouped

log = logging.getLogger(__name__)


def open_cohort(data: DataSettings, ingest: IngestSettings) -> Cohort:
    """Return the cohort that the settings name; a phantom cohort is written to the cache on first use."""
    cohort = _read_cohort(data, ingest)
    return cohort.with_weak_labels() if data.slice_labels == FROM_PATIENT else cohort


def _read_cohort(data: DataSettings, ingest: IngestSettings) -> Cohort:
    if data.reader == "manifest":
        return read_manifest(
            Path(str(data.csv)),
            name=data.name,
            slices=None if data.slices is None else Path(data.slices),
            classes=data.classes,
            labelled_normals=data.labelled_normals,
            empty_class=data.empty_class,
            exclude=data.exclude,
        )
    root = _write_phantom(data, ingest) if data.reader == "phantom" else Path(str(data.root))
    return read_covid_ct_md(
        root,
        name=data.name,
        labels=data.labels,
        labelled_normals=data.labelled_normals,
        exclude=data.exclude,
        lobes=data.lobes,
    )


def _write_phantom(data: DataSettings, ingest: IngestSettings) -> Path:
    recipe = asdict(data.phantom) if data.phantom is not None else {}
    recipe["n_slices"] = tuple(recipe["n_slices"])
    version = RECIPE_VERSIONS[str(recipe["disease"])]
    digest = hashlib.sha256(json.dumps([version, recipe], sort_keys=True).encode()).hexdigest()[:8]
    root = Path(data.root) if data.root is not None else Path(ingest.cache) / f"phantom-{digest}"
    if not root.is_dir():
        log.info("Writing the phantom cohort to %s ...", root)
    write_cohort(root, **recipe, workers=ingest.workers or usable_cores())
    return root


def pixel_settings(ingest: IngestSettings, lungs: str) -> PixelSettings:
    """Return what decides the store's pixels."""
    low, high = ingest.window
    options = ReadOptions.of(ingest)
    return PixelSettings(size=ingest.size, lungs=lungs, window=(low, high), crop=ingest.crop, read_options=options)


def open_store(
    cohort: Cohort, ingest: IngestSettings, lungs: str, *, verify: bool = False
) -> tuple[SliceStore, dict[str, ScanError]]:
    """Return the cohort's slice store, made where it is missing, and the refusals by scan id.

    ``verify``: compare with their checksums the scans that are there, and make damaged ones again.
    """
    settings = pixel_settings(ingest, lungs)
    workers = usable_cores() if ingest.workers is None else ingest.workers
    progress = partial(show_progress, verb="Preparing", unit="scans")
    store, failures = prepare_store(
        cohort, settings, cache=Path(ingest.cache), workers=workers, verify=verify, progress=progress
    )
    store_refusals(store, {scan.scan_id for scan in cohort.scans}, failures)
    headers = partial(show_progress, verb="Reading headers of", unit="scans")
    store_demographics(cohort, store, headers=ingest.demographics, workers=workers, progress=headers)
    return store, failures


def run_scans(cohort: Cohort, store: SliceStore, roles: Roles) -> RunScans:
    """Return what a run learns from. Raises StoreError where the store lacks a scan."""
    pixels = stored_pixels(store, (scan.scan_id for scan in cohort.scans))
    return RunScans.of(cohort, roles.split, roles.fold, pixels=pixels, pseudo=roles.pseudo.labels)


def require_same_scans(run: RunFolder, settings: TrainSettings, cohort: Cohort, roles: Roles) -> None:
    """Raise RunError where a finished run has learnt from other pixels, labels or sides than the settings give now.

    Scans whose files have changed are prepared again first. Where the store has been deleted, the pixels are not
    compared, with a message.
    """
    store = SliceStore.locate(
        cohort, pixel_settings(settings.ingest, settings.lungs), cache=Path(settings.ingest.cache)
    )
    if all((store.root / scan.scan_id / "scan.json").is_file() for scan in cohort.scans):
        store, failures = open_store(cohort, settings.ingest, settings.lungs)
        require_all_scans(failures, store, settings.data.exclude)
        now = run_scans(cohort, store, roles)
    else:
        log.warning("%s does not hold the cohort: whether its pixels are those of the run is not known.", store.root)
        pixels = run.scans().pixels
        now = RunScans.of(cohort, roles.split, roles.fold, pixels=pixels, pseudo=roles.pseudo.labels)
    run.require_scans(now)


def require_all_scans(failures: Mapping[str, ScanError], store: SliceStore, exclude: Collection[str]) -> None:
    """Raise CohortError where scans were refused: training without them has to be asked for by name.

    ``exclude``: scans that are left out already. Where many are refused, a file in the store lists them.
    """
    if failures:
        path, refused = store.root / FILE_NAME, reasons(failures)
        left_out = offer_exclusion(path, refused, exclude)
        raise CohortError(
            f"{len(failures)} of the cohort's scans were refused:\n{grouped(refused, rest=str(path))}\nRepair them, "
            f"or leave them out with {left_out}. The other scans are prepared and will not be read again."
        )


def scan_labels(cohort: Cohort, split: Mapping[str, str], *, shuffle_seed: int | None) -> dict[str, str]:
    """Return the class of each scan; with a seed, those of the training scans permuted (the negative control)."""
    labels = {scan.scan_id: scan.label for scan in cohort.scans}
    if shuffle_seed is not None:
        training = [scan_id for scan_id in labels if split[scan_id] == TRAINING]
        shuffled = np.random.default_rng(shuffle_seed).permutation([labels[scan_id] for scan_id in training])
        labels.update(zip(training, shuffled.tolist(), strict=True))
    return labels


def slice_table(
    cohort: Cohort, store: SliceStore, scans: list[ScanRecord], pseudo: Mapping[str, NDArray[np.int64]] | None = None
) -> SliceTable:
    """Return the table of all slices of these scans with their labels.

    ``pseudo``: labels of scans without a reader's, by scan id; int64 [n_slices] each. Raises CohortError where the
    labels cannot belong to a scan.
    """
    counts = {scan.scan_id: store.scan(scan.scan_id).n_slices for scan in scans}
    labels = {
        scan.scan_id: scan.slice_labels(
            counts[scan.scan_id], cohort.classes, partial(_slices_with_lung, store, scan.scan_id)
        )
        for scan in scans
    }
    for scan_id in labels.keys() & (pseudo or {}).keys():
        labels[scan_id] = (pseudo or {})[scan_id]
    table = SliceTable.of(counts, labels)
    if all(scan.lobes is None for scan in cohort.scans):
        return table
    return replace(table, lobes=np.concatenate([lobe_labels(scan, counts[scan.scan_id]) for scan in scans]))


def _slices_with_lung(store: SliceStore, scan_id: str) -> NDArray[np.bool_]:
    lungs = store.lungs(scan_id)
    return np.array([lungs[index].any() for index in range(store.scan(scan_id).n_slices)])


def training_dataset(
    cohort: Cohort,
    store: SliceStore,
    roles: Roles,
    *,
    image_size: int,
    channels: InputChannels,
    balancing: BalancingSettings,
    augmentation: AugmentationSettings,
    seed: int,
    shuffle_seed: int | None,
) -> SliceDataset:
    """Return the balanced training items of one run; with ``shuffle_seed``, the slices' labels permuted."""
    training = [scan for scan in cohort.scans if roles.trains(scan)]
    table = slice_table(cohort, store, training, roles.pseudo.labels)
    n_slices, table = len(table), table.labelled()
    if len(table) < n_slices:
        why = "show no lung or have no certain pseudo-label" if roles.pseudo.labels else "show no lung"
        log.info("%d of %d slices of training scans %s: they train nothing.", n_slices - len(table), n_slices, why)
    if cohort.name == PAPER_COHORT:
        counts = " / ".join(f"{np.count_nonzero(table.label == k):,}" for k in range(len(cohort.classes)))
        paper = " / ".join(f"{n:,}" for n in PAPER_TRAINING_SLICES)
        log.info("Training slices %s: %s; the paper: %s", " / ".join(cohort.classes), counts, paper)
    if shuffle_seed is not None:
        table = replace(table, label=np.random.default_rng(shuffle_seed).permutation(table.label))
    items = balance(table.label, classes=cohort.classes, copies=balancing.copies, augment=balancing.augment)
    return SliceDataset(
        store,
        table,
        image_size=image_size,
        channels=channels,
        items=items,
        augmentation=augmentation,
        redraw=balancing.redraw,
        seed=seed,
    )


def input_channels(settings: TrainSettings) -> InputChannels:
    """Return what the network's input shows."""
    low, high = settings.ingest.window
    return InputChannels(tuple(settings.model.channels), (low, high))


def batch_mixing(settings: TrainSettings) -> BatchMixing:
    """Return how training batches are mixed and their labels smoothed."""
    augmentation, smoothing = settings.augmentation, settings.trainer.label_smoothing
    return BatchMixing(mixup=augmentation.mixup, cutmix=augmentation.cutmix, label_smoothing=smoothing)


def optimizer_factory(trainer: TrainerSettings) -> Callable[..., Optimizer]:
    """Return what makes the optimizer of a network."""
    return partial(
        make_optimizer,
        name=trainer.optimizer,
        learning_rate=trainer.learning_rate,
        weight_decay=trainer.weight_decay,
        layer_decay=trainer.layer_decay,
    )


def prediction_table(
    cohort: Cohort,
    table: SliceTable,
    roles: Roles,
    outputs: SliceOutputs,
    *,
    labels: Mapping[str, str],
    selected: bool,
) -> pd.DataFrame:
    """Return the rows of predictions.parquet for every slice of the cohort.

    ``labels``: class by scan id; ``selected``: the validation slices chose the checkpoint.
    """
    scans = [cohort.scans[k] for k in table.scan]
    columns: dict[str, object] = {
        "scan_id": [scan.scan_id for scan in scans],
        "patient_id": [scan.patient_id for scan in scans],
        "split": [roles.split[scan.scan_id] for scan in scans],
        "fold": pd.array([roles.fold.get(scan.scan_id) for scan in scans], dtype="Int64"),
        "seen_in_training": [roles.trains(scan) for scan in scans],
        "used_for_selection": [selected and roles.validates(scan) for scan in scans],
        "label": [labels[scan.scan_id] for scan in scans],
        "slice_index": table.slice_index,
        "n_slices": table.n_slices,
        "slice_label": [None if k == UNLABELLED else cohort.classes[k] for k in table.label],
    }
    columns.update(zip(probability_columns(cohort.classes), outputs.classes.T, strict=True))
    columns.update(zip(region_columns(outputs.regions.shape[1]), outputs.regions.T, strict=True))
    if outputs.scores is not None:
        columns[SCORE] = outputs.scores
    return pd.DataFrame(columns)
