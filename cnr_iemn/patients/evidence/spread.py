"""How far the figures move with what was left to chance: the training patients, the networks' seed, the split.

The intervals of ``patients.intervals`` leave the models as they are and draw other validation scans; here the models
are others. XGBoost's own seed is none of it: at these settings it draws nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from cnr_iemn.patients.answers import Answers
from cnr_iemn.patients.intervals import draw_patients, weighted_figures
from cnr_iemn.patients.out_of_fold import Features
from cnr_iemn.records import probability_columns

FIGURES = ("accuracy", "balanced_accuracy", "macro_auc")
Learn = Callable[..., Answers]
Figures = dict[str, Any]
"""``FIGURES`` and ``sensitivity`` by class, of one stage 2 on its validation scans: fractions 0 to 1, or None."""


class Summary(TypedDict):
    """Mean, standard deviation (of a sample), 5% and 95%; fractions 0 to 1, or None where one is None."""

    mean: float | None
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Repeats:
    """The same study made again with other seeds. ``tag``, ``study``: names of what is declared.

    ``seeds``: the declared way's features by tag, of networks with other seeds. ``splits``: figures by study, of other
    splits.
    """

    tag: str = ""
    study: str = ""
    seeds: Mapping[str, Features] = field(default_factory=dict)
    splits: Mapping[str, Figures] = field(default_factory=dict)


def measure_spread(
    chosen: Answers,
    features: Features,
    classes: tuple[str, ...],
    learn: Learn,
    repeats: Repeats,
    *,
    refits: int,
    seed: int,
) -> dict[str, Any]:
    """Return ``refits``, ``seeds`` and ``splits``, JSON-ready; None for what was not asked for.

    ``chosen``, ``features``: the declared stage 2. ``learn``: trains stage 2 as that was. ``refits``: see
    ``refit_spread``; 0 for none.
    """
    own = figures_of(chosen, classes)
    seeds = {tag: figures_of(learn(others), classes) for tag, others in repeats.seeds.items()}
    return {
        "refits": refit_spread(chosen, features, classes, learn, refits=refits, seed=seed) if refits else None,
        "seeds": _listed({repeats.tag: own, **seeds}) if seeds else None,
        "splits": _listed({repeats.study: own, **repeats.splits}) if repeats.splits else None,
    }


def refit_spread(
    chosen: Answers, features: Features, classes: tuple[str, ...], learn: Learn, *, refits: int, seed: int
) -> dict[str, Any]:
    """Train the booster again on resamples of the training patients within their class; the networks stay.

    Return ``n`` (refits), a ``Summary`` of each of ``FIGURES``, by class of ``sensitivity``, and of ``changed``: the
    share of validation scans that a refit gives another class than the declared booster; and ``changed_by_any``: the
    share of those that at least one refit does.
    """
    training = chosen.patients.loc[features.training.index]
    truth = np.array([classes.index(label) for label in training["label"]], dtype=np.int64)
    rng = np.random.default_rng(seed)
    found, changed = [], []
    for counts in draw_patients(truth, training["patient_id"].tolist(), resamples=refits, rng=rng):
        rows = np.repeat(np.arange(len(truth)), counts.astype(np.int64))
        # numbered, since a scan can be there twice; only the others are answered for
        drawn = Features(features.training.iloc[rows].set_axis(range(len(rows))), features.answering)
        answers = learn(drawn, labels=training["label"].iloc[rows].tolist())
        found.append(figures_of(answers, classes))
        changed.append((answers.held_out["predicted"] != chosen.held_out["predicted"]).to_numpy(dtype=bool))
    others = np.array(changed)
    return {
        "n": refits,
        **_over(found),
        "changed": _summary(others.mean(axis=1).tolist()),
        "changed_by_any": float(others.any(axis=0).mean()),
    }


def figures_of(answers: Answers, classes: tuple[str, ...]) -> Figures:
    """Return the figures of one stage 2 on the validation scans."""
    held_out = answers.held_out
    truth = np.array([classes.index(label) for label in held_out["label"]], dtype=np.int64)
    told = held_out[probability_columns(classes)].to_numpy(dtype=np.float64)
    auc = float(weighted_figures(truth, told, np.ones((1, len(truth))))["macro_auc"][0])
    evaluation = answers.evaluation(classes)
    return {
        "accuracy": evaluation["accuracy"],
        "balanced_accuracy": evaluation["balanced_accuracy"],
        "macro_auc": auc if np.isfinite(auc) else None,
        "sensitivity": evaluation["sensitivity"],
    }


def figures_in(metrics: Mapping[str, Any]) -> Figures:
    """Return the same from a metrics.json. Raises KeyError where it lacks one."""
    figures = {name: metrics[name] for name in ("accuracy", "balanced_accuracy")}
    auc = metrics["intervals"]["patient_bootstrap"]["macro_auc"]["value"]
    return {**figures, "macro_auc": auc, "sensitivity": dict(metrics["sensitivity"])}


def _listed(each: Mapping[str, Figures]) -> dict[str, Any]:
    """Return ``each`` by name, and the summary of all."""
    return {"each": dict(each), **_over(list(each.values()))}


def _over(found: list[Figures]) -> dict[str, Any]:
    """Return figures of which each is a summary."""
    return {
        **{name: _summary([each[name] for each in found]) for name in FIGURES},
        "sensitivity": {
            name: _summary([each["sensitivity"][name] for each in found]) for name in found[0]["sensitivity"]
        },
    }


def _summary(values: list[float | None]) -> Summary:
    if any(value is None for value in values):
        return {"mean": None, "sd": None, "low": None, "high": None}
    known: NDArray[np.float64] = np.array(values, dtype=np.float64)
    low, high = np.quantile(known, [0.05, 0.95])
    return {"mean": float(known.mean()), "sd": float(known.std(ddof=1)), "low": float(low), "high": float(high)}
