"""The page of one scan: the prediction, slice predictions, key slices, contributions, and the scan's quality."""

import math
from pathlib import Path

import numpy as np

from cnr_iemn.constants import CLOSED_SET, LUNG_WINDOW, PHANTOM_DISEASES
from cnr_iemn.ct.io.slice_order import TURNED
from cnr_iemn.ct.preprocess import PreparedScan
from cnr_iemn.inference.prediction_writer import ScanFiles
from cnr_iemn.inference.scan_result import (
    ScanPrediction,
    ScanResult,
    calibration_sentence,
    file_stem,
    notice_of,
    result_sentence,
)
from cnr_iemn.inference.slice_images import lung_extent
from cnr_iemn.report.page_templates import page_templates
from cnr_iemn.report.patient_rows import group_shares, next_likely, reasons, slice_shares, strip_paths
from cnr_iemn.report.scan_pictures import display_slices, group_levels, slice_views
from cnr_iemn.report.svg import PALETTE
from cnr_iemn.report.tables import NONE, ResultTable
from cnr_iemn.report.tables.results import model_title
from cnr_iemn.stage2.ensemble import Ensemble
from cnr_iemn.stage2.shap_values import LEVELS, Contributions
from cnr_iemn.utils.atomic_io import write_text_atomic

MAX_PAGE_BYTES = 2_000_000


class ScanPages:
    """Writes a page for each scan, ``<scan>.html``."""

    def __init__(self, folder: Path, ensemble: Ensemble) -> None:
        self._folder, self._ensemble = folder, ensemble

    def add(self, result: ScanResult) -> ScanFiles:
        """Write the page of a scan, whole or not at all."""
        name = f"{file_stem(result.scan_id)}.html"
        write_text_atomic(self._folder / name, scan_page(result, self._ensemble))
        return {"page": name}

    def close(self) -> None:
        """Nothing is left to do."""


def scan_page(result: ScanResult, ensemble: Ensemble) -> str:
    """Return the page of a scan as HTML."""
    prediction, prepared, contributions = result.prediction, result.prepared, result.contributions
    predicted = ensemble.classes.index(prediction["class"])
    shares = zip(ensemble.classes, slice_shares(result.sets), strict=True)
    with_maps = [member for member in ensemble.members if member.library == "torchvision"]
    first, last = lung_extent(prepared.lungs.view(np.uint8))
    display = display_slices(prepared, window=ensemble.pixels.window)
    return (
        page_templates()
        .get_template("scan.html")
        .render(
            prediction=prediction,
            notice=notice_of(prediction, ensemble),
            disease=PHANTOM_DISEASES.get(ensemble.phantom_disease or ""),
            sentence=page_sentence(prediction, ensemble),
            study=ensemble.study,
            classes=ensemble.classes,
            colours=PALETTE,
            closed_set=CLOSED_SET.format(first=ensemble.classes[0]),
            probabilities=probability_table(prediction, ensemble),
            bars=[100 * value for value in (prediction["calibrated"] or prediction["probabilities"]).values()],
            strip=strip_paths(group_shares(result.sets)),
            shares=", ".join(f"{100 * share:.0f}% {name}" for name, share in shares),
            lungs=[20 * first / len(prepared.grey), 20 * (last + 1) / len(prepared.grey)],
            views=slice_views(result, display),
            levels=group_levels(result, display, ensemble.classes),
            side=display.grey.shape[2],
            turned=TURNED in prepared.findings,
            lung_window=LUNG_WINDOW,
            without_maps=[
                model_title(name) for name in ensemble.models if name not in {member.model for member in with_maps}
            ],
            sides=sorted({member.image_size for member in with_maps}),
            reasons=reasons(contributions, result.scan_id, predicted),
            contributions=None if contributions is None else contribution_table(contributions, 0, predicted),
            method=ensemble.method,
            quality=quality_table(prediction, prepared),
        )
    )


def page_sentence(prediction: ScanPrediction, ensemble: Ensemble) -> str:
    """Return the prediction in a sentence; where anything is synthetic, of the model alone and not of a disease."""
    if notice_of(prediction, ensemble) is None:
        return result_sentence(prediction, ensemble)
    name = prediction["class"]
    if prediction["undecided"]:
        return f"Model output: undecided; the most probable class is {name}."
    return f"Model output: {name}, probability {(prediction['calibrated'] or prediction['probabilities'])[name]:.2f}."


def probability_table(prediction: ScanPrediction, ensemble: Ensemble) -> ResultTable:
    """Return the probabilities of each class beside its share of the training scans."""
    calibrated, counts = prediction["calibrated"], ensemble.training_counts
    total = sum(counts.values())
    columns = ("class", *(("calibrated",) if calibrated else ()), "uncalibrated", "training scans")
    rows = tuple(
        (
            name,
            *((f"{calibrated[name]:.3f}",) if calibrated else ()),
            f"{prediction['probabilities'][name]:.3f}",
            f"{counts[name]} ({100 * counts[name] / total:.0f}%)" if total else "not known",
        )
        for name in ensemble.classes
    )
    caption = (
        f"{calibration_sentence(ensemble)} The study was trained on {f'{total} scans' if total else 'scans'} of the "
        f"cohort {ensemble.cohort}; the probabilities may not hold for other cohorts or class frequencies."
    )
    return ResultTable("Probabilities", columns, rows, caption=caption)


def contribution_table(contributions: Contributions, row: int, predicted: int) -> ResultTable:
    """Return contributions to the predicted class, less those to the next likely one, by backbone and third."""
    rival = next_likely(contributions, row, predicted)
    levels, base = contributions.by_level[row], contributions.base
    has_rival = rival != predicted
    difference = levels[predicted] - levels[rival] if has_rival else levels[predicted]
    start = base[predicted] - (base[rival] if has_rival else 0)
    rows = [
        (model_title(model), *(f"{value:+.2f}" for value in values), f"{values.sum():+.2f}")
        for model, values in zip(contributions.models, difference, strict=True)
    ]
    title = f"to {contributions.classes[predicted]}"
    if has_rival:
        title += f" rather than {contributions.classes[rival]}, the next most probable class"
    return ResultTable(
        f"Contributions {title}, log-odds",
        ("backbone", *LEVELS, "all"),
        (*rows, ("before any slice", *[""] * len(LEVELS), f"{start:+.2f}")),
        caption=f"{contributions.attribution}; negative values are evidence against the class. Thirds of the slices.",
    )


def quality_table(prediction: ScanPrediction, prepared: PreparedScan) -> ResultTable:
    """Return number of slices, spacing and lung volume."""
    litres = prediction["lung_litres"]
    spacing = " x ".join(NONE if math.isnan(value) else f"{value:.2f}" for value in prepared.spacing_mm)
    rows = [
        ("slices", str(prediction["n_slices"])),
        ("spacing: slices, rows, columns", f"{spacing} mm"),
        ("lungs", "not known" if math.isnan(litres) else f"{litres:.2f} litres"),
    ]
    return ResultTable("The scan", ("measure", "value"), tuple(rows))
