"""What predict.py says of new scans, and the files that hold it."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnr_iemn.engine.ensembles import Ensemble
from cnr_iemn.engine.prediction import ScanSlices
from cnr_iemn.files import json_text, write_text_atomic
from cnr_iemn.patients.contributions import Contributions
from cnr_iemn.patients.new_scans import NewScan, NewScans, write_new_scans
from cnr_iemn.records import SCHEMA_VERSION, NewScansMetadata, calibrated_columns, probability_columns
from cnr_iemn.registry import notice_for

_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_OURS = re.compile(rf"{_NAME}\.html|dicom/{_NAME}/(report|capture|lungs)\.dcm")
"""What predict.py writes beside its tables."""


def new_scans(
    scans: list[ScanSlices], ensemble: Ensemble, *, name: str, booster_sha256: str, refused: Mapping[str, str]
) -> NewScans:
    """Return what predictions.parquet keeps of these scans. ``name``: of the ensemble in its study."""
    metadata = NewScansMetadata(
        study=ensemble.study,
        ensemble=name,
        classes=ensemble.classes,
        networks=ensemble.networks,
        booster_sha256=booster_sha256,
        refused=dict(refused),
        phantom=ensemble.phantom,
    )
    return NewScans(
        {
            scan.scan_id: NewScan(
                scan.z_mm, scan.phantom, scan.grey_sha256, np.stack([scan.networks[m] for m in ensemble.members])
            )
            for scan in scans
        },
        metadata,
    )


def scan_answers(
    scans: list[ScanSlices], probabilities: NDArray[np.float64], gone_by: Contributions, ensemble: Ensemble
) -> list[dict[str, Any]]:
    """Return one JSON-ready answer for each scan (docs/predictions.md).

    ``probabilities``: the booster's, float64 [scans, classes]; ``gone_by``: what it goes by, of the same scans.
    ``calibrated`` and ``undecided`` are None where the ensemble is not calibrated; the class is the same either way.
    ``page`` and ``dicom`` are left to who writes them.
    """
    classes, frozen = ensemble.classes, ensemble.calibration
    calibrated = [None] * len(scans) if frozen is None else frozen.calibrated(probabilities)
    undecided = [None] * len(scans) if frozen is None else frozen.undecided(probabilities).tolist()
    return [
        {
            "scan": scan.scan_id,
            "phantom": scan.phantom,
            "class": classes[int(row.argmax())],
            "undecided": in_doubt,
            "calibrated": None if fitted is None else _by_class(classes, fitted),
            "probabilities": _by_class(classes, row),
            "n_slices": scan.n_slices,
            "lung_litres": scan.lung_litres,
            "findings": list(scan.findings),
            "contributions": gone_by.of_scan(scan.scan_id),
            "page": None,
            "dicom": None,
            "slices": [
                {
                    "slice_index": k,
                    "z_mm": float(scan.z_mm[k]),
                    "probabilities": {
                        model: _by_class(classes, values[k]) for model, values in scan.probabilities.items()
                    },
                }
                for k in range(scan.n_slices)
            ],
        }
        for scan, row, fitted, in_doubt in zip(scans, probabilities, calibrated, undecided, strict=True)
    ]


def _by_class(classes: tuple[str, ...], values: NDArray[np.floating]) -> dict[str, float]:
    return dict(zip(classes, values.tolist(), strict=True))


def notice_of(answer: Mapping[str, Any], ensemble: Ensemble) -> str | None:
    """Return what stands in place of a scan's class where the study or the scan is synthetic, else None."""
    return notice_for(study=ensemble.phantom, scans=answer["phantom"])


def answer_line(answer: Mapping[str, Any], ensemble: Ensemble) -> str:
    """Return what is printed of one answer: calibrated probabilities where there are any."""
    probabilities = answer["calibrated"] or answer["probabilities"]
    figures = "  ".join(f"{label} {value:.3f}" for label, value in probabilities.items())
    named = answer["class"] + ("  undecided" if answer["undecided"] else "")
    findings = f"  ({'; '.join(answer['findings'])})" if answer["findings"] else ""
    told = notice_of(answer, ensemble) or named
    return f"{answer['scan']}: {told}  {figures}  {answer['n_slices']} slices{findings}"


def calibration_line(ensemble: Ensemble) -> str:
    """Return where the printed probabilities come from."""
    frozen = ensemble.calibration
    if frozen is None:
        return "The probabilities are the booster's own, not calibrated: the ensemble has no temperature."
    return (
        f"Probabilities at temperature {frozen.temperature:.2f}, undecided below {frozen.threshold:.3f}: learnt on "
        f"{frozen.n} training scans of {frozen.cohort} on {frozen.date}, "
        f"{100 * frozen.answer_share:.0f}% of them to be answered."
    )


def write_answers(
    output: Path, ensemble: Ensemble, answers: list[dict[str, Any]], kept: NewScans, *, engine: str
) -> None:
    """Write predictions.json, predictions.csv (a line a scan), slices.csv (a line a slice and model) and ``kept``.

    ``engine``: what ran the networks. Pages and DICOM files that an earlier predictions.json in the folder lists, and
    that are not of these answers, are removed.
    """
    stale = _written_before(output / "predictions.json") - _beside(answers)
    notice = {} if kept.notice is None else {"notice": kept.notice}
    head = {"schema_version": SCHEMA_VERSION, "study": ensemble.study, "models": list(ensemble.models)}
    calibration = None if ensemble.calibration is None else asdict(ensemble.calibration)
    known = {"classes": list(ensemble.classes), "calibration": calibration, "engine": engine}
    document = {**notice, **head, **known, "scans": answers, "refused": kept.metadata.refused}
    write_text_atomic(output / "predictions.json", json_text(document))
    columns, calibrated = probability_columns(ensemble.classes), calibrated_columns(ensemble.classes)
    unknown = dict.fromkeys(ensemble.classes)
    scans = [
        {
            **notice,
            "schema_version": SCHEMA_VERSION,
            "scan": answer["scan"],
            "phantom": answer["phantom"],
            "class": answer["class"],
            "undecided": answer["undecided"],
            **dict(zip(columns, answer["probabilities"].values(), strict=True)),
            **dict(zip(calibrated, (answer["calibrated"] or unknown).values(), strict=True)),
            "n_slices": answer["n_slices"],
            "lung_litres": answer["lung_litres"],
            "findings": "; ".join(answer["findings"]),
        }
        for answer in answers
    ]
    slices = [
        {
            **notice,
            "schema_version": SCHEMA_VERSION,
            "scan": answer["scan"],
            "slice_index": entry["slice_index"],
            "z_mm": entry["z_mm"],
            "model": model,
            **dict(zip(columns, values.values(), strict=True)),
        }
        for answer in answers
        for entry in answer["slices"]
        for model, values in entry["probabilities"].items()
    ]
    write_text_atomic(output / "predictions.csv", pd.DataFrame(scans).to_csv(index=False))
    write_text_atomic(output / "slices.csv", pd.DataFrame(slices).to_csv(index=False))
    write_new_scans(output / "predictions.parquet", kept)
    for name in stale:
        (output / name).unlink(missing_ok=True)
    for folder in {(output / name).parent for name in stale} - {output}:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _beside(answers: list[dict[str, Any]]) -> set[str]:
    """Return what lies beside the tables for these answers, relative to their folder."""
    files = {name for answer in answers for name in (answer.get("dicom") or {"files": []})["files"]}
    return files | {answer["page"] for answer in answers if answer["page"]}


def _written_before(path: Path) -> set[str]:
    """Return what a predictions.json says lies beside it, as far as it has our names: what it says is not trusted."""
    try:
        names = _beside(json.loads(path.read_text(encoding="utf-8"))["scans"])
        return {name for name in names if _OURS.fullmatch(name)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there, damaged or of another program
        return set()
