"""Write a trained study as one folder: weights, ONNX, the stage-2 method, configuration, model card and checksums.

python export.py study=covid_ct_md output=/data/bundle
python export.py study=covid_ct_md ensemble=densenet161 onnx=false
"""

import logging
from pathlib import Path

from cnr_iemn.config.ensemble_names import ensemble_name
from cnr_iemn.config.entry_point import entry_point
from cnr_iemn.config.schema.prediction import ExportSettings
from cnr_iemn.utils.shell_words import command, override

log = logging.getLogger("cnr_iemn.export")


@entry_point("export", ExportSettings)
def main(settings: ExportSettings) -> float:
    """Write the bundle. Returns the largest difference of a probability between ONNX and torch, 0 without ONNX."""
    from cnr_iemn.inference.bundle_writer import check_output, write_bundle
    from cnr_iemn.inference.networks import EnsembleNetworks
    from cnr_iemn.inference.sources.hub import parse_repository, push_bundle
    from cnr_iemn.stage1.training.hardware import choose_hardware
    from cnr_iemn.stage2.ensemble import load_study_ensemble

    repository = parse_repository(settings.push) if settings.push else None
    ensemble = load_study_ensemble(Path(settings.runs), settings.study, ensemble_name(settings.ensemble))
    output = Path(settings.output) if settings.output else ensemble.folder / "bundles" / ensemble.name
    check_output(output, overwrite=settings.overwrite)
    ensemble.load_method()  # so that a damaged one is found before the networks are loaded
    networks = EnsembleNetworks(ensemble.folder, ensemble.ensemble, choose_hardware(0), batch_size=32)
    differences = write_bundle(output, ensemble, networks, onnx=settings.onnx, license_name=settings.license)
    for name, difference in differences.items():
        log.info("%s: ONNX and torch differ by at most %.1e in a probability", name, difference)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    log.info("wrote %s, %.0f MB", output, size / 1e6)
    log.info("Next: %s input=...", command("predict", override("bundle", str(output))))
    if repository is not None:
        commit = push_bundle(output, repository)
        log.info("pushed; elsewhere: %s input=...", command("predict", override("bundle", f"{settings.push}@{commit}")))
    return max(differences.values(), default=0.0)


if __name__ == "__main__":
    raise SystemExit(main())
