"""STARD-AI for studies of diagnostic accuracy; every request in our own words."""

from cnr_iemn.report.checklists.checklist import Checklist, Item

_FRONT, _INTRODUCTION, _DESIGN = "Title and abstract", "Introduction", "Methods: design and participants"
_DATA, _TEST, _ANALYSIS = "Methods: dataset", "Methods: test methods", "Methods: analysis"
_PARTICIPANTS, _RESULTS, _DISCUSSION, _OTHER = (
    "Results: participants",
    "Results: test",
    "Discussion",
    "Other information",
)

STARD_AI = Checklist(
    "stard-ai",
    "STARD-AI",
    "V. Sounderajah et al., Nature Medicine 2025, doi 10.1038/s41591-025-03953-8",
    (
        Item("1", _FRONT, "diagnostic accuracy of AI, with a measure of it", ("method", "result"), "the title"),
        Item("2", _FRONT, "a structured abstract", ("result",), "the abstract"),
        Item("3", _INTRODUCTION, "background, use and workflow", (), "background, intended use, workflow"),
        Item("4", _INTRODUCTION, "objectives and hypotheses", (), "objectives and hypotheses"),
        Item("5", _DESIGN, "prospective or retrospective", (), "whether the scans were taken for this study"),
        Item("6", _DESIGN, "ethical approval", (), "approval, or why none was needed"),
        Item("7", _DESIGN, "eligibility of participants and of data", ("eligibility", "missing"), "of participants"),
        Item("8", _DESIGN, "how participants were identified", (), "how they were identified"),
        Item("9", _DESIGN, "setting, places and dates", (), "setting, places and dates"),
        Item("10", _DESIGN, "consecutive, random or convenience series", (), "the kind of series"),
        Item("11", _DATA, "source of the data", ("cohort",), "whether routine, collected for this study or public"),
        Item("12", _DATA, "annotators and their way of working", ("labels",), "annotators and their experience"),
        Item(
            "13",
            _DATA,
            "devices and software",
            ("devices", "software"),
            "what the files do not state; the intended use",
        ),
        Item(
            "14",
            _DATA,
            "acquisition and preprocessing",
            ("acquisition", "preprocessing", "crop"),
            "contrast, reconstruction",
        ),
        Item("15a", _TEST, "the index test", ("architecture", "method", "stage2", "specification")),
        Item(
            "15b", _TEST, "development of the index test", ("partition", "counts", "training", "selection", "external")
        ),
        Item(
            "15c",
            _TEST,
            "cut-offs of the index test",
            ("output", "threshold", "plan"),
            "the rationale; which were planned",
        ),
        Item("15d", _TEST, "users and their expertise", (), "users and their expertise"),
        Item("16a", _TEST, "the reference standard", ("labels",), "how the diagnosis was made"),
        Item("16b", _TEST, "why that reference standard", (), "the reason for it"),
        Item("16c", _TEST, "cut-offs of the reference standard", (), "its categories"),
        Item("17a", _TEST, "what the index test knew", ("predictors",)),
        Item("17b", _TEST, "what assessors of the reference knew", (), "blinding of the assessors"),
        Item("18", _ANALYSIS, "estimates and comparisons of accuracy", ("metrics", "uncertainty")),
        Item("19", _ANALYSIS, "indeterminate results", ("undecided",), "of the reference standard"),
        Item("20", _ANALYSIS, "missing data", ("missing", "flow"), "of the reference standard"),
        Item(
            "21",
            _ANALYSIS,
            "variability of accuracy, planned or exploratory",
            ("stability", "subgroups", "plan"),
            "which analyses were planned",
        ),
        Item("22", _ANALYSIS, "intended sample size", ("precision",), "how the size was chosen"),
        Item("23", _ANALYSIS, "analysis of errors, bias and fairness", ("errors", "audit", "subgroups"), "fairness"),
        Item("24", _PARTICIPANTS, "flow of participants, as a diagram", ("flow", "counts"), "steps before this run"),
        Item(
            "25",
            _PARTICIPANTS,
            "characteristics of each set",
            ("counts", "population", "unknown_values", "devices", "acquisition"),
            "clinical data",
        ),
        Item("26a", _PARTICIPANTS, "severity of disease", (), "severity"),
        Item("26b", _PARTICIPANTS, "alternative diagnoses", ("counts",), "other diagnoses within the classes"),
        Item("27", _PARTICIPANTS, "time and treatment between test and reference", (), "time and treatment"),
        Item(
            "28", _PARTICIPANTS, "whether the sets represent the users' patients", ("prevalence",), "representativeness"
        ),
        Item("29", _PARTICIPANTS, "how an external set differs", ("external",), "how it differs"),
        Item("30", _RESULTS, "test results by reference standard", ("confusion",)),
        Item("31", _RESULTS, "accuracy with its precision", ("rates", "decision", "discrimination")),
        Item("32", _RESULTS, "adverse events", (), "adverse events, or that there could be none"),
        Item("33", _DISCUSSION, "limitations", ("limitations",), "all others"),
        Item("34", _DISCUSSION, "implications for practice", (), "intended use and role"),
        Item("35", _DISCUSSION, "ethics and fairness", (), "ethics and fairness"),
        Item("36", _OTHER, "registration", (), "registration, or that there was none"),
        Item("37", _OTHER, "protocol", ("plan",), "the protocol"),
        Item("38", _OTHER, "funding", (), "funding"),
        Item("39", _OTHER, "commercial interests", (), "commercial interests"),
        Item("40a", _OTHER, "availability of data and code", ("code",), "availability of the data"),
        Item("40b", _OTHER, "whether outputs are stored and can be audited", ("outputs",), "who may see them"),
    ),
)
