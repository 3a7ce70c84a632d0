"""The predictions of stage 2 for all scans, and their metrics on the validation scans."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.schemas import TRAINING, VALIDATION, probability_columns
from cnr_iemn.stage2.booster import class_indices
from cnr_iemn.stage2.methods.base import FittedMethod, Method
from cnr_iemn.stage2.out_of_fold import SliceSets, StudyScans
from cnr_iemn.statistics.metrics import Evaluation, evaluate, most_probable


@dataclass(frozen=True)
class ScanPredictions:
    """A fitted method and its predictions; it was fitted on the training scans among them.

    ``patients``: one row a scan, index scan_id: patient_id, split, label, predicted, ``p_<class>``, correct.
    """

    fitted: FittedMethod
    patients: pd.DataFrame

    @property
    def held_out(self) -> pd.DataFrame:
        """The rows of the validation scans."""
        return self.patients[self.patients["split"] == VALIDATION]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each validation scan is predicted correctly, bool [scans]."""
        return self.held_out["correct"].to_numpy(dtype=bool)

    def evaluation(self, classes: tuple[str, ...]) -> Evaluation:
        """Return the metrics of the validation scans. Raises RunError where there is none."""
        return evaluate(self.held_out["label"].tolist(), self.held_out["predicted"].tolist(), classes)


def fit_and_predict(
    method: Method, scans: StudyScans, table: pd.DataFrame, *, seed: int, labels: list[str] | None = None
) -> ScanPredictions:
    """Fit a method on the training scans and predict all scans.

    Args:
        method: The stage-2 method.
        scans: The slice predictions.
        table: ``Predictions.scans`` of the study.
        seed: Of the method.
        labels: Replace those of the training scans, in their order.

    Raises:
        RunError: A class has no training scan, or a label is not a class.
    """
    scans = scans.read_as(method.input_axes(scans.axes))
    classes, training_ids = scans.axes.classes, list(scans.training_ids)
    labels = table.loc[training_ids, "label"].tolist() if labels is None else labels
    fitted = method.fit(scans.training, class_indices(labels, classes), scans.axes, seed=seed)
    columns = probability_columns(classes)
    training = pd.DataFrame(fitted.predict_proba(scans.training), training_ids, columns)
    training = training[~training.index.duplicated()]
    held_out = pd.DataFrame(predict_sets(fitted, scans.held_out), list(scans.held_out), columns)
    probabilities = pd.concat([training, held_out])
    rows = table[table["split"].isin([TRAINING, VALIDATION]) & table.index.isin(probabilities.index)]
    probabilities = probabilities.loc[rows.index]
    patients = rows[["patient_id", "split", "label"]].assign(predicted=most_probable(probabilities.to_numpy(), classes))
    patients[columns] = probabilities
    return ScanPredictions(fitted, patients.assign(correct=patients["predicted"] == patients["label"]))


def predict_sets(fitted: FittedMethod, sets: SliceSets) -> NDArray[np.float64]:
    """Return a method's probabilities of scans, the mean over each scan's sets, float64 [scans, classes].

    ``sets``: may have more channels than the method takes.
    """
    if not sets:
        return np.empty((0, len(fitted.axes.classes)))
    counts = np.array([len(arrays) for arrays in sets.values()])
    probabilities = fitted.predict_proba(fitted.axes.read([array for arrays in sets.values() for array in arrays]))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.asarray(np.add.reduceat(probabilities, starts, axis=0) / counts[:, None])
