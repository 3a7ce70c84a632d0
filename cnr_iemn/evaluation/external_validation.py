"""External validation of a trained ensemble: nothing is fitted, and missing predictions are counted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cnr_iemn.data.label_files import TOGETHER, read_labels
from cnr_iemn.errors import RunError
from cnr_iemn.evaluation.clinical.clinical_use import ClinicalUse, clinical_use
from cnr_iemn.evaluation.external_metrics import (
    UNCODED,
    ExternalCalibration,
    ExternalMetrics,
    ExternalSetMetrics,
    ExternalSource,
)
from cnr_iemn.evaluation.operating_point import OperatingPoint
from cnr_iemn.evaluation.scan_metrics import scan_metrics
from cnr_iemn.evaluation.study_metrics import Notice, read_operating_point, write_metrics
from cnr_iemn.schemas import SCHEMA_VERSION, NetworkId, probability_columns
from cnr_iemn.stage2.abstention import measure_undecided
from cnr_iemn.stage2.calibration import Calibrator, add_calibrated
from cnr_iemn.stage2.calibration_metrics import measure_calibration
from cnr_iemn.stage2.ensemble import Ensemble, aggregate_again, load_ensemble_method, read_ensemble
from cnr_iemn.stage2.methods.base import FittedMethod
from cnr_iemn.stage2.new_scans import NewScans, read_new_scans
from cnr_iemn.stage2.scan_predictions import predict_sets
from cnr_iemn.statistics.confidence_intervals import Proportions, wilson
from cnr_iemn.statistics.metrics import most_probable
from cnr_iemn.utils.atomic_io import sha256_of_file
from cnr_iemn.utils.text import listed


def score_external(
    runs: Path,
    study: str,
    name: str,
    predictions: Sequence[Path],
    labels: Sequence[Path],
    *,
    prevalences: Sequence[float] = (),
) -> dict[str, ExternalMetrics]:
    """Score external sets and write ``external/<set>/`` in the ensemble's folder.

    Args:
        runs: Folder of all runs.
        study: Whose ensemble is scored.
        name: Of the ensemble.
        predictions: Files of predict.py.
        labels: A CSV file for each set.
        prevalences: Of the operating point's class among new scans, for the counts to expect there.

    Returns:
        metrics.json of each set, in their order, and of all together where there are several.

    Raises:
        RunError, CohortError: The files do not belong together; then nothing is written.
        ConfigurationError: There are prevalences, and the study has no operating point.
    """
    ensemble = read_ensemble(runs, study, name)
    folder = runs / study / "ensembles" / name
    again = aggregate_again(study, name, runs)
    fitted = load_ensemble_method(folder, ensemble, again=again)
    decide = partial(
        _clinical_use,
        classes=ensemble.classes,
        calibration=ensemble.calibration,
        point=read_operating_point(folder, again=again),
        prevalences=prevalences,
    )
    files = {path: read_new_scans(path) for path in dict.fromkeys(predictions)}
    check_scorable(files, ensemble.networks, ensemble.method_sha256, ensemble.learnt_from)
    new = list(files.values())
    scan_ids = [scan_id for file in new for scan_id in (*file.scans, *file.metadata.refused)]
    calibration = ensemble.calibration
    patients = external_patients(new, read_labels(labels, scan_ids, ensemble.classes), fitted, calibration)
    source = _source(ensemble, name, files, labels)
    sets = split_sets(patients)
    phantoms = {scan_id for file in new for scan_id, scan in file.scans.items() if scan.phantom}
    results: dict[str, ExternalMetrics] = {
        set_name: {
            **source,
            "n_phantom_scans": int(rows.index.isin(phantoms).sum()),
            **_set_metrics(set_name, rows, ensemble.classes, calibration),
            "clinical_use": decide(rows[rows["refused"] == ""]),
        }
        for set_name, rows in sets.items()
    }
    for set_name, rows in sets.items():
        write_metrics(folder / "external" / set_name, rows, results[set_name])
    return results


def _source(
    ensemble: Ensemble, name: str, predictions: Mapping[Path, NewScans], labels: Sequence[Path]
) -> ExternalSource:
    """Return the ensemble and the files that the metrics come from. ``name``: of the ensemble."""
    notices = [file.notice for file in predictions.values() if file.notice]
    head: Notice = {"notice": notices[0]} if notices else {}
    return {
        **head,
        "schema_version": SCHEMA_VERSION,
        "study": ensemble.study,
        "ensemble": name,
        "method": ensemble.method,
        "cohort": ensemble.cohort,
        "classes": list(ensemble.classes),
        "models": list(ensemble.models),
        "features": ensemble.features,
        "phantom_study": ensemble.phantom,
        "method_sha256": ensemble.method_sha256,
        "predictions": {str(path): sha256_of_file(path) for path in predictions},
        "labels": {str(path): sha256_of_file(path) for path in labels},
    }


def _set_metrics(
    name: str, patients: pd.DataFrame, classes: tuple[str, ...], calibration: Calibrator | None
) -> ExternalSetMetrics:
    """Return the metrics of one set. Raises RunError where no scan of it has a prediction."""
    refused = patients["refused"] != ""
    predicted = patients[~refused]
    if predicted.empty:
        raise RunError(
            f"predict.py has no prediction for any of the {len(patients)} labelled scans of {name}: there is nothing "
            "to score. Its output says why each was refused."
        )
    return {
        "set": name,
        "n_labelled": len(patients),
        "n_predicted": len(predicted),
        "refused": dict(Counter(patients["code"][refused]).most_common()),
        "missing": {
            str(scan_id): {"label": row["label"], "refused": row["refused"], "code": row["code"]}
            for scan_id, row in patients[refused].iterrows()
        },
        **scan_metrics(predicted, classes),
        "missing_as_wrong": _missing_as_wrong(patients, classes),
        "calibration": None if calibration is None else _measure_calibration(predicted, classes, calibration),
    }


def _clinical_use(
    patients: pd.DataFrame,
    *,
    classes: tuple[str, ...],
    calibration: Calibrator | None,
    point: OperatingPoint | None,
    prevalences: Sequence[float],
) -> ClinicalUse | None:
    """Return what a decision on the study's operating point means for scans with a prediction."""
    probabilities = patients[probability_columns(classes)].to_numpy(dtype=np.float64)
    return clinical_use(
        probabilities,
        np.array([classes.index(label) for label in patients["label"]], dtype=np.int64),
        classes,
        point,
        calibrated=None if calibration is None else calibration.calibrated(probabilities),
        prevalences=prevalences,
    )


def check_scorable(
    new: Mapping[Path, NewScans], networks: Sequence[NetworkId], method_sha256: str, learnt_from: Mapping[str, str]
) -> None:
    """Check that predictions are this ensemble's, that no scan occurs twice, and that none trained the ensemble.

    ``learnt_from``: SHA-256 of the grey slices of the training scans, by scan_id. Raises RunError.
    """
    owner: dict[str, Path] = {}
    for path, file in new.items():
        metadata = file.metadata
        if metadata.networks != tuple(networks) or metadata.method_sha256 != method_sha256:
            differing = "stage-2 method" if metadata.networks == tuple(networks) else "networks"
            raise RunError(
                f"{path} is not from this ensemble: the SHA-256 of the {differing} differs. It says "
                f"study={metadata.study} ensemble={metadata.ensemble}: give that, or, where it was trained or "
                "aggregated again since, run predict.py on the scans again."
            )
        for scan_id in (*file.scans, *metadata.refused):
            if scan_id in owner:
                raise RunError(
                    f"Scan {scan_id} is in {owner[scan_id]} and in {path}. Leave one of them out of evaluate, or score "
                    "them one after the other."
                )
            owner[scan_id] = path
    ids = {digest: scan_id for scan_id, digest in learnt_from.items()}
    training = [
        f"{scan_id} (training scan {ids[scan.grey_sha256]})"
        for file in new.values()
        for scan_id, scan in file.scans.items()
        if scan.grey_sha256 in ids
    ]
    if training:
        raise RunError(
            f"The study was trained on {listed(training)}: the pixels are the same, and the metrics would be too good. "
            "Run predict.py on scans that the study has not seen."
        )


def external_patients(
    new: Sequence[NewScans], labels: pd.DataFrame, fitted: FittedMethod, calibration: Calibrator | None
) -> pd.DataFrame:
    """Return one row a labelled scan, index scan_id: set, patient, label, predicted, probabilities, correct, refused.

    ``labels``: of ``read_labels``. ``refused``, ``code``: why predict.py has no prediction, empty where it has one;
    without a prediction its columns are empty and ``correct`` is False.
    """
    classes = new[0].metadata.classes
    columns = probability_columns(classes)
    tables = [pd.DataFrame(predict_sets(fitted, file.sets), list(file.scans), columns) for file in new]
    probabilities = pd.concat(tables)
    refused = {scan_id: reason for file in new for scan_id, reason in file.metadata.refused.items()}
    codes = {scan_id: file.metadata.codes.get(scan_id, UNCODED) for file in new for scan_id in file.metadata.refused}
    predicted = pd.Series(most_probable(probabilities.to_numpy(), classes), probabilities.index)
    patients = labels.assign(predicted=predicted.reindex(labels.index))
    patients[columns] = probabilities.reindex(labels.index)
    patients["correct"] = patients["predicted"] == patients["label"]
    patients = add_calibrated(patients, calibration, classes)
    for name, values in {"refused": refused, "code": codes}.items():
        patients[name] = [values.get(scan_id, "") for scan_id in patients.index]
    return patients


def split_sets(patients: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows of each set, and of all together where there are several."""
    sets = {str(name): rows for name, rows in patients.groupby("set", sort=False)}
    return {**sets, TOGETHER: patients} if len(sets) > 1 else sets


def _missing_as_wrong(patients: pd.DataFrame, classes: tuple[str, ...]) -> Proportions:
    correct, label = patients["correct"], patients["label"]
    return {
        "accuracy": wilson(int(correct.sum()), len(patients)),
        "sensitivity": {
            name: wilson(int(correct[label == name].sum()), int((label == name).sum())) for name in classes
        },
    }


def _measure_calibration(
    patients: pd.DataFrame, classes: tuple[str, ...], calibration: Calibrator
) -> ExternalCalibration:
    truth = np.array([classes.index(label) for label in patients["label"]], dtype=np.int64)
    probabilities = patients[probability_columns(classes)].to_numpy(dtype=np.float64)
    calibrated = calibration.calibrated(probabilities)
    return {
        "temperature": calibration.temperature,
        "learnt_on": calibration.n,
        "optimistic": calibration.optimistic,
        "before": measure_calibration(probabilities, truth, classes),
        "after": measure_calibration(calibrated, truth, classes),
        "undecided": measure_undecided(
            calibrated, truth, classes, threshold=calibration.threshold, wanted_share=calibration.answer_share
        ),
    }
