"""The slice predictions that stage 2 learns from: as in the paper, or out of fold.

In the paper, stage 2 is fitted on scans that partly trained the networks, whose predictions on them are over-confident.
Out of fold, each training scan is scored by the network of its own fold, which has not seen it; a new scan is scored by
every fold's networks, and the probabilities of stage 2, not its inputs, are averaged.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.data.predictions.slice_predictions import Predictions, check_joinable, check_same_study
from cnr_iemn.errors import RunError
from cnr_iemn.schemas import TRAINING
from cnr_iemn.stage2.feature_space import FeatureSpace, require_features
from cnr_iemn.stage2.group_features import check_several_slices, features_of_sets

PAPER, OUT_OF_FOLD, FULL_DATA = "paper", "out_of_fold", "out_of_fold_full_data_networks"
"""Feature modes. The last one fits stage 2 out of fold, but scores new scans with the full-data networks."""

Folds = Mapping[int, Mapping[str, Predictions]]
"""Predictions by fold held out, then by model in ensemble order."""


ScanArray = NDArray[np.float32]
"""One scan's slices, head first: float32 [models, n_slices, channels] in the order of ``Axes``."""

SliceSets = Mapping[str, tuple[ScanArray, ...]]
"""By scan_id, one array for each set of networks that scores the scan."""


@dataclass(frozen=True)
class Axes:
    """Names along a scan's array: the models of its first axis, the classes of its last.

    ``attention``: the score of a slice follows its probabilities, 0 where its network has none. ``components``: how
    many numbers of its deep features follow then (``feature_space``).
    """

    models: tuple[str, ...]
    classes: tuple[str, ...]
    attention: bool = False
    components: int = 0

    @property
    def channels(self) -> int:
        """Length of the last axis."""
        return len(self.classes) + self.attention + self.components

    @property
    def plain(self) -> "Axes":
        """With probabilities alone."""
        return Axes(self.models, self.classes)

    def read(self, scans: Sequence[ScanArray]) -> list[ScanArray]:
        """Return arrays that may have further channels with these alone."""
        # contiguous: sums round by the order in memory, which must not depend on what else a study keeps
        return [np.ascontiguousarray(scan[:, :, : self.channels]) for scan in scans]


@dataclass(frozen=True)
class StudyScans:
    """The slice predictions of a study's scans, as stage 2 takes them.

    Attributes:
        axes: Of every array.
        training_ids: The scans that stage 2 is fitted on.
        training: Their arrays, in the same order.
        held_out: All other scans, by every set of networks; a scan's probabilities are the mean over the sets.
        unseen: Training scans whose patients are new to the networks that score them.
    """

    axes: Axes
    training_ids: tuple[str, ...]
    training: tuple[ScanArray, ...]
    held_out: SliceSets
    unseen: frozenset[str] = frozenset()

    def read_as(self, axes: Axes) -> "StudyScans":
        """Return the scans with the channels of these axes alone."""
        if axes == self.axes:
            return self
        held_out = {scan_id: tuple(axes.read(sets)) for scan_id, sets in self.held_out.items()}
        return replace(self, axes=axes, training=tuple(axes.read(self.training)), held_out=held_out)

    def of_model(self, model: str) -> "StudyScans":
        """Return the predictions of one model alone."""
        k = self.axes.models.index(model)
        return replace(
            self,
            axes=replace(self.axes, models=(model,)),
            training=tuple(array[[k]] for array in self.training),
            held_out={scan_id: tuple(array[[k]] for array in sets) for scan_id, sets in self.held_out.items()},
        )

    def with_training(self, rows: Iterable[int]) -> "StudyScans":
        """Return the study with these training scans, by number; a scan may occur several times."""
        rows = list(rows)
        return replace(
            self,
            training_ids=tuple(self.training_ids[k] for k in rows),
            training=tuple(self.training[k] for k in rows),
        )

    def hold_out(self, rest: Iterable[int], fold: Iterable[int]) -> "StudyScans":
        """Return some training scans as training scans, and others as those to be predicted."""
        held_out = {self.training_ids[k]: (self.training[k],) for k in fold}
        return replace(self.with_training(rest), held_out=held_out)

    def percentages(self, fold: "pd.Series[int]") -> pd.DataFrame:
        """Return the paper's features of every scan: scan_id, fold, percentages.

        The fold is that of the networks that scored the row, missing where one set of networks scores all scans. A scan
        to be predicted has a row for each set of networks. ``fold``: the fold of each training scan.
        """
        plain = self.read_as(self.axes.plain)
        training = {scan_id: (array,) for scan_id, array in zip(plain.training_ids, plain.training, strict=True)}
        held_out = features_of_sets(plain.held_out, self.axes.models, self.axes.classes)
        tables = [*features_of_sets(training, self.axes.models, self.axes.classes), *held_out]
        table = pd.concat(tables).rename_axis("scan_id").reset_index()
        folds: list[int | None] = [None] * len(table)
        if len(held_out) > 1:
            sets = (k for k, rows in enumerate(held_out) for _ in range(len(rows)))
            folds = [*fold.loc[list(self.training_ids)], *sets]
        table.insert(1, "fold", pd.Series(folds, dtype="Int64"))
        return table


def scans_by_mode(
    predictions: Mapping[str, Predictions], folds: Folds | None, space: FeatureSpace | None = None
) -> dict[str, StudyScans]:
    """Return the scans in each available feature mode, the primary mode first.

    ``space``: with it the arrays have components of the slices' features. Raises RunError where the predictions, or
    those of the folds, do not fit together.
    """
    paper = paper_scans(predictions, space)
    if folds is None:
        return {PAPER: paper}
    check_folds(predictions, folds)
    out_of_fold = out_of_fold_scans(folds, space)
    full_data = replace(out_of_fold, held_out=paper.held_out, unseen=frozenset())
    return {OUT_OF_FOLD: out_of_fold, PAPER: paper, FULL_DATA: full_data}


def paper_scans(predictions: Mapping[str, Predictions], space: FeatureSpace | None = None) -> StudyScans:
    """Return the paper's scans: one set of networks scores training and new scans (section 2.2).

    Raises RunError where the predictions do not fit together, or every scan has one slice.
    """
    check_joinable(predictions)
    check_several_slices(predictions)
    return _study_scans(predictions, paper_sets(predictions, space), _unseen(predictions), space)


def out_of_fold_scans(folds: Folds, space: FeatureSpace | None = None) -> StudyScans:
    """Return scans of which a fold's networks score its training scans, and all folds' networks the others.

    ``folds``: must have passed ``check_folds``.
    """
    predictions = next(iter(folds.values()))
    scans = next(iter(predictions.values())).scans
    unseen = frozenset(scans.index[scans["split"] == TRAINING])
    return _study_scans(predictions, out_of_fold_sets(folds, space), unseen, space)


def _study_scans(
    predictions: Mapping[str, Predictions], sets: SliceSets, unseen: frozenset[str], space: FeatureSpace | None
) -> StudyScans:
    first = next(iter(predictions.values()))
    in_training = first.scans["split"] == TRAINING
    training = [str(scan_id) for scan_id in first.scans.index[in_training]]
    return StudyScans(
        axes=Axes(
            models=tuple(predictions),
            classes=first.metadata.classes,
            attention=has_attention(predictions),
            components=0 if space is None else space.components,
        ),
        training_ids=tuple(training),
        training=tuple(sets[scan_id][0] for scan_id in training),
        held_out={str(scan_id): sets[scan_id] for scan_id in first.scans.index[~in_training]},
        unseen=unseen,
    )


def _unseen(predictions: Mapping[str, Predictions]) -> frozenset[str]:
    """Return the training scans whose patients neither trained a network nor selected its checkpoint."""
    patients: set[str] = set()
    for run in predictions.values():
        patients |= run.seen_patients | set(run.table.loc[run.table["used_for_selection"], "patient_id"])
    scans = next(iter(predictions.values())).scans
    return frozenset(scans.index[(scans["split"] == TRAINING) & ~scans["patient_id"].isin(patients)])


def check_folds(whole: Mapping[str, Predictions], folds: Folds) -> None:
    """Check that no fold's network has seen the scans that it scores, and that all runs belong to one study.

    ``whole``: predictions of the networks that trained on all folds. Raises RunError naming run, scans and remedy.
    """
    first = next(iter(whole.values()))
    for fold, predictions in folds.items():
        check_joinable(predictions)
        for model, run in predictions.items():
            check_same_study(first, run)
            _check_unseen(model, run, fold)
    scans = first.scans
    training = scans[scans["split"] == TRAINING]
    missing = training.index[~training["fold"].isin(list(folds))]
    if len(missing):
        fold = training.loc[missing[0], "fold"]
        raise RunError(
            f"Training scan {missing[0]} (one of {len(missing)}) belongs to fold {fold}, and there are networks for "
            f"the folds {', '.join(map(str, folds))}. Train every fold with the same data.folds."
        )


def _check_unseen(model: str, predictions: Predictions, fold: int) -> None:
    tag, scans = predictions.metadata.tag, predictions.scans
    leaked = scans.index[(scans["fold"] == fold) & scans["patient_id"].isin(predictions.seen_patients)]
    if len(leaked):
        raise RunError(
            f"{model}'s run {tag} was trained on {leaked[0]} (one of {len(leaked)}) of fold {fold}, which it must "
            "score, or on another scan of the same patient. Train it again with "
            f"data.fold={fold} (overwrite=true)."
        )
    if predictions.table["used_for_selection"].any():
        raise RunError(
            f"{model}'s run {tag} kept the checkpoint that was best on the validation scans, or stopped by them, and "
            "the networks of a fold must select nothing. Train the folds with trainer.checkpoint=last and without "
            "trainer.early_stopping (overwrite=true)."
        )


def by_fold(networks: NDArray[np.float32], folds: Sequence[int | None]) -> tuple[ScanArray, ...]:
    """Split one scan's predictions into sets of networks: one set for each fold, or one for all without folds.

    ``networks``: float32 [networks, n_slices, classes]. ``folds``: of each network.
    """
    return tuple(networks[[other == fold for other in folds]] for fold in dict.fromkeys(folds))


def paper_sets(
    predictions: Mapping[str, Predictions], space: FeatureSpace | None = None
) -> dict[str, tuple[ScanArray, ...]]:
    """Return each scan's predictions by the only set of networks."""
    return {scan_id: (array,) for scan_id, array in _arrays(predictions, None, space).items()}


def out_of_fold_sets(folds: Folds, space: FeatureSpace | None = None) -> dict[str, tuple[ScanArray, ...]]:
    """Return each training scan's predictions by its own fold's networks, every other scan's by those of each fold.

    ``folds``: must have passed ``check_folds``.
    """
    arrays = {fold: _arrays(predictions, fold, space) for fold, predictions in folds.items()}
    scans = next(iter(next(iter(folds.values())).values())).scans
    rows = zip(scans.index, scans["split"] == TRAINING, scans["fold"], strict=True)
    return {
        scan_id: tuple(arrays[k][scan_id] for k in ([int(fold)] if in_training else arrays))
        for scan_id, in_training, fold in rows
    }


def has_attention(predictions: Mapping[str, Predictions]) -> bool:
    """Tell whether a network of these has attention."""
    return any(run.scores is not None for run in predictions.values())


def with_scores(probabilities: NDArray[np.float32], scores: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Return probabilities and scores of slices, float32 [n, classes + 1]; without scores all slices count alike."""
    column = np.zeros(len(probabilities), dtype=np.float32) if scores is None else scores
    return np.column_stack([probabilities, column])


def _arrays(
    predictions: Mapping[str, Predictions], fold: int | None, space: FeatureSpace | None
) -> dict[str, ScanArray]:
    of_models, attention = [], has_attention(predictions)
    for model, run in predictions.items():
        rows = run.table.reset_index(drop=True).sort_values(["scan_id", "slice_index"])
        names, starts = np.unique(rows["scan_id"].to_numpy(dtype=str), return_index=True)
        values = with_scores(run.probabilities, run.scores) if attention else run.probabilities
        arrays = np.split(values[rows.index], starts[1:])  # by position
        if space is not None:
            # scan by scan, as new scans are mapped: a matrix product rounds by the number of its rows
            features = np.split(require_features(run).select(rows.index.to_numpy()).read(), starts[1:])
            arrays = [space.channels(model, fold, *scan) for scan in zip(arrays, features, strict=True)]
        of_models.append(dict(zip(names.tolist(), arrays, strict=True)))
    return {scan_id: np.stack([model[scan_id] for model in of_models]) for scan_id in of_models[0]}
