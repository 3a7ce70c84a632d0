"""The finished runs of an ensemble: reading, checks of consistency, and the description in ensemble.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from cnr_iemn.constants import BOOSTER_METHOD, N_GROUPS
from cnr_iemn.ct.io.image_stack import values_of
from cnr_iemn.data.predictions.slice_features import SliceFeatures
from cnr_iemn.data.predictions.slice_predictions import Predictions, check_joinable, read_predictions
from cnr_iemn.data.slice_store import SliceStore
from cnr_iemn.data.splits import require_distinct
from cnr_iemn.errors import RunError
from cnr_iemn.schemas import TRAINING
from cnr_iemn.stage1.training.run_folder import RunFolder, finished_runs
from cnr_iemn.stage1.training.run_record import stored_pixels
from cnr_iemn.stage2.ensemble import Ensemble, Member
from cnr_iemn.stage2.feature_space import fit_feature_space
from cnr_iemn.stage2.methods.registry import METHODS
from cnr_iemn.stage2.out_of_fold import OUT_OF_FOLD, Folds, StudyScans, scans_by_mode
from cnr_iemn.stage2.run_settings import RunSettings
from cnr_iemn.utils.atomic_io import sha256_of_file


@dataclass(frozen=True)
class EnsembleRuns:
    """Finished runs of one tag with their predictions, by model in ensemble order.

    ``folds``: the runs that hold out one fold each, by that fold; None where the features are the paper's. ``parts``:
    the runs of each seed, where the predictions are means over several (``seed_means``); ``runs`` are the first seed's.
    """

    runs: Mapping[str, RunFolder]
    predictions: Mapping[str, Predictions]
    folds: "Mapping[int, EnsembleRuns] | None" = None
    parts: "tuple[EnsembleRuns, ...]" = ()

    @property
    def first_run(self) -> RunFolder:
        """The first model's run, for settings that are the same in all runs."""
        return next(iter(self.runs.values()))

    @property
    def fold_predictions(self) -> Folds | None:
        """The predictions of ``folds`` alone."""
        return None if self.folds is None else {fold: runs.predictions for fold, runs in self.folds.items()}

    def primary_scans(self, *, features: bool) -> StudyScans:
        """Return the scans in the primary mode. ``features``: with components of the slices' features.

        Raises RunError where the predictions do not fit together, or keep no features.
        """
        folds = self.fold_predictions
        space = fit_feature_space(self.predictions, folds) if features else None
        return next(iter(scans_by_mode(self.predictions, folds, space).values()))

    @property
    def scans(self) -> pd.DataFrame:
        """``Predictions.scans``, the same in all runs."""
        return next(iter(self.predictions.values())).scans

    @property
    def training_labels(self) -> dict[str, str]:
        """The classes of the scans on which stage 2 is trained, by scan_id."""
        labels = self.scans[self.scans["split"] == TRAINING]["label"]
        return {str(scan_id): str(label) for scan_id, label in labels.items()}

    @property
    def all_runs(self) -> tuple[RunFolder, ...]:
        """The runs of the tag, then those of the folds."""
        return (*self.runs.values(), *(run for fold in (self.folds or {}).values() for run in fold.runs.values()))

    @property
    def networks(self) -> "tuple[tuple[RunFolder, Predictions], ...]":
        """Every single network's run and its own predictions, without those of folds: model by model, then by seed."""
        parts = self.parts or (self,)
        return tuple((part.runs[model], part.predictions[model]) for model in self.runs for part in parts)

    def check_store(self, store: SliceStore) -> None:
        """Check the pixels of the store.

        Raises:
            CohortError: Two scans with the same pixels lie on two sides of the split, or in two folds.
            RunError: The networks were trained on other pixels.
            StoreError: The store is damaged.
        """
        sides = self.scans["split"]
        if self.folds is not None:
            sides = sides.str.cat(self.scans["fold"].astype("string"), " fold ", "-")
        require_distinct(store, dict(zip(self.scans.index, sides, strict=True)))
        scans = self.first_run.scans()  # the same for all runs: their predictions say so
        self.first_run.require_scans(replace(scans, pixels=stored_pixels(store, scans.pixels)))
        store.require_intact(list(scans.pixels))


def read_runs(runs: Path, study: str, models: tuple[str, ...], tag: str, *, features: str) -> EnsembleRuns:
    """Read the runs of a tag, and those of its folds where ``features`` is out_of_fold.

    Raises:
        RunError: A run is missing or incomplete, was changed since, or does not fit the others.
    """
    full_data = _read_tag(runs, study, models, tag)
    check_joinable(full_data.predictions)
    if features != OUT_OF_FOLD:
        return full_data
    folds = range(RunSettings.read(full_data.first_run).folds)
    return replace(full_data, folds={fold: _read_tag(runs, study, models, f"{tag}-fold{fold}") for fold in folds})


def _read_tag(runs: Path, study: str, models: tuple[str, ...], tag: str) -> EnsembleRuns:
    """Read the runs of one tag, and their predictions of the scans with a class."""
    folders = finished_runs(runs, study, models, tag)
    predictions = {model: _with_features(run, read_predictions(run.predictions)) for model, run in folders.items()}
    for model, run in folders.items():
        _check_origin(run, predictions[model])
    return EnsembleRuns(folders, {model: table.with_class() for model, table in predictions.items()})


def _with_features(run: RunFolder, predictions: Predictions) -> Predictions:
    """Return the predictions with the features that the run keeps, if any. Raises RunError for a damaged file."""
    expected = (run.record() or {}).get("features_sha256")
    if expected is None:
        return predictions
    if not run.features.is_file() or sha256_of_file(run.features) != expected:
        raise RunError(
            f"{run.features} is not the file that this run wrote (it is missing, or its SHA-256 differs). Copy it "
            f"back, or run train.py for {run.model} again (overwrite=true)."
        )
    return replace(predictions, features=SliceFeatures.open(run.features, n_rows=len(predictions.table)))


def _check_origin(run: RunFolder, predictions: Predictions) -> None:
    """Check that a run wrote the predictions in its folder: run.json holds their checksum."""
    again = f"Copy both back, or run train.py for {run.model} again (overwrite=true)."
    record, metadata = run.record() or {}, predictions.metadata
    if metadata.scans_sha256 != run.scans().sha256:
        raise RunError(
            f"{run.predictions} is not from the run of its run.json: the two name different pixels, labels or sides. "
            f"{again}"
        )
    if "predictions_sha256" not in record:
        raise RunError(
            f"{run.path / 'run.json'} has no checksum of predictions.parquet: an earlier version wrote it. {again}"
        )
    actual = {"model": metadata.model, "tag": metadata.tag, "seed": metadata.seed}
    expected = {"model": run.model, "tag": run.tag, "seed": record["configuration"].get("seed", metadata.seed)}
    different = [f"{key} {actual[key]} in place of {expected[key]}" for key in actual if actual[key] != expected[key]]
    if different or sha256_of_file(run.predictions) != record["predictions_sha256"]:
        reason = f": it has {', '.join(different)}" if different else " (its SHA-256 differs)"
        raise RunError(f"{run.predictions} is not the file that this run wrote{reason}. {again}")


def describe_ensemble(runs: EnsembleRuns, *, method: str = BOOSTER_METHOD) -> Ensemble:
    """Return the ensemble of finished runs in their order. Out of fold, its members are the networks of the folds.

    ``method``: the primary stage-2 method, one of ``constants.method_names``.

    Raises:
        RunError: A run is of an earlier version, or the method reads features of networks of several seeds.
    """
    if runs.parts and METHODS[method].deep:
        raise RunError(
            f"The primary method, {method}, learns from deep features, and those of several seeds have no mean. Give "
            "one tag=, or another primary_method."
        )
    first, settings = next(iter(runs.predictions.values())).metadata, RunSettings.read(runs.first_run)
    sets: dict[int | None, EnsembleRuns] = {None: runs}
    if runs.folds is not None:
        sets = dict(runs.folds.items())
    return Ensemble(
        study=runs.first_run.study,
        members=tuple(
            _member(run, predictions, fold, several=bool(networks.parts))
            for fold, networks in sets.items()
            for run, predictions in networks.networks
        ),
        classes=first.classes,
        pixels=settings.pixels,
        phantom=first.phantom,
        cohort=settings.cohort,
        method=method,
        phantom_disease=settings.phantom_disease if first.phantom else None,
        features="paper" if runs.folds is None else "out_of_fold",
        store=first.store,
    )


def _member(run: RunFolder, predictions: Predictions, fold: int | None, *, several: bool) -> Member:
    """``several``: whether the ensemble has networks of other seeds of this model and fold."""
    metadata, settings = predictions.metadata, RunSettings.read(run)
    checkpoint = run.checkpoints / f"{metadata.checkpoint}.ckpt"
    return Member(
        model=run.model,
        library=settings.library,
        tag=run.tag,
        checkpoint=str(checkpoint.relative_to(run.path.parents[1])),
        checkpoint_sha256=metadata.checkpoint_sha256,
        image_size=settings.image_size,
        position=settings.position,
        precision=metadata.precision,
        fold=fold,
        attention=predictions.scores is not None,
        channels=settings.channels,
        tta=settings.tta,
        replicate=run.tag.removesuffix(f"-fold{fold}") if several else None,
    )


def with_training_scans(
    ensemble: Ensemble, store: SliceStore, labels: Mapping[str, str], classes: Sequence[str]
) -> Ensemble:
    """Add checksums, counts and pixel values of the training scans. ``labels``: their classes, by scan_id."""
    scans = [store.scan(scan_id) for scan_id in labels]
    return replace(
        ensemble,
        learnt_from={scan.scan_id: scan.grey_sha256 for scan in scans},
        training_counts={name: list(labels.values()).count(name) for name in classes},
        values=tuple(sorted({values_of(scan.findings) for scan in scans})),
        fewest_slices=min((scan.n_slices for scan in scans), default=N_GROUPS),
    )


def run_store(run: RunFolder) -> SliceStore:
    """Return the slice store on which a run was trained.

    Raises:
        RunError: It was moved or deleted, or its name is not the fingerprint of the run's pixel settings.
    """
    settings = RunSettings.read(run)
    store = SliceStore(settings.store, settings.pixels)
    if not store.root.is_dir():
        raise RunError(
            f"The slice store {store.root} of {run.path} is not there: the baselines are measured on it. Run from the "
            "folder in which the runs were trained, or make it again with prepare.py and the same data= and ingest= "
            "settings."
        )
    if store.root.name != store.fingerprint:
        raise RunError(
            f"{run.path / 'run.json'} names the slice store {store.root}, but its pixel settings have the fingerprint "
            f"{store.fingerprint}: the file was changed, or another version of the program trained the run. Copy "
            "run.json back, aggregate with that version, or train the run again (overwrite=true)."
        )
    return store
