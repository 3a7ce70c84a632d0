"""report.html of an ensemble, one self-contained page with the result first; its figures as files; the model card."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnr_iemn.constants import CLOSED_SET, WEAK_LABELS_NOTICE
from cnr_iemn.data.shortcut_features import kind_of
from cnr_iemn.data.slice_store import SliceStore, StoredScan
from cnr_iemn.evaluation.aggregate import Results
from cnr_iemn.evaluation.external_metrics import read_external_accuracies
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.figures import study_figures
from cnr_iemn.report.headline import headline
from cnr_iemn.report.page_templates import page_templates
from cnr_iemn.report.patient_rows import patient_rows
from cnr_iemn.report.quality_report import is_doubtful
from cnr_iemn.report.svg import PALETTE, Drawing
from cnr_iemn.report.tables import ResultTable, with_interval
from cnr_iemn.report.tables.evidence import evidence_by_topic, evidence_tables
from cnr_iemn.report.tables.results import ensemble_title, provenance_tables, result_tables
from cnr_iemn.schemas import READER, VALIDATION
from cnr_iemn.stage2.methods.registry import METHODS
from cnr_iemn.stage2.provenance import StudyProvenance
from cnr_iemn.utils.atomic_io import sha256_of_file, write_text_atomic

PAGE_BYTES = 5_000_000
"""Limit of the page's size, so that it can be mailed and opened on a phone."""
_ROW_BYTES = 4_300_000
_PHANTOM_DISEASES = {
    "published": "The phantom's disease is the published one: frequencies of signs as in published series.",
    "clear": "The phantom's disease is the clear one: shape and place tell COVID-19 from CAP, density does not.",
}


@dataclass(frozen=True)
class Section:
    """A section of the page: figures, then tables. ``key``: its anchor. ``details``: tables that are folded."""

    key: str
    heading: str
    text: str = ""
    drawings: tuple[Drawing, ...] = ()
    tables: tuple[ResultTable, ...] = ()
    details: tuple[ResultTable, ...] = ()


@dataclass(frozen=True)
class DataQuality:
    """Findings of preparation. ``doubtful``: scans with an uncertain lung mask. ``findings``: kind, number of scans."""

    n: int
    n_without_finding: int
    doubtful: list[StoredScan]
    findings: list[tuple[str, int]]


def write_report(folder: Path, results: Results, store: SliceStore, provenance: StudyProvenance, *, study: str) -> None:
    """Write report.html, model_card.md and figures/ into the ensemble's folder, each file whole or not at all.

    Args:
        folder: The ensemble's.
        results: Of the aggregation.
        store: The slices that the study was trained on.
        provenance: provenance.json.
        study: Its name.
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
    context = {
        "metrics": metrics,
        "study": study,
        "title": ensemble_title(metrics),
        "headline": headline(metrics),
        "warnings": warnings(metrics, provenance),
        "provenance": provenance,
        "closed_set": CLOSED_SET.format(first=metrics["classes"][0]),
    }
    templates = page_templates()
    page = templates.get_template("study.html").render(
        **context,
        classes=metrics["classes"],
        sections=sections(metrics, drawings),
        wrong=[row for row in rows if not row.correct],
        correct=[row for row in rows if row.correct],
        n_without_row=len(held_out) - len(rows),
        colours=PALETTE,
        quality=data_quality([store.scan(scan_id) for scan_id in results.patients.index]),
        provenance_tables=provenance_tables(provenance),
    )
    write_text_atomic(folder / "report.html", page)
    card = templates.get_template("model_card.md").render(
        **context,
        tables=[*result_tables(metrics), *evidence_tables(metrics)],
        external=external_accuracies(folder, METHODS[metrics["method"]].file),
    )
    write_text_atomic(folder / "model_card.md", card)


def external_accuracies(folder: Path, method_file: str) -> dict[str, str]:
    """Return the accuracy of each external set that this very fit of stage 2 was scored on, by set, in words.

    ``method_file``: of the declared method, in the folder.
    """
    fitted = sha256_of_file(folder / method_file) if (folder / method_file).is_file() else None
    return {
        metrics["set"]: f"{with_interval(metrics['missing_as_wrong']['accuracy'])}, {metrics['n_predicted']} of "
        f"{metrics['n_labelled']} scans predicted"
        for metrics in read_external_accuracies(folder, fitted)
    }


def warnings(metrics: StudyMetrics, provenance: StudyProvenance) -> list[str]:
    """Return what a reader must know before any result."""
    texts = []
    if provenance["phantom_disease"] is not None:
        texts.append(_PHANTOM_DISEASES[provenance["phantom_disease"]])
    if any(run["labels_permuted"] for run in provenance["runs"]):
        texts.append("The networks were trained on permuted labels: a negative control with results at chance.")
    if metrics["audit"] is not None and metrics["audit"]["alarm"]:
        texts.append("The shortcut audit raises an alarm: something other than the lungs predicts the classes.")
    if metrics["slice_labels"] != READER:
        texts.append(WEAK_LABELS_NOTICE)
    if metrics["selected_on"]:
        texts.append(
            f"The networks' checkpoints were selected on this very set ({metrics['selected_on']}): the results are "
            "optimistic."
        )
    return texts


def sections(metrics: StudyMetrics, drawings: Mapping[str, Drawing]) -> list[Section]:
    """Return the sections of the page that show the metrics; empty ones are left out."""
    first, second, confusion = result_tables(metrics)
    tables = evidence_by_topic(metrics)
    confidence, probabilities = tables["confidence"], tables["probabilities"]

    def figures(*names: str) -> tuple[Drawing, ...]:
        return tuple(drawings[name] for name in names if name in drawings)

    every = [
        Section(
            "results",
            "Results",
            "Tables 1 and 2 and Figure 4 are those of the paper, for this cohort.",
            drawings=figures("confusion", "accuracy"),
            tables=(second,),
            details=(confusion, first),
        ),
        Section("confidence", "Confidence and comparisons", tables=confidence[:1], details=confidence[1:]),
        Section(
            "probabilities",
            "Calibration and decision thresholds",
            drawings=figures("reliability", "risk"),
            tables=probabilities[:2],
            details=probabilities[2:],
        ),
        Section(
            "shortcuts",
            "Shortcuts",
            "An alarm means that a shortcut exists, not that the networks use it.",
            tables=tables["shortcuts"],
        ),
        Section("methods", "Stage-2 methods", drawings=figures("methods"), details=tables["methods"]),
        Section(
            "importance",
            "Feature importance",
            "Model sensitivity, not lesion or cause: the mean absolute contribution of each backbone's slices in a "
            "group to a class's log-odds, over the validation scans (of XGBoost, exact SHAP values).",
            drawings=figures("contributions"),
        ),
    ]
    shown = [section for section in every if section.drawings or section.tables or section.details]
    if metrics["contributions"] is None:
        text = f"The stage-2 method, {metrics['method']}, does not say what each slice contributes."
        shown.append(Section("importance", "Feature importance", text))
    return shown


def data_quality(scans: Sequence[StoredScan]) -> DataQuality:
    """Return the findings of preparation over all scans; a kind counts once a scan."""
    counts = Counter(kind for scan in scans for kind in {kind_of(finding) for finding in scan.findings})
    return DataQuality(
        n=len(scans),
        n_without_finding=sum(not scan.findings for scan in scans),
        doubtful=[scan for scan in scans if is_doubtful(scan)],
        findings=counts.most_common(),
    )
