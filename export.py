"""A trained study as one folder: weights, ONNX, booster, settings, model card and checksums, to predict and to share.

python export.py study=default output=/data/bundle
"""

from pathlib import Path

from cnr_iemn.settings.checks import ensemble_name
from cnr_iemn.settings.entry_point import entry_point
from cnr_iemn.settings.prediction_schema import ExportSettings


@entry_point("export", ExportSettings)
def main(settings: ExportSettings) -> float:
    """Write the bundle. Returns the largest difference of a probability between ONNX and torch, 0 without ONNX."""
    from cnr_iemn.deliver.bundle_writer import check_place, write_bundle
    from cnr_iemn.engine.hardware import choose_hardware
    from cnr_iemn.engine.opened import open_study
    from cnr_iemn.engine.prediction import EnsembleNetworks

    opened = open_study(Path(settings.runs), settings.study, ensemble_name(settings.ensemble))
    output = Path(settings.output) if settings.output else opened.folder / "bundles" / opened.name
    check_place(output, overwrite=settings.overwrite)
    networks = EnsembleNetworks(opened.folder, opened.ensemble, choose_hardware(0), batch_size=32)
    differences = write_bundle(output, opened, networks, onnx=settings.onnx, license_name=settings.license)
    for name, difference in differences.items():
        print(f"{name}: ONNX and torch differ by at most {difference:.1e} in a probability")
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"wrote {output}, {size / 1e6:.0f} MB: python predict.py bundle={output} input=...")
    return max(differences.values(), default=0.0)


if __name__ == "__main__":
    raise SystemExit(main())
