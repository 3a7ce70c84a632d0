"""Stage 2: group percentages of saved predictions -> XGBoost -> the class of every patient, and the paper's tables.

python aggregate.py study=default ensemble=all
python aggregate.py study=default evaluate=predictions.parquet labels=labels.csv
python aggregate.py study=one compare=other
"""

from pathlib import Path
from typing import TYPE_CHECKING

from cnr_iemn.settings.checks import ensemble_models, ensemble_name
from cnr_iemn.settings.entry_point import entry_point
from cnr_iemn.settings.schema import AggregateSettings

if TYPE_CHECKING:  # heavy: loaded once the settings are checked
    from rich.console import Console

    from cnr_iemn.patients.evidence.beside import Wanted
    from cnr_iemn.patients.evidence.results import Results
    from cnr_iemn.patients.evidence.spread import Repeats


@entry_point("aggregate", AggregateSettings)
def main(settings: AggregateSettings) -> float:
    """Join the runs, train and evaluate the booster, write the ensemble's folder. Returns the validation accuracy.

    With ``evaluate`` or ``compare`` nothing is trained: see ``engine.external``.
    """
    from dataclasses import asdict, replace

    from rich.console import Console

    from cnr_iemn.cohort.shortcuts import shortcuts
    from cnr_iemn.engine.ensembles import describe_ensemble, store_of, stored_summaries, training_facts, write_ensemble
    from cnr_iemn.engine.external import compare, evaluate
    from cnr_iemn.engine.joined import join_runs
    from cnr_iemn.engine.provenance import provenance
    from cnr_iemn.engine.repeats import find_repeats
    from cnr_iemn.files import json_text, write_text_atomic
    from cnr_iemn.patients.evidence.results import assemble_results, write_results
    from cnr_iemn.report.study import write_report

    console = Console(width=None if Console().is_terminal else 140)
    if settings.compare is not None:
        return compare(settings, console)
    if settings.evaluate is not None:
        return evaluate(settings, console)
    root, name, booster = Path(settings.runs), ensemble_name(settings.ensemble), asdict(settings.booster)
    way = booster.pop("features")
    joined = join_runs(root, settings.study, ensemble_models(settings.ensemble), settings.tag, features=way)
    store = store_of(next(iter(joined.runs.values())))
    joined.require_distinct_scans(store)
    ensemble = describe_ensemble(settings.study, joined.runs, joined.predictions, joined.folds)
    repeats = find_repeats(root, joined, ensemble, name, seeds=settings.seeds, splits=settings.splits)
    origin = provenance(joined, booster_seed=settings.booster.seed)
    results = assemble_results(
        joined.predictions,
        stored_summaries(store, joined.scans.index),
        cohort=ensemble.cohort,
        folds=joined.fold_predictions,
        shortcuts=shortcuts(store, joined.scans.index),
        wanted=_wanted(settings, repeats),
        **booster,
    )
    if settings.ablations:
        from cnr_iemn.engine.ablations import ablate  # torch only here

        ablate(root / settings.study, ensemble, store, results, gpus=settings.gpus)
    folder = root / settings.study / "ensembles" / name
    write_results(folder, results)
    learnt = training_facts(store, joined.training_labels, ensemble.classes)
    write_ensemble(folder, replace(ensemble, calibration=results.calibration, **learnt))
    write_text_atomic(folder / "provenance.json", json_text(origin))
    write_report(folder, results, store, origin, study=settings.study)
    _tell(console, settings, results, folder)
    return float(results.metrics["accuracy"])


def _wanted(settings: AggregateSettings, repeats: "Repeats") -> "Wanted":
    """Return what evidence is asked for: the settings of the same names."""
    from dataclasses import fields

    from cnr_iemn.patients.evidence.beside import Wanted

    names = (each.name for each in fields(Wanted) if each.name != "repeats")
    return Wanted(repeats=repeats, **{name: getattr(settings, name) for name in names})


def _tell(console: "Console", settings: AggregateSettings, results: "Results", folder: Path) -> None:
    """Print what was found, how long it took and where it lies, first of all whether something leaks; tell W&B."""
    from cnr_iemn.patients.evidence.beside_tables import LEAK, evidence_tables
    from cnr_iemn.patients.evidence.tables import result_tables

    if (results.metrics["permutation_test"] or {}).get("leaks"):
        console.print(LEAK)
    tables = (*result_tables(results.metrics), *evidence_tables(results.metrics))
    for table in tables:
        console.print(table.rich())
    console.print("; ".join(f"{part} {seconds:.1f} s" for part, seconds in results.seconds.items()))
    written = (*folder.iterdir(), *(folder / "figures").iterdir())
    for path in sorted(path for path in written if path.is_file() and not path.name.startswith("comparison-")):
        console.print(f"wrote {path}", soft_wrap=True)
    if settings.logger.name == "wandb":
        from cnr_iemn.engine.wandb_ensemble import log_ensemble

        log_ensemble(settings.logger, folder, results.metrics, tables, study=settings.study, name=folder.name)


if __name__ == "__main__":
    raise SystemExit(main())
