"""Metrics of a set of scans with their confidence intervals."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cnr_iemn.schemas import probability_columns
from cnr_iemn.statistics.confidence_intervals import Intervals, patient_bootstrap, proportion_intervals
from cnr_iemn.statistics.metrics import Evaluation, evaluate


class ScanMetrics(Evaluation):
    """Metrics of a set of scans with their confidence intervals."""

    intervals: Intervals


def scan_metrics(patients: pd.DataFrame, classes: Sequence[str], *, seed: int = 0) -> ScanMetrics:
    """Return the metrics of predicted scans.

    Args:
        patients: One row a scan: patient_id, label, predicted and ``p_<class>``.
        classes: In the order of the confusion matrix.
        seed: Of the bootstrap over patients.

    Raises:
        RunError: There is no scan, or a label is not a class.
    """
    evaluation = evaluate(patients["label"].tolist(), patients["predicted"].tolist(), classes)
    labels = [classes.index(name) for name in patients["label"]]
    probabilities = patients[probability_columns(list(classes))].to_numpy(dtype=np.float64)
    return {
        **evaluation,
        "intervals": {
            "wilson": proportion_intervals(evaluation["confusion_matrix"], classes),
            "patient_bootstrap": patient_bootstrap(labels, probabilities, patients["patient_id"].tolist(), seed=seed),
        },
    }
