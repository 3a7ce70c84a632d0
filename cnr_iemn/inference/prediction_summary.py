"""What the answers of an output folder amount to: counts, refusals, and the lines that end predict.py."""

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from cnr_iemn.constants import notice_for
from cnr_iemn.errors import InputError, PartialFailureError, RunError
from cnr_iemn.inference.answers import AnswerFolder
from cnr_iemn.inference.scan_result import Refusal, calibration_sentence
from cnr_iemn.schemas import SCHEMA_VERSION
from cnr_iemn.stage2.ensemble import LoadedEnsemble
from cnr_iemn.utils.atomic_io import write_text_atomic
from cnr_iemn.utils.exclusions import FILE_NAME, exclusion_text
from cnr_iemn.utils.spreadsheet import people_csv
from cnr_iemn.utils.text import MAX_NAMES, grouped, listed

log = logging.getLogger(__name__)

REFUSALS = "refused.csv"
_REFUSAL_COLUMNS = ("schema_version", "scan", "code", "reason")


@dataclass
class Summary:
    """The answers for some scans.

    Attributes:
        predicted: The scans with a prediction, in the order of the input.
        refusals: The refused scans, in the order of the input.
        missing: Scans without an answer.
        out_of_reach: Of the predicted scans, those whose prediction is an earlier one, since nothing is at their place.
        without_dicom: Scans with a prediction that got no DICOM files, in the order of the input.
        files: Of single scans, relative to the output folder.
        engines: What ran the networks.
        phantom: Some scan is synthetic.
        channels: Of a slice and network, the same in all scans; 0 without a prediction.
    """

    predicted: list[str] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    out_of_reach: list[str] = field(default_factory=list)
    without_dicom: list[Refusal] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    engines: set[str] = field(default_factory=set)
    phantom: bool = False
    channels: int = 0

    @property
    def refused(self) -> dict[str, str]:
        """Reason by refused scan."""
        return _reasons(self.refusals)

    @property
    def codes(self) -> dict[str, str]:
        """``RefusalCode`` by refused scan."""
        return {refusal.scan_id: refusal.code.value for refusal in self.refusals}

    @property
    def share(self) -> float:
        """Scans with a prediction, as a share of all; 1 of none."""
        n_scans = len(self.predicted) + len(self.refusals) + len(self.missing)
        return len(self.predicted) / n_scans if n_scans else 1.0


def _reasons(refusals: Sequence[Refusal]) -> dict[str, str]:
    return {refusal.scan_id: refusal.reason for refusal in refusals}


def summarize(answers: AnswerFolder, scan_ids: Iterable[str], *, missing: Collection[str] = ()) -> Summary:
    """Return what there is of answers for these scans. ``missing``: scans whose answers, if any, are of the past."""
    summary = Summary()
    outdated = set(missing)
    for scan_id in scan_ids:
        answer = None if scan_id in outdated else answers.read(scan_id)
        if answer is None:
            summary.missing.append(scan_id)
            continue
        if answer.refused is not None:
            assert answer.code is not None
            summary.refusals.append(Refusal(scan_id, answer.refused, answer.code))
            continue
        assert answer.prediction is not None
        assert answer.probabilities is not None
        summary.predicted.append(scan_id)
        if scan_id in answers.out_of_reach:
            summary.out_of_reach.append(scan_id)
        summary.files.update(answer.files)
        summary.engines.add(answer.engine)
        summary.phantom |= answer.probabilities.phantom
        summary.channels = answer.probabilities.networks.shape[2]
        dicom = answer.prediction["dicom"]
        if dicom is not None and dicom["refused"] is not None:
            assert dicom["code"] is not None
            summary.without_dicom.append(Refusal(scan_id, dicom["refused"], dicom["code"]))
    return summary


def print_summary(summary: Summary, answers: AnswerFolder, loaded: LoadedEnsemble, *, dicom: bool) -> None:
    """Print what the probabilities are and where the files are. ``dicom``: DICOM files were asked for."""
    if not summary.predicted:
        return
    folder, ensemble = answers.output, loaded.ensemble
    notice = notice_for(study=ensemble.phantom, scans=summary.phantom)
    pages = sorted(name for name in summary.files if name.endswith(".html"))
    n_features = sum(name.startswith("features/") for name in summary.files)
    lines = [notice] if notice else []
    lines.append(calibration_sentence(ensemble))
    lines.append(f"wrote {folder}/predictions.json, predictions.csv, slices.csv and predictions.parquet")
    if pages:
        lines.append(f"page: {folder / pages[0]}" if len(pages) == 1 else f"{len(pages)} pages: {folder}/*.html")
    if n_features:
        lines.append(f"wrote the features of {n_features} scans to {folder / 'features'}")
    if dicom:
        lines.append(f"DICOM files: {folder / 'dicom'}/")
    for line in lines:
        log.info("%s", line)


def print_part(summary: Summary, part: str | None) -> None:
    """Print what a part has done and how the parts are joined."""
    log.info(
        "%s: %d scans predicted, %d refused. After the last part, join them: the same command with join=true, "
        "without part=.",
        part,
        len(summary.predicted),
        len(summary.refused),
    )


def raise_if_incomplete(summary: Summary, answers: AnswerFolder, *, whole: bool = True) -> None:
    """Report scans without a prediction, or without DICOM files. ``whole``: the summary is of all scans, not of a part.

    Raises:
        InputError: No scan has a prediction; where they are many, refused.csv and refused.txt list them.
        RunError: No scan has an answer.
        PartialFailureError: Some scans were refused, are out of reach, got no DICOM files, or have no answer yet.
    """
    refused, missing, n_predicted = summary.refused, summary.missing, len(summary.predicted)
    n_scans, rest = n_predicted + len(refused) + len(missing), f"{answers.output}/predictions.json"
    if refused and not n_predicted and not missing and whole:
        path = answers.output / FILE_NAME
        if len(refused) > MAX_NAMES:
            write_refusals(answers.output, summary.refusals)
            write_text_atomic(path, exclusion_text(refused))
        reasons = grouped(refused, rest=str(path))
        codes = sorted({refusal.code for refusal in summary.refusals})
        raise InputError(f"None of the {len(refused)} scans of the input can be classified:\n{reasons}", codes)
    problems = []
    if missing:
        problems.append(
            f"{len(missing)} of {n_scans} scans have no answer with these settings: {listed(missing)}. Run "
            "their parts with the same settings, or leave join=true out to predict them here."
        )
    if refused:
        problems.append(f"{len(refused)} of {n_scans} scans were refused:\n{grouped(refused, rest=rest)}")
    if summary.out_of_reach:
        problems.append(
            f"{len(summary.out_of_reach)} of {n_scans} scans are out of reach, and their earlier predictions stay: "
            f"{listed(summary.out_of_reach)}. If their disk is not mounted, mount it and run the same command again; "
            "scans that the input no longer names lose their predictions."
        )
    if summary.without_dicom:
        reasons = grouped(_reasons(summary.without_dicom), rest=rest)
        n_without = len(summary.without_dicom)
        problems.append(f"{n_without} of {n_predicted} scans with a prediction got no DICOM:\n{reasons}")
    if problems:
        raise (RunError if len(missing) == n_scans else PartialFailureError)("\n".join(problems))


def write_refusals(folder: Path, refusals: Sequence[Refusal]) -> None:
    """Write refused.csv of predict.py's output folder, a row a refused scan; without one, remove an earlier file.

    Args:
        folder: predict.py's output folder.
        refusals: In the order of the input.
    """
    path = folder / REFUSALS
    if not refusals:
        path.unlink(missing_ok=True)
        return
    rows = [(SCHEMA_VERSION, refusal.scan_id, refusal.code.value, refusal.reason) for refusal in refusals]
    write_text_atomic(path, people_csv(pd.DataFrame(rows, columns=_REFUSAL_COLUMNS)))
