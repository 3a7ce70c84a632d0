"""Tables of a decision on one class: likelihood ratios, counts at a prevalence; precision of the sample size."""

from collections.abc import Mapping

from cnr_iemn.evaluation.clinical.clinical_use import ClinicalUse, ExpectedRates
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.tables import NONE, Cells, ResultTable, make_table, percent, percentage, with_interval
from cnr_iemn.statistics.confidence_intervals import Estimate
from cnr_iemn.statistics.likelihood_ratios import Ratio
from cnr_iemn.statistics.sample_size import half_width, scans_for

PER = 1000
"""Scans that expected counts are given for."""
_INFINITE = "∞"
_HALF_WIDTH = 0.05
_CURVE_POINTS = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Threshold probabilities of the printed decision curve."""


def clinical_tables(metrics: StudyMetrics) -> tuple[ResultTable, ...]:
    """Return the tables of a decision on one class, where it was measured, and the precision of the sample size."""
    use = metrics["clinical_use"]
    notice = metrics.get("notice")
    tables = () if use is None else (decision_table(use, notice=notice), expected_table(use, notice=notice))
    return (*tables, precision_table(metrics))


def decision_table(use: ClinicalUse, *, notice: str | None, scans: str = "") -> ResultTable:
    """Return the counts of the decision at its threshold, and its likelihood ratios. ``scans``: of an external set."""
    counts, label = use["counts"], use["label"]
    above = counts["true_positives"], counts["false_positives"], ratio_text(use["positive_ratio"])
    below = counts["false_negatives"], counts["true_negatives"], ratio_text(use["negative_ratio"])
    rows = ((f"{label} at or above the threshold", *map(str, above)), ("below the threshold", *map(str, below)))
    columns = ("decision", label, "other classes", "likelihood ratio, 95% interval")
    return ResultTable(
        f"Decision for {label} at a probability of {use['threshold']:.3f}, {scans}scans",
        columns,
        rows,
        notice,
        f"Likelihood ratio: how much more frequent the decision is among scans of {label} than among the others; "
        "Koopman's score interval.",
    )


def expected_table(use: ClinicalUse, *, notice: str | None, scans: str = "") -> ResultTable:
    """Return the counts to expect of 1000 scans at each prevalence, and the predictive values in percent.

    ``scans``: of an external set, for the title.
    """
    label = use["label"]
    cells: Cells[ExpectedRates] = {
        f"{label} found": lambda row: _count(row["true_positives"]),
        f"{label} missed": lambda row: _count(row["false_negatives"]),
        f"other classes called {label}": lambda row: _count(row["false_positives"]),
        "positive predictive value, %": lambda row: with_interval(row["ppv"]),
        "negative predictive value, %": lambda row: with_interval(row["npv"]),
    }
    here, *elsewhere = use["expected"]
    rows = [(f"{percentage(here['prevalence'])}, as here", here)]
    rows += [(percentage(row["prevalence"]), row) for row in elsewhere]
    return make_table(
        f"Of {PER} {scans}scans, the decision for {label} at its threshold",
        f"prevalence of {label}",
        rows,
        cells,
        notice=notice,
        caption="Sensitivity and specificity of these scans with Wilson's intervals; those of the predictive "
        "values follow from the likelihood ratios. Another prevalence assumes the same sensitivity and the same mix of "
        "the other classes; other patients, scanners and severity change both. prevalence= adds rows.",
    )


def net_benefit_table(uses: Mapping[str, ClinicalUse], *, notice: str | None) -> ResultTable:
    """Return some points of the decision curves of external sets. ``uses``: by set, of one class."""
    first = next(iter(uses.values()))
    rows = []
    for name, use in uses.items():
        curve = use["decision_curve"]
        for threshold in _CURVE_POINTS:
            k = curve["thresholds"].index(threshold)
            value, low, high = (f"{PER * curve[key][k]:.0f}" for key in ("net_benefit", "low", "high"))
            rows.append((name, f"{threshold:g}", f"{value} [{low}, {high}]", f"{PER * curve['act_on_all'][k]:.0f}"))
    label = first["label"]
    scale = "calibrated" if first["calibrated"] else "uncalibrated"
    return ResultTable(
        f"Net benefit for {label}, of {PER} external scans",
        ("set", "threshold probability", f"act on the probability of {label}", "act on all"),
        tuple(rows),
        notice,
        f"True positives less false positives at the rate that the threshold accepts; the {scale} probability, with a "
        "pointwise 95% interval (Zou and Donner 2008). Acting on no scan has a net benefit of 0. The whole curve is in "
        "metrics.json.",
    )


def precision_table(metrics: StudyMetrics) -> ResultTable:
    """Return how precisely these numbers of scans tell each sensitivity and the accuracy, in points."""
    totals = [sum(row) for row in metrics["confusion_matrix"]]
    shares = list(metrics["sensitivity"].values())
    rows: list[tuple[str, tuple[float | None, int]]] = [("accuracy", (metrics["accuracy"], sum(totals)))]
    rows += [
        (f"sensitivity for {name}", row)
        for name, row in zip(metrics["classes"], zip(shares, totals, strict=True), strict=True)
    ]

    def width(row: tuple[float | None, int]) -> str:
        return NONE if row[0] is None else f"±{100 * half_width(row[0], row[1]):.1f}"

    cells: Cells[tuple[float | None, int]] = {
        "scans": lambda row: str(row[1]),
        "here, %": lambda row: percent(row[0]),
        "known to, points": width,
        f"scans for ±{100 * _HALF_WIDTH:.0f} points": lambda row: (
            NONE if row[0] is None else str(scans_for(row[0], _HALF_WIDTH))
        ),
        "at worst, points": lambda row: NONE if row[0] is None else f"±{100 * half_width(0.5, row[1]):.1f}",
    }
    return make_table(
        "Precision of the sample size",
        "metric",
        rows,
        cells,
        notice=metrics.get("notice"),
        caption="Half the length of Wilson's 95% interval at the value found here, at worst at a value of 50%. "
        "Scans are treated as independent.",
    )


def ratio_text(ratio: Ratio) -> str:
    """Return a ratio with its interval; an infinite one has a lower bound only."""
    if ratio["low"] is None:
        return NONE
    value, high = (_INFINITE if bound is None else f"{bound:.2f}" for bound in (ratio["value"], ratio["high"]))
    return f"{value} [{ratio['low']:.2f}, {high}]"


def _count(rate: Estimate) -> str:
    if rate["value"] is None or rate["low"] is None or rate["high"] is None:
        return NONE
    return f"{PER * rate['value']:.0f} [{PER * rate['low']:.0f}, {PER * rate['high']:.0f}]"
