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
    from cnr_iemn.engine import prediction
    from cnr_iemn.engine.ensembles import read_ensemble
    from cnr_iemn.engine.hardware import choose_hardware
    from cnr_iemn.patients.booster import load_booster, mean_probabilities
    from cnr_iemn.registry import PHANTOM_NOTICE

    hardware = choose_hardware(settings.gpus)
    study, source = Path(settings.runs) / settings.study, Path(settings.input)
    name = ensemble_name(settings.ensemble)
    ensemble = read_ensemble(Path(settings.runs), settings.study, name)
    booster = load_booster(study / "ensembles" / name / "booster.ubj")
    found = find_scans(source, workers=1)
    networks = prediction.EnsembleNetworks(study, ensemble, hardware, batch_size=settings.batch_size)

    pixels = replace(ensemble.pixels, allowed=Permissions.of(settings.ingest))
    failures: dict[str, str] = {}
    scans = [networks.slices(*prepared) for prepared in prediction.prepared_scans(found, pixels, failures)]
    refused = "\n".join(failures.values())
    if not scans:
        raise ScanError(f"None of the {len(found)} scans in {source} can be answered:\n{refused}")

    probabilities = mean_probabilities(booster, prediction.ensemble_features(scans, ensemble))
    answers = prediction.scan_answers(scans, probabilities, ensemble.classes)
    output = Path(settings.output) if settings.output else study / "predictions" / source.resolve().name
    prediction.write_answers(output, ensemble, answers, failures)

    if ensemble.phantom:
        print(PHANTOM_NOTICE)
    for answer in answers:
        figures = "  ".join(f"{label} {value:.3f}" for label, value in answer["probabilities"].items())
        findings = f"  ({'; '.join(answer['findings'])})" if answer["findings"] else ""
        print(f"{answer['scan']}: {answer['class']}  {figures}  {answer['n_slices']} slices{findings}")
    print(f"wrote {output}/predictions.json, predictions.csv and slices.csv")
    if failures:
        raise PartialFailureError(f"{len(failures)} of {len(found)} scans were refused:\n{refused}")
    return len(scans) / len(found)


if __name__ == "__main__":
    raise SystemExit(main())
