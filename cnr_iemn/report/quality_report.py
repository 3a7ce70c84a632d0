"""Quality of prepared scans: a page with pictures of the lung masks, the same as JSON, and a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from cnr_iemn.constants import PHANTOM_NOTICE
from cnr_iemn.data.slice_store import SliceStore, StoredScan
from cnr_iemn.errors import ScanError, reasons
from cnr_iemn.inference.slice_images import lung_extent, thumbnail
from cnr_iemn.report.page_templates import page_templates
from cnr_iemn.schemas import SCHEMA_VERSION
from cnr_iemn.utils.atomic_io import json_text, write_text_atomic
from cnr_iemn.utils.console import table_console
from cnr_iemn.utils.text import visible

_SIDE = 192


@dataclass(frozen=True)
class QualityCard:
    """A scan on the page. ``pictures``: slice index and data URI."""

    scan_id: str
    doubtful: bool
    summary: str
    findings: tuple[str, ...]
    pictures: tuple[tuple[int, str], ...]


def write_quality_report(store: SliceStore, scan_ids: Sequence[str], refused: Mapping[str, ScanError]) -> Path:
    """Write report.html and report.json beside the prepared scans, and return the path of the page.

    Args:
        store: Holds the scans.
        scan_ids: Scans of the report; those with an uncertain lung mask come first.
        refused: By scan_id.
    """
    scans = sorted((store.scan(scan_id) for scan_id in scan_ids), key=lambda scan: not is_doubtful(scan))
    notice = {"notice": PHANTOM_NOTICE} if any(scan.phantom for scan in scans) else {}
    document = {
        **notice,
        "schema_version": SCHEMA_VERSION,
        "fingerprint": store.fingerprint,
        "settings": asdict(store.settings),
        "scans": [
            {
                "scan_id": scan.scan_id,
                "n_slices": scan.n_slices,
                "spacing_mm": scan.spacing_mm,
                "lung_litres": scan.lung_litres,
                "doubtful": is_doubtful(scan),
                "findings": scan.findings,
            }
            for scan in scans
        ],
        "refused": reasons(refused),
        "codes": {scan_id: error.code.value for scan_id, error in refused.items()},
    }
    write_text_atomic(store.root / "report.json", json_text(document))
    page = (
        page_templates()
        .get_template("quality.html")
        .render(
            notice=notice.get("notice"),
            cards=[_card(store, scan) for scan in scans],
            refused=list(reasons(refused).values()),
        )
    )
    write_text_atomic(store.root / "report.html", page)
    return store.root / "report.html"


def print_quality_table(store: SliceStore, scan_ids: Sequence[str]) -> None:
    """Print a line a scan: slices, spacing, litres and findings."""
    table = Table("scan", "slices", "spacing, mm", "lungs, litres", "findings", title="Scans prepared")
    for scan in map(store.scan, scan_ids):
        findings = Text(visible("; ".join(scan.findings)))
        name, litres = Text(visible(scan.scan_id)), _number(scan.lung_litres)
        table.add_row(name, str(scan.n_slices), _spacing(scan), litres, findings)
    table_console().print(table)


def is_doubtful(scan: StoredScan) -> bool:
    """Return whether a scan's lung mask should be looked at."""
    return any("in doubt" in finding for finding in scan.findings)


def _card(store: SliceStore, scan: StoredScan) -> QualityCard:
    grey, lungs = store.grey(scan.scan_id), store.lungs(scan.scan_id)
    indices = _three_slices(lungs[:])
    return QualityCard(
        scan_id=scan.scan_id,
        doubtful=is_doubtful(scan),
        summary=f"{scan.n_slices} slices; {_spacing(scan)} mm; {_number(scan.lung_litres)} litres",
        findings=scan.findings,
        pictures=tuple((k, thumbnail(grey[k], lungs[k], side=_SIDE)) for k in indices),
    )


def _spacing(scan: StoredScan) -> str:
    return " x ".join(map(_number, scan.spacing_mm))


def _number(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:.2f}"


def _three_slices(lungs: NDArray[np.uint8]) -> list[int]:
    """Return the slices at a quarter, half and three quarters of the lungs' height, or of the scan's without lungs."""
    first, last = lung_extent(lungs)
    return [round(first + share * (last - first)) for share in (0.25, 0.5, 0.75)]
