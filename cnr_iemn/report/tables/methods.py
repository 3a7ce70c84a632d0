"""Tables of the stage-2 methods, the decision threshold, shortcuts, near-duplicates and input ablations."""

from cnr_iemn.evaluation.method_comparison import MethodMetrics
from cnr_iemn.evaluation.near_duplicates import NearDuplicate
from cnr_iemn.evaluation.operating_point import OperatingPoint
from cnr_iemn.evaluation.shortcut_audit import Association
from cnr_iemn.evaluation.study_metrics import Ablation, StudyMetrics
from cnr_iemn.report.tables import (
    INTERVAL,
    NONE,
    Cells,
    ResultTable,
    by_class,
    difference_bounds,
    difference_text,
    interval_text,
    make_table,
    percent,
    percentage,
    signed,
    training_scans,
    with_interval,
)

_SHOWN_PAIRS = 20


def method_table(metrics: StudyMetrics) -> ResultTable:
    """Return the stage-2 methods on the validation scans; the first column is the one to choose a method by."""
    methods, choice = metrics["methods"], metrics["method_choice"]
    assert methods is not None

    def cross_validation(method: MethodMetrics) -> str:
        deviation = method["cross_validation_sd"]
        text = percent(method["cross_validation"])
        return text if deviation is None else f"{text} ±{100 * deviation:.2f}"

    cells: Cells[MethodMetrics] = {
        "cross-validation on training scans: balanced accuracy": cross_validation,
        "accuracy": lambda method: percent(method["accuracy"]),
        **by_class(
            metrics["classes"],
            "sensitivity {}",
            lambda method, name: (
                f"{percent(method['sensitivity'][name])} {interval_text(method['intervals']['sensitivity'][name])}"
            ),
        ),
        "row minus primary": lambda method: (
            NONE
            if method["primary"]
            else difference_text(method["comparison"]["difference"], method["comparison"], reverse=True)
        ),
        "note": lambda method: "primary" if method["primary"] else "exploratory",
    }
    caption = f"The primary method, named before the run, is {metrics['method']}. "
    if choice is not None:
        repeats = f", repeated {choice['repeats']} times (± deviation)" if choice["repeats"] > 1 else ""
        caption += (
            f"Cross-validation: {choice['folds']} folds by patient{repeats}. Choose a method by that column, or the "
            f"validation scans have selected it. It would choose {choice['method']}. "
        )
    caption += "predict.py, export.py and patients.csv use the primary method."
    title = "Stage-2 methods, validation scans, %"
    return make_table(title, "method", methods.items(), cells, notice=metrics.get("notice"), caption=caption)


def threshold_table(metrics: StudyMetrics) -> ResultTable:
    """Return the decision threshold of one class on the validation scans, of the primary method and of each other."""
    point = metrics["operating_point"]
    assert point is not None
    points = {metrics["method"]: point}
    for name, method in (metrics["methods"] or {}).items():
        if not method["primary"] and method["operating_point"] is not None:
            points[name] = method["operating_point"]
    cells: Cells[tuple[str, OperatingPoint]] = {
        "threshold": lambda row: f"{row[1]['threshold']:.3f}",
        "training scans: sensitivity / specificity": lambda row: (
            f"{percent(row[1]['training_sensitivity'])} / {percent(row[1]['training_specificity'])}"
        ),
        "sensitivity": lambda row: with_interval(row[1]["sensitivity"]),
        "specificity": lambda row: with_interval(row[1]["specificity"]),
        "note": lambda row: "primary" if row[0] == metrics["method"] else "exploratory",
    }
    fitted = training_scans(point["learnt_on"], point["optimistic"])
    caption = (
        f"A scan is called {point['label']} at this probability or above. The threshold aims at a sensitivity of "
        f"{percentage(point['target_sensitivity'])} on new scans and is set on {fitted}. Methods fitted without its "
        "patient predict each of them. Wilson's intervals."
    )
    title = f"Decision threshold for {point['label']}, validation scans, %"
    rows = [(name, (name, point)) for name, point in points.items()]
    return make_table(title, "method", rows, cells, notice=metrics.get("notice"), caption=caption)


def audit_table(metrics: StudyMetrics) -> ResultTable:
    """Return how well shortcuts such as slice count and spacing predict the classes."""
    audit = metrics["audit"]
    assert audit is not None
    low, _, high = audit["null"]
    verdict = (
        "Alarm: something other than the lungs predicts the classes. The networks may or may not use it: compare "
        "cohorts, scanners and protocols before any result is trusted."
        if audit["alarm"]
        else "No alarm."
    )
    caption = (
        f"{audit['n']} scans; cross-validated AUC of the class that is predicted best. Permuted classes: {low:.3f} to "
        f"{high:.3f} (5 to 95%), p = {audit['p']:.2g}. {verdict}"
    )
    rows = [
        ("all together", audit["auc"]),
        *((name.replace("#", "n"), auc) for name, auc in audit["by_shortcut"].items()),
    ]
    title = "Shortcut audit: classes predicted without the lungs"
    cells: Cells[float] = {"AUC": lambda auc: f"{auc:.3f}"}
    return make_table(title, "shortcut", rows, cells, notice=metrics.get("notice"), caption=caption)


def association_table(metrics: StudyMetrics) -> ResultTable:
    """Return whether stage 2 is more confident of a class where the shortcuts look like it."""
    audit = metrics["audit"]
    assert audit is not None
    cells: Cells[Association] = {
        "scans": lambda association: str(association["n"]),
        "rho": lambda association: NONE if association["rho"] is None else f"{association['rho']:+.2f}",
        "p": lambda association: NONE if association["p"] is None else f"{association['p']:.2g}",
    }
    caption = (
        "Validation scans of one class at a time: Spearman's rho of the margin of stage 2 for the class and its "
        "cross-validated shortcut score; two-sided permutation p, not corrected. Exploratory. A rho near 0 says little "
        "where scans are few; otherwise the shortcuts are used, or the lungs of such scans differ too."
    )
    title = "Association of predictions with shortcuts"
    rows = audit["association"].items()
    return make_table(title, "true class", rows, cells, notice=metrics.get("notice"), caption=caption)


def near_duplicate_table(metrics: StudyMetrics) -> ResultTable:
    """Return the pairs of a training and a validation scan that look like one scan exported twice."""
    duplicates = metrics["near_duplicates"]
    assert duplicates is not None
    pairs = duplicates["pairs"][:_SHOWN_PAIRS]
    more = (
        f" {len(duplicates['pairs']) - len(pairs)} more are in metrics.json."
        if len(duplicates["pairs"]) > len(pairs)
        else ""
    )
    verdict = (
        "Look at each pair. If they are of one patient, give them one patient_id in a manifest, or leave one out with "
        f"data.exclude, and train again.{more}"
        if pairs
        else f"None: the highest correlation is {duplicates['highest']:.2f}."
    )
    caption = (
        f"{duplicates['n']} pairs of a training and a validation scan; correlation of what differs from the mean scan, "
        f"in 12 x 12 x 12 cells around the lungs. Reported at {duplicates['threshold']:g} and above. {verdict}"
    )
    cells: Cells[NearDuplicate] = {
        "validation scan": lambda pair: pair["validation"],
        "correlation": lambda pair: f"{pair['similarity']:.3f}",
    }
    rows = ((pair["training"], pair) for pair in pairs)
    title = "Near-duplicates across the split"
    return make_table(title, "training scan", rows, cells, notice=metrics.get("notice"), caption=caption)


def ablation_table(metrics: StudyMetrics) -> ResultTable:
    """Return the metrics of the validation scans under each input ablation, in percent."""
    ablations = metrics["ablations"]
    assert ablations is not None

    def difference(row: Ablation) -> str:
        comparison = row["comparison"]
        return NONE if comparison is None else signed(-comparison["difference"])

    def bounds(row: Ablation) -> str:
        return NONE if row["comparison"] is None else difference_bounds(row["comparison"], reverse=True)

    cells: Cells[Ablation] = {
        "accuracy": lambda row: percent(row["accuracy"]),
        **by_class(metrics["classes"], "sensitivity {}", lambda row, name: percent(row["sensitivity"][name])),
        "row minus unaltered": difference,
        INTERVAL: bounds,
        "exact McNemar p, Holm": lambda row: (
            NONE if row["comparison"] is None else f"{row['comparison']['p_holm']:.2g}"
        ),
        "slices with another class": lambda row: percent(row["slice_changes"]),
    }
    caption = (
        f"{ablations['n']} validation scans, {ablations['networks']} networks, stage 2 as it is. Without an "
        f"alteration {percentage(ablations['agreement'])} of the slices keep their saved class. Exploratory. The "
        "networks have never seen such images, so that a fall may come from their strangeness; what does not lower "
        "the accuracy was not needed."
    )
    title, rows = "Input ablations, %", ablations["rows"].items()
    return make_table(title, "input", rows, cells, notice=metrics.get("notice"), caption=caption)
