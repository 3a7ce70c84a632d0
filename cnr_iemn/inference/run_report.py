"""report=run.json of predict.py: what a command did, for the program that started it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Self, TypeVar

from cnr_iemn.errors import CnrIemnError, PartialFailureError, Termination
from cnr_iemn.inference.prediction_summary import Summary
from cnr_iemn.inference.predictor import Predictor
from cnr_iemn.inference.scan_result import Refusal, ScanResult
from cnr_iemn.info import installed_versions
from cnr_iemn.schemas import SCHEMA_VERSION
from cnr_iemn.utils.atomic_io import json_text, write_text_atomic

T = TypeVar("T")
STAGES = ("load", "find", "predict", "write")
_FILES = ("predictions.*", "slices.csv", "refused.*", "*.html", "features/*.safetensors", "dicom/*/*.dcm")
"""What predict.py writes, relative to its output folder."""


@dataclass
class RunReport:
    """The file.

    Attributes:
        status: done, partial (some scans were refused, are out of reach or got no DICOM files), failed, interrupted,
            or fault (of the program).
        exit_code: Of the command.
        error: What the command printed last; None where it is done.
        started: ISO 8601, UTC.
        versions: Of cnr-iemn, Python and the main packages.
        device: Where the networks ran; empty where the command failed before.
        engine: What ran them, torch or openvino; empty likewise.
        study: The study's name.
        method: The stage-2 method.
        method_sha256: Of the method's file.
        seconds: By stage of ``STAGES``, and ``total``. ``predict``: reading and networks; ``write``: each scan's own
            files. The tables are in the total alone.
        output: The output folder; empty where the command failed before it was chosen.
        files: In it, sorted, as relative paths.
        scans: Number of scans in the input; None where they were not found.
        answered: Number of scans with a prediction, of earlier commands too; where interrupted, of this one alone.
        refusals: Ids of the refused scans by ``RefusalCode``, likewise.
        out_of_reach: Ids of the scans whose prediction is an earlier one, since nothing is at their place.
        without_dicom: Ids of the scans that got a prediction and no DICOM files by ``RefusalCode``; empty where
            interrupted.
    """

    status: str = "done"
    exit_code: int = 0
    error: str | None = None
    started: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    engine: str = ""
    study: str = ""
    method: str = ""
    method_sha256: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    output: str = ""
    files: list[str] = field(default_factory=list)
    scans: int | None = None
    answered: int = 0
    refusals: dict[str, list[str]] = field(default_factory=dict)
    out_of_reach: list[str] = field(default_factory=list)
    without_dicom: dict[str, list[str]] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


class RunReporter:
    """Takes note of a command's stages and results, and writes the report when its block ends, whatever ended it.

    Args:
        path: Of the report; an earlier one is removed at once. None: nothing is written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.report = RunReport(started=datetime.now(UTC).isoformat(timespec="seconds"), versions=installed_versions())
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._begin = perf_counter()
        if path is not None:
            path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._path is None:
            return
        report = self.report
        report.status, report.exit_code = _outcome(error)
        report.error = None if error is None else _words(error)
        report.seconds = {stage: round(seconds, 3) for stage, seconds in self._seconds.items()}
        report.seconds["total"] = round(perf_counter() - self._begin, 3)
        if report.output:
            folder = Path(report.output)
            patterns = _FILES if report.answered else ("refused.*",)
            report.files = sorted(
                path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern)
            )
        write_text_atomic(self._path, json_text(asdict(report)))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage. ``name``: one of ``STAGES``."""
        begin = perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += perf_counter() - begin

    def describe(self, predictor: Predictor, output: Path, *, n_scans: int) -> None:
        """Take note of what predicts, of the output folder and of the number of scans."""
        report, ensemble = self.report, predictor.ensemble
        report.device, report.engine = str(predictor.hardware), predictor.engine
        report.study, report.method, report.method_sha256 = ensemble.study, ensemble.method, ensemble.method_sha256
        report.output, report.scans = str(output), n_scans

    def timed(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """Yield each item; waiting for it counts as the stage."""
        iterator = iter(items)
        while True:
            with self.stage(stage):
                entry = next(iterator, None)
            if entry is None:
                return
            yield entry

    def add(self, result: ScanResult | Refusal) -> None:
        """Count the result for a scan."""
        if isinstance(result, Refusal):
            self.report.refusals.setdefault(result.code.value, []).append(result.scan_id)
        else:
            self.report.answered += 1

    def conclude(self, summary: Summary) -> None:
        """Count all answers of the output folder, those of earlier commands among them."""
        self.report.answered, self.report.refusals = len(summary.predicted), {}
        self.report.out_of_reach = summary.out_of_reach
        for refusal in summary.refusals:
            self.add(refusal)
        for refusal in summary.without_dicom:
            self.report.without_dicom.setdefault(refusal.code.value, []).append(refusal.scan_id)


def _words(error: BaseException) -> str:
    """Return what an error says; of one that is not ours its kind alone, since its words may name or quote a scan."""
    if isinstance(error, CnrIemnError):
        return str(error)
    reason = error.strerror if isinstance(error, OSError) else None
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__


def _outcome(error: BaseException | None) -> tuple[str, int]:
    """Return status and exit code, as ``config.entry_point`` has them."""
    if error is None:
        return "done", 0
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", error.exit_code if isinstance(error, Termination) else 130
    if isinstance(error, PartialFailureError):
        return "partial", 1
    return ("failed", 2) if isinstance(error, CnrIemnError | OSError) else ("fault", 1)
