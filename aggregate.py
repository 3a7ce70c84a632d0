"""Stage 2: group percentages of saved predictions -> XGBoost -> the class of every patient, and the paper's tables.

python aggregate.py study=default ensemble=all
"""

from pathlib import Path

from cnr_iemn.settings.checks import ensemble_models, ensemble_name
from cnr_iemn.settings.entry_point import entry_point
from cnr_iemn.settings.schema import AggregateSettings


@entry_point("aggregate", AggregateSettings)
def main(settings: AggregateSettings) -> float:
    """Join the runs, train and evaluate the booster, write the ensemble's folder. Returns the validation accuracy."""
    from dataclasses import asdict

    from rich.console import Console

    from cnr_iemn.cohort.shortcuts import shortcuts
    from cnr_iemn.cohort.twins import require_distinct
    from cnr_iemn.engine.ensembles import describe_ensemble, store_of, stored_summaries, write_ensemble
    from cnr_iemn.engine.runs import finished_runs, fold_runs
    from cnr_iemn.patients.evidence import Wanted
    from cnr_iemn.patients.evidence_tables import LEAK, evidence_tables
    from cnr_iemn.patients.predictions import check_joinable, read_predictions
    from cnr_iemn.patients.results import assemble_results, write_results
    from cnr_iemn.patients.tables import result_tables

    wanted = Path(settings.runs), settings.study, ensemble_models(settings.ensemble), settings.tag
    runs = finished_runs(*wanted)
    predictions = {model: read_predictions(run.predictions) for model, run in runs.items()}
    check_joinable(predictions)
    booster, folds = asdict(settings.booster), None
    if booster.pop("features") == "out_of_fold":
        folds = {
            fold: (those, {model: read_predictions(run.predictions) for model, run in those.items()})
            for fold, those in fold_runs(*wanted, runs).items()
        }
    store, scans = store_of(next(iter(runs.values()))), next(iter(predictions.values())).scans
    sides = scans["split"] if folds is None else scans["split"].str.cat(scans["fold"].astype("string"), " fold ", "-")
    require_distinct(store, dict(zip(scans.index, sides, strict=True)))
    ensemble = describe_ensemble(settings.study, runs, predictions, folds)
    results = assemble_results(
        predictions,
        stored_summaries(store, scans.index),
        cohort=ensemble.cohort,
        folds=None if folds is None else {fold: made for fold, (_, made) in folds.items()},
        shortcuts=shortcuts(store, scans.index),
        wanted=Wanted(settings.permutations, settings.answer_share, settings.methods),
        **booster,
    )
    study = Path(settings.runs) / settings.study
    if settings.ablations:
        from cnr_iemn.engine.ablations import ablate  # torch only here
        from cnr_iemn.patients.slice_sets import out_of_fold_sets, paper_sets

        saved = (
            paper_sets(predictions) if folds is None else out_of_fold_sets({k: made for k, (_, made) in folds.items()})
        )
        ablate(study, ensemble, store, results, saved)
    folder = study / "ensembles" / ensemble_name(settings.ensemble)
    write_results(folder, results)
    write_ensemble(folder, ensemble)

    console = Console(width=None if Console().is_terminal else 140)
    if (results.metrics["permutation_test"] or {}).get("leaks"):
        console.print(LEAK)
    for table in (*result_tables(results.metrics), *evidence_tables(results.metrics)):
        console.print(table.rich())
    console.print("; ".join(f"{part} {seconds:.1f} s" for part, seconds in results.seconds.items()))
    for path in sorted(folder.iterdir()):
        console.print(f"wrote {path}", soft_wrap=True)
    return float(results.metrics["accuracy"])


if __name__ == "__main__":
    raise SystemExit(main())
