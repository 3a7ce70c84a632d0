"""predictions.json, its tables and predictions.parquet, made from the answers of an output folder, a scan at a time."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Required

import pandas as pd
from typing_extensions import TypedDict

from cnr_iemn.constants import notice_for
from cnr_iemn.errors import RunError
from cnr_iemn.inference.answers import FOLDER, Answer, AnswerFolder, remove_files
from cnr_iemn.inference.prediction_summary import REFUSALS, Summary, summarize, write_refusals
from cnr_iemn.inference.scan_result import PredictionDocument, ScanPrediction
from cnr_iemn.schemas import SCHEMA_VERSION, NewScansMetadata, calibrated_columns, probability_columns
from cnr_iemn.stage2.ensemble import LoadedEnsemble
from cnr_iemn.stage2.new_scans import NewScan, NewScans, write_new_scans
from cnr_iemn.utils.atomic_io import atomic_file, json_text
from cnr_iemn.utils.json_io import read_json
from cnr_iemn.utils.spreadsheet import people_csv

_DOCUMENT, _TABLES = "predictions.json", ("predictions.csv", "slices.csv", "predictions.parquet")
_MARK = ".complete"
"""Beside the answers once predictions.json is made from them: it names no file that they do not."""
_OUT_OF_REACH = "an earlier prediction: the scan was out of reach when predict.py last looked"
_NO_SCANS = '\n "scans": []'


class StoredScans(Mapping[str, NewScan]):
    """The slice predictions of the scans with a prediction, each read when it is needed."""

    def __init__(self, answers: AnswerFolder, scan_ids: Sequence[str]) -> None:
        self._answers, self._scan_ids = answers, scan_ids

    def __getitem__(self, scan_id: str) -> NewScan:
        scan = _stored(self._answers, scan_id).probabilities
        if scan is None:
            raise KeyError(scan_id)
        return scan

    def __iter__(self) -> Iterator[str]:
        return iter(self._scan_ids)

    def __len__(self) -> int:
        return len(self._scan_ids)


def join_answers(
    answers: AnswerFolder, scan_ids: Sequence[str], loaded: LoadedEnsemble, *, missing: Collection[str] = ()
) -> Summary:
    """Write the files of an output folder from the answers for these scans, and return their summary.

    Where no scan has a prediction, the refusals are not kept, and earlier predictions, whose scans have changed or
    gone, are removed. ``missing``: scans whose part has not answered them yet. Raises RunError as
    ``write_prediction_files`` does.
    """
    summary = summarize(answers, scan_ids, missing=missing)
    if summary.predicted:
        write_prediction_files(answers, summary, loaded)
    elif not summary.missing:
        _remove_predictions(answers)
    return summary


def write_prediction_files(answers: AnswerFolder, summary: Summary, loaded: LoadedEnsemble) -> None:
    """Write the files of an output folder, each whole or as it was, and remove those of scans that it no longer has.

    Args:
        answers: Of all scans that the summary counts.
        summary: Of these answers.
        loaded: The ensemble that made the predictions.

    Raises:
        RunError: An answer was damaged or removed meanwhile.
    """
    folder = answers.output
    new = NewScans(StoredScans(answers, summary.predicted), _metadata(summary, loaded))
    earlier = set() if (folder / FOLDER / _MARK).is_file() else earlier_files(folder / _DOCUMENT)
    head = _document_head(summary, loaded)
    _write_document(folder / _DOCUMENT, head, _predictions(answers, summary))
    for name, rows in zip(_TABLES, (_scan_rows, _slice_rows), strict=False):
        tables = (pd.DataFrame(rows(head, prediction)) for prediction in _predictions(answers, summary))
        with atomic_file(folder / name) as file:
            for k, table in enumerate(tables):
                file.write(people_csv(table, header=k == 0).encode())
    write_new_scans(folder / "predictions.parquet", new)
    write_refusals(folder, summary.refusals)
    answers.remove_others([*summary.predicted, *summary.refused, *summary.missing])
    remove_files(folder, earlier - summary.files)
    (folder / FOLDER / _MARK).touch()


def _remove_predictions(answers: AnswerFolder) -> None:
    """Leave no answer, and no file of this or an earlier prediction: predictions.json goes before what it names."""
    folder = answers.output
    earlier = earlier_files(folder / _DOCUMENT)
    for name in (_DOCUMENT, *_TABLES, REFUSALS, f"{FOLDER}/{_MARK}"):
        (folder / name).unlink(missing_ok=True)
    answers.remove_others(())
    remove_files(folder, earlier)


def _stored(answers: AnswerFolder, scan_id: str) -> Answer:
    answer = answers.read(scan_id)
    if answer is None:
        raise RunError(
            f"{scan_id}: its answer in {answers.folder} was removed or damaged meanwhile. Run the same command again."
        )
    return answer


def _predictions(answers: AnswerFolder, summary: Summary) -> Iterator[ScanPrediction]:
    out_of_reach = set(summary.out_of_reach)
    for scan_id in summary.predicted:
        prediction = _stored(answers, scan_id).prediction
        assert prediction is not None
        if scan_id in out_of_reach:
            prediction["findings"] = [*prediction["findings"], _OUT_OF_REACH]
        yield prediction


def _metadata(summary: Summary, loaded: LoadedEnsemble) -> NewScansMetadata:
    ensemble = loaded.ensemble
    return NewScansMetadata(
        study=ensemble.study,
        ensemble=loaded.name,
        classes=ensemble.classes,
        networks=ensemble.networks,
        method_sha256=ensemble.method_sha256,
        refused=dict(summary.refused),
        phantom=ensemble.phantom,
        components=summary.channels - ensemble.axes.channels,
        attention=ensemble.axes.attention,
        codes=summary.codes,
    )


def _document_head(summary: Summary, loaded: LoadedEnsemble) -> PredictionDocument:
    """Return predictions.json without its scans."""
    ensemble = loaded.ensemble
    document: PredictionDocument = {
        "schema_version": SCHEMA_VERSION,
        "study": ensemble.study,
        "method": ensemble.method,
        "models": list(ensemble.models),
        "classes": list(ensemble.classes),
        "calibration": None if ensemble.calibration is None else asdict(ensemble.calibration),
        "engine": " and ".join(sorted(summary.engines)),
        "scans": [],
        "refused": dict(summary.refused),
        "codes": summary.codes,
    }
    notice = notice_for(study=ensemble.phantom, scans=summary.phantom)
    return document if notice is None else {"notice": notice, **document}


def _write_document(path: Path, head: PredictionDocument, predictions: Iterable[ScanPrediction]) -> None:
    """Write predictions.json as ``json_text`` would, with one prediction in memory."""
    before, _, after = json_text(head).partition(_NO_SCANS)
    with atomic_file(path) as file:
        file.write(f'{before}\n "scans": ['.encode())
        for k, prediction in enumerate(predictions):
            entry = json_text(prediction).replace("\n", "\n  ")  # no text in JSON has a line end
            file.write(f"{',' if k else ''}\n  {entry}".encode())
        file.write(f"\n ]{after}".encode())


def _scan_rows(document: PredictionDocument, prediction: ScanPrediction) -> list[dict[str, Any]]:
    """Return the row of a scan in predictions.csv."""
    classes = document["classes"]
    calibrated = prediction["calibrated"] or dict.fromkeys(classes)
    row = {
        **_first_columns(document),
        "scan": prediction["scan"],
        "phantom": prediction["phantom"],
        "class": prediction["class"],
        "undecided": prediction["undecided"],
        **dict(zip(probability_columns(classes), prediction["probabilities"].values(), strict=True)),
        **dict(zip(calibrated_columns(classes), calibrated.values(), strict=True)),
        "n_slices": prediction["n_slices"],
        "lung_litres": prediction["lung_litres"],
        "findings": "; ".join(prediction["findings"]),
    }
    return [row]


def _slice_rows(document: PredictionDocument, prediction: ScanPrediction) -> list[dict[str, Any]]:
    """Return the rows of a scan in slices.csv, one for each slice and model."""
    return [
        {
            **_first_columns(document),
            "scan": prediction["scan"],
            "slice_index": entry["slice_index"],
            "z_mm": entry["z_mm"],
            "model": model,
            **dict(zip(probability_columns(document["classes"]), probabilities.values(), strict=True)),
        }
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


def earlier_files(path: Path) -> set[str]:
    """Return the files that an earlier predictions.json names; none where it is missing, damaged or another program's.

    It is not trusted: ``remove_files`` takes only names that predict.py gives.
    """
    try:
        earlier = read_json(path, _EarlierDocument, again="", extra="ignore", versioned=False)
    except (RunError, OSError):
        return set()
    files: set[str] = set()
    for prediction in earlier["scans"]:
        files.update((prediction.get("dicom") or {"files": []})["files"])
        if prediction["page"]:
            files.add(prediction["page"])
    return files
