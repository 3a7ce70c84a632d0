"""DICOM files for the scans with a prediction: all of a scan's, or none and the reason."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cnr_iemn.ct.io.image_stack import ImageStack
from cnr_iemn.dicom_export.coding import Software
from cnr_iemn.dicom_export.secondary_capture import key_picture, secondary_capture, shown_slice
from cnr_iemn.dicom_export.segmentation import lung_segmentation
from cnr_iemn.dicom_export.source_images import NO_DICOM, DicomSource, SourceJob, read_source
from cnr_iemn.dicom_export.structured_report import structured_report
from cnr_iemn.errors import RefusalCode, ScanError, fault
from cnr_iemn.inference.explanation import KeySlice
from cnr_iemn.inference.prediction_writer import ScanFiles
from cnr_iemn.inference.scan_result import ScanPrediction, ScanResult, file_stem
from cnr_iemn.read_options import ReadOptions
from cnr_iemn.stage2.ensemble import LoadedEnsemble
from cnr_iemn.utils.atomic_io import write_folder_atomic
from cnr_iemn.utils.sandbox import refusal, run_limited

FOLDER = "dicom"


@dataclass(frozen=True)
class _PendingScan:
    """What the files of a scan are made from, once its headers are read again."""

    job: SourceJob
    prediction: ScanPrediction
    keys: tuple[KeySlice, ...]
    picture: NDArray[np.uint8]
    slice_index: int


class DicomWriter:
    """Writes DICOM files into ``<folder>/dicom/<scan>/``.

    The headers of all scans are read again in one process at the end, when their pixels are gone; the picture is drawn
    before.

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
        self._options = options
        self._lungs = loaded.ensemble.pixels.lungs if segmentation else None
        self._files: dict[str, ScanFiles] = {}
        self._pending: list[_PendingScan] = []

    @property
    def summary(self) -> str:
        """Where the files are."""
        return f"DICOM files: {self._folder}/"

    def add(self, result: ScanResult) -> None:
        """Draw the picture of a scan and keep what else its files need, or refuse it."""
        scan_id, prepared = result.scan_id, result.prepared
        if self._ensemble.phantom and not prepared.phantom:
            self._refuse(
                scan_id,
                f"{scan_id}: this study was trained on phantoms, so its prediction means nothing for a patient, and no "
                "DICOM is written into the patient's study. Give a study trained on patients, or leave dicom=true out.",
            )
        elif isinstance(result.source, ImageStack):
            self._refuse(
                scan_id,
                f"{scan_id}: images name no patient, study or series, which DICOM output must contain. Give the DICOM "
                "files, or leave dicom=true out; the prediction is in predictions.json.",
            )
        else:
            pending = _PendingScan(
                job=SourceJob(scan_id, result.source, prepared.source_sha256),
                prediction=result.prediction,
                keys=() if result.explanation is None else result.explanation.keys,
                picture=key_picture(result, self._ensemble),
                slice_index=shown_slice(result),
            )
            self._pending.append(pending)

    def finish(self) -> Mapping[str, ScanFiles]:
        """Write the files of all scans; return by scan which they are, or why there are none."""
        read = partial(read_source, options=self._options, lungs=self._lungs)
        for index, source in run_limited(read, [pending.job for pending in self._pending], workers=1):
            pending = self._pending[index]
            scan_id = pending.job.scan_id
            try:
                if isinstance(source, ScanError):
                    raise source
                self._files[scan_id] = {"dicom": {"files": self._write(pending, source), "refused": None}}
            except ScanError as error:
                self._refuse(scan_id, refusal(scan_id, error, costs=NO_DICOM))
        return self._files

    def _refuse(self, scan_id: str, reason: str) -> None:
        self._files[scan_id] = {"dicom": {"files": [], "refused": reason}}

    def _write(self, pending: _PendingScan, source: DicomSource) -> list[str]:
        scan_id, phantom = pending.job.scan_id, pending.prediction["phantom"]
        try:
            with _silent_libraries():
                files = {name: _encode(obj, phantom=phantom) for name, obj in self._objects(pending, source)}
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

    def _objects(self, pending: _PendingScan, source: DicomSource) -> Iterator[tuple[str, Dataset]]:
        prediction, software = pending.prediction, self._software
        yield "report.dcm", structured_report(prediction, self._ensemble, pending.keys, source, software)
        yield (
            "capture.dcm",
            secondary_capture(pending.picture, pending.slice_index, source, software, phantom=prediction["phantom"]),
        )
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
