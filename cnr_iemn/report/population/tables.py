"""Table 1 and the subgroups as tables, and as CSV files."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from cnr_iemn.data.demographics.group_table import LEAST_SCANS, title_of
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.evaluation.subgroups.cohort_table import NUMBERS, CohortTable, Differences
from cnr_iemn.evaluation.subgroups.performance import LEAST_RATED, Group
from cnr_iemn.report.forest import Forest, make_forest
from cnr_iemn.report.tables import NONE, ResultTable, difference_text, make_table, percent, with_interval
from cnr_iemn.statistics.confidence_intervals import Estimate
from cnr_iemn.utils.atomic_io import write_text_atomic
from cnr_iemn.utils.spreadsheet import people_csv

HIDDEN = "*"
HIDDEN_NOTE = f"{HIDDEN}: 1 to {LEAST_SCANS - 1} scans, or a number from which sums would give one away."


def cohort_result_table(metrics: StudyMetrics) -> ResultTable | None:
    """Return the cohort by class and side, None where nothing is known of the scans."""
    table = metrics["cohort_table"]
    if table is None:
        return None
    strata = [f"{stratum['label']}, {stratum['split']}" for stratum in table["strata"]]
    columns = ("", *strata, "SMD, split", "SMD, classes")
    rows = [("scans", *(str(stratum["n"]) for stratum in table["strata"]), "", ""), *_rows(table)]
    caption = (
        "Numbers: median [25%, 75%]. SMD: absolute standardised difference between training and validation scans, and "
        "the largest between two classes (Austin 2009; of groups Yang and Dalton 2012); below 0.1 is called small. "
        f"{NONE}: fewer than {LEAST_SCANS} scans, or nothing varies. {HIDDEN_NOTE} The SMD of "
        "classes leaves out those with such a number. Rare values are merged; any: values that would reveal such a "
        "number beside another variable."
    )
    title = "Scans by class and side of the split"
    return ResultTable(title, columns, tuple(rows), metrics.get("notice"), caption)


def _rows(table: CohortTable) -> list[tuple[str, ...]]:
    rows = []
    for name, number in table["numbers"].items():
        rows.append((NUMBERS[name], *map(_quartiles, number["quartiles"]), *_differences(number["differences"])))
        rows += _missing([*number["missing"]])
    for name, group in table["groups"].items():
        rows.append((title_of(name), *("" for _ in table["strata"]), *_differences(group["differences"])))
        rows += [(f"\u2003{level}", *map(_count, counts), "", "") for level, counts in group["counts"].items()]
        rows += _missing(group["missing"])
    return rows


def _quartiles(values: list[float] | None) -> str:
    return NONE if values is None else "{1:.3g} [{0:.3g}, {2:.3g}]".format(*values)


def _missing(counts: list[int | None]) -> list[tuple[str, ...]]:
    return [("\u2003not known", *map(_count, counts), "", "")] if any(n != 0 for n in counts) else []


def _count(n: int | None) -> str:
    return HIDDEN if n is None else str(n)


def _differences(differences: Differences) -> tuple[str, str]:
    split, classes = differences["split"], differences["classes"]
    return (NONE if split is None else f"{split:.2f}", NONE if classes is None else f"{classes:.2f}")


def subgroup_forest(metrics: StudyMetrics) -> Forest | None:
    """Return the validation scans by groups as a forest plot, None where there are no groups."""
    rows: list[tuple[str, Group]] = []
    headings = {}
    for name, variable in metrics["subgroups"].items():
        headings[len(rows) + 1] = f"{title_of(name)}{_test_text(metrics, name)}"
        rows += [(level, group) for level, group in variable["groups"].items()]
    if not rows:
        return None
    rows.insert(0, ("all validation scans", _all_scans(metrics)))
    cells: dict[str, Callable[[Group], str]] = {
        "scans": lambda group: str(group["n"]),
        "accuracy": lambda group: with_interval(group["accuracy"]),
        **{f"recall {label}": _recall(label) for label in metrics["classes"]},
        "probability less accuracy": lambda group: difference_text(
            group["overconfidence"]["value"], group["overconfidence"]
        ),
    }
    caption = (
        f"Groups of fewer than {LEAST_RATED} scans are counted, not rated; recalls with their number of scans. "
        "Accuracy with Wilson's interval. Mean probability of the predicted class less the accuracy, in points, with "
        "Student's interval: above 0 the predictions are over-confident. p: permutation of the correct predictions "
        "within the class, adjusted for all variables by Holm's correction. Smallest difference: of the largest group "
        f"from the others, which the test finds with 80% power. Scans are treated as independent. {HIDDEN_NOTE}"
    )
    table = make_table("Validation scans by group, %", "group", rows, cells, caption=caption)
    return make_forest(table, [group["accuracy"] for _, group in rows], primary=0, groups=headings)


def population_tables(metrics: StudyMetrics) -> list[ResultTable]:
    """Return Table 1 and the subgroups, as far as there are any, for the model card."""
    table, forest = cohort_result_table(metrics), subgroup_forest(metrics)
    return [*([] if table is None else [table]), *([] if forest is None else [forest.table])]


def _recall(label: str) -> Callable[[Group], str]:
    def cell(group: Group) -> str:
        n, estimate = group["n_by_class"][label], group["sensitivity"][label]
        return HIDDEN if n is None else f"{percent(estimate['value'])} of {n}"

    return cell


def _test_text(metrics: StudyMetrics, name: str) -> str:
    test = metrics["subgroups"][name]["interaction"]
    if test is None:
        return ": no two groups are rated"
    smallest = test["detectable"]
    words = "no difference is" if smallest is None else f"a difference of {100 * smallest:.0f} points or more is"
    return f": p = {test['p']:.2g}, with Holm {test['p_holm']:.2g}; {words} found with 80% power"


def _all_scans(metrics: StudyMetrics) -> Group:
    wilson, matrix = metrics["intervals"]["wilson"], metrics["confusion_matrix"]
    nothing: Estimate = {"value": None, "low": None, "high": None}
    return {
        "n": metrics["n_patients"],
        "n_by_class": {label: sum(row) for label, row in zip(metrics["classes"], matrix, strict=True)},
        "accuracy": wilson["accuracy"],
        "sensitivity": wilson["sensitivity"],
        "overconfidence": nothing,
    }


def write_population_files(folder: Path, metrics: StudyMetrics) -> None:
    """Write cohort.csv and subgroups.csv, each whole or not at all, and remove those of an earlier aggregation.

    They hold what the report shows: rare values merged, small numbers hidden.
    """
    table = cohort_result_table(metrics)
    cohort = None if table is None else pd.DataFrame(table.rows, columns=["variable", *table.columns[1:]])
    groups = pd.DataFrame([row for name in metrics["subgroups"] for row in _csv_rows(metrics, name)])
    for name, frame in (("cohort.csv", cohort), ("subgroups.csv", groups)):
        if frame is None or frame.empty:
            (folder / name).unlink(missing_ok=True)
            continue
        if "notice" in metrics:
            frame.insert(0, "notice", metrics["notice"])
        write_text_atomic(folder / name, people_csv(frame))


def _csv_rows(metrics: StudyMetrics, name: str) -> list[dict[str, object]]:
    variable = metrics["subgroups"][name]
    test = variable["interaction"]
    rows: list[dict[str, object]] = []
    for level, group in variable["groups"].items():
        estimates = {"accuracy": group["accuracy"], "overconfidence": group["overconfidence"]}
        estimates |= {f"recall_{label}": estimate for label, estimate in group["sensitivity"].items()}
        rows.append(
            {
                "variable": name,
                "group": level,
                "n": group["n"],
                **{f"n_{label}": _count(n) for label, n in group["n_by_class"].items()},
                **{
                    column if bound == "value" else f"{column}_{bound}": estimate[bound]
                    for column, estimate in estimates.items()
                    for bound in ("value", "low", "high")
                },
                "p": None if test is None else test["p"],
                "p_holm": None if test is None else test["p_holm"],
                "smallest_difference": None if test is None else test["detectable"],
            }
        )
    return rows
