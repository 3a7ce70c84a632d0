"""A trained study on new scans: class, probabilities, and the probabilities of every slice.

python predict.py input=/data/new_scans study=default
"""

from dataclasses import replace
from pathlib import Path

from cnr_iemn.errors import PartialFailureError, ScanError
from cnr_iemn.permissions import Permissions
from cnr_iemn.settings.checks import ensemble_name
from cnr_iemn.settings.entry_point import entry_point
from cnr_iemn.settings.schema import PredictSettings


@entry_point("predict", PredictSettings)
def main(settings: PredictSettings) -> float:
    """Answer for every scan below the input. Returns the share of scans that were answered."""
    from cnr_iemn.ct.find import find_scans
    from cnr_iemn.deliver.scan_page import write_scan_page
    from cnr_iemn.engine import answers, prediction
    from cnr_iemn.engine.ensembles import read_ensemble
    from cnr_iemn.engine.hardware import choose_hardware
    from cnr_iemn.files import sha256_of_file
    from cnr_iemn.patients.booster import load_booster, mean_probabilities
    from cnr_iemn.patients.contributions import contributions

    hardware = choose_hardware(settings.gpus)
    study, source = Path(settings.runs) / settings.study, Path(settings.input)
    name = ensemble_name(settings.ensemble)
    ensemble = read_ensemble(Path(settings.runs), settings.study, name)
    booster_file = study / "ensembles" / name / "booster.ubj"
    booster = load_booster(booster_file)
    found = find_scans(source, workers=1)
    asked = {"batch_size": settings.batch_size, "engine": settings.engine}
    networks = prediction.EnsembleNetworks(study, ensemble, hardware, **asked)

    pixels = replace(ensemble.pixels, allowed=Permissions.of(settings.ingest))
    failures: dict[str, str] = {}
    origin = {"name": name, "booster_sha256": sha256_of_file(booster_file)}
    output = Path(settings.output) if settings.output else study / "predictions" / source.resolve().name
    scans, told = [], []
    for scan_id, prepared in prediction.prepared_scans(found, pixels, failures):
        scans.append(networks.slices(scan_id, prepared))
        one = answers.new_scans(scans[-1:], ensemble, **origin, refused={})
        features = one.features()
        gone_by = contributions(booster, features, classes=ensemble.classes, models=ensemble.models)
        told += answers.scan_answers(scans[-1:], mean_probabilities(booster, features), gone_by, ensemble)
        if settings.pages:
            told[-1]["page"] = write_scan_page(output, told[-1], gone_by, one.sets[scan_id], prepared, networks)
    refused = "\n".join(failures.values())
    if not scans:
        raise ScanError(f"None of the {len(found)} scans in {source} can be answered:\n{refused}")

    kept = answers.new_scans(scans, ensemble, **origin, refused=failures)
    answers.write_answers(output, ensemble, told, kept, engine=networks.engine)

    if kept.notice:
        print(kept.notice)
    for answer in told:
        print(answers.answer_line(answer, ensemble))
    print(answers.calibration_line(ensemble))
    print(
        f"wrote {output}/predictions.json, predictions.csv, slices.csv and predictions.parquet"
        + (", and a page for each scan" if settings.pages else "")
    )
    if failures:
        raise PartialFailureError(f"{len(failures)} of {len(found)} scans were refused:\n{refused}")
    return len(scans) / len(found)


if __name__ == "__main__":
    raise SystemExit(main())
