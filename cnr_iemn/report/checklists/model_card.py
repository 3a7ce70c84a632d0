"""model_card.md of an ensemble, from the facts and sentences of the checklists."""

from itertools import chain
from pathlib import Path

from cnr_iemn.constants import CLOSED_SET
from cnr_iemn.report.checklists.study_facts import StudyFacts
from cnr_iemn.report.checklists.topics import statements
from cnr_iemn.report.page_templates import page_templates
from cnr_iemn.report.population.sentences import plain_title
from cnr_iemn.report.population.tables import population_tables
from cnr_iemn.report.study_report import warnings
from cnr_iemn.report.tables import with_interval
from cnr_iemn.report.tables.evidence import evidence_by_topic
from cnr_iemn.report.tables.external import answer_text, mixture_text
from cnr_iemn.report.tables.results import ensemble_title, result_tables
from cnr_iemn.report.tables.robustness import robustness_table
from cnr_iemn.utils.atomic_io import write_text_atomic

CARD_FILE = "model_card.md"
_MODEL = ("method", "architecture", "initialisation", "averaging", "stage2", "predictors", "output", "threshold")
_DATA = (
    *("cohort", "labels", "flow", "counts", "partition", "disjoint", "internal", "selection"),
    *("population", "unknown_values", "devices", "acquisition", "preprocessing", "crop", "missing", "quality"),
)
_LIMITS = ("limitations", "external", "subgroups", "audit", "precision", "prevalence")


def write_model_card(folder: Path, study_facts: StudyFacts, *, study: str) -> None:
    """Write model_card.md into the ensemble's folder. What the run does not know is left out or "not measured".

    The card goes into bundles: it names no scan.

    Args:
        folder: The ensemble's.
        study_facts: With metrics and provenance.
        study: Its name.
    """
    metrics, provenance = study_facts.metrics, study_facts.provenance
    if metrics is None or provenance is None:
        raise ValueError("A model card needs the metrics and the provenance of its study.")
    sentences = {name: statement.sentence for name, statement in statements(study_facts).items()}
    tested = [name for name, variable in metrics["subgroups"].items() if variable["interaction"] is not None]
    scan_topics = ("duplicates", "robustness")  # whose tables name scans
    evidence = [tables for topic, tables in evidence_by_topic(metrics).items() if topic not in scan_topics]
    if metrics["robustness"] is not None:
        evidence.append((robustness_table(metrics, names_scans=False),))
    context = {
        "metrics": metrics,
        "provenance": provenance,
        "study": study,
        "title": ensemble_title(metrics),
        "warnings": warnings(metrics, provenance),
        "sentences": sentences,
        "parts": {
            "The model": [sentences[name] for name in _MODEL if name in sentences],
            "Data": [sentences[name] for name in _DATA if name in sentences],
            "Limits": [sentences[name] for name in _LIMITS if name in sentences],
        },
        "groups": ", ".join(map(plain_title, tested)),
        "closed_set": CLOSED_SET.format(first=metrics["classes"][0]),
        "external": {
            scores["set"]: f"{with_interval(scores['intervals']['wilson']['accuracy'])}; with the refused counted as "
            f"wrong {with_interval(scores['missing_as_wrong']['accuracy'])}; {answer_text(scores)}"
            f"{mixture_text(scores)}"
            for scores in study_facts.external or ()
        },
        "tables": [*population_tables(metrics), *result_tables(metrics), *chain.from_iterable(evidence)],
    }
    write_text_atomic(folder / CARD_FILE, page_templates().get_template(CARD_FILE).render(context))
