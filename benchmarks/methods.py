"""Which way from slices to patients finds more CAP at equal COVID-19 sensitivity? On simulated cohorts, or on a study.

python -m benchmarks.methods --json methods.json              # simulated, not evidence
python -m benchmarks.methods --study runs/demo                # real stage-1 runs; nothing is written there
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from benchmarks.simulated_cohorts import (
    CAP,
    COUNTS,
    COVID,
    MODELS,
    NORMAL,
    NOTICE,
    SimulatedCohort,
    error_correlations,
    simulate,
    slice_accuracy,
)
from cnr_iemn.patients.evidence.comparisons import compare_with, holm
from cnr_iemn.patients.evidence.method_study import answer_sets, answers_within
from cnr_iemn.patients.methods import METHODS, Method
from cnr_iemn.patients.nested import patient_parts
from cnr_iemn.patients.predictions import read_predictions
from cnr_iemn.patients.slice_sets import SliceSets, paper_sets
from cnr_iemn.records import TRAINING, VALIDATION
from cnr_iemn.registry import BACKBONES, BOOSTER_METHOD, PHANTOM_NOTICE, SPGC_CLASSES

Floats = NDArray[np.float64]
_FLOOR = 1e-6  # a rule's probability may be 0


@dataclass(frozen=True)
class Answered:
    """Validation scans of one cohort by one method: class indices, int64 [scans].

    ``as_is``: its most probable class. ``trained``: with the odds of CAP against COVID-19 moved, so that it has as many
    COVID-19 training scans right as the paper's method, each answered by what has not learnt from it: what a user would
    get. ``equal``: moved so that it has as many of these very COVID-19 scans right: no way to use a method, but the
    comparison at equal sensitivity, whatever each gains from the last fifth of the training scans.
    """

    truth: NDArray[np.int64]
    as_is: NDArray[np.int64]
    trained: NDArray[np.int64]
    equal: NDArray[np.int64]

    def sensitivity(self, label: int, how: str = "equal") -> float:
        """Return the share of the class's scans that are called so. ``how``: as_is, trained or equal."""
        called: NDArray[np.int64] = getattr(self, how)
        return float((called[self.truth == label] == label).mean())


def offset_for(within: Floats, labels: NDArray[np.int64], wanted: int) -> float:
    """Return what to add to log P(CAP) so that ``wanted`` COVID-19 training scans are called so, or as many as can be.

    ``within``: answers of what has not learnt from each scan, float64 [scans, 3]. Of the offsets that do it the middle
    one. Scans whose most probable class is Normal are none of COVID-19, at any offset.
    """
    told = within[(labels == COVID) & (within.argmax(axis=1) != NORMAL)]
    margins = np.sort(_margins(told))[::-1]  # a scan is called COVID-19 up to its margin
    if wanted < 1 or not len(margins):
        return 0.0
    last = margins[min(wanted, len(margins)) - 1]
    return float((last + margins[wanted]) / 2 if wanted < len(margins) else last)


def moved(probabilities: Floats, offset: float) -> NDArray[np.int64]:
    """Return scans' classes, int64, once ``offset`` is added to log P(CAP); what is called Normal stays so."""
    disease = np.where(_margins(probabilities) >= offset, COVID, CAP)
    return np.where(probabilities.argmax(axis=1) == NORMAL, NORMAL, disease)


def _margins(probabilities: Floats) -> Floats:
    logs = np.log(np.clip(probabilities, _FLOOR, None))
    return np.asarray(logs[:, COVID] - logs[:, CAP])


def answer_cohort(
    sets: SliceSets, scans: pd.DataFrame, methods: Mapping[str, Method] = METHODS, *, seed: int = 0
) -> dict[str, Answered]:
    """Return what each method answers. ``scans``: patient_id, split and label of the SPGC classes, by scan_id."""
    training, validation = scans[scans["split"] == TRAINING], scans[scans["split"] == VALIDATION]
    labels, truth = (
        np.array([SPGC_CLASSES.index(k) for k in side["label"]], dtype=np.int64) for side in (training, validation)
    )
    arrays = [sets[scan_id][0] for scan_id in training.index]
    parts = patient_parts(training, seed=seed) or []
    within = {name: answers_within(method, arrays, labels, parts) for name, method in methods.items()}
    told = {name: answer_sets(method(arrays, labels), sets, validation.index) for name, method in methods.items()}
    wanted_within, wanted = (
        int((answers[BOOSTER_METHOD][known == COVID].argmax(axis=1) == COVID).sum())
        for answers, known in ((within, labels), (told, truth))
    )
    return {
        name: Answered(
            truth,
            answers.argmax(axis=1),
            moved(answers, offset_for(within[name], labels, wanted_within)),
            moved(answers, offset_for(answers, truth, wanted)),
        )
        for name, answers in told.items()
    }


def simulated(
    model: str,
    repeats: int,
    methods: Mapping[str, Method] = METHODS,
    counts: Mapping[str, tuple[int, int, int]] = COUNTS,
) -> dict[str, Any]:
    """Return the rows of an error model over ``repeats`` cohorts, and what was simulated; JSON-ready."""
    cohorts: list[dict[str, Answered]] = []
    facts: list[tuple[float, float, float]] = []
    started = time.perf_counter()
    for seed in range(repeats):
        cohort: SimulatedCohort = simulate(MODELS[model], seed, counts)
        facts.append((*error_correlations(cohort), slice_accuracy(cohort)))
        cohorts.append(answer_cohort(cohort.sets, cohort.scans, methods))
    within, between, accuracy = np.mean(facts, axis=0)
    rows = {name: _over_cohorts([each[name] for each in cohorts], cohorts) for name in cohorts[0]}
    others = [name for name in rows if name != BOOSTER_METHOD]
    for name, p in zip(others, holm([rows[name]["p"] for name in others]), strict=True):
        rows[name]["p_holm"] = p
    return {
        "notice": NOTICE,
        "what": MODELS[model].what,
        "cohorts": repeats,
        "intraclass_correlation": within,
        "backbone_error_correlation": between,
        "slice_accuracy": accuracy,
        "methods": rows,
        "seconds": time.perf_counter() - started,
    }


def _over_cohorts(answered: list[Answered], cohorts: list[dict[str, Answered]]) -> dict[str, Any]:
    """Return mean sensitivities, and those at the paper's COVID-19 sensitivity less the paper's method's, paired."""
    paper = [each[BOOSTER_METHOD] for each in cohorts]

    def of(label: int, how: str, chosen: list[Answered] = answered) -> Floats:
        return np.array([each.sensitivity(label, how) for each in chosen])

    def less_the_papers(label: int, how: str) -> list[float]:
        return _mean_with_interval(of(label, how) - of(label, how, paper))

    cap = of(CAP, "equal") - of(CAP, "equal", paper)
    return {
        "sensitivity": {
            how: {name: float(of(k, how).mean()) for k, name in enumerate(SPGC_CLASSES)}
            for how in ("as_is", "trained", "equal")
        },
        "cap_difference": {how: less_the_papers(CAP, how) for how in ("trained", "equal")},
        "covid_difference": {how: less_the_papers(COVID, how) for how in ("trained", "equal")},
        "cap_difference_of_one_cohort": np.quantile(cap, [0.05, 0.95]).tolist(),
        "p": float(ttest_1samp(cap, 0).pvalue) if cap.any() else 1.0,
    }


def _mean_with_interval(values: Floats) -> list[float]:
    """Return the mean and the ends of its 95% interval (Student's)."""
    n, mean = len(values), values.mean()
    half = student.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return [float(mean), float(mean - half), float(mean + half)]


def simulated_table(model: str, found: Mapping[str, Any]) -> Table:
    """Return the table of one error model, in percent and points."""
    table = Table(
        title=f"{NOTICE}. Model {model}: {found['what']}; {found['cohorts']} cohorts\nerrors: within a patient "
        f"{found['intraclass_correlation']:.2f}, between backbones {found['backbone_error_correlation']:.2f}; slices "
        f"right {100 * found['slice_accuracy']:.1f}%; {found['seconds']:.0f} s"
    )
    for column in ("method", "as is: Normal / COVID-19 / CAP", "threshold on training: COVID-19, less", "CAP, less"):
        table.add_column(column)
    for column in ("equal COVID-19: CAP", "CAP, less", "one cohort, 5 to 95%", "p, Holm"):
        table.add_column(column)
    for name, row in found["methods"].items():
        own = name == BOOSTER_METHOD
        table.add_row(
            f"{name} (the paper's)" if own else name,
            " / ".join(f"{100 * value:.1f}" for value in row["sensitivity"]["as_is"].values()),
            "" if own else _points(row["covid_difference"]["trained"]),
            "" if own else _points(row["cap_difference"]["trained"]),
            f"{100 * row['sensitivity']['equal']['CAP']:.1f}",
            "" if own else _points(row["cap_difference"]["equal"]),
            "" if own else "{:+.0f} to {:+.0f}".format(*(100 * k for k in row["cap_difference_of_one_cohort"])),
            "" if own else f"{row['p_holm']:.2g}",
        )
    return table


def _points(values: list[float]) -> str:
    middle, low, high = (100 * value + 0.0 for value in values)
    return f"{middle:+.1f} [{low:+.1f}, {high:+.1f}]"


def study_table(study: Path, tag: str) -> Table:
    """Return the table of a study's four backbones: one cohort, so that intervals are over its CAP scans (Tango's)."""
    predictions = {name: read_predictions(study / name / tag / "predictions.parquet") for name in BACKBONES}
    first = next(iter(predictions.values()))
    answered = answer_cohort(paper_sets(predictions), first.scans)
    cap = next(iter(answered.values())).truth == CAP
    right = {name: each.equal[cap] == CAP for name, each in answered.items()}
    against = compare_with(right.pop(BOOSTER_METHOD), right)
    notice = f"{PHANTOM_NOTICE}. " if first.metadata.phantom else ""
    table = Table(title=f"{notice}{study}: {len(cap)} validation scans, {cap.sum()} of CAP")
    for column in ("method", "as is: Normal / COVID-19 / CAP", "threshold on training: COVID-19 / CAP"):
        table.add_column(column)
    for column in ("equal COVID-19: COVID-19 / CAP", "CAP, less", "p, Holm"):
        table.add_column(column)
    for name, each in answered.items():
        row = against.get(name)
        table.add_row(
            name if row else f"{name} (the paper's)",
            " / ".join(f"{100 * each.sensitivity(k, 'as_is'):.1f}" for k in range(3)),
            *(
                " / ".join(f"{100 * each.sensitivity(k, how):.1f}" for k in (COVID, CAP))
                for how in ("trained", "equal")
            ),
            _points([-row["difference"], -row["high"], -row["low"]]) if row else "",
            f"{row['p_holm']:.2g}" if row else "",
        )
    return table


def main() -> None:
    """Print the tables and, with --json, write those of the simulated cohorts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=40, help="cohorts of each error model, 2 or more")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--study", type=Path, help="runs/<study> with the four backbones, in place of simulations")
    parser.add_argument("--tag", default="seed0")
    words = parser.parse_args()
    console = Console(width=170)
    if words.study:
        console.print(study_table(words.study, words.tag))
        return
    found = {}
    for model in words.models:
        found[model] = simulated(model, words.repeats)
        console.print(simulated_table(model, found[model]))
        if words.json:
            words.json.write_text(json.dumps({"notice": NOTICE, "models": found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
