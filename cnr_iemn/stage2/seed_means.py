"""Runs of several seeds as one: each slice has the mean probabilities of a model's networks (deep ensembles).

Lakshminarayanan et al. 2017. Whatever stage 2 makes of a network's probabilities it makes of the mean.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cnr_iemn.data.predictions.prediction_checks import region_names
from cnr_iemn.data.predictions.slice_predictions import Predictions, check_same_study
from cnr_iemn.errors import RunError
from cnr_iemn.schemas import SCORE, probability_columns
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage1.training.run_record import describe_config_diff
from cnr_iemn.stage2.ensemble_runs import EnsembleRuns, read_runs

SEED_KEYS = ("seed", "tag")
"""In which the runs of two seeds differ, and in nothing else."""
_PLACE = ["scan_id", "slice_index"]


def read_seeds(runs: Path, study: str, models: tuple[str, ...], tags: Sequence[str], *, features: str) -> EnsembleRuns:
    """Read the runs of one tag as ``read_runs`` does, or the means of several.

    Raises:
        RunError: As ``read_runs``; or two tags are of one seed, or differ in more than their seeds.
    """
    parts = [read_runs(runs, study, models, tag, features=features) for tag in tags]
    if len(parts) == 1:
        return parts[0]
    check_seeds(parts, key="tag")
    return _mean_runs(parts)


def check_seeds(repeats: Sequence[EnsembleRuns], *, key: str) -> None:
    """Check that runs of several tags differ in their seeds and in nothing else.

    Args:
        repeats: The first is what the others repeat.
        key: The setting that names the others, for messages.

    Raises:
        RunError: Two are of one seed, or differ in more.
    """
    first = repeats[0]
    tag_by_seed: dict[int, str] = {}
    for repeat in repeats:
        metadata = next(iter(repeat.predictions.values())).metadata
        if metadata.seed in tag_by_seed:
            raise RunError(
                f"The runs {tag_by_seed[metadata.seed]} and {metadata.tag} of {repeat.first_run.path.parents[1]} were "
                f"both trained with seed {metadata.seed}, so that one of them repeats nothing. Leave {metadata.tag} "
                f"out of {key}=."
            )
        tag_by_seed[metadata.seed] = metadata.tag
        for run, repeated in zip(first.all_runs, repeat.all_runs, strict=True):
            require_same_settings(run, repeated, SEED_KEYS)
        for model, predictions in repeat.predictions.items():
            reference = first.predictions[model]
            same_seed = replace(predictions.metadata, seed=reference.metadata.seed)
            check_same_study(reference, replace(predictions, metadata=same_seed))


def _mean_runs(parts: Sequence[EnsembleRuns]) -> EnsembleRuns:
    first = parts[0]
    folds = None
    if first.folds is not None:
        by_fold = [part.folds or {} for part in parts]
        folds = {fold: _mean_runs([folds[fold] for folds in by_fold]) for fold in first.folds}
    means = {model: mean_predictions([part.predictions[model] for part in parts]) for model in first.predictions}
    return EnsembleRuns(first.runs, means, folds, tuple(parts))


def mean_predictions(runs: Sequence[Predictions]) -> Predictions:
    """Return the mean of several networks' predictions, slice by slice, with the rows of the first.

    Features have no mean, since number 17 of one network is not number 17 of another: the result has none.

    Args:
        runs: Of the same slices, by networks of one model.
    """
    first = runs[0]
    columns = [*probability_columns(first.metadata.classes), *region_names(first.table.columns)]
    columns += [SCORE] if first.scores is not None else []
    places = first.table.set_index(_PLACE).index
    values = [run.table.set_index(_PLACE).loc[places, columns].to_numpy(dtype=np.float32) for run in runs]
    table = first.table.copy()
    table[columns] = np.mean(values, axis=0)
    return Predictions(table, replace(first.metadata, tag="+".join(run.metadata.tag for run in runs)))


def require_same_settings(run: RunFolder, repeat: RunFolder, free: Sequence[str]) -> None:
    """Raise RunError where two runs differ in more than the settings ``free``, dotted keys."""
    different = describe_config_diff(_settings(run, free), _settings(repeat, free))
    if different:
        raise RunError(
            f"{repeat.path} does not repeat {run.path}; they differ in more than {', '.join(free)}: {different}. The "
            "difference would count as chance. Train it again with the same settings, or leave it out of seeds=, "
            "splits= or tag=."
        )


def _settings(run: RunFolder, free: Sequence[str]) -> Mapping[str, Any]:
    record = run.record()
    if record is None:
        raise RunError(f"{run.path} has no run.json, so that its settings are not known. Train it again.")
    configuration = copy.deepcopy(record["configuration"])
    for key in free:
        *groups, name = key.split(".")
        inner = configuration
        for group in groups:
            inner = inner[group]
        inner.pop(name, None)
    return {"cohort": record["cohort"], "store": record["store"], **configuration}
