"""A trained study, or its bundle, on new scans: class, probabilities, and the probabilities of every slice.

python predict.py input=/data/new_scans study=default
python predict.py input=/data/new_scans bundle=/data/bundle
"""

from dataclasses import replace
from pathlib import Path

from cnr_iemn.errors import PartialFailureError, ScanError
from cnr_iemn.permissions import Permissions
from cnr_iemn.settings.checks import ensemble_name
from cnr_iemn.settings.entry_point import entry_point
from cnr_iemn.settings.prediction_schema import PredictSettings


@entry_point("predict", PredictSettings)
def main(settings: PredictSettings) -> float:
    """Answer for every scan below the input. Returns the share of scans that were answered."""
    from cnr_iemn.deliver.bundle import open_bundle
    from cnr_iemn.deliver.delivery import Delivery
    from cnr_iemn.engine import answers, new_input, prediction
    from cnr_iemn.engine.hardware import choose_hardware
    from cnr_iemn.engine.opened import open_study
    from cnr_iemn.files import sha256_of_file
    from cnr_iemn.patients.booster import load_booster, mean_probabilities
    from cnr_iemn.patients.contributions import contributions

    hardware = choose_hardware(settings.gpus)
    source, anonymous = Path(settings.input), settings.anonymise_ids
    if settings.bundle:
        opened = open_bundle(Path(settings.bundle))
    else:
        opened = open_study(Path(settings.runs), settings.study, ensemble_name(settings.ensemble))
    ensemble = opened.ensemble
    booster = load_booster(opened.booster)
    found = new_input.find_new_scans(source, anonymous=anonymous)
    pixels = replace(ensemble.pixels, allowed=Permissions.of(settings.ingest))
    failures: dict[str, str] = {}
    asked = {"batch_size": settings.batch_size, "engine": settings.engine}
    origin = {"name": opened.name, "booster_sha256": sha256_of_file(opened.booster)}
    named = opened.predictions / new_input.output_name(source, anonymous=anonymous)
    output = Path(settings.output) if settings.output else named
    wanted = {key: getattr(settings, key) for key in ("pages", "dicom", "segmentation")}
    scans, told = [], []
    with prediction.prepared_scans(found, pixels, failures, numbered=anonymous) as read:  # while networks are loaded
        networks = prediction.EnsembleNetworks(opened.folder, ensemble, hardware, **asked)
        delivery = Delivery(output, networks, origin, allowed=pixels.allowed, **wanted)
        for scan_id, prepared in read:
            scans.append(networks.slices(scan_id, prepared))
            one = answers.new_scans(scans[-1:], ensemble, **origin, refused={})
            features = one.features()
            gone_by = contributions(booster, features, classes=ensemble.classes, models=ensemble.models)
            told += answers.scan_answers(scans[-1:], mean_probabilities(booster, features), gone_by, ensemble)
            delivery.add(dict(found)[scan_id], told[-1], gone_by, one.sets[scan_id], prepared)
    refused = "\n".join(failures.values())
    if not scans:
        raise ScanError(f"None of the {len(found)} scans of the input can be answered:\n{refused}")

    kept = answers.new_scans(scans, ensemble, **origin, refused=failures)
    undelivered = delivery.finish()
    answers.write_answers(output, ensemble, told, kept, engine=networks.engine)
    notice = [kept.notice] if kept.notice else []
    said = [*notice, *(answers.answer_line(answer, ensemble) for answer in told), answers.calibration_line(ensemble)]
    print("\n".join(said))
    print(f"wrote {output}/predictions.json, predictions.csv, slices.csv and predictions.parquet{delivery.beside}")
    partly = [f"{len(failures)} of {len(found)} scans were refused:\n{refused}"] if failures else []
    if undelivered:
        partly.append("\n".join([f"{len(undelivered)} of {len(told)} answered scans got no DICOM:", *undelivered]))
    if partly:
        raise PartialFailureError("\n".join(partly))
    return len(scans) / len(found)


if __name__ == "__main__":
    raise SystemExit(main())
