"""Stage 2 from slice predictions to metrics, and the files that hold them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from cnr_iemn.constants import N_GROUPS, PHANTOM_NOTICE
from cnr_iemn.data.predictions.parquet import write_parquet
from cnr_iemn.data.predictions.slice_predictions import Predictions
from cnr_iemn.data.scan_features import ScanFeatures
from cnr_iemn.errors import RunError
from cnr_iemn.evaluation.evidence import EvidenceOptions, Stage2Fit, Study, collect_evidence
from cnr_iemn.evaluation.scan_metrics import scan_metrics
from cnr_iemn.evaluation.study_metrics import (
    BackboneMetrics,
    BaselineMetrics,
    Description,
    Evidence,
    Notice,
    SliceMetrics,
    StudyMetrics,
    Variant,
    VariantMetrics,
    write_metrics,
)
from cnr_iemn.evaluation.subgroups.population import PopulationMetrics, population_metrics
from cnr_iemn.schemas import SCHEMA_VERSION, VALIDATION
from cnr_iemn.stage2.baselines import ScanSummary, baseline_predictions, slice_baselines
from cnr_iemn.stage2.calibration import Calibrator, add_calibrated
from cnr_iemn.stage2.feature_space import PROJECTIONS, FeatureSpace, fit_feature_space
from cnr_iemn.stage2.methods.base import FittedMethod, Method
from cnr_iemn.stage2.methods.registry import METHODS
from cnr_iemn.stage2.out_of_fold import (
    OUT_OF_FOLD,
    Folds,
    SliceSets,
    check_folds,
    has_attention,
    out_of_fold_sets,
    paper_sets,
    scans_by_mode,
)
from cnr_iemn.stage2.scan_predictions import ScanPredictions, predict_sets
from cnr_iemn.stage2.shap_values import Contributions, contributions
from cnr_iemn.statistics.metrics import evaluate, evaluate_slices
from cnr_iemn.statistics.paired_tests import Comparison, compare_with

_NO_EVIDENCE = EvidenceOptions()


@dataclass(frozen=True)
class Results:
    """A fitted stage 2 and its metrics.

    Attributes:
        metrics: metrics.json.
        patients: One row a scan, training and validation, index scan_id.
        features: ``StudyScans.percentages``.
        fitted: The primary method, fitted on the training scans.
        calibration: Its temperature and abstention threshold.
        contributions: Of the validation scans; None where the method has none.
        slices: As the networks of the primary features predict them.
        seconds: By analysis.
        space: Of the features from which the primary method learns; None where it learns from none.
    """

    metrics: StudyMetrics
    patients: pd.DataFrame
    features: pd.DataFrame
    fitted: FittedMethod
    calibration: Calibrator | None
    contributions: Contributions | None
    slices: SliceSets
    seconds: dict[str, float]
    space: FeatureSpace | None = None

    def predict(self, scans: SliceSets) -> NDArray[np.float64]:
        """Return the class probabilities of scans, float64 [scans, classes]."""
        return predict_sets(self.fitted, scans)


def assemble_results(
    predictions: Mapping[str, Predictions],
    summaries: Mapping[str, ScanSummary],
    *,
    cohort: str,
    folds: Folds | None = None,
    options: EvidenceOptions = _NO_EVIDENCE,
    scan_features: ScanFeatures | None = None,
    methods: Mapping[str, Method] = METHODS,
    seed: int = 0,
) -> Results:
    """Fit the primary method on training scans; measure it, each backbone and each baseline on the validation scans.

    Args:
        predictions: By model, in ensemble order.
        summaries: Lung measurements by scan_id, of every scan of the cohort.
        cohort: Its name.
        folds: Predictions of the fold networks; with them the primary stage 2 is out of fold.
        options: The evidence to collect, and the primary method.
        scan_features: Of every scan; None for no audit.
        methods: All stage-2 methods by name.
        seed: Of stage 2.

    Raises:
        RunError: The predictions do not fit together, a class has no training scan, or no scan is held out.
    """
    first = next(iter(predictions.values()))
    fit = Stage2Fit(first.scans, first.metadata.classes, methods, options.primary_name, seed)
    if fit.method.scored and not has_attention(predictions):
        raise RunError(
            f"The primary method, {fit.name}, weighs slices by the networks' attention, and these networks have none. "
            "Train them with task=bags, or choose another primary_method."
        )
    space = _feature_space(predictions, folds, fit, options)
    modes = scans_by_mode(predictions, folds, space)
    variants = {name: fit(scans) for name, scans in modes.items()}
    mode, scans = next(iter(modes.items()))
    slices = out_of_fold_sets(folds, space) if folds else paper_sets(predictions, space)
    study = Study(fit, variants[mode], scans, slices, scan_features)
    validation = scan_metrics(study.primary.held_out, fit.classes, seed=seed)  # refuses a study without such scans
    evidence, seconds = collect_evidence(study, options)
    shap = _contributions(study)
    metrics: StudyMetrics = {
        **_description(predictions, cohort, mode, options, folds),
        **validation,
        **evidence,
        "ablations": None,
        "robustness": None,
        "contributions": None if shap is None else shap.summary(),
        **_variant_metrics(variants, predictions, fit, mode),
        **_backbone_metrics(study),
        **_baseline_metrics(study, summaries),
        **_slice_metrics(predictions, summaries),
        **_population(study, evidence),
    }
    return _results(study, metrics, shap, seconds, space if fit.method.deep else None)


def _contributions(study: Study) -> Contributions | None:
    """Return those of the validation scans, None where the method has none."""
    scans = {str(scan_id): study.scans.held_out[scan_id] for scan_id in study.primary.held_out.index}
    return contributions(study.primary.fitted, scans)


def _results(
    study: Study,
    metrics: StudyMetrics,
    shap: Contributions | None,
    seconds: dict[str, float],
    space: FeatureSpace | None,
) -> Results:
    plain = study.scans.axes.plain
    today = datetime.now(UTC).date().isoformat()
    calibration = Calibrator.of(metrics["calibration"], cohort=metrics["cohort"], date=today)
    return Results(
        metrics=metrics,
        patients=add_calibrated(study.primary.patients, calibration, study.classes),
        features=study.scans.percentages(study.fit.table["fold"]),
        fitted=study.primary.fitted,
        calibration=calibration,
        contributions=shap,
        slices={scan_id: tuple(plain.read(sets)) for scan_id, sets in study.slices.items()},
        seconds=seconds,
        space=space,
    )


def _feature_space(
    predictions: Mapping[str, Predictions], folds: Folds | None, fit: Stage2Fit, options: EvidenceOptions
) -> FeatureSpace | None:
    """Return the space of the features, where the primary method or one of the table learns from them."""
    runs = [run for models in (predictions, *(folds or {}).values()) for run in models.values()]
    has_features = all(run.features is not None for run in runs)
    if not (fit.method.deep or (options.methods and has_features)):
        return None
    if folds is not None:
        check_folds(predictions, folds)
    return fit_feature_space(predictions, folds)


def _description(
    predictions: Mapping[str, Predictions],
    cohort: str,
    mode: str,
    options: EvidenceOptions,
    folds: Folds | None,
) -> Description:
    first = next(iter(predictions.values())).metadata
    head: Notice = {"notice": PHANTOM_NOTICE} if first.phantom else {}
    return {
        **head,
        "schema_version": SCHEMA_VERSION,
        "cohort": cohort,
        "classes": list(first.classes),
        "models": list(predictions),
        "checkpoints": {name: run.metadata.checkpoint for name, run in predictions.items()},
        "features": mode,
        "method": options.primary_name,
        "selected_on": _selected_on(predictions, mode),
        "slice_labels": first.slice_labels,
        "folds": None if folds is None else len(folds),
        "n_features": len(predictions) * N_GROUPS * len(first.classes),
    }


def _variant_metrics(
    variants: Mapping[str, ScanPredictions], predictions: Mapping[str, Predictions], fit: Stage2Fit, primary: str
) -> VariantMetrics:
    metrics: dict[str, Variant] = {
        name: {
            "primary": name == primary,
            "selected_on": _selected_on(predictions, name),
            **scan_metrics(variant.held_out, fit.classes, seed=fit.seed),
        }
        for name, variant in variants.items()
    }
    alternatives = {name: variant for name, variant in variants.items() if name != primary}
    return {"variants": metrics, "variant_comparisons": _compare(variants[primary], alternatives)}


def _backbone_metrics(study: Study) -> BackboneMetrics:
    backbones = {name: study.fit(study.scans.of_model(name)) for name in study.scans.axes.models}
    return {
        "backbones": {name: backbone.evaluation(study.classes) for name, backbone in backbones.items()},
        "comparisons": _compare(study.primary, backbones),
    }


def _baseline_metrics(study: Study, summaries: Mapping[str, ScanSummary]) -> BaselineMetrics:
    primary, fit = study.primary, study.fit
    labels, split = (dict(zip(fit.table.index, fit.table[name], strict=True)) for name in ("label", "split"))
    baselines = baseline_predictions(summaries, labels, split, fit.classes, seed=fit.seed)
    truth = primary.held_out["label"].tolist()
    correct = {name: np.array(predicted) == np.array(truth) for name, predicted in baselines.items()}
    comparisons = compare_with(primary.correct, correct)
    return {
        "baselines": {name: evaluate(truth, predicted, fit.classes) for name, predicted in baselines.items()},
        "baseline_comparisons": comparisons,
        # selected on these scans; Holm's correction over all baselines accounts for that; of equals the highest p
        "strongest_baseline": max(correct, key=lambda name: (correct[name].sum(), comparisons[name]["p_holm"])),
    }


def _slice_metrics(predictions: Mapping[str, Predictions], summaries: Mapping[str, ScanSummary]) -> SliceMetrics:
    first = next(iter(predictions.values()))
    return {
        "slices": {
            name: evaluate_slices(run.table, run.probabilities, first.metadata.classes)
            for name, run in predictions.items()
        },
        "slice_baselines": slice_baselines(first, summaries),
    }


def _population(study: Study, evidence: Evidence) -> PopulationMetrics:
    calibration = evidence["calibration"]
    return population_metrics(
        study.primary.patients,
        study.features,
        study.classes,
        temperature=None if calibration is None else calibration["temperature"],
        seed=study.fit.seed,
    )


def _compare(primary: ScanPredictions, alternatives: Mapping[str, ScanPredictions]) -> dict[str, Comparison]:
    return compare_with(primary.correct, {name: result.correct for name, result in alternatives.items()})


def _selected_on(predictions: Mapping[str, Predictions], mode: str) -> str | None:
    """Return the set that chose the checkpoints of the networks that score new scans; None out of fold."""
    best = any(run.metadata.checkpoint == "best" for run in predictions.values())
    return VALIDATION if best and mode != OUT_OF_FOLD else None


def write_results(folder: Path, results: Results) -> None:
    """Write features.parquet, the method's file, patients.csv and, last, metrics.json; each whole or not at all."""
    notice = {"notice": results.metrics["notice"]} if "notice" in results.metrics else {}
    table = pa.Table.from_pandas(results.features, preserve_index=False)
    write_parquet(folder / "features.parquet", table, {**notice, "schema_version": SCHEMA_VERSION})
    method_file = METHODS[results.metrics["method"]].file
    results.fitted.save(folder / method_file)
    for stale in {method.file for method in METHODS.values()} - {method_file}:
        (folder / stale).unlink(missing_ok=True)  # of an earlier aggregation with another method
    (folder / PROJECTIONS).unlink(missing_ok=True)
    if results.space is not None:
        results.space.save(folder / PROJECTIONS)
    write_metrics(folder, results.patients, results.metrics)
