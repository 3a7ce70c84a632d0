"""The files of predict.py: predictions.json, its tables, and what further outputs write for each scan."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Required, Self

import pandas as pd
from typing_extensions import TypedDict

from cnr_iemn.errors import InputError, PartialFailureError, RunError
from cnr_iemn.inference.refusal_table import write_refusals
from cnr_iemn.inference.scan_result import (
    DicomFiles,
    PredictionDocument,
    Refusal,
    ScanPrediction,
    ScanResult,
    calibration_sentence,
    result_line,
)
from cnr_iemn.schemas import SCHEMA_VERSION, NewScansMetadata, calibrated_columns, probability_columns
from cnr_iemn.stage2.ensemble import LoadedEnsemble
from cnr_iemn.stage2.new_scans import NewScan, NewScans, write_new_scans
from cnr_iemn.utils.atomic_io import json_text, write_text_atomic
from cnr_iemn.utils.exclusions import FILE_NAME, exclusion_text
from cnr_iemn.utils.json_io import read_json
from cnr_iemn.utils.spreadsheet import people_csv
from cnr_iemn.utils.text import MAX_NAMES, grouped

log = logging.getLogger(__name__)

_STEM = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_OUTPUT_FILE = re.compile(rf"{_STEM}\.html|dicom/{_STEM}/(report|capture|lungs)\.dcm")
"""Files that predict.py writes for single scans, relative to its output folder."""


class ScanFiles(TypedDict, total=False):
    """What an output has written for a scan; the keys are those of ``ScanPrediction``."""

    page: str
    dicom: DicomFiles


class ScanOutput(Protocol):
    """An output with files for each scan, such as pages or DICOM files."""

    @property
    def summary(self) -> str:
        """A line that says where the files are."""

    def add(self, result: ScanResult) -> None:
        """Take a scan: write its files now, or keep what is needed to write them in ``finish``."""

    def finish(self) -> Mapping[str, ScanFiles]:
        """Write all remaining files; return by scan id what was written."""


class PredictionWriter:
    """Takes results one at a time; writes the files when its block ends without an error.

    Args:
        folder: Where to write.
        loaded: The ensemble that makes the predictions.
        engine: What runs the networks, torch or openvino.
        n_scans: How many results there will be, for the lines that count them.
        outputs: Further outputs.
    """

    def __init__(
        self, folder: Path, loaded: LoadedEnsemble, *, engine: str, n_scans: int, outputs: Sequence[ScanOutput] = ()
    ) -> None:
        self._folder, self._loaded, self._engine, self._outputs = folder, loaded, engine, outputs
        self._n_scans = n_scans
        self._predictions: list[ScanPrediction] = []
        self._scans: dict[str, NewScan] = {}
        self._refused: dict[str, str] = {}
        self._refusals: list[Refusal] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if kind is None and self._predictions:
            self._write()

    def add(self, result: ScanResult | Refusal) -> None:
        """Take the result for one scan and print its line."""
        count = f"{len(self._predictions) + len(self._refused) + 1}/{self._n_scans}"
        if isinstance(result, Refusal):
            self._refused[result.scan_id] = result.reason
            self._refusals.append(result)
            log.info("%s  %s: refused", count, result.scan_id)
            return
        log.info("%s  %s", count, result_line(result.prediction, self._loaded.ensemble))
        self._predictions.append(result.prediction)
        self._scans[result.scan_id] = result.probabilities
        for output in self._outputs:
            output.add(result)

    @property
    def share_predicted(self) -> float:
        """Scans with a prediction, as a share of all."""
        return len(self._predictions) / (len(self._predictions) + len(self._refused))

    @property
    def notice(self) -> str | None:
        """The notice on top of all files where the study or a scan is synthetic, else None."""
        return self._new_scans().notice

    def _new_scans(self) -> NewScans:
        ensemble = self._loaded.ensemble
        metadata = NewScansMetadata(
            study=ensemble.study,
            ensemble=self._loaded.name,
            classes=ensemble.classes,
            networks=ensemble.networks,
            method_sha256=ensemble.method_sha256,
            refused=self._refused,
            phantom=ensemble.phantom,
            components=self._components(),
            attention=ensemble.axes.attention,
        )
        return NewScans(self._scans, metadata)

    def _components(self) -> int:
        """Return how many components of features a slice has, the same in all scans."""
        widths = {scan.networks.shape[2] for scan in self._scans.values()}
        return next(iter(widths)) - self._loaded.ensemble.axes.channels if widths else 0

    def _document(self) -> PredictionDocument:
        ensemble = self._loaded.ensemble
        document: PredictionDocument = {
            "schema_version": SCHEMA_VERSION,
            "study": ensemble.study,
            "method": ensemble.method,
            "models": list(ensemble.models),
            "classes": list(ensemble.classes),
            "calibration": None if ensemble.calibration is None else asdict(ensemble.calibration),
            "engine": self._engine,
            "scans": self._predictions,
            "refused": self._refused,
        }
        return document if self.notice is None else {"notice": self.notice, **document}

    def _write(self) -> None:
        for output in self._outputs:
            files = output.finish()
            for prediction in self._predictions:
                written = files.get(prediction["scan"], {})
                prediction["page"] = written.get("page", prediction["page"])
                prediction["dicom"] = written.get("dicom", prediction["dicom"])
        folder, path = self._folder, self._folder / "predictions.json"
        stale = _earlier_files(path) - _scan_files(self._predictions)
        document = self._document()
        write_text_atomic(path, json_text(document))
        write_text_atomic(folder / "predictions.csv", people_csv(pd.DataFrame(_scan_rows(document))))
        write_text_atomic(folder / "slices.csv", people_csv(pd.DataFrame(_slice_rows(document))))
        write_new_scans(folder / "predictions.parquet", self._new_scans())
        write_refusals(folder, self._refusals)
        for name in stale:
            (folder / name).unlink(missing_ok=True)
        for parent in {(folder / name).parent for name in stale} - {folder}:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()

    def print_summary(self) -> None:
        """Print what the probabilities are and where the files are."""
        if not self._predictions:
            return
        ensemble = self._loaded.ensemble
        lines = [self.notice] if self.notice else []
        lines.append(calibration_sentence(ensemble))
        lines.append(f"wrote {self._folder}/predictions.json, predictions.csv, slices.csv and predictions.parquet")
        for line in (*lines, *(output.summary for output in self._outputs)):
            log.info("%s", line)

    def raise_if_incomplete(self) -> None:
        """Report scans without a prediction, or without DICOM files.

        Raises:
            InputError: No scan has a prediction; where they are many, refused.csv and refused.txt list them.
            PartialFailureError: Some scans were refused, or got no DICOM files.
        """
        if not self._predictions:
            path = self._folder / FILE_NAME
            if len(self._refused) > MAX_NAMES:
                write_refusals(self._folder, self._refusals)
                write_text_atomic(path, exclusion_text(self._refused))
            reasons = grouped(self._refused, rest=str(path))
            raise InputError(f"None of the {len(self._refused)} scans of the input can be classified:\n{reasons}")
        n_scans, rest = len(self._predictions) + len(self._refused), f"{self._folder}/predictions.json"
        problems = []
        if self._refused:
            reasons = grouped(self._refused, rest=rest)
            problems.append(f"{len(self._refused)} of {n_scans} scans were refused:\n{reasons}")
        no_dicom = {
            prediction["scan"]: prediction["dicom"]["refused"]
            for prediction in self._predictions
            if prediction["dicom"] is not None and prediction["dicom"]["refused"] is not None
        }
        if no_dicom:
            reasons = grouped(no_dicom, rest=rest)
            n_predicted = len(self._predictions)
            problems.append(f"{len(no_dicom)} of {n_predicted} scans with a prediction got no DICOM:\n{reasons}")
        if problems:
            raise PartialFailureError("\n".join(problems))


def _scan_rows(document: PredictionDocument) -> list[dict[str, Any]]:
    """Return predictions.csv, a row for each scan."""
    classes = document["classes"]
    unknown = dict.fromkeys(classes)
    return [
        {
            **_first_columns(document),
            "scan": prediction["scan"],
            "phantom": prediction["phantom"],
            "class": prediction["class"],
            "undecided": prediction["undecided"],
            **dict(zip(probability_columns(classes), prediction["probabilities"].values(), strict=True)),
            **dict(zip(calibrated_columns(classes), (prediction["calibrated"] or unknown).values(), strict=True)),
            "n_slices": prediction["n_slices"],
            "lung_litres": prediction["lung_litres"],
            "findings": "; ".join(prediction["findings"]),
        }
        for prediction in document["scans"]
    ]


def _slice_rows(document: PredictionDocument) -> list[dict[str, Any]]:
    """Return slices.csv, a row for each slice and model."""
    return [
        {
            **_first_columns(document),
            "scan": prediction["scan"],
            "slice_index": entry["slice_index"],
            "z_mm": entry["z_mm"],
            "model": model,
            **dict(zip(probability_columns(document["classes"]), probabilities.values(), strict=True)),
        }
        for prediction in document["scans"]
        for entry in prediction["slices"]
        for model, probabilities in entry["probabilities"].items()
    ]


def _first_columns(document: PredictionDocument) -> dict[str, Any]:
    notice = {"notice": document["notice"]} if "notice" in document else {}
    return {**notice, "schema_version": SCHEMA_VERSION}


class _DicomEntry(TypedDict):
    files: list[str]


class _EarlierPrediction(TypedDict, total=False):
    page: Required[str | None]
    dicom: _DicomEntry | None


class _EarlierDocument(TypedDict):
    scans: list[_EarlierPrediction]


def _scan_files(predictions: Iterable[ScanPrediction | _EarlierPrediction]) -> set[str]:
    """Return the pages and DICOM files of these predictions, relative to the output folder."""
    files: set[str] = set()
    for prediction in predictions:
        files.update((prediction.get("dicom") or {"files": []})["files"])
        if prediction["page"]:
            files.add(prediction["page"])
    return files


def _earlier_files(path: Path) -> set[str]:
    """Return the files of an earlier predictions.json, which is not trusted: only names that predict.py gives."""
    try:
        earlier = read_json(path, _EarlierDocument, again="", extra="ignore", versioned=False)
    except (RunError, OSError):  # missing, damaged or of another program
        return set()
    return {name for name in _scan_files(earlier["scans"]) if _OUTPUT_FILE.fullmatch(name)}
