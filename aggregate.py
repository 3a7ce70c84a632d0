"""Stage 2: group percentages of saved predictions -> XGBoost -> the class of every patient, and the paper's tables.

python aggregate.py study=default ensemble=all
python aggregate.py study=default evaluate=predictions.parquet labels=labels.csv
python aggregate.py study=one compare=other
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnr_iemn.settings.checks import ensemble_models, ensemble_name
from cnr_iemn.settings.entry_point import entry_point
from cnr_iemn.settings.schema import AggregateSettings

if TYPE_CHECKING:  # heavy: loaded once the settings are checked
    from rich.console import Console

    from cnr_iemn.patients.results import Results
    from cnr_iemn.patients.tables import ResultTable


@entry_point("aggregate", AggregateSettings)
def main(settings: AggregateSettings) -> float:
    """Join the runs, train and evaluate the booster, write the ensemble's folder. Returns the validation accuracy.

    With ``evaluate`` or ``compare`` nothing is trained: see ``engine.external``.
    """
    from dataclasses import asdict, replace

    from rich.console import Console

    from cnr_iemn.cohort.shortcuts import shortcuts
    from cnr_iemn.cohort.twins import require_distinct
    from cnr_iemn.engine.ensembles import describe_ensemble, store_of, stored_summaries, training_facts, write_ensemble
    from cnr_iemn.engine.external import compare, evaluate
    from cnr_iemn.engine.joined import join_runs
    from cnr_iemn.engine.provenance import provenance
    from cnr_iemn.engine.repeats import find_repeats
    from cnr_iemn.files import json_text, write_text_atomic
    from cnr_iemn.patients.evidence import Wanted
    from cnr_iemn.patients.evidence_tables import evidence_tables
    from cnr_iemn.patients.results import assemble_results, write_results
    from cnr_iemn.patients.tables import result_tables
    from cnr_iemn.records import TRAINING
    from cnr_iemn.report.study import write_report

    console = Console(width=None if Console().is_terminal else 140)
    if settings.compare is not None:
        return compare(settings, console)
    if settings.evaluate is not None:
        return evaluate(settings, console)
    root, name = Path(settings.runs), ensemble_name(settings.ensemble)
    booster = asdict(settings.booster)
    way = booster.pop("features")
    joined = join_runs(root, settings.study, ensemble_models(settings.ensemble), settings.tag, features=way)
    predictions, folds = joined.predictions, joined.fold_predictions
    store, scans = store_of(next(iter(joined.runs.values()))), next(iter(predictions.values())).scans
    sides = scans["split"] if folds is None else scans["split"].str.cat(scans["fold"].astype("string"), " fold ", "-")
    require_distinct(store, dict(zip(scans.index, sides, strict=True)))
    ensemble = describe_ensemble(settings.study, joined.runs, predictions, joined.folds)
    repeats = find_repeats(root, joined, ensemble, name, seeds=settings.seeds, splits=settings.splits)
    results = assemble_results(
        predictions,
        stored_summaries(store, scans.index),
        cohort=ensemble.cohort,
        folds=folds,
        shortcuts=shortcuts(store, scans.index),
        wanted=Wanted(
            settings.permutations,
            settings.answer_share,
            settings.methods,
            settings.method_repeats,
            settings.confirmatory,
            settings.threshold_class,
            settings.threshold_sensitivity,
            settings.refits,
            repeats,
        ),
        **booster,
    )
    study = root / settings.study
    if settings.ablations:
        from cnr_iemn.engine.ablations import ablate  # torch only here

        ablate(study, ensemble, store, results)
    folder = study / "ensembles" / name
    write_results(folder, results)
    learnt = training_facts(store, scans[scans["split"] == TRAINING]["label"].to_dict(), ensemble.classes)
    write_ensemble(folder, replace(ensemble, calibration=results.calibration, **learnt))
    origin = provenance(joined, booster_seed=settings.booster.seed)
    write_text_atomic(folder / "provenance.json", json_text(origin))
    write_report(folder, results, store, origin, study=settings.study)

    tables = (*result_tables(results.metrics), *evidence_tables(results.metrics))
    _print(console, results, tables, folder)
    if settings.logger.name == "wandb":
        from cnr_iemn.engine.wandb_ensemble import log_ensemble

        log_ensemble(settings.logger, folder, results.metrics, tables, study=settings.study, name=folder.name)
    return float(results.metrics["accuracy"])


def _print(console: "Console", results: "Results", tables: "Sequence[ResultTable]", folder: Path) -> None:
    """Print what was found, how long it took and where it lies; first of all, whether something leaks."""
    from cnr_iemn.patients.evidence_tables import LEAK

    if (results.metrics["permutation_test"] or {}).get("leaks"):
        console.print(LEAK)
    for table in tables:
        console.print(table.rich())
    console.print("; ".join(f"{part} {seconds:.1f} s" for part, seconds in results.seconds.items()))
    written = (*folder.iterdir(), *(folder / "figures").iterdir())
    for path in sorted(path for path in written if path.is_file() and not path.name.startswith("comparison-")):
        console.print(f"wrote {path}", soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(main())
