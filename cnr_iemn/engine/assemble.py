"""From settings to the parts of stage 1: cohort, store, datasets, predictions."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cnr_iemn.cohort.cohort import Cohort, ScanRecord
from cnr_iemn.cohort.covid_ct_md import read_covid_ct_md
from cnr_iemn.cohort.manifest import read_manifest
from cnr_iemn.cohort.phantom.writer import RECIPE_VERSION, write_cohort
from cnr_iemn.cohort.preparation import prepare_store
from cnr_iemn.cohort.splits import make_folds
from cnr_iemn.cohort.store import PixelSettings, SliceStore
from cnr_iemn.engine.hardware import usable_cores
from cnr_iemn.engine.progress import show_progress
from cnr_iemn.engine.runs import study_split
from cnr_iemn.errors import CohortError
from cnr_iemn.permissions import Permissions
from cnr_iemn.records import TRAINING, VALIDATION, probability_columns, region_columns
from cnr_iemn.settings.schema import BalancingSettings, DataSettings, IngestSettings, TrainSettings
from cnr_iemn.slices.augmentation import AugmentationSettings
from cnr_iemn.slices.balancing import balance
from cnr_iemn.slices.datamodule import UNLABELLED, SliceDataset, SliceTable
from cnr_iemn.slices.inference import SliceProbabilities


def open_cohort(data: DataSettings, ingest: IngestSettings) -> Cohort:
    """Return the cohort that the settings name; a phantom cohort is written to the cache on first use."""
    if data.reader == "manifest":
        return read_manifest(
            Path(str(data.csv)),
            name=data.name,
            slices=None if data.slices is None else Path(data.slices),
            classes=data.classes,
            labelled_normals=data.labelled_normals,
            exclude=data.exclude,
        )
    root = _write_phantom(data, ingest) if data.reader == "phantom" else Path(str(data.root))
    return read_covid_ct_md(
        root, name=data.name, labels=data.labels, labelled_normals=data.labelled_normals, exclude=data.exclude
    )


def _write_phantom(data: DataSettings, ingest: IngestSettings) -> Path:
    recipe = asdict(data.phantom) if data.phantom is not None else {}
    recipe["n_slices"] = tuple(recipe["n_slices"])
    digest = hashlib.sha256(json.dumps([RECIPE_VERSION, recipe], sort_keys=True).encode()).hexdigest()[:8]
    root = Path(data.root) if data.root is not None else Path(ingest.cache) / f"phantom-{digest}"
    if not root.is_dir():
        print(f"Writing the phantom cohort to {root} ...", flush=True)
    write_cohort(root, **recipe, workers=ingest.workers or usable_cores())
    return root


def prepared_store(
    cohort: Cohort, ingest: IngestSettings, lungs: str, *, verify: bool = False
) -> tuple[SliceStore, dict[str, str]]:
    """Return the cohort's slice store, made where it is missing, and the reasons of refused scans by scan id.

    ``verify``: compare with their checksums the scans that are there, and make damaged ones again.
    """
    low, high = ingest.window
    allowed = Permissions.of(ingest)
    settings = PixelSettings(size=ingest.size, lungs=lungs, window=(low, high), crop=ingest.crop, allowed=allowed)
    workers = usable_cores() if ingest.workers is None else ingest.workers
    progress = partial(show_progress, doing="Preparing", unit="scans")
    return prepare_store(cohort, settings, cache=Path(ingest.cache), workers=workers, verify=verify, progress=progress)


def require_all_scans(failures: Mapping[str, str]) -> None:
    """Raise CohortError where scans were refused: training without them has to be asked for by name."""
    if failures:
        reasons = "\n".join(f"  {reason}" for reason in failures.values())
        raise CohortError(
            f"{len(failures)} of the cohort's scans were refused:\n{reasons}\nRepair them, or leave them out with "
            f"'data.exclude=[{','.join(failures)}]'. The other scans are prepared and will not be read again."
        )


@dataclass(frozen=True)
class Roles:
    """What each scan is for in one run. ``fold``: of the training scans; ``held_out``: the fold that trains nothing.

    ``measured_inside``: the held-out fold measures the network, and the validation scans are not looked at.
    """

    split: Mapping[str, str]
    fold: Mapping[str, int]
    held_out: int | None
    measured_inside: bool = False

    def trains(self, scan: ScanRecord) -> bool:
        """Tell whether the slices of a scan may train the network."""
        on_side = self.split[scan.scan_id] == TRAINING and scan.slice_labelled
        return on_side and (self.held_out is None or self.fold[scan.scan_id] != self.held_out)

    def validates(self, scan: ScanRecord) -> bool:
        """Tell whether the slices of a scan measure (and may select) the network."""
        if self.measured_inside:
            return scan.slice_labelled and self.fold.get(scan.scan_id, -1) == self.held_out
        return self.split[scan.scan_id] == VALIDATION and scan.slice_labelled


def roles_of(settings: TrainSettings, cohort: Cohort) -> Roles:
    """Return what each scan is for in the run of these settings. Writes nothing; raises as ``study_split`` does."""
    split = study_split(Path(settings.runs) / settings.study, cohort, settings.data.split)
    fold = make_folds(cohort, split, folds=settings.data.folds, seed=settings.data.split.seed)
    return Roles(split, fold, settings.data.fold)


def require_every_class(cohort: Cohort, roles: Roles) -> None:
    """Raise CohortError where a class has no labelled slice to train on."""
    training = [scan for scan in cohort.scans if roles.trains(scan)]
    there = {scan.label for scan in training if scan.infected is None or scan.infected.any()}
    missing = [name for name in cohort.classes if name not in there]
    if missing:
        counts = {name: sum(scan.label == name for scan in cohort.scans) for name in cohort.classes}
        raise CohortError(
            f"No slice-labelled training scan of class {', '.join(missing)}: a network cannot learn a class that it "
            f"never sees. The cohort {cohort.root} holds {', '.join(f'{n} {name}' for name, n in counts.items())} "
            f"scans, {sum(s.slice_labelled for s in cohort.scans)} of them slice-labelled. Add scans or their labels "
            "(Index.csv and the label arrays, or data.slices of a manifest), or lower data.split.validation."
        )


def scan_labels(cohort: Cohort, split: Mapping[str, str], *, shuffle_seed: int | None) -> dict[str, str]:
    """Return the class of each scan; with a seed, those of the training scans permuted (the negative control)."""
    labels = {scan.scan_id: scan.label for scan in cohort.scans}
    if shuffle_seed is not None:
        training = [scan_id for scan_id in labels if split[scan_id] == TRAINING]
        given = np.random.default_rng(shuffle_seed).permutation([labels[scan_id] for scan_id in training])
        labels.update(zip(training, given.tolist(), strict=True))
    return labels


def slice_table(cohort: Cohort, store: SliceStore, scans: list[ScanRecord]) -> SliceTable:
    """Return the table of all slices of these scans with their labels."""
    counts = {scan.scan_id: store.scan(scan.scan_id).n_slices for scan in scans}
    labels = {scan.scan_id: scan.slice_labels(counts[scan.scan_id], cohort.classes) for scan in scans}
    return SliceTable.of(counts, labels)


def training_dataset(
    cohort: Cohort,
    store: SliceStore,
    roles: Roles,
    *,
    image_size: int,
    balancing: BalancingSettings,
    augmentation: AugmentationSettings,
    seed: int,
    shuffle_seed: int | None,
) -> SliceDataset:
    """Return the balanced training items of one run; with ``shuffle_seed``, the slices' labels permuted."""
    table = slice_table(cohort, store, [scan for scan in cohort.scans if roles.trains(scan)])
    if shuffle_seed is not None:
        table = replace(table, label=np.random.default_rng(shuffle_seed).permutation(table.label))
    items = balance(table.label, classes=cohort.classes, copies=balancing.copies, augment=balancing.augment)
    return SliceDataset(
        store,
        table,
        image_size=image_size,
        items=items,
        augmentation=augmentation,
        redraw=balancing.redraw,
        seed=seed,
    )


def prediction_table(
    cohort: Cohort,
    table: SliceTable,
    roles: Roles,
    probabilities: SliceProbabilities,
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
    columns.update(zip(probability_columns(cohort.classes), probabilities.classes.T, strict=True))
    columns.update(zip(region_columns(probabilities.regions.shape[1]), probabilities.regions.T, strict=True))
    return pd.DataFrame(columns)
