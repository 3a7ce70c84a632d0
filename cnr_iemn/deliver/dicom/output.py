"""DICOM files for the scans that were answered: all of a scan, or none and the reason."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cnr_iemn.ct.limited import refusal, run_limited
from cnr_iemn.ct.prepare import PreparedScan
from cnr_iemn.deliver.dicom.capture import key_picture, secondary_capture, shown_slice
from cnr_iemn.deliver.dicom.lung_segmentation import lung_segmentation
from cnr_iemn.deliver.dicom.software import Software
from cnr_iemn.deliver.dicom.source import NO_DICOM, DicomSource, SourceJob, read_source
from cnr_iemn.deliver.dicom.structured_report import structured_report
from cnr_iemn.deliver.key_slices import KeySlice
from cnr_iemn.deliver.scan_page import KeyEvidence, page_name
from cnr_iemn.engine.ensembles import Ensemble
from cnr_iemn.errors import ScanError, fault
from cnr_iemn.files import write_folder_atomic
from cnr_iemn.permissions import Permissions

FOLDER = "dicom"


@dataclass(frozen=True)
class _Waiting:
    """An answered scan whose files are still to be written; ``answer`` is told what became of them."""

    job: SourceJob
    answer: dict[str, Any]
    keys: tuple[KeySlice, ...]
    picture: NDArray[np.uint8]
    slice_index: int


class DicomOutput:
    """DICOM files in ``<folder>/dicom/<scan>/``, for scans that are kept first and written together.

    The pixels of a scan are gone when its headers are read again, in one process for all, so that what a picture needs
    is made of them before. ``allowed``: as the scans were read with. ``lungs``: whether the mask is written too, by the
    method of the ensemble.
    """

    def __init__(
        self, folder: Path, ensemble: Ensemble, software: Software, *, allowed: Permissions, lungs: bool
    ) -> None:
        self._folder = folder / FOLDER
        self._ensemble = ensemble
        self._software = software
        self._allowed = allowed
        self._lungs = ensemble.pixels.lungs if lungs else None
        self._answers: list[dict[str, Any]] = []
        self._waiting: list[_Waiting] = []

    def keep(self, path: Path, answer: dict[str, Any], prepared: PreparedScan, seen: KeyEvidence) -> None:
        """Keep what is to be written of one scan. ``answer``: gets ``dicom``, here or by ``write``."""
        scan = answer["scan"]
        self._answers.append(answer)
        if self._ensemble.phantom and not prepared.phantom:
            reason = (
                f"{scan}: this study was trained on phantoms, so that its answer means nothing for a patient: no DICOM "
                "is written into the patient's study. Give a study trained on patients, or leave dicom=true out."
            )
            answer["dicom"] = _told([], reason)
            return
        picture = key_picture(answer, self._ensemble, prepared, seen)
        job = SourceJob(scan, path, prepared.source_sha256)
        self._waiting.append(_Waiting(job, answer, seen.keys, picture, shown_slice(prepared, seen)))

    def write(self) -> list[str]:
        """Write the files of all scans that were kept; return why there are none, of each scan for which that is so.

        Each scan's answer is told either.
        """
        read = partial(read_source, allowed=self._allowed, lungs=self._lungs)
        jobs = [waiting.job for waiting in self._waiting]
        for index, source in run_limited(read, jobs, workers=1):
            waiting = self._waiting[index]
            scan = waiting.job.scan_id
            try:
                if isinstance(source, ScanError):
                    raise source
                names = self._write(waiting, source)
            except ScanError as error:
                waiting.answer["dicom"] = _told([], refusal(scan, error, costs=NO_DICOM))
            else:
                waiting.answer["dicom"] = _told(names, None)
        return [answer["dicom"]["refused"] for answer in self._answers if answer["dicom"]["refused"]]

    def _write(self, waiting: _Waiting, source: DicomSource) -> list[str]:
        answer = waiting.answer
        try:
            with _quiet():
                files = {name: _bytes(made, answer) for name, made in self._objects(waiting, source)}
        except ValueError as error:  # its message would name the value
            raise ScanError(
                f"{answer['scan']}: highdicom takes some value of the headers for wrong, so no DICOM was written. Mend "
                "the headers, or leave dicom=true out; the answer itself is in predictions.json."
            ) from error
        except Exception as error:  # noqa: BLE001 - the answers to this scan and to all others are still to be written
            raise fault(answer["scan"], error, costs=NO_DICOM) from None
        folder = self._folder / Path(page_name(answer["scan"])).stem
        write_folder_atomic(folder, files)
        return [f"{FOLDER}/{folder.name}/{name}" for name in files]

    def _objects(self, waiting: _Waiting, source: DicomSource) -> Iterator[tuple[str, Dataset]]:
        answer, software = waiting.answer, self._software
        yield "report.dcm", structured_report(answer, self._ensemble, waiting.keys, source, software)
        index, phantom = waiting.slice_index, answer["phantom"]
        yield "capture.dcm", secondary_capture(waiting.picture, index, source, software, phantom=phantom)
        if self._lungs is not None:
            yield "lungs.dcm", lung_segmentation(source, software, method=self._lungs)


def _told(files: list[str], refused: str | None) -> dict[str, Any]:
    return {"files": files, "refused": refused}


def _bytes(made: Dataset, answer: Mapping[str, Any]) -> bytes:
    if answer["phantom"]:
        made.QualityControlSubject = "YES"
    buffer = BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep highdicom and pydicom from printing what they are given: UIDs in the log, a patient's name in warnings."""
    logger = logging.getLogger("highdicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
