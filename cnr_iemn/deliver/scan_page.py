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
from cnr_iemn.deliver.gradcam import Maps, ensemble_maps
from cnr_iemn.deliver.key_slices import SIDE, WINDOW, KeySlice, key_slices, slice_pictures
from cnr_iemn.deliver.scan_text import contribution_table, probability_table, quality_table, sentence
from cnr_iemn.engine.answers import notice_of
from cnr_iemn.engine.ensembles import Ensemble
from cnr_iemn.engine.prediction import EnsembleNetworks
from cnr_iemn.files import write_text_atomic
from cnr_iemn.patients.contributions import Contributions
from cnr_iemn.patients.evidence.tables import model_title
from cnr_iemn.patients.slice_sets import ScanArray
from cnr_iemn.report.drawing import PALETTE
from cnr_iemn.report.pages import CLOSED_SET, page_templates
from cnr_iemn.report.patients import group_shares, reasons, slice_shares, strip_paths
from cnr_iemn.report.pictures import data_uri, lung_slices

PAGE_BYTES = 2_000_000
"""What a page may weigh."""
_QUALITY = 82  # of its JPEGs
_LONGEST_NAME = 80


@dataclass(frozen=True)
class Shown:
    """A slice as the page shows it. ``plain``, ``overlay``: data URIs; ``lung``: whether its mask holds any.

    ``raised``: whether its map shows anything.
    """

    key: KeySlice
    z_mm: float
    lung: bool
    plain: str
    overlay: str | None
    raised: bool

    @property
    def place(self) -> str:
        """Where the slice lies."""
        z = "z not known" if math.isnan(self.z_mm) else f"z {self.z_mm:.1f} mm"
        return f"{z}{'' if self.lung else ', no lung in it'}"


def page_name(scan_id: str) -> str:
    """Return the name of a scan's page: its id where that is a plain file name, else what can stay of it and a hash."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", scan_id).lstrip(".-")[:_LONGEST_NAME]
    if plain and plain == scan_id:
        return f"{plain}.html"
    return f"{plain or 'scan'}-{hashlib.sha256(scan_id.encode()).hexdigest()[:8]}.html"


@dataclass(frozen=True)
class KeyEvidence:
    """What the networks looked at. ``keys``: the slices that contributed most; ``maps``: one for each, or none known.

    ``maps``: float32 [keys, SIDE, SIDE], 0 to 1.
    """

    keys: tuple[KeySlice, ...]
    maps: Maps | None


def key_evidence(
    answer: Mapping[str, Any],
    gone_by: Contributions,
    sets: Sequence[ScanArray],
    prepared: PreparedScan,
    networks: EnsembleNetworks,
) -> KeyEvidence:
    """Return the slices that contributed most to an answer with their Grad-CAM maps.

    ``answer``: of ``scan_answers``; ``gone_by``: what the booster goes by, this scan among them; ``sets``: the scan as
    every set of networks sees it.
    """
    row = gone_by.scan_ids.index(answer["scan"])
    answered = gone_by.classes.index(answer["class"])
    keys = key_slices(gone_by.by_group[row, answered], sets, answered)
    maps = ensemble_maps(networks, prepared, [key.index for key in keys], target=answered, side=SIDE)
    return KeyEvidence(keys, maps)


def write_scan_page(
    folder: Path,
    answer: Mapping[str, Any],
    gone_by: Contributions,
    sets: Sequence[ScanArray],
    prepared: PreparedScan,
    ensemble: Ensemble,
    seen: KeyEvidence,
) -> str:
    """Write the page of one scan, whole or not at all; return its name in the folder.

    The arguments are those of ``key_evidence`` and what it returned.
    """
    name = page_name(answer["scan"])
    page = scan_page(answer, gone_by, sets, prepared, ensemble, seen.keys, seen.maps)
    write_text_atomic(folder / name, page)
    return name


def scan_page(
    answer: Mapping[str, Any],
    gone_by: Contributions,
    sets: Sequence[ScanArray],
    prepared: PreparedScan,
    ensemble: Ensemble,
    keys: Sequence[KeySlice],
    maps: Maps | None,
) -> str:
    """Return the page as HTML. ``keys``: the slices to show; ``maps``: one for each, float32 [SIDE, SIDE], 0 to 1."""
    row = gone_by.scan_ids.index(answer["scan"])
    answered = gone_by.classes.index(answer["class"])
    shares = zip(ensemble.classes, slice_shares(sets), strict=True)
    mapped = [member for member in ensemble.members if member.library == "torchvision"]
    template = page_templates("cnr_iemn.deliver").get_template("scan.html")
    return template.render(
        answer=answer,
        notice=notice_of(answer, ensemble),
        sentence=sentence(answer, ensemble),
        study=ensemble.study,
        classes=ensemble.classes,
        colours=PALETTE,
        closed_set=CLOSED_SET.format(first=ensemble.classes[0]),
        probabilities=probability_table(answer, ensemble),
        strip=strip_paths(group_shares(sets)),
        called=", ".join(f"{100 * share:.0f}% {name}" for name, share in shares),
        lungs=[20 * share for share in _lung_height(prepared)],
        shown=_shown(prepared, keys, maps, kept=ensemble.pixels.window),
        turned=TURNED in prepared.findings,
        window=WINDOW,
        kept=ensemble.pixels.window,
        left_out=[model_title(name) for name in ensemble.models if name not in {each.model for each in mapped}],
        sides=sorted({each.image_size for each in mapped}),
        reasons=reasons(gone_by, row, answered),
        contributions=contribution_table(gone_by, row, answered),
        quality=quality_table(answer, prepared),
    )


def _lung_height(prepared: PreparedScan) -> tuple[float, float]:
    """Return where the lungs begin and end, as shares of the slices."""
    first, last = lung_slices(prepared.lungs.view(np.uint8))
    return first / len(prepared.grey), (last + 1) / len(prepared.grey)


def _shown(
    prepared: PreparedScan, keys: Sequence[KeySlice], maps: Maps | None, *, kept: tuple[float, float]
) -> tuple[Shown, ...]:
    found = []
    for k, key in enumerate(keys):
        plain, overlay = slice_pictures(prepared, key.index, None if maps is None else maps[k], kept=kept)
        above = None if overlay is None else data_uri(overlay, quality=_QUALITY)
        place = float(prepared.z_mm[key.index]), bool(prepared.lungs[key.index].any())
        raised = maps is not None and bool(np.rint(255 * maps[k]).any())
        found.append(Shown(key, *place, data_uri(plain, quality=_QUALITY), above, raised))
    return tuple(found)
