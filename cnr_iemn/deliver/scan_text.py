"""What the page of a scan says in words and tables."""

import math
from collections.abc import Mapping
from typing import Any

from cnr_iemn.ct.prepare import PreparedScan
from cnr_iemn.engine.answers import calibration_line, notice_of
from cnr_iemn.engine.ensembles import Ensemble
from cnr_iemn.patients.contributions import LEVELS, Contributions
from cnr_iemn.patients.evidence.cells import NONE
from cnr_iemn.patients.evidence.tables import ResultTable, model_title
from cnr_iemn.report.patients import next_likely


def sentence(answer: Mapping[str, Any], ensemble: Ensemble) -> str:
    """Return the answer: a notice in place of the class for whatever is synthetic, undecided, or the class."""
    notice, named, frozen = notice_of(answer, ensemble), answer["class"], ensemble.calibration
    if notice is not None:
        return f"{notice[0].upper()}{notice[1:]}."
    if frozen is None:
        return f"This scan resembles {named} most: probability {answer['probabilities'][named]:.2f}, not calibrated."
    probability = answer["calibrated"][named]
    calibrated = f"calibrated on {frozen.n} training scans of {frozen.cohort}, {frozen.date}"
    if answer["undecided"]:
        return (
            f"Undecided: the most probable class, {named}, has a probability of {probability:.2f} ({calibrated}), and "
            f"this study answers from {frozen.threshold:.2f} on."
        )
    return f"This scan resembles {named} most: probability {probability:.2f}, {calibrated}."


def probability_table(answer: Mapping[str, Any], ensemble: Ensemble) -> ResultTable:
    """Return the probabilities of each class beside its share of the training scans."""
    calibrated, counts = answer["calibrated"], ensemble.training_counts
    total = sum(counts.values())
    columns = ("class", *(("calibrated",) if calibrated else ()), "booster's own", "training scans")
    rows = tuple(
        (
            name,
            *((f"{calibrated[name]:.3f}",) if calibrated else ()),
            f"{answer['probabilities'][name]:.3f}",
            f"{counts[name]} ({100 * counts[name] / total:.0f}%)" if total else "not known",
        )
        for name in ensemble.classes
    )
    caption = (
        f"{calibration_line(ensemble)} The study learnt from {f'{total} scans' if total else 'scans'} of the cohort "
        f"{ensemble.cohort}; elsewhere, or where the classes are otherwise frequent, the probabilities need not hold."
    )
    return ResultTable("Probabilities", columns, rows, caption=caption)


def contribution_table(gone_by: Contributions, row: int, answered: int) -> ResultTable:
    """Return by backbone and third what spoke for the answered class rather than the next likely one."""
    other = next_likely(gone_by, row, answered)
    levels = gone_by.by_level[row]
    against = other != answered
    difference = levels[answered] - levels[other] if against else levels[answered]
    base = gone_by.base[answered] - (gone_by.base[other] if against else 0)
    rows = [
        (model_title(model), *(f"{value:+.2f}" for value in values), f"{values.sum():+.2f}")
        for model, values in zip(gone_by.models, difference, strict=True)
    ]
    answer = f"for {gone_by.classes[answered]}"
    title = f"{answer} rather than {gone_by.classes[other]}, the next likely" if against else answer
    return ResultTable(
        f"Contributions {title}, log-odds",
        ("backbone", *LEVELS, "all"),
        (*rows, ("before any slice", *[""] * len(LEVELS), f"{base:+.2f}")),
        caption="Exact SHAP values of the booster; below zero speaks against. Thirds are of the slices.",
    )


def quality_table(answer: Mapping[str, Any], prepared: PreparedScan) -> ResultTable:
    """Return what is known of the scan as an image."""
    litres = answer["lung_litres"]
    spacing = " x ".join(NONE if math.isnan(value) else f"{value:.2f}" for value in prepared.spacing_mm)
    rows = [
        ("slices", str(answer["n_slices"])),
        ("spacing: slices, rows, columns", f"{spacing} mm"),
        ("lungs", "not known" if math.isnan(litres) else f"{litres:.2f} litres"),
    ]
    return ResultTable("The scan", ("measure", "value"), tuple(rows))
