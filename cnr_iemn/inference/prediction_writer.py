"""The answers of predict.py as they come: each on the disk, with its files, before the next scan is predicted."""

import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Protocol, Self

from typing_extensions import TypedDict

from cnr_iemn.inference.answers import Answer, AnswerFolder
from cnr_iemn.inference.predictor import Predictor
from cnr_iemn.inference.scan_result import DicomFiles, Refusal, ScanPrediction, ScanResult, result_line

log = logging.getLogger(__name__)

_RATE_SCANS = 5
"""Scans from which on their rate is shown: the first ones wait for the networks to be loaded."""


class ScanFiles(TypedDict, total=False):
    """What an output has written for a scan: ``page`` and ``dicom`` as in ``ScanPrediction``, ``features`` a file."""

    page: str
    dicom: DicomFiles
    features: str


class ScanOutput(Protocol):
    """An output with files for each scan, such as pages or DICOM files."""

    def add(self, result: ScanResult) -> ScanFiles:
        """Write the files of a scan, each whole or not at all."""

    def close(self) -> None:
        """Leave nothing behind but the files."""


class PredictionWriter:
    """Takes results one at a time, writes their files, then their answer, and prints their line.

    Args:
        answers: Where the answers go.
        predictor: Which gives the results.
        n_scans: Of the input, for the lines that count them.
        n_pending: Of these, those that have no answer yet.
        outputs: Further outputs.
    """

    def __init__(
        self,
        answers: AnswerFolder,
        predictor: Predictor,
        *,
        n_scans: int,
        n_pending: int,
        outputs: Sequence[ScanOutput] = (),
    ) -> None:
        self._answers, self._outputs = answers, outputs
        self._ensemble, self._engine = predictor.ensemble, predictor.engine
        self._n_scans, self._n_kept = n_scans, n_scans - n_pending
        self._n_new = self._n_refused = 0
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        for output in self._outputs:
            output.close()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            log.info("%d of %d scans have an answer; the same command goes on.", self._n_answered, self._n_scans)

    @property
    def _n_answered(self) -> int:
        """Scans with an answer, those of earlier commands included."""
        return self._n_kept + self._n_new

    def add(self, result: ScanResult | Refusal) -> None:
        """Write the answer for one scan and print its line."""
        if isinstance(result, Refusal):
            self._answers.write(Answer(result.scan_id, self._engine, refused=result.reason, code=result.code))
            line = f"{result.scan_id}: refused"
            self._n_refused += 1
        else:
            self._answers.write(self._answer(result))
            line = result_line(result.prediction, self._ensemble)
        self._n_new += 1
        log.info("%s  %s", self._count(), line)

    def _answer(self, result: ScanResult) -> Answer:
        prediction: ScanPrediction = {**result.prediction}
        files: list[str] = []
        for output in self._outputs:
            written = output.add(result)
            if "page" in written:
                prediction["page"] = written["page"]
                files.append(written["page"])
            if "features" in written:
                files.append(written["features"])
            if "dicom" in written:
                prediction["dicom"] = written["dicom"]
                files += written["dicom"]["files"]
        return Answer(
            result.scan_id, self._engine, tuple(files), prediction=prediction, probabilities=result.probabilities
        )

    def _count(self) -> str:
        """Return how many scans have an answer; after a few, also their rate, the time left and the refused ones."""
        count = f"{self._n_answered}/{self._n_scans}"
        if self._n_new < _RATE_SCANS:
            return count
        rate = self._n_new / (time.monotonic() - self._start)
        left = timedelta(seconds=round((self._n_scans - self._n_answered) / rate))
        return f"{count} ({rate:.2g} scans/s, {left} left, {self._n_refused} refused)"
