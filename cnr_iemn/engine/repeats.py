"""A study made again: the same settings with other seeds of the networks, or with other seeds of the split."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnr_iemn.engine.ensembles import Ensemble, read_ensemble
from cnr_iemn.engine.joined import JoinedRuns, join_runs
from cnr_iemn.engine.runs import RunFolder, differences
from cnr_iemn.errors import RunError
from cnr_iemn.patients.evidence.spread import Figures, Repeats, figures_in
from cnr_iemn.patients.out_of_fold import Features
from cnr_iemn.patients.predictions import check_same_study
from cnr_iemn.records import SCHEMA_VERSION

_OTHER_SEED = ("seed", "tag")
_OTHER_SPLIT = (*_OTHER_SEED, "study", "data.split.seed")


def find_repeats(
    runs: Path, joined: JoinedRuns, ensemble: Ensemble, name: str, *, seeds: Sequence[str], splits: Sequence[str]
) -> Repeats:
    """Return the features of the tags ``seeds`` and the figures of the studies ``splits``.

    ``joined``, ``ensemble``: what is declared; ``name``: the ensemble's folder. Raises RunError where one of them is
    missing, or is not the same study but for its seeds.
    """
    first = next(iter(joined.runs.values()))
    return Repeats(
        tag=first.tag,
        study=first.study,
        seeds=_other_seeds(runs, joined, ensemble, seeds),
        splits={study: _other_split(runs, joined, ensemble, name, study) for study in splits},
    )


def _other_seeds(runs: Path, joined: JoinedRuns, ensemble: Ensemble, tags: Sequence[str]) -> dict[str, Features]:
    first = next(iter(joined.predictions.values()))
    study, models = next(iter(joined.runs.values())).study, tuple(joined.runs)
    taken = {first.metadata.seed: first.metadata.tag}
    found: dict[str, Features] = {}
    for tag in tags:
        other = join_runs(runs, study, models, tag, features=ensemble.features)
        made = next(iter(other.predictions.values()))
        seed = made.metadata.seed
        if seed in taken:
            raise RunError(
                f"The runs {taken[seed]} and {tag} of {runs / study} were both trained with seed {seed}: one of them "
                f"repeats nothing. Leave {tag} out of seeds=."
            )
        taken[seed] = tag
        for run, repeated in zip(joined.all_runs, other.all_runs, strict=True):
            _require_same_settings(run, repeated, _OTHER_SEED)
        check_same_study(first, replace(made, metadata=replace(made.metadata, seed=first.metadata.seed)))
        found[tag] = other.declared_features
    return found


def _other_split(runs: Path, joined: JoinedRuns, ensemble: Ensemble, name: str, study: str) -> Figures:
    own = next(iter(joined.runs.values())).study
    other, metrics = read_ensemble(runs, study, name), _metrics(runs, study, name)
    for what in ("phantom", "cohort", "classes", "models", "features"):
        here, there = getattr(ensemble, what), getattr(other, what)
        if here != there:
            raise RunError(
                f"The ensemble {name} of the study {own} has {what} {_text(here)}, that of {study} {_text(there)}: "
                f"they are not one study on two splits. Leave {study} out of splits=, or aggregate both in one way."
            )
    if (runs / own / "split.csv").read_bytes() == (runs / study / "split.csv").read_bytes():
        raise RunError(
            f"The studies {own} and {study} have the same split.csv: one of them repeats nothing. Train {study} with "
            "another data.split.seed, or leave it out of splits=."
        )
    for mine, theirs in zip(ensemble.members, other.members, strict=True):
        run, repeated = (RunFolder.of(runs, s, m.model, m.tag) for s, m in ((own, mine), (study, theirs)))
        _require_same_settings(run, repeated, _OTHER_SPLIT)
    try:
        return figures_in(metrics)
    except (KeyError, TypeError) as error:
        raise _aggregate_again(runs, study, name, f"lacks {error}") from error


def _require_same_settings(run: RunFolder, other: RunFolder, free: Sequence[str]) -> None:
    """Raise RunError where two runs differ in more than the settings ``free``, dotted keys."""
    mine, theirs = (_made_with(each, free) for each in (run, other))
    different = differences(mine, theirs)
    if different:
        raise RunError(
            f"{other.path} does not repeat {run.path}; they differ in more than {', '.join(free)}: {different}. What "
            "they differ in would count as chance. Train it again with the same settings, or leave it out of seeds= or "
            "splits=."
        )


def _made_with(run: RunFolder, free: Sequence[str]) -> dict[str, Any]:
    record = run.record()
    if record is None:
        raise RunError(f"{run.path} has no run.json: what it was trained with is not known. Train it again.")
    configuration = copy.deepcopy(record["configuration"])
    for key in free:
        *groups, name = key.split(".")
        inner = configuration
        for group in groups:
            inner = inner[group]
        inner.pop(name, None)
    return {"cohort": record["cohort"], "store": record["store"], **configuration}


def _metrics(runs: Path, study: str, name: str) -> Mapping[str, Any]:
    path = runs / study / "ensembles" / name / "metrics.json"
    if not path.is_file():
        raise _aggregate_again(runs, study, name, "is missing")
    metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if metrics.get("schema_version") != SCHEMA_VERSION:
        raise _aggregate_again(runs, study, name, f"has schema_version {metrics.get('schema_version')}")
    return metrics


def _aggregate_again(runs: Path, study: str, name: str, why: str) -> RunError:
    path = runs / study / "ensembles" / name / "metrics.json"
    return RunError(f"{path} {why}. Run python aggregate.py study={study} ensemble={name} again.")


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
