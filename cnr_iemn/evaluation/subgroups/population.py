"""What metrics.json says of patients and scanners: who they are, for whom the predictions are right, who is missing."""

import pandas as pd
from typing_extensions import TypedDict

from cnr_iemn.data.demographics.group_table import coarse_table
from cnr_iemn.data.scan_features import ScanFeatures
from cnr_iemn.evaluation.subgroups.cohort_table import CohortTable, cohort_table, strata_of
from cnr_iemn.evaluation.subgroups.nested_groups import without_telling_values
from cnr_iemn.evaluation.subgroups.performance import Variable, subgroup_performance
from cnr_iemn.evaluation.subgroups.scan_flow import ScanFlow
from cnr_iemn.schemas import VALIDATION


class PopulationMetrics(TypedDict):
    """``cohort_table``: None without a slice store. ``subgroups``: by variable. ``scan_flow``: None where not known."""

    cohort_table: CohortTable | None
    subgroups: dict[str, Variable]
    scan_flow: ScanFlow | None


def shared_groups(patients: pd.DataFrame, features: ScanFeatures, classes: tuple[str, ...]) -> pd.DataFrame:
    """Return the groups of patients and scanners that a study tells of, index scan_id.

    One grouping serves all tables: from two, differences would tell what each of them hides.

    Args:
        patients: A row a scan, index scan_id: split and label.
        features: Of these scans.
        classes: In their order.
    """
    held_out = patients.index[patients["split"] == VALIDATION]
    groups = coarse_table(features.groups.reindex(patients.index), counted=held_out)
    return without_telling_values(groups, strata_of(patients, classes))


def population_metrics(
    patients: pd.DataFrame,
    features: ScanFeatures | None,
    classes: tuple[str, ...],
    *,
    temperature: float | None,
    seed: int = 0,
) -> PopulationMetrics:
    """Return the table of the cohort and the subgroups; the scan flow is not known here.

    The arguments are those of ``subgroup_performance``. ``features``: None without a slice store.
    """
    if features is None:
        return {"cohort_table": None, "subgroups": {}, "scan_flow": None}
    groups = shared_groups(patients, features, classes)
    return {
        "cohort_table": cohort_table(patients, groups, features.shortcuts, classes),
        "subgroups": subgroup_performance(patients, groups, classes, temperature=temperature, seed=seed),
        "scan_flow": None,
    }
