"""Stability of the metrics: other training patients, other seeds of the networks, other splits.

The confidence intervals keep the models fixed and resample validation patients; here the models vary. The seed of
stage 2 is not among them: XGBoost draws nothing at these settings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cnr_iemn.errors import RunError
from cnr_iemn.evaluation.study_metrics import (
    Refits,
    Replicate,
    Replicates,
    Stability,
    Summaries,
    Summary,
    read_replicate,
)
from cnr_iemn.schemas import probability_columns
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage2.ensemble import Ensemble, aggregate_again, read_ensemble
from cnr_iemn.stage2.ensemble_runs import EnsembleRuns, read_runs
from cnr_iemn.stage2.out_of_fold import StudyScans
from cnr_iemn.stage2.scan_predictions import ScanPredictions
from cnr_iemn.stage2.seed_means import SEED_KEYS, check_seeds, require_same_settings
from cnr_iemn.statistics.confidence_intervals import has_enough_patients, resample_patients, weighted_metrics

Fit = Callable[..., ScanPredictions]
_SPLIT_KEYS = (*SEED_KEYS, "study", "data.split.seed")


@dataclass(frozen=True)
class Repeats:
    """The same study with other seeds or splits. ``tag``, ``study``: of the primary one.

    ``seeds``: the scans by tag, of networks with other seeds. ``splits``: metrics by study, of other splits.
    """

    tag: str = ""
    study: str = ""
    seeds: Mapping[str, StudyScans] = field(default_factory=dict)
    splits: Mapping[str, Replicate] = field(default_factory=dict)


def measure_stability(
    primary: ScanPredictions,
    scans: StudyScans,
    fit: Fit,
    repeats: Repeats,
    *,
    refits: int,
    seed: int,
) -> Stability:
    """Return how the metrics of the primary stage 2 vary. ``fit``: fits stage 2 alike. ``refits``: 0 for none."""
    classes = scans.axes.classes
    reference = replicate_metrics(primary, classes)
    seeds = {tag: replicate_metrics(fit(other), classes) for tag, other in repeats.seeds.items()}
    return {
        "refits": measure_refits(primary, scans, fit, refits=refits, seed=seed) if refits else None,
        "seeds": _replicates({repeats.tag: reference, **seeds}) if seeds else None,
        "splits": _replicates({repeats.study: reference, **repeats.splits}) if repeats.splits else None,
    }


def measure_refits(primary: ScanPredictions, scans: StudyScans, fit: Fit, *, refits: int, seed: int) -> Refits:
    """Fit stage 2 on resamples of the training patients within their class; the networks stay."""
    classes, training = scans.axes.classes, primary.patients.loc[list(scans.training_ids)]
    truth = np.array([classes.index(label) for label in training["label"]], dtype=np.int64)
    patients = training["patient_id"].tolist()
    rng = np.random.default_rng(seed)
    replicates, changes = [], []
    for counts in resample_patients(truth, patients, resamples=refits, rng=rng):
        rows = np.repeat(np.arange(len(truth)), counts.astype(np.int64)).tolist()
        result = fit(scans.with_training(rows))
        replicates.append(replicate_metrics(result, classes))
        changes.append((result.held_out["predicted"] != primary.held_out["predicted"]).to_numpy(dtype=bool))
    enough = has_enough_patients(truth, patients)
    return {
        "n": refits,
        **_summarise_all(replicates, enough=enough),
        "changes": _summarise(np.mean(changes, axis=1).tolist(), enough=enough),
        "changes_any": float(np.any(changes, axis=0).mean()),
    }


def replicate_metrics(result: ScanPredictions, classes: tuple[str, ...]) -> Replicate:
    """Return the metrics of one stage 2 on the validation scans."""
    held_out = result.held_out
    truth = np.array([classes.index(label) for label in held_out["label"]], dtype=np.int64)
    probabilities = held_out[probability_columns(classes)].to_numpy(dtype=np.float64)
    auc = float(weighted_metrics(truth, probabilities, np.ones((1, len(truth))))["macro_auc"][0])
    evaluation = result.evaluation(classes)
    return {
        "accuracy": evaluation["accuracy"],
        "balanced_accuracy": evaluation["balanced_accuracy"],
        "macro_auc": auc if np.isfinite(auc) else None,
        "sensitivity": evaluation["sensitivity"],
    }


def _replicates(replicates: Mapping[str, Replicate]) -> Replicates:
    return {"replicates": dict(replicates), **_summarise_all(list(replicates.values()))}


def _summarise_all(replicates: Sequence[Replicate], *, enough: bool = True) -> Summaries:
    return {
        "accuracy": _summarise([replicate["accuracy"] for replicate in replicates], enough=enough),
        "balanced_accuracy": _summarise([replicate["balanced_accuracy"] for replicate in replicates], enough=enough),
        "macro_auc": _summarise([replicate["macro_auc"] for replicate in replicates], enough=enough),
        "sensitivity": {
            name: _summarise([replicate["sensitivity"][name] for replicate in replicates], enough=enough)
            for name in replicates[0]["sensitivity"]
        },
    }


def _summarise(values: Sequence[float | None], *, enough: bool = True) -> Summary:
    """Return the summary. ``enough``: whether there are enough patients for percentiles of resamples."""
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return {"mean": None, "sd": None, "low": None, "high": None}
    low, high = map(float, np.quantile(numbers, [0.05, 0.95]))
    return {
        "mean": float(np.mean(numbers)),
        "sd": float(np.std(numbers, ddof=1)),
        "low": low if enough else None,
        "high": high if enough else None,
    }


def find_repeats(
    runs: Path, primary: EnsembleRuns, ensemble: Ensemble, name: str, *, seeds: Sequence[str], splits: Sequence[str]
) -> Repeats:
    """Return the scans of the tags ``seeds`` and the metrics of the studies ``splits``.

    ``primary``, ``ensemble``: of the study itself; ``name``: the ensemble's folder. Raises RunError where one of the
    repeats is missing, or differs from the study in more than its seeds.
    """
    first = next(iter(primary.runs.values()))
    return Repeats(
        tag=first.tag,
        study=first.study,
        seeds=_seed_scans(runs, primary, ensemble, seeds),
        splits={study: _split_metrics(runs, primary, ensemble, name, study) for study in splits},
    )


def _seed_scans(runs: Path, primary: EnsembleRuns, ensemble: Ensemble, tags: Sequence[str]) -> dict[str, StudyScans]:
    study, models = primary.first_run.study, tuple(primary.runs)
    repeats = {tag: read_runs(runs, study, models, tag, features=ensemble.features) for tag in tags}
    check_seeds([primary, *repeats.values()], key="seeds")
    return {tag: repeat.primary_scans(features=ensemble.reads_features) for tag, repeat in repeats.items()}


def _split_metrics(runs: Path, primary: EnsembleRuns, ensemble: Ensemble, name: str, study: str) -> Replicate:
    reference = next(iter(primary.runs.values())).study
    repeat = read_ensemble(runs, study, name)
    for key in ("phantom", "cohort", "classes", "models", "features", "method"):
        expected, value = getattr(ensemble, key), getattr(repeat, key)
        if expected != value:
            raise RunError(
                f"The ensemble {name} of the study {reference} has {key} {_text(expected)}, that of {study} "
                f"{_text(value)}: they are not one study on two splits. Leave {study} out of splits=, or aggregate "
                "both alike."
            )
    if (runs / reference / "split.csv").read_bytes() == (runs / study / "split.csv").read_bytes():
        raise RunError(
            f"The studies {reference} and {study} have the same split.csv, so that one of them repeats nothing. Train "
            f"{study} with another data.split.seed, or leave it out of splits=."
        )
    for first, second in zip(ensemble.members, repeat.members, strict=True):
        run = RunFolder.of(runs, reference, first.model, first.tag)
        require_same_settings(run, RunFolder.of(runs, study, second.model, second.tag), _SPLIT_KEYS)
    return read_replicate(runs / study / "ensembles" / name, again=aggregate_again(study, name, runs))


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
