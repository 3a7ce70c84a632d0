"""The work of predict.py on one input: load the ensemble, answer the scans that have no answer, join the answers."""

from contextlib import closing
from pathlib import Path

from cnr_iemn.config.deferral import deferral
from cnr_iemn.config.ensemble_names import ensemble_name
from cnr_iemn.config.schema.prediction import PredictSettings
from cnr_iemn.inference.answers import AnswerFolder, request_digest
from cnr_iemn.inference.input_checks import Source, find_new_scans, output_folder
from cnr_iemn.inference.prediction_files import join_answers
from cnr_iemn.inference.prediction_summary import Summary, summarize
from cnr_iemn.inference.prediction_writer import PredictionWriter, ScanOutput
from cnr_iemn.inference.predictor import Predictor, load_ensemble
from cnr_iemn.inference.run_report import RunReporter
from cnr_iemn.inference.sources.hub import local_bundle
from cnr_iemn.inference.sources.local_input import LocalInput
from cnr_iemn.inference.sources.reach import require_reach
from cnr_iemn.read_options import ReadOptions
from cnr_iemn.stage1.training.hardware import choose_hardware
from cnr_iemn.stage2.ensemble import LoadedEnsemble
from cnr_iemn.utils.shard import shard_of


def load_predictor(settings: PredictSettings) -> Predictor:
    """Return the study's or the bundle's ensemble on the hardware of this machine."""
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


def answer_input(
    settings: PredictSettings, predictor: Predictor, source: LocalInput, reporter: RunReporter
) -> tuple[Summary, AnswerFolder]:
    """Answer the scans of a folder or file that have no answer yet, and join the answers unless they are a part.

    Args:
        settings: Of predict.py.
        predictor: Of ``load_predictor``.
        source: The input's scans on this disk.
        reporter: Takes note of the stages and results.

    Raises:
        CnrIemnError: The input holds no scan or none that can be reached, or another command writes into the output.
    """
    ensemble = predictor.loaded
    with reporter.stage("find"):
        scans = find_new_scans(source.path, anonymous=settings.anonymise_ids, training=ensemble.ensemble.training_scans)
        require_reach(scans, anonymous=settings.anonymise_ids)
    if settings.part is not None:
        scans = [scan for scan in scans if shard_of(scan[0], settings.parts) == settings.part]
    folder = output_folder(
        settings.output, ensemble.predictions, Path(settings.input), anonymous=settings.anonymise_ids
    )
    reporter.describe(predictor, folder, n_scans=len(scans))
    answers = AnswerFolder(
        folder,
        request_digest(ensemble, settings.request),
        engine=None if settings.engine == "auto" else predictor.engine,
        signature=source.signature,
        place=source.place,
    )
    with answers.lock(settings.part_name):
        missing: list[str] = []
        if settings.join:
            missing = [scan_id for scan_id, _ in answers.pending(scans, redo="changed")]
        else:
            _answer_scans(settings, predictor, answers, scans, reporter)
        ids, is_part = [scan_id for scan_id, _ in scans], settings.part is not None
        summary = summarize(answers, ids) if is_part else join_answers(answers, ids, ensemble, missing=missing)
    reporter.conclude(summary)
    return summary, answers


def _answer_scans(
    settings: PredictSettings,
    predictor: Predictor,
    answers: AnswerFolder,
    scans: list[tuple[str, Source]],
    reporter: RunReporter,
) -> None:
    """Answer the scans that have no answer yet, or are to be predicted again; a signal ends this after a scan."""
    pending = answers.pending(scans, redo=settings.redo)
    if not pending:
        return
    reader = predictor.prepare(answers.jobs(pending), workers=settings.ingest.workers or predictor.reader_processes)
    outputs = _scan_outputs(settings, predictor.loaded, answers.output)
    writer = PredictionWriter(answers, predictor, n_scans=len(scans), n_pending=len(pending), outputs=outputs)
    with closing(reader), writer, deferral() as signals:
        _ = predictor.networks  # loaded while the first scans are read
        for index, prepared in reporter.timed("predict", reader):
            with signals.section():
                with reporter.stage("predict"):
                    result = predictor.result(*pending[index], prepared)
                with reporter.stage("write"):
                    writer.add(result)
                reporter.add(result)


def _scan_outputs(settings: PredictSettings, ensemble: LoadedEnsemble, folder: Path) -> list[ScanOutput]:
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
