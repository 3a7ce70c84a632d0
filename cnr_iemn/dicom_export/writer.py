"""DICOM files for the scans with a prediction: all of a scan's, or none and the reason."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset

from cnr_iemn.ct.io.image_stack import ImageStack
from cnr_iemn.dicom_export.coding import Software
from cnr_iemn.dicom_export.secondary_capture import key_picture, secondary_capture, shown_slice
from cnr_iemn.dicom_export.segmentation import lung_segmentation
from cnr_iemn.dicom_export.source_images import NO_DICOM, DicomSource, SourceJob, read_source
from cnr_iemn.dicom_export.structured_report import structured_report
from cnr_iemn.errors import RefusalCode, ScanError, fault
from cnr_iemn.inference.prediction_writer import ScanFiles
from cnr_iemn.inference.scan_result import ScanResult, file_stem
from cnr_iemn.read_options import ReadOptions
from cnr_iemn.stage2.ensemble import LoadedEnsemble
from cnr_iemn.utils.atomic_io import write_folder_atomic
from cnr_iemn.utils.sandbox import LimitedProcess, refusal

FOLDER = "dicom"


class DicomWriter:
    """Writes DICOM files into ``<folder>/dicom/<scan>/``.

    The headers of a scan are read again, in a process with limits.

    Args:
        folder: The output folder of predict.py.
        loaded: The ensemble that makes the predictions.
        options: As the scans are read with.
        segmentation: Write the lung mask, too, by the ensemble's method.
    """

    def __init__(self, folder: Path, loaded: LoadedEnsemble, *, options: ReadOptions, segmentation: bool) -> None:
        self._folder = folder / FOLDER
        self._ensemble = loaded.ensemble
        self._software = Software(
            study=loaded.ensemble.study, ensemble=loaded.name, method_sha256=loaded.ensemble.method_sha256
        )
        self._lungs = loaded.ensemble.pixels.lungs if segmentation else None
        self._reader: LimitedProcess[SourceJob, DicomSource] = LimitedProcess(
            partial(read_source, options=options, lungs=self._lungs)
        )

    def add(self, result: ScanResult) -> ScanFiles:
        """Write the files of a scan; return which they are, or why there are none."""
        scan_id = result.scan_id
        try:
            return {"dicom": {"files": self._write(result, self._read(result)), "refused": None, "code": None}}
        except ScanError as error:
            return {"dicom": {"files": [], "refused": refusal(scan_id, error, costs=NO_DICOM), "code": error.code}}

    def close(self) -> None:
        """End the process that reads."""
        self._reader.close()

    def _read(self, result: ScanResult) -> DicomSource:
        scan_id, prepared = result.scan_id, result.prepared
        if self._ensemble.phantom and not prepared.phantom:
            raise ScanError(
                RefusalCode.DICOM_SOURCE,
                f"{scan_id}: this study was trained on phantoms, so its prediction means nothing for a patient, and no "
                "DICOM is written into the patient's study. Give a study trained on patients, or leave dicom=true out.",
            )
        if isinstance(result.source, ImageStack):
            raise ScanError(
                RefusalCode.DICOM_SOURCE,
                f"{scan_id}: images name no patient, study or series, which DICOM output must contain. Give the DICOM "
                "files, or leave dicom=true out; the prediction is in predictions.json.",
            )
        source = self._reader.run(SourceJob(scan_id, result.source, prepared.source_sha256))
        if isinstance(source, ScanError):
            raise source
        return source

    def _write(self, result: ScanResult, source: DicomSource) -> list[str]:
        scan_id, phantom = result.scan_id, result.prediction["phantom"]
        try:
            with _silent_libraries():
                files = {name: _encode(obj, phantom=phantom) for name, obj in self._objects(result, source)}
        except ValueError as error:  # its message would quote the value
            raise ScanError(
                RefusalCode.DICOM_IDENTIFIERS,
                f"{scan_id}: highdicom rejects a value of the headers, so no DICOM was written. Correct the headers, "
                "or leave dicom=true out; the prediction is in predictions.json.",
            ) from error
        except Exception as error:  # noqa: BLE001 - one scan must not stop the others
            raise fault(scan_id, error, costs=NO_DICOM) from None
        folder = self._folder / file_stem(scan_id)
        write_folder_atomic(folder, files)
        return [f"{FOLDER}/{folder.name}/{name}" for name in files]

    def _objects(self, result: ScanResult, source: DicomSource) -> Iterator[tuple[str, Dataset]]:
        prediction, software = result.prediction, self._software
        keys = () if result.explanation is None else result.explanation.keys
        yield "report.dcm", structured_report(prediction, self._ensemble, keys, source, software)
        picture, index = key_picture(result, self._ensemble), shown_slice(result)
        yield "capture.dcm", secondary_capture(picture, index, source, software, phantom=prediction["phantom"])
        if self._lungs is not None:
            yield "lungs.dcm", lung_segmentation(source, software, method=self._lungs)


def _encode(dataset: Dataset, *, phantom: bool) -> bytes:
    if phantom:
        dataset.QualityControlSubject = "YES"
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """Keep highdicom and pydicom from printing UIDs in logs and a patient's name in warnings."""
    logger = logging.getLogger("highdicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
