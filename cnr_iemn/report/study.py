"""report.html of an ensemble: one page that holds everything, the answer first, and the figures as files beside it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnr_iemn.cohort.findings import kind_of
from cnr_iemn.cohort.store import SliceStore, StoredScan
from cnr_iemn.files import sha256_of_file, write_text_atomic
from cnr_iemn.patients.evidence.beside_tables import LEAK, evidence_by_topic, evidence_tables
from cnr_iemn.patients.evidence.cells import interval_text, percent, with_interval
from cnr_iemn.patients.evidence.results import Results
from cnr_iemn.patients.evidence.tables import ResultTable, ensemble_title, result_tables
from cnr_iemn.records import VALIDATION
from cnr_iemn.report.drawing import PALETTE, Drawing
from cnr_iemn.report.figures import study_figures
from cnr_iemn.report.origin import origin_tables
from cnr_iemn.report.pages import CLOSED_SET, page_templates
from cnr_iemn.report.patients import patient_rows
from cnr_iemn.report.quality import is_doubtful

PAGE_BYTES = 5_000_000
"""What the page may weigh, so that it can be mailed and opened on a phone."""
_ROW_BYTES = 4_300_000


@dataclass(frozen=True)
class Section:
    """A part of the page: figures, then tables. ``key``: its place within the page."""

    key: str
    heading: str
    text: str
    drawings: tuple[Drawing, ...]
    tables: tuple[ResultTable, ...]


def write_report(folder: Path, results: Results, store: SliceStore, origin: Mapping[str, Any], *, study: str) -> None:
    """Write report.html, model_card.md and figures/ into the ensemble's folder, each file whole or not at all.

    ``store``: that the study was trained on. ``origin``: provenance.json. ``study``: its name.
    """
    metrics = results.metrics
    drawings = study_figures(metrics)
    for drawing in drawings.values():
        write_text_atomic(folder / "figures" / f"{drawing.name}.svg", drawing.as_file())
    for path in (folder / "figures").glob("*.svg"):
        if path.stem not in drawings:
            path.unlink()  # of an earlier aggregation, which measured more
    held_out = results.patients[results.patients["split"] == VALIDATION]
    rows = patient_rows(held_out, results.contributions, results.slices, store, budget=_ROW_BYTES)
    about = {
        "metrics": metrics,
        "study": study,
        "title": ensemble_title(metrics),
        "answer": answer(metrics),
        "warnings": warnings(metrics, origin),
        "origin": origin,
        "closed_set": CLOSED_SET.format(first=metrics["classes"][0]),
    }
    templates = page_templates()
    page = templates.get_template("study.html").render(
        **about,
        classes=metrics["classes"],
        sections=sections(metrics, drawings),
        rows=rows,
        n_without_row=len(held_out) - len(rows),
        colours=PALETTE,
        quality=quality([store.scan(scan_id) for scan_id in results.patients.index]),
        origin_tables=origin_tables(origin),
    )
    write_text_atomic(folder / "report.html", page)
    card = templates.get_template("model_card.md").render(
        **about, tables=[*result_tables(metrics), *evidence_tables(metrics)], external=external_accuracies(folder)
    )
    write_text_atomic(folder / "model_card.md", card)


def external_accuracies(folder: Path) -> dict[str, str]:
    """Return the accuracy of each external set that this very booster was scored on, by set, in words."""
    booster = sha256_of_file(folder / "booster.ubj") if (folder / "booster.ubj").is_file() else None
    found = {}
    for path in sorted(folder.glob("external/*/metrics.json")):
        scored = json.loads(path.read_text(encoding="utf-8"))
        if scored.get("booster_sha256") == booster:
            accuracy = with_interval(scored["missing_as_wrong"]["accuracy"])
            found[scored["set"]] = f"{accuracy}, {scored['n_answered']} of {scored['n_labelled']} scans answered"
    return found


def answer(metrics: Mapping[str, Any]) -> str:
    """Return the study's answer in words."""
    accuracy = metrics["intervals"]["wilson"]["accuracy"]
    matrix, n = metrics["confusion_matrix"], metrics["n_patients"]
    right, commonest = sum(row[k] for k, row in enumerate(matrix)), max(map(sum, matrix))
    return (
        f"{ensemble_title(metrics)} answers {right} of {n} validation scans rightly: {percent(accuracy['value'])}% "
        f"{interval_text(accuracy)}. Always to name the most frequent class would be right for {commonest} of them, "
        f"{percent(commonest / n)}% (exact binomial p = {metrics['majority_p']:.2g})."
    )


def warnings(metrics: Mapping[str, Any], origin: Mapping[str, Any]) -> list[str]:
    """Return what a reader has to know before any figure."""
    found = [LEAK] if (metrics["permutation_test"] or {}).get("leaks") else []
    if any(run["labels_permuted"] for run in origin["runs"]):
        found.append("The networks were trained on permuted labels: a negative control, whose figures are chance.")
    if (metrics["audit"] or {}).get("alarm"):
        found.append("The audit of shortcuts raises an alarm: something other than the lungs tells the classes.")
    if metrics["selected_on"]:
        found.append(
            f"The networks' checkpoints were selected on this very set ({metrics['selected_on']}): the figures flatter."
        )
    return found


def sections(metrics: Mapping[str, Any], drawings: Mapping[str, Drawing]) -> list[Section]:
    """Return the parts of the page that metrics.json alone fills; those without content are left out."""
    first, second, confusion = result_tables(metrics)
    tables = evidence_by_topic(metrics)

    def figures(*names: str) -> tuple[Drawing, ...]:
        return tuple(drawings[name] for name in names if name in drawings)

    found = [
        Section("results", "Results", "", figures("confusion", "accuracy"), (second, confusion, first)),
        Section("trust", "How far the figures can be trusted", "", (), tables["trust"]),
        Section(
            "probabilities",
            "What the probabilities are worth",
            "",
            figures("reliability", "risk"),
            tables["probabilities"],
        ),
        Section(
            "shortcuts",
            "Could it be something other than the lungs?",
            "An alarm means that a shortcut is there to be taken, not that the networks take it.",
            (),
            tables["shortcuts"],
        ),
        Section("methods", "Ways from slices to patients", "", figures("methods"), tables["methods"]),
        Section(
            "sensitivity",
            "What the ensemble goes by",
            "Model sensitivity, not lesion or cause: the mean size of what each backbone's percentages in a group of "
            "slices add to, or take from, a class's log-odds over the validation scans (exact SHAP values).",
            figures("contributions"),
            (),
        ),
    ]
    return [section for section in found if section.drawings or section.tables]


def quality(scans: Sequence[StoredScan]) -> dict[str, Any]:
    """Return what preparation noted: scans whose mask is in doubt, and how many scans have each kind of finding."""
    counts = Counter(kind for scan in scans for kind in {kind_of(finding) for finding in scan.findings})
    return {
        "n": len(scans),
        "doubtful": [scan for scan in scans if is_doubtful(scan)],
        "findings": counts.most_common(),
        "without": sum(not scan.findings for scan in scans),
    }
