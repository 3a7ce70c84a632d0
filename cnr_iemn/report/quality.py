"""What became of each scan: a page with pictures of the masks, and the same as JSON."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cnr_iemn.cohort.store import SliceStore, StoredScan
from cnr_iemn.files import json_text, write_text_atomic
from cnr_iemn.records import SCHEMA_VERSION
from cnr_iemn.registry import PHANTOM_NOTICE
from cnr_iemn.report.pictures import lung_slices, slice_picture

_SIDE = 192

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.notice { font-weight: 600; }
.scans { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; border-top: 1px solid #8888; padding-top: .4rem; }
figure.doubtful { border-top: 3px solid #d97706; }
figure div { display: flex; gap: 2px; }
img { width: 33.3%; min-width: 0; image-rendering: auto; background: #000; }
figcaption { overflow-wrap: anywhere; }
.finding { color: #b45309; } @media (prefers-color-scheme: dark) { .finding { color: #fbbf24; } }
"""


def write_quality_report(store: SliceStore, scan_ids: Sequence[str], refused: Mapping[str, str]) -> Path:
    """Write report.html and report.json beside the prepared scans; return the page.

    Doubtful scans come first. ``refused``: reason by scan id.
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
        "refused": dict(refused),
    }
    write_text_atomic(store.root / "report.json", json_text(document))
    page = store.root / "report.html"
    write_text_atomic(page, _page(store, scans, refused, phantom=bool(notice)))
    return page


def print_quality_table(store: SliceStore, scan_ids: Sequence[str]) -> None:
    """Print a line a scan: slices, spacing, litres and findings."""
    table = Table("scan", "slices", "spacing, mm", "lungs, litres", "findings", title="Scans prepared")
    for scan in map(store.scan, scan_ids):
        litres = _known(scan.lung_litres)
        table.add_row(Text(scan.scan_id), str(scan.n_slices), _spacing(scan), litres, Text("; ".join(scan.findings)))
    Console().print(table)


def _spacing(scan: StoredScan) -> str:
    return " x ".join(map(_known, scan.spacing_mm))


def _known(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:.2f}"


def is_doubtful(scan: StoredScan) -> bool:
    """Tell whether a scan's lung mask should be looked at."""
    return any("in doubt" in finding for finding in scan.findings)


def _page(store: SliceStore, scans: list[StoredScan], refused: Mapping[str, str], *, phantom: bool) -> str:
    doubtful = sum(is_doubtful(scan) for scan in scans)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>Scans prepared</title><style>{_STYLE}</style></head><body>",
        "<h1>Scans prepared</h1>",
        f'<p class="notice">{PHANTOM_NOTICE}</p>' if phantom else "",
        f"<p>{len(scans)} scans prepared, {doubtful} with a lung mask in doubt, {len(refused)} refused. "
        "The outline is the lung mask; slices at a quarter, half and three quarters of the lungs' height.</p>",
    ]
    if refused:
        items = "".join(f"<li>{html.escape(reason)}</li>" for reason in refused.values())
        parts.append(f"<h2>Refused</h2><ul>{items}</ul>")
    parts.append("<h2>Prepared, doubtful first</h2>")
    parts.append(f'<div class="scans">{"".join(_figure(store, scan) for scan in scans)}</div></body></html>')
    return "\n".join(part for part in parts if part)


def _figure(store: SliceStore, scan: StoredScan) -> str:
    grey, lungs = store.grey(scan.scan_id), store.lungs(scan.scan_id)
    name = html.escape(scan.scan_id)
    images = "".join(
        f'<img src="{slice_picture(grey[k], lungs[k], side=_SIDE)}" alt="{name}, slice {k}" loading="lazy">'
        for k in _three_slices(lungs[:])
    )
    facts = f"{scan.n_slices} slices; {_spacing(scan)} mm; {_known(scan.lung_litres)} litres"
    findings = "".join(f'<br><span class="finding">{html.escape(finding)}</span>' for finding in scan.findings)
    kind = ' class="doubtful"' if is_doubtful(scan) else ""
    return f"<figure{kind}><div>{images}</div><figcaption><b>{name}</b> {facts}{findings}</figcaption></figure>"


def _three_slices(lungs: NDArray[np.uint8]) -> list[int]:
    """Return the slices at a quarter, half and three quarters of the lungs' height, or of the scan's without lungs."""
    first, last = lung_slices(lungs)
    return [round(first + share * (last - first)) for share in (0.25, 0.5, 0.75)]
