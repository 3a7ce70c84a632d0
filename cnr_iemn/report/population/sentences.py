"""What is known of patients and scanners, and whether accuracy differs between them, in a sentence each."""

from cnr_iemn.data.demographics.group_table import title_of
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.evaluation.subgroups.interaction import SIGNIFICANCE
from cnr_iemn.evaluation.subgroups.scan_flow import ScanFlow

_EXPECTED = ("sex", "age", "site", "manufacturer")
"""Whose absence a reader must know."""


def population_sentence(metrics: StudyMetrics) -> str:
    """Return which variables are known of the scans and which are not, for the model card."""
    groups = {} if metrics["cohort_table"] is None else metrics["cohort_table"]["groups"]
    sentences = []
    if groups:
        sentences.append(f"Known of the scans: {', '.join(map(plain_title, groups))}.")
    absent = [plain_title(name) for name in _EXPECTED if name not in groups]
    if absent:
        sentences.append(f"Not known: {', '.join(absent)}.")
    return " ".join(sentences)


def flow_sentence(flow: ScanFlow) -> str:
    """Return how the scans found became those of the two sides."""
    refused = ", ".join(f"{n} for: {reason}" for reason, n in flow["refused"].items())
    sides = f"training {sum(flow['training'].values())}; validation {sum(flow['validation'].values())}"
    return (
        f"{flow['total']} scans found; {sum(flow['refused'].values())} refused{f' ({refused})' if refused else ''}; "
        f"{flow['excluded']} left out by name; {flow['unclassed']} without a class; {sides}."
    )


def subgroup_sentence(metrics: StudyMetrics) -> str:
    """Return whether accuracy differs between the groups of some variable, '' where none was tested."""
    tests = {
        plain_title(name): variable["interaction"]
        for name, variable in metrics["subgroups"].items()
        if variable["interaction"] is not None
    }
    if not tests:
        return ""
    lowest = min(tests, key=lambda name: tests[name]["p_holm"])
    different = [name for name, test in tests.items() if test["p_holm"] <= SIGNIFICANCE]
    if different:
        return (
            f"Subgroups: accuracy differs by {', '.join(different)} (p = {tests[lowest]['p_holm']:.2g} with Holm's "
            "correction): look at the groups in the report."
        )
    return (
        f"Subgroups: no difference of accuracy was found by {', '.join(tests)} (smallest p with Holm's correction "
        f"{tests[lowest]['p_holm']:.2g}); only large ones can be found with so few scans."
    )


def plain_title(name: str) -> str:
    """Return what sentences call a variable, without its unit."""
    return title_of(name).split(",")[0]
