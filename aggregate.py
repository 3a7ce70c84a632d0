"""Stage 2: saved predictions of slices -> the class of every patient, and the paper's tables.

python aggregate.py study=covid_ct_md ensemble=all
python aggregate.py study=covid_ct_md evaluate=predictions.parquet labels=labels.csv
python aggregate.py study=one compare=other
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cnr_iemn.config.ensemble_names import ensemble_models, ensemble_name, run_tags
from cnr_iemn.config.entry_point import entry_point
from cnr_iemn.config.schema.aggregate import AggregateSettings
from cnr_iemn.config.schema.fields import setting_paths
from cnr_iemn.constants import method_name

if TYPE_CHECKING:  # heavy: loaded once the settings are checked
    from cnr_iemn.report.terminal import ResultPrinter


@entry_point("aggregate", AggregateSettings)
def main(settings: AggregateSettings) -> float:
    """Fit and evaluate stage 2, or ``evaluate``, or ``compare``. Returns the accuracy, or the difference of two."""
    from cnr_iemn.report.terminal import ResultPrinter

    if settings.logger.name == "wandb":
        from cnr_iemn.stage1.training.loggers.run_loggers import require_server  # torch

        require_server(settings.logger)
    printer, name = ResultPrinter(), ensemble_name(settings.ensemble, settings.tag)
    if settings.compare is not None:
        return compare(settings, name, printer)
    if settings.evaluate is not None:
        return score(settings, name, printer)
    return aggregate(settings, name, printer)


def aggregate(settings: AggregateSettings, name: str, printer: "ResultPrinter") -> float:
    """Fit and evaluate stage 2 on the saved predictions of a study. ``name``: of the ensemble's folder."""
    from cnr_iemn.data.scan_features import ScanFeatures
    from cnr_iemn.evaluation.aggregate import assemble_results, write_results
    from cnr_iemn.evaluation.clinical.analysis_plan import register_plan
    from cnr_iemn.evaluation.evidence import EvidenceOptions
    from cnr_iemn.evaluation.stability import find_repeats
    from cnr_iemn.evaluation.subgroups.scan_flow import study_flow
    from cnr_iemn.report.checklists.writer import write_checklists
    from cnr_iemn.report.study_report import write_report
    from cnr_iemn.report.training_curves import read_training_curves
    from cnr_iemn.stage2.baselines import summarise_store
    from cnr_iemn.stage2.ensemble import write_ensemble
    from cnr_iemn.stage2.ensemble_runs import describe_ensemble, run_store, with_training_scans
    from cnr_iemn.stage2.methods.registry import stage2_methods
    from cnr_iemn.stage2.provenance import provenance
    from cnr_iemn.stage2.seed_means import read_seeds
    from cnr_iemn.utils.checksums import file_digests
    from cnr_iemn.utils.shell_words import predict_command

    root, booster, models = Path(settings.runs), settings.booster, ensemble_models(settings.ensemble)
    runs = read_seeds(root, settings.study, models, run_tags(settings.tag), features=booster.features)
    store = run_store(runs.first_run)
    runs.check_store(store)
    ensemble = describe_ensemble(runs, method=method_name(settings.primary_method))
    ensemble = with_training_scans(ensemble, store, runs.training_labels, ensemble.classes)
    register_plan(folder := root / settings.study / "ensembles" / name, settings.plan, settings, ensemble.classes)
    repeats = find_repeats(root, runs, ensemble, name, seeds=settings.seeds, splits=settings.splits)
    origin = provenance(runs, booster, method=ensemble.method)
    results = assemble_results(
        runs.predictions,
        summarise_store(store, runs.scans.index),
        cohort=ensemble.cohort,
        folds=runs.fold_predictions,
        scan_features=ScanFeatures.of(store, runs.scans.index),
        options=EvidenceOptions.of(settings, repeats),
        methods=stage2_methods(rounds=booster.rounds, max_depth=booster.max_depth, eta=booster.eta),
        seed=booster.seed,
    )
    results.metrics["scan_flow"] = study_flow(runs, store, left_out=origin["left_out"])
    if settings.ablations or settings.robustness:
        from cnr_iemn.evaluation.robustness.network_evidence import add_network_evidence  # torch

        options = {key: getattr(settings, key) for key in ("ablations", "robustness", "gpus")}
        add_network_evidence(folder, results, ensemble, store, runs.first_run, **options)
    write_results(folder, results)
    appendix = write_checklists(folder, settings.checklists, runs, results, store, origin, study=settings.study)
    curves = read_training_curves(runs.runs)
    write_report(folder, results, store, origin, study=settings.study, training=curves, appendix=appendix)
    write_ensemble(folder, replace(ensemble, calibration=results.calibration, files=file_digests(folder)))
    following = predict_command(settings.study, name, root)
    printer.study(results.metrics, folder, following, verbose=settings.verbose, seconds=results.seconds)
    if settings.logger.name == "wandb":
        from cnr_iemn.report.wandb_report import log_ensemble

        log_ensemble(settings.logger, folder, results.metrics, results.patients, study=settings.study, name=name)
    return float(results.metrics["accuracy"] or 0)


def score(settings: AggregateSettings, name: str, printer: "ResultPrinter") -> float:
    """Score labelled scans from elsewhere. Returns the accuracy; a missing prediction counts as wrong."""
    from cnr_iemn.evaluation.external_validation import score_external

    paths = [list(map(Path, setting_paths(key, getattr(settings, key)))) for key in ("evaluate", "labels")]
    runs = Path(settings.runs)
    sets = score_external(runs, settings.study, name, *paths, prevalences=settings.prevalences)
    printer.external(sets, runs / settings.study / "ensembles" / name)
    return float(list(sets.values())[-1]["missing_as_wrong"]["accuracy"]["value"] or 0)  # of all sets together


def compare(settings: AggregateSettings, name: str, printer: "ResultPrinter") -> float:
    """Compare with another ensemble, or with the systems of a table. Returns the difference of the accuracies."""
    from cnr_iemn.evaluation.peer_comparison import compare_any

    runs, other = Path(settings.runs), str(settings.compare)
    comparison, path, difference = compare_any(runs, settings.study, name, other, on=settings.compare_on)
    printer.comparison(comparison, path)
    return difference


if __name__ == "__main__":
    raise SystemExit(main())
