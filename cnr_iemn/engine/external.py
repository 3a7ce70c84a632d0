"""A study's ensemble on labelled scans that predict.py has answered for, and beside another study's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cnr_iemn.engine.ensembles import read_ensemble
from cnr_iemn.files import sha256_of_file
from cnr_iemn.patients.booster import load_booster
from cnr_iemn.patients.evidence.external_tables import external_tables
from cnr_iemn.patients.evidence.paired import compare_studies, paired_table
from cnr_iemn.patients.evidence.results import write_figures
from cnr_iemn.patients.external import by_set, check_scorable, external_figures, external_patients
from cnr_iemn.patients.label_files import read_labels
from cnr_iemn.patients.new_scans import read_new_scans
from cnr_iemn.records import SCHEMA_VERSION
from cnr_iemn.settings.checks import ensemble_name
from cnr_iemn.settings.schema import AggregateSettings
from cnr_iemn.settings.values import paths_of


def evaluate(settings: AggregateSettings, console: Console) -> float:
    """Score labelled scans from elsewhere and print the tables. Returns the accuracy; not answered is wrong."""
    name = ensemble_name(settings.ensemble)
    predictions, labels = (
        [Path(path) for path in paths_of(key, value)]
        for key, value in (("evaluate", settings.evaluate), ("labels", settings.labels))
    )
    sets = score_external(Path(settings.runs), settings.study, name, predictions, labels)
    for table in external_tables(sets):
        console.print(table.rich())
    last = list(sets.values())[-1]  # all together, or the only set
    for scan in last["not_answered"].values():
        console.print(f"not answered, of class {scan['label']}: {scan['refused']}", soft_wrap=True, markup=False)
    for each in sets:
        folder = Path(settings.runs) / settings.study / "ensembles" / name / "external" / each
        console.print(f"wrote {folder}/patients.csv and metrics.json", soft_wrap=True)
    return float(last["missing_as_wrong"]["accuracy"]["value"])


def compare(settings: AggregateSettings, console: Console) -> float:
    """Compare with another ensemble on the same scans and print the table. Returns the difference of the accuracies."""
    own = settings.study, ensemble_name(settings.ensemble)
    found, path = compare_studies(Path(settings.runs), *own, str(settings.compare), on=settings.compare_on)
    console.print(paired_table(found).rich())
    console.print(f"wrote {path}", soft_wrap=True)
    return float(found["accuracy"]["comparison"]["difference"])


def score_external(
    runs: Path, study: str, name: str, predictions: Sequence[Path], labels: Sequence[Path]
) -> dict[str, dict[str, Any]]:
    """Score, write ``external/<set>/`` in the ensemble's folder, and return metrics.json of each set, in their order.

    ``name``: of the ensemble. ``predictions``: files of predict.py. ``labels``: a CSV file a set. Raises RunError,
    CohortError where they do not belong together; then nothing is written.
    """
    ensemble = read_ensemble(runs, study, name)
    folder = runs / study / "ensembles" / name
    booster, booster_sha256 = load_booster(folder / "booster.ubj"), sha256_of_file(folder / "booster.ubj")
    new = {path: read_new_scans(path) for path in dict.fromkeys(predictions)}
    check_scorable(new, ensemble.networks, booster_sha256, ensemble.learnt_from)
    found = list(new.values())
    scan_ids = [scan_id for each in found for scan_id in (*each.scans, *each.metadata.refused)]
    classes, frozen = ensemble.classes, ensemble.calibration
    patients = external_patients(found, read_labels(labels, scan_ids, classes), booster, frozen)

    scans = {scan_id: scan for each in found for scan_id, scan in each.scans.items()}
    notice = next((each.notice for each in found if each.notice), None)
    about = {
        **({} if notice is None else {"notice": notice}),
        "schema_version": SCHEMA_VERSION,
        "study": study,
        "ensemble": name,
        "cohort": ensemble.cohort,
        "classes": list(classes),
        "models": list(ensemble.models),
        "method": ensemble.features,
        "phantom_study": ensemble.phantom,
        "booster_sha256": booster_sha256,
        "predictions": {str(path): sha256_of_file(path) for path in new},
        "labels": {str(path): sha256_of_file(path) for path in labels},
    }
    results = {}
    for each, rows in by_set(patients).items():
        phantoms = {"n_phantom_scans": sum(scans[scan_id].phantom for scan_id in rows.index if scan_id in scans)}
        results[each] = {**about, **phantoms, **external_figures(each, rows, classes, frozen)}
    for each, rows in by_set(patients).items():
        write_figures(folder / "external" / each, rows, results[each])
    return results
