"""Classify new scans with a trained study, or its bundle: class and probabilities of each scan and of its slices.

python predict.py input=/data/new_scans study=covid_ct_md
python predict.py input=/data/new_scans bundle=/data/bundle
"""

from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from cnr_iemn.config.ensemble_names import ensemble_name
from cnr_iemn.config.entry_point import entry_point
from cnr_iemn.config.prediction_schema import PredictSettings
from cnr_iemn.read_options import ReadOptions

if TYPE_CHECKING:
    from cnr_iemn.inference.prediction_writer import ScanOutput
    from cnr_iemn.inference.predictor import Predictor
    from cnr_iemn.inference.run_report import RunReporter
    from cnr_iemn.stage2.ensemble import LoadedEnsemble


@entry_point("predict", PredictSettings)
def main(settings: PredictSettings) -> float:
    """Predict every scan below the input. Returns the share of scans with a prediction."""
    from cnr_iemn.inference.run_report import RunReporter
    from cnr_iemn.inference.sources.local_input import local_input

    with RunReporter(Path(settings.report) if settings.report else None) as reporter, ExitStack() as stack:
        with reporter.stage("load"):
            predictor = load_predictor(settings)
        with reporter.stage("find"):
            source = stack.enter_context(local_input(settings.input, anonymous=settings.anonymise_ids))
        return predict(settings, predictor, source, reporter)


def load_predictor(settings: PredictSettings) -> "Predictor":
    """Return the study's or the bundle's ensemble on the hardware of this machine."""
    from cnr_iemn.inference.predictor import Predictor, load_ensemble
    from cnr_iemn.inference.sources.hub import local_bundle
    from cnr_iemn.stage1.training.hardware import choose_hardware

    hardware = choose_hardware(settings.gpus)
    ensemble = load_ensemble(
        settings.study,
        runs=Path(settings.runs),
        name=ensemble_name(settings.ensemble),
        bundle=local_bundle(settings.bundle) if settings.bundle else None,
    )
    return Predictor(
        ensemble,
        hardware,
        read_options=ReadOptions.of(settings.ingest),
        batch_size=settings.batch_size,
        engine=settings.engine,
        anonymous=settings.anonymise_ids,
        explanations=settings.pages or settings.dicom,
        display=settings.pages,
    )


def predict(settings: PredictSettings, predictor: "Predictor", source: Path, reporter: "RunReporter") -> float:
    """Predict the scans of a folder or file. Returns the share of scans with a prediction.

    ``reporter``: takes note of the stages and results.
    """
    from cnr_iemn.inference.input_checks import find_new_scans, output_folder
    from cnr_iemn.inference.prediction_writer import PredictionWriter

    ensemble = predictor.loaded
    with reporter.stage("find"):
        scans = find_new_scans(source, anonymous=settings.anonymise_ids, training=ensemble.ensemble.training_scans)
    folder = output_folder(
        settings.output, ensemble.predictions, Path(settings.input), anonymous=settings.anonymise_ids
    )
    reporter.describe(predictor, folder, n_scans=len(scans))
    outputs = scan_outputs(settings, ensemble, folder)
    with (
        PredictionWriter(folder, ensemble, engine=predictor.engine, n_scans=len(scans), outputs=outputs) as writer,
        closing(predictor.predict(scans)) as results,
    ):
        for result in reporter.watch(results):
            writer.add(result)
    writer.print_summary()
    writer.raise_if_incomplete()
    return writer.share_predicted


def scan_outputs(settings: PredictSettings, ensemble: "LoadedEnsemble", folder: Path) -> "list[ScanOutput]":
    """Return what writes further files for each scan: pages, features, DICOM files (the extra ``dicom``)."""
    outputs: list[ScanOutput] = []
    if settings.pages:
        from cnr_iemn.report.scan_report import ScanPages

        outputs.append(ScanPages(folder, ensemble.ensemble))
    if settings.features:
        from cnr_iemn.inference.feature_writer import FeatureFiles

        outputs.append(FeatureFiles(folder))
    if settings.dicom:
        from cnr_iemn.dicom_export.writer import DicomWriter

        options = ReadOptions.of(settings.ingest)
        outputs.append(DicomWriter(folder, ensemble, options=options, segmentation=settings.segmentation))
    return outputs


if __name__ == "__main__":
    raise SystemExit(main())
