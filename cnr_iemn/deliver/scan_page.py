"""One page for one scan: the answer first, then what it goes by, what speaks against it and how good the scan is."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnr_iemn.ct.plan import TURNED
from cnr_iemn.ct.prepare import PreparedScan
from cnr_iemn.deliver.gradcam import ensemble_maps
from cnr_iemn.deliver.key_slices import SIDE, WINDOW, KeySlice, key_slices, lung_window, pictures
from cnr_iemn.engine.answers import calibration_line, notice_of
from cnr_iemn.engine.ensembles import Ensemble
from cnr_iemn.engine.prediction import EnsembleNetworks
from cnr_iemn.files import write_text_atomic
from cnr_iemn.patients.cells import NONE
from cnr_iemn.patients.contributions import LEVELS, Contributions
from cnr_iemn.patients.slice_sets import ScanArray
from cnr_iemn.patients.tables import ResultTable, model_title
from cnr_iemn.report.drawing import PALETTE
from cnr_iemn.report.pages import CLOSED_SET, page_templates
from cnr_iemn.report.patients import group_shares, next_likely, reasons, slice_shares, strip_paths
from cnr_iemn.report.pictures import lung_slices

PAGE_BYTES = 2_000_000
"""What a page may weigh."""
_LONGEST_NAME = 80


@dataclass(frozen=True)
class Shown:
    """A slice as the page shows it. ``plain``, ``overlay``: data URIs; ``lung``: whether its mask holds any."""

    key: KeySlice
    z_mm: float
    lung: bool
    plain: str
    overlay: str | None

    @property
    def place(self) -> str:
        """Where the slice lies."""
        z = "z not known" if math.isnan(self.z_mm) else f"z {self.z_mm:.1f} mm"
        return f"{z}{'' if self.lung else ', no lung in it'}"


def page_name(scan_id: str) -> str:
    """Return the name of a scan's page: its id where that is a plain file name, else what can stay of it and a hash."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", scan_id).lstrip(".-")[:_LONGEST_NAME]
    if plain == scan_id:
        return f"{plain}.html"
    return f"{plain or 'scan'}-{hashlib.sha256(scan_id.encode()).hexdigest()[:8]}.html"


def write_scan_page(
    folder: Path,
    answer: Mapping[str, Any],
    gone_by: Contributions,
    sets: Sequence[ScanArray],
    prepared: PreparedScan,
    networks: EnsembleNetworks,
) -> str:
    """Write the page of one scan, whole or not at all; return its name in the folder.

    ``answer``: of ``scan_answers``; ``gone_by``: what the booster goes by, this scan among them; ``sets``: the scan as
    every set of networks sees it.
    """
    ensemble = networks.ensemble
    scan_id, row = answer["scan"], gone_by.scan_ids.index(answer["scan"])
    answered = ensemble.classes.index(answer["class"])
    keys = key_slices(gone_by.by_group[row, answered], sets, answered)
    maps = ensemble_maps(networks, prepared, [key.index for key in keys], target=answered, side=SIDE)
    page = (
        page_templates("cnr_iemn.deliver")
        .get_template("scan.html")
        .render(
            scan_id=scan_id,
            answer=answer,
            notice=notice_of(answer, ensemble),
            sentence=sentence(answer, ensemble),
            study=ensemble.study,
            classes=ensemble.classes,
            colours=PALETTE,
            closed_set=CLOSED_SET.format(first=ensemble.classes[0]),
            probabilities=probability_table(answer, ensemble),
            strip=strip_paths(group_shares(sets)),
            called=", ".join(
                f"{100 * share:.0f}% {name}" for name, share in zip(ensemble.classes, slice_shares(sets), strict=True)
            ),
            lungs=[20 * share for share in _lung_height(prepared)],
            shown=_shown(prepared, keys, maps, kept=ensemble.pixels.window),
            turned=TURNED in prepared.findings,
            window=WINDOW,
            kept=ensemble.pixels.window,
            left_out=[model_title(each.model) for each in ensemble.members if each.library != "torchvision"],
            reasons=reasons(gone_by, row, answered),
            contributions=contribution_table(gone_by, row, answered),
            quality=quality_table(answer, prepared),
        )
    )
    name = page_name(scan_id)
    write_text_atomic(folder / name, page)
    return name


def sentence(answer: Mapping[str, Any], ensemble: Ensemble) -> str:
    """Return the answer: a notice in place of the class for whatever is synthetic, undecided, or the class."""
    notice, named, frozen = notice_of(answer, ensemble), answer["class"], ensemble.calibration
    if notice is not None:
        return f"{notice[0].upper()}{notice[1:]}."
    if frozen is None:
        return f"This scan resembles {named} most: probability {answer['probabilities'][named]:.2f}, not calibrated."
    probability = answer["calibrated"][named]
    if answer["undecided"]:
        return (
            f"Undecided: the most probable class, {named}, has a calibrated probability of {probability:.2f}, and this "
            f"study answers from {frozen.threshold:.2f} on."
        )
    return f"This scan resembles {named} most: calibrated probability {probability:.2f}."


def probability_table(answer: Mapping[str, Any], ensemble: Ensemble) -> ResultTable:
    """Return the probabilities of each class beside its share of the training scans."""
    calibrated, counts = answer["calibrated"], ensemble.training_counts
    total = sum(counts.values())
    columns = ("class", *(("calibrated",) if calibrated else ()), "booster's own", f"training scans, {ensemble.cohort}")
    rows = tuple(
        (
            name,
            *((f"{calibrated[name]:.3f}",) if calibrated else ()),
            f"{answer['probabilities'][name]:.3f}",
            f"{counts[name]} of {total} ({100 * counts[name] / total:.0f}%)" if total else "not known",
        )
        for name in ensemble.classes
    )
    caption = (
        f"{calibration_line(ensemble)} They hold where the classes are as frequent as among those scans, and the scans "
        "are like them."
    )
    return ResultTable("Probabilities", columns, rows, caption=caption)


def contribution_table(gone_by: Contributions, row: int, answered: int) -> ResultTable:
    """Return by backbone and third what spoke for the answered class rather than the next likely one."""
    other = next_likely(gone_by, row, answered)
    levels = gone_by.by_level[row]
    against = other != answered
    difference = levels[answered] - levels[other] if against else levels[answered]
    base = gone_by.base[answered] - (gone_by.base[other] if against else 0)
    rows = [
        (model_title(model), *(f"{value:+.2f}" for value in values), f"{values.sum():+.2f}")
        for model, values in zip(gone_by.models, difference, strict=True)
    ]
    answer = f"for {gone_by.classes[answered]}"
    title = f"{answer} rather than {gone_by.classes[other]}, the next likely" if against else answer
    return ResultTable(
        f"Contributions {title}, log-odds",
        ("backbone", *LEVELS, "all"),
        (*rows, ("before any slice", *[""] * len(LEVELS), f"{base:+.2f}")),
        caption="Exact SHAP values of the booster; below zero speaks against. Thirds are of the slices.",
    )


def quality_table(answer: Mapping[str, Any], prepared: PreparedScan) -> ResultTable:
    """Return what is known of the scan as an image."""
    litres = answer["lung_litres"]
    spacing = " x ".join(NONE if math.isnan(value) else f"{value:.2f}" for value in prepared.spacing_mm)
    rows = [
        ("slices", str(answer["n_slices"])),
        ("spacing: slices, rows, columns", f"{spacing} mm"),
        ("lungs", "not known" if math.isnan(litres) else f"{litres:.2f} litres"),
    ]
    return ResultTable("The scan", ("what", ""), tuple(rows))


def _lung_height(prepared: PreparedScan) -> tuple[float, float]:
    """Return where the lungs begin and end, as shares of the slices."""
    first, last = lung_slices(prepared.lungs.view(np.uint8))
    return first / len(prepared.grey), (last + 1) / len(prepared.grey)


def _shown(
    prepared: PreparedScan, keys: Sequence[KeySlice], maps: Any, *, kept: tuple[float, float]
) -> tuple[Shown, ...]:
    marks = TURNED not in prepared.findings
    found = []
    for k, key in enumerate(keys):
        mask = prepared.lungs[key.index].astype(np.uint8)
        seen = lung_window(prepared.grey[key.index], kept=kept)
        plain, overlay = pictures(seen, mask, None if maps is None else maps[k], marks=marks)
        found.append(Shown(key, float(prepared.z_mm[key.index]), bool(mask.any()), plain, overlay))
    return tuple(found)
