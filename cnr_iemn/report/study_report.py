"""report.html of an ensemble, one self-contained page with the result first, and its figures as files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnr_iemn.constants import (
    BOOSTER_METHOD,
    CLOSED_SET,
    N_GROUPS,
    PAPER_CHANNELS,
    PHANTOM_DISEASES,
    WEAK_LABELS_NOTICE,
)
from cnr_iemn.data.shortcut_features import kind_of
from cnr_iemn.data.slice_store import SliceStore, StoredScan
from cnr_iemn.evaluation.aggregate import Results
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.checklists.training_facts import CHANNEL_WORDS
from cnr_iemn.report.evidence_sentences import evidence_sentences
from cnr_iemn.report.figures import study_figures
from cnr_iemn.report.headline import key_figures, majority_sentence
from cnr_iemn.report.page_links import page_links
from cnr_iemn.report.page_templates import page_templates
from cnr_iemn.report.patient_rows import patient_rows
from cnr_iemn.report.population.tables import write_population_files
from cnr_iemn.report.quality_report import is_doubtful
from cnr_iemn.report.sections import Section, sections
from cnr_iemn.report.svg import PALETTE, Drawing
from cnr_iemn.report.tables.provenance import provenance_tables
from cnr_iemn.report.tables.results import ensemble_title, model_title
from cnr_iemn.report.training_curves import TrainingCurve
from cnr_iemn.schemas import READER, VALIDATION, probability_columns
from cnr_iemn.stage2.methods.registry import METHODS
from cnr_iemn.stage2.out_of_fold import OUT_OF_FOLD, PAPER
from cnr_iemn.stage2.provenance import StudyProvenance
from cnr_iemn.statistics.confidence_intervals import RESAMPLES
from cnr_iemn.statistics.curves import class_curves
from cnr_iemn.utils.atomic_io import json_text, write_text_atomic

PAGE_BYTES = 5_000_000
"""Limit of the page's size, so that it can be mailed and opened on a phone."""
_ROW_BYTES = 4_300_000


@dataclass(frozen=True)
class DataQuality:
    """Findings of preparation. ``doubtful``: scans with an uncertain lung mask. ``findings``: kind, number of scans."""

    n: int
    n_without_finding: int
    doubtful: list[StoredScan]
    findings: list[tuple[str, int]]


def write_report(
    folder: Path,
    results: Results,
    store: SliceStore,
    provenance: StudyProvenance,
    *,
    study: str,
    training: Mapping[str, TrainingCurve] | None = None,
    appendix: Sequence[Section] = (),
) -> None:
    """Write report.html, provenance.json, CSV files and figures/ into the ensemble's folder, each whole.

    Args:
        folder: The ensemble's.
        results: Of the aggregation.
        store: The slices that the study was trained on.
        provenance: provenance.json.
        study: Its name.
        training: Curves of the networks' training, by model.
        appendix: Further sections, after the others.
    """
    metrics = results.metrics
    held_out = results.patients[results.patients["split"] == VALIDATION]
    probabilities = held_out[probability_columns(metrics["classes"])].to_numpy(dtype=np.float64)
    labels, owners = held_out["label"].tolist(), held_out["patient_id"].tolist()
    curves = class_curves(labels, probabilities, metrics["classes"], owners, seed=provenance["booster_seed"])
    drawings = study_figures(metrics, curves, training)
    _write_figures(folder / "figures", drawings)
    write_text_atomic(folder / "provenance.json", json_text(provenance))
    method_file = METHODS[metrics["method"]].file
    links = page_links(folder, store, held_out.index, method_file=method_file)
    rows = patient_rows(held_out, results.contributions, results.slices, store, budget=_ROW_BYTES, links=links)
    context = {
        **_context(metrics, provenance, study),
        "sections": [*sections(metrics, drawings, curves), *appendix],
        "confusion": drawings["confusion"],
        "has_links": bool(links),
        "wrong": [row for row in rows if not row.correct],
        "correct": [row for row in rows if row.correct],
        "n_without_row": len(held_out) - len(rows),
        "quality": data_quality([store.scan(scan_id) for scan_id in results.patients.index]),
    }
    write_text_atomic(folder / "report.html", page_templates().get_template("study.html").render(context))
    write_population_files(folder, metrics)


def _context(metrics: StudyMetrics, provenance: StudyProvenance, study: str) -> dict[str, object]:
    """Return what the templates say in words of metrics and provenance."""
    return {
        "metrics": metrics,
        "classes": metrics["classes"],
        "study": study,
        "title": ensemble_title(metrics),
        "warnings": warnings(metrics, provenance),
        "key_figures": key_figures(metrics),
        "majority": majority_sentence(metrics),
        "evidence": evidence_sentences(metrics),
        "methods": methods_text(metrics, [run.get("channels", list(PAPER_CHANNELS)) for run in provenance["runs"]]),
        "provenance": provenance,
        "provenance_tables": provenance_tables(provenance),
        "closed_set": CLOSED_SET.format(first=metrics["classes"][0]),
        "colours": PALETTE,
    }


def _write_figures(folder: Path, drawings: Mapping[str, Drawing]) -> None:
    """Write each figure as a file, and remove those of an earlier aggregation, which measured more."""
    for drawing in drawings.values():
        write_text_atomic(folder / f"{drawing.name}.svg", drawing.as_file())
    for path in folder.glob("*.svg"):
        if path.stem not in drawings:
            path.unlink()


def warnings(metrics: StudyMetrics, provenance: StudyProvenance) -> list[str]:
    """Return what a reader must know before any result."""
    texts = []
    if provenance["phantom_disease"] is not None:
        texts.append(PHANTOM_DISEASES[provenance["phantom_disease"]])
    if any(run["labels_permuted"] for run in provenance["runs"]):
        texts.append("The networks were trained on permuted labels: a negative control with results at chance.")
    if metrics["audit"] is not None and metrics["audit"]["alarm"]:
        texts.append("The shortcut audit raises an alarm: something other than the lungs predicts the classes.")
    if metrics["near_duplicates"] is not None and metrics["near_duplicates"]["pairs"]:
        texts.append(
            "Training and validation scans look like the same scan exported twice (see Near-duplicates): if they are, "
            "the networks recognise them and the results are too good."
        )
    if metrics["slice_labels"] != READER:
        texts.append(WEAK_LABELS_NOTICE)
    if metrics["selected_on"]:
        texts.append(
            f"The networks' checkpoints were selected on this very set ({metrics['selected_on']}): the results are "
            "optimistic."
        )
    return texts


def methods_text(metrics: StudyMetrics, channels: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return how the study was made, a paragraph for each stage. ``channels``: of each network's input."""
    inputs = {tuple(CHANNEL_WORDS[name] for name in names): None for names in channels}
    models = ", ".join(model_title(model) for model in metrics["models"])
    n_networks = len(metrics["models"])
    networks = f"{n_networks} neural networks ({models}) assign"
    if n_networks == 1:
        networks = f"a neural network ({models}) assigns"
    percentages = ""
    if metrics["method"] == BOOSTER_METHOD:
        percentages = (
            f": for each network the percentage of slices of each class in {N_GROUPS} groups from top to base, "
            f"{metrics['n_features']} features in all"
        )
    fitted = {
        PAPER: "Stage 2 learns from the training scans, some of which trained the networks.",
        OUT_OF_FOLD: f"Stage 2 learns out of fold ({metrics['folds']} folds): each training scan is scored by networks "
        "that were not trained on it.",
    }
    return (
        f"Stage 1: {networks} each slice, as three channels ({' or '.join(map(', '.join, inputs))}), to a class and "
        "to a region of the lungs.",
        f"Stage 2: {metrics['method']} predicts the class of the scan from the networks' predictions of its slices"
        f"{percentages}. {fitted[metrics['features']]}",
        f"Statistics: Wilson's score interval for proportions; {RESAMPLES} bootstrap resamples of patients within "
        "their class for other metrics, with the models fixed; exact McNemar tests of paired predictions with Holm's "
        "correction; Tango's score interval for paired differences.",
        "After F. Bougourzi, R. Contino, C. Distante, A. Taleb-Ahmed, ICASSP 2021, "
        "doi 10.1109/ICASSP39728.2021.9414185.",
    )


def data_quality(scans: Sequence[StoredScan]) -> DataQuality:
    """Return the findings of preparation over all scans; a kind counts once a scan."""
    counts = Counter(kind for scan in scans for kind in {kind_of(finding) for finding in scan.findings})
    return DataQuality(
        n=len(scans),
        n_without_finding=sum(not scan.findings for scan in scans),
        doubtful=[scan for scan in scans if is_doubtful(scan)],
        findings=[(kind.replace("#", "n"), count) for kind, count in counts.most_common()],
    )
