"""The topics of checklists: which fact each is about, and what it says. Without the fact it says nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cnr_iemn.report.checklists import data_topics, evidence_topics, model_topics, result_topics
from cnr_iemn.report.checklists.checklist import Statement
from cnr_iemn.report.checklists.study_facts import StudyFacts


@dataclass(frozen=True)
class Topic:
    """A statement and the fact that it is made from.

    ``fact``: a field of ``StudyFacts``. ``state``: from that field alone, None where it says nothing on the topic.
    """

    fact: str
    state: Callable[[Any], Statement | None]


TOPICS: Mapping[str, Topic] = {
    "cohort": Topic("cohort", data_topics.source),
    "eligibility": Topic("cohort", data_topics.eligibility),
    "subsets": Topic("cohort", data_topics.subsets),
    "labels": Topic("cohort", data_topics.labels),
    "counts": Topic("cohort", data_topics.counts),
    "preprocessing": Topic("pixels", data_topics.preprocessing),
    "crop": Topic("pixels", data_topics.crop),
    "missing": Topic("pixels", data_topics.missing),
    "acquisition": Topic("acquisition", data_topics.acquisition),
    "quality": Topic("quality", data_topics.quality),
    "partition": Topic("training", data_topics.partition),
    "disjoint": Topic("metrics", data_topics.disjoint),
    "architecture": Topic("training", model_topics.architecture),
    "initialisation": Topic("training", model_topics.initialisation),
    "training": Topic("training", model_topics.training),
    "augmentation": Topic("training", model_topics.augmentation),
    "balancing": Topic("training", model_topics.balancing),
    "hardware": Topic("training", model_topics.hardware),
    "averaging": Topic("training", model_topics.averaging),
    "method": Topic("metrics", model_topics.method),
    "predictors": Topic("metrics", model_topics.predictors),
    "selection": Topic("metrics", model_topics.selection),
    "ensemble": Topic("metrics", model_topics.ensemble),
    "output": Topic("metrics", model_topics.output),
    "stage2": Topic("provenance", model_topics.stage2),
    "specification": Topic("provenance", model_topics.specification),
    "software": Topic("provenance", model_topics.software),
    "code": Topic("provenance", model_topics.code),
    "commands": Topic("provenance", model_topics.commands),
    "outputs": Topic("errors", result_topics.outputs),
    "errors": Topic("errors", result_topics.errors),
    "plan": Topic("plan", evidence_topics.plan),
    "external": Topic("external", result_topics.external),
    "result": Topic("metrics", result_topics.result),
    "flow": Topic("metrics", result_topics.flow),
    "population": Topic("metrics", result_topics.population),
    "unknown_values": Topic("metrics", result_topics.unknown_values),
    "devices": Topic("metrics", result_topics.devices),
    "centres": Topic("metrics", result_topics.centres),
    "subgroups": Topic("metrics", result_topics.subgroups),
    "internal": Topic("metrics", result_topics.internal),
    "metrics": Topic("metrics", result_topics.metrics_used),
    "uncertainty": Topic("metrics", evidence_topics.uncertainty),
    "stability": Topic("metrics", evidence_topics.stability),
    "ablations": Topic("metrics", evidence_topics.ablations),
    "robustness": Topic("metrics", evidence_topics.robustness),
    "attribution": Topic("metrics", evidence_topics.attribution),
    "discrimination": Topic("metrics", result_topics.discrimination),
    "rates": Topic("metrics", result_topics.rates),
    "calibration": Topic("metrics", evidence_topics.calibration),
    "updating": Topic("metrics", evidence_topics.updating),
    "undecided": Topic("metrics", evidence_topics.undecided),
    "threshold": Topic("metrics", evidence_topics.threshold),
    "decision": Topic("metrics", evidence_topics.decision),
    "prevalence": Topic("metrics", result_topics.prevalence),
    "precision": Topic("metrics", result_topics.precision),
    "confusion": Topic("metrics", result_topics.confusion),
    "audit": Topic("metrics", evidence_topics.audit),
    "limitations": Topic("metrics", evidence_topics.limitations),
}


def statements(study: StudyFacts) -> dict[str, Statement]:
    """Return what a study says, by topic; a topic without its fact is absent."""
    answers = {}
    for name, topic in TOPICS.items():
        fact = getattr(study, topic.fact)
        statement = None if fact is None else topic.state(fact)
        if statement is not None:
            answers[name] = statement
    return answers
