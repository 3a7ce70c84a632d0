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

    from cnr_iemn.engine.ensembles import describe_ensemble, stored_summaries, write_ensemble
    from cnr_iemn.engine.runs import finished_runs
    from cnr_iemn.patients.predictions import check_joinable, read_predictions
    from cnr_iemn.patients.results import assemble_results, write_results
    from cnr_iemn.patients.tables import result_tables

    runs = finished_runs(Path(settings.runs), settings.study, ensemble_models(settings.ensemble), settings.tag)
    predictions = {model: read_predictions(run.predictions) for model, run in runs.items()}
    check_joinable(predictions)
    ensemble = describe_ensemble(settings.study, runs, predictions)
    results = assemble_results(
        predictions, stored_summaries(runs, predictions), cohort=ensemble.cohort, **asdict(settings.booster)
    )
    folder = Path(settings.runs) / settings.study / "ensembles" / ensemble_name(settings.ensemble)
    write_results(folder, results)
    write_ensemble(folder, ensemble)

    console = Console(width=None if Console().is_terminal else 140)
    for table in result_tables(results.metrics):
        console.print(table.rich())
    for path in sorted(folder.iterdir()):
        console.print(f"wrote {path}", soft_wrap=True)
    return float(results.metrics["accuracy"])


if __name__ == "__main__":
    raise SystemExit(main())
