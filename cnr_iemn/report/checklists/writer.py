"""Model card, data sheet and filled checklists of a study, as files and as a section of its report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cnr_iemn.data.slice_store import SliceStore
from cnr_iemn.evaluation.aggregate import Results
from cnr_iemn.report.checklists.checklist import (
    Checklist,
    checklist_section,
    checklist_table,
    fill,
    page_table,
    write_checklist,
)
from cnr_iemn.report.checklists.claim import CLAIM
from cnr_iemn.report.checklists.datasheet import DATASHEET
from cnr_iemn.report.checklists.model_card import write_model_card
from cnr_iemn.report.checklists.stard_ai import STARD_AI
from cnr_iemn.report.checklists.study_facts import gather_facts
from cnr_iemn.report.checklists.topics import statements
from cnr_iemn.report.checklists.tripod_ai import TRIPOD_AI
from cnr_iemn.report.sections import Section
from cnr_iemn.report.tables.external import external_summary
from cnr_iemn.report.tables.plan import plan_table
from cnr_iemn.stage2.ensemble_runs import EnsembleRuns
from cnr_iemn.stage2.provenance import StudyProvenance

CHECKLISTS: Mapping[str, Checklist] = {checklist.key: checklist for checklist in (CLAIM, TRIPOD_AI, STARD_AI)}
_PREFIX = "checklist-"


def write_checklists(
    folder: Path,
    names: Sequence[str],
    runs: EnsembleRuns,
    results: Results,
    store: SliceStore,
    provenance: StudyProvenance,
    *,
    study: str,
) -> tuple[Section, ...]:
    """Write model card, data sheet and named checklists, all from the same facts; return what the report shows.

    Files of checklists that an earlier aggregation wrote are removed: their facts were others.

    Args:
        folder: The ensemble's.
        names: Keys of ``CHECKLISTS``.
        runs, results, store, provenance: Of the study.
        study: Its name.

    Returns:
        The sections of external sets and of the analysis plan, where there are any, and of the named checklists.
    """
    study_facts = gather_facts(folder, runs, results, store, provenance)
    write_model_card(folder, study_facts, study=study)
    by_topic = statements(study_facts)
    notice = results.metrics.get("notice")
    for path in folder.glob(f"{_PREFIX}*"):
        if path.stem.removeprefix(_PREFIX) not in names:
            path.unlink()
    write_checklist(folder, DATASHEET.key, checklist_table(DATASHEET, fill(DATASHEET, by_topic), notice=notice))
    tables = []
    for name in names:
        checklist = CHECKLISTS[name]
        answers = fill(checklist, by_topic)
        tables.append(page_table(checklist, answers))
        write_checklist(folder, f"{_PREFIX}{name}", checklist_table(checklist, answers, notice=notice))
    external = (external_summary(study_facts.external, notice=notice),) if study_facts.external else ()
    plan = () if study_facts.plan is None else (plan_table(study_facts.plan),)
    sections = (
        Section("external", "External sets", tables=external),
        Section("plan", "Analysis plan", tables=plan, prose=True),
        checklist_section(tables),
    )
    return tuple(section for section in sections if section.has_content)
