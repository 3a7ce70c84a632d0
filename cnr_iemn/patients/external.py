"""A trained ensemble on labelled scans from elsewhere: nothing is fitted, and what was not answered is counted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xgboost

from cnr_iemn.errors import RunError
from cnr_iemn.patients.booster import mean_probabilities
from cnr_iemn.patients.calibration import measure_calibration
from cnr_iemn.patients.evaluation import evaluate, most_probable
from cnr_iemn.patients.frozen import FrozenCalibration, add_calibrated
from cnr_iemn.patients.intervals import Proportions, patient_bootstrap, proportion_intervals, wilson
from cnr_iemn.patients.label_files import TOGETHER
from cnr_iemn.patients.new_scans import NewScans
from cnr_iemn.patients.undecided import measure_undecided
from cnr_iemn.records import NetworkId, probability_columns

_ENOUGH = 5  # scans named in a message


def check_scorable(
    new: Mapping[Path, NewScans], networks: Sequence[NetworkId], booster_sha256: str, learnt_from: Mapping[str, str]
) -> None:
    """Check that these predictions are this ensemble's, that no scan is in two of them, and that it has learnt of none.

    ``learnt_from``: SHA-256 of the grey slices of the scans that trained it, by scan_id. Raises RunError.
    """
    owner: dict[str, Path] = {}
    for path, each in new.items():
        made_by = each.metadata
        if made_by.networks != tuple(networks) or made_by.booster_sha256 != booster_sha256:
            part = "the booster" if made_by.networks == tuple(networks) else "the networks"
            raise RunError(
                f"{path} was not made by this ensemble: {part} differ in SHA-256. It says study={made_by.study} "
                f"ensemble={made_by.ensemble}: name that, or, where it was trained or aggregated again since, run "
                "predict.py on the scans again."
            )
        for scan_id in (*each.scans, *made_by.refused):
            if scan_id in owner:
                raise RunError(
                    f"Scan {scan_id} is in {owner[scan_id]} and in {path}. Leave one of them out of evaluate, or score "
                    "them one after the other."
                )
            owner[scan_id] = path
    ids = {digest: scan_id for scan_id, digest in learnt_from.items()}
    seen = [
        f"{scan_id} (training scan {ids[scan.grey_sha256]})"
        for each in new.values()
        for scan_id, scan in each.scans.items()
        if scan.grey_sha256 in ids
    ]
    if seen:
        more = f" and {len(seen) - _ENOUGH} more" if len(seen) > _ENOUGH else ""
        raise RunError(
            f"The study has learnt from {', '.join(seen[:_ENOUGH])}{more}: the pixels are the same, and the figures "
            "would be too good. Have predict.py answer for scans that the study has not seen."
        )


def external_patients(
    new: Sequence[NewScans], labels: pd.DataFrame, booster: xgboost.Booster, frozen: FrozenCalibration | None
) -> pd.DataFrame:
    """Return one row a labelled scan, index scan_id: set, patient, label, predicted, probabilities, correct, refused.

    ``labels``: of ``read_labels``. ``refused``: why predict.py did not answer, empty where it did; without an answer
    the columns of the answer are empty and ``correct`` is False.
    """
    classes = new[0].metadata.classes
    columns = probability_columns(classes)
    told = pd.concat(
        [pd.DataFrame(mean_probabilities(booster, each.features()), list(each.scans), columns) for each in new]
    )
    refused = {scan_id: reason for each in new for scan_id, reason in each.metadata.refused.items()}
    predicted = pd.Series(most_probable(told.to_numpy(), classes), told.index)
    patients = labels.assign(predicted=predicted.reindex(labels.index))
    patients[columns] = told.reindex(labels.index)
    patients["correct"] = patients["predicted"] == patients["label"]
    patients = add_calibrated(patients, frozen, classes)
    return patients.assign(refused=[refused.get(scan_id, "") for scan_id in patients.index])


def by_set(patients: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows of each set, and of all together where there are several."""
    sets = {str(name): rows for name, rows in patients.groupby("set", sort=False)}
    return {**sets, TOGETHER: patients} if len(sets) > 1 else sets


def external_figures(
    name: str, patients: pd.DataFrame, classes: tuple[str, ...], frozen: FrozenCalibration | None, *, seed: int = 0
) -> dict[str, Any]:
    """Return the figures of one set, JSON-ready, fractions 0 to 1.

    Those of ``evaluate``, ``intervals`` (Wilson's, and a bootstrap over patients), ``calibration`` and undecided are of
    the answered scans; ``missing_as_wrong`` counts the others as wrong. Raises RunError where no scan is answered.
    """
    answered = patients[patients["refused"] == ""]
    if answered.empty:
        raise RunError(
            f"predict.py has answered for none of the {len(patients)} labelled scans of {name}: there is nothing to "
            "score. Its output says why each was refused."
        )
    evaluation = evaluate(answered["label"].tolist(), answered["predicted"].tolist(), classes)
    truth = np.array([classes.index(label) for label in answered["label"]], dtype=np.int64)
    told = answered[probability_columns(classes)].to_numpy(dtype=np.float64)
    missing = patients.loc[patients["refused"] != "", ["label", "refused"]]
    return {
        "set": name,
        "n_labelled": len(patients),
        "n_answered": len(answered),
        "not_answered": missing.to_dict("index"),
        **evaluation,
        "intervals": {
            "wilson": proportion_intervals(evaluation["confusion_matrix"], classes),
            "patient_bootstrap": patient_bootstrap(truth.tolist(), told, answered["patient_id"].tolist(), seed=seed),
        },
        "missing_as_wrong": _missing_as_wrong(patients, classes),
        "calibration": None
        if frozen is None
        else {
            "temperature": frozen.temperature,
            "learnt_on": frozen.n,
            "before": measure_calibration(told, truth, classes, seed=seed),
            "after": measure_calibration(frozen.calibrated(told), truth, classes, seed=seed),
            "undecided": measure_undecided(
                frozen.calibrated(told), truth, classes, threshold=frozen.threshold, wanted_share=frozen.answer_share
            ),
        },
    }


def _missing_as_wrong(patients: pd.DataFrame, classes: tuple[str, ...]) -> Proportions:
    right, label = patients["correct"], patients["label"]
    return {
        "accuracy": wilson(int(right.sum()), len(patients)),
        "sensitivity": {name: wilson(int(right[label == name].sum()), int((label == name).sum())) for name in classes},
    }
