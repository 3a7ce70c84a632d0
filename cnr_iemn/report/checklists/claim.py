"""CLAIM 2024, the checklist for artificial intelligence in medical imaging; every request in our own words."""

from cnr_iemn.report.checklists.checklist import Checklist, Item

_TITLE, _INTRODUCTION, _DISCUSSION, _OTHER = "Title and abstract", "Introduction", "Discussion", "Other information"
_DESIGN, _DATA, _REFERENCE = "Methods: study design", "Methods: data", "Methods: reference standard"
_PARTITIONS, _TEST, _MODEL = "Methods: data partitions", "Methods: testing data", "Methods: model"
_TRAINING, _EVALUATION = "Methods: training", "Methods: evaluation"
_RESULT_DATA, _RESULTS = "Results: data", "Results: model performance"

CLAIM = Checklist(
    "claim",
    "CLAIM 2024",
    "A. S. Tejani et al., Radiology: Artificial Intelligence 2024, doi 10.1148/ryai.240300",
    (
        Item("1", _TITLE, "the title or abstract names AI and the kind of it", ("method",), "the title or abstract"),
        Item(
            "2",
            _TITLE,
            "an abstract with design, methods, results and conclusions",
            ("method", "counts", "result"),
            "the abstract",
        ),
        Item("3", _INTRODUCTION, "background, and the use that the AI is meant for", (), "background and intended use"),
        Item("4", _INTRODUCTION, "aims and hypotheses", (), "aims and hypotheses"),
        Item("5", _DESIGN, "prospective or retrospective", (), "when the scans were taken, and whether for this study"),
        Item("6", _DESIGN, "the goal, such as a new model or a feasibility study", (), "the goal"),
        Item("7", _DATA, "where the data come from", ("cohort",), "institutions, dates, and how to get public data"),
        Item(
            "8",
            _DATA,
            "what includes and excludes a scan",
            ("eligibility", "missing"),
            "criteria applied before this run",
        ),
        Item("9", _DATA, "preprocessing of the images", ("preprocessing", "crop")),
        Item("10", _DATA, "parts of the data that were selected, such as slices or a crop", ("crop", "subsets")),
        Item("11", _DATA, "how the data were de-identified", (), "who de-identified the scans, and how"),
        Item("12", _DATA, "what was done about missing data", ("missing", "unknown_values"), "missing clinical data"),
        Item("13", _DATA, "how the images were acquired", ("devices", "acquisition"), "what the files do not state"),
        Item("14", _REFERENCE, "what the reference standard is", ("labels",), "how the diagnosis was made"),
        Item("15", _REFERENCE, "why that reference standard", (), "the reason for it, and its limits"),
        Item("16", _REFERENCE, "who annotated, and with which training", (), "annotators and their experience"),
        Item("17", _REFERENCE, "how the test set was annotated", (), "whether other readers or rules than in training"),
        Item("18", _REFERENCE, "agreement between and within annotators", (), "agreement, or that it is not known"),
        Item("19", _PARTITIONS, "how scans came to a partition", ("partition", "counts"), "reasons for the shares"),
        Item("20", _PARTITIONS, "at which level the partitions are disjoint", ("disjoint",)),
        Item("21", _TEST, "the intended size of the test set", ("precision",), "how the size was chosen"),
        Item("22", _MODEL, "the model in enough detail to build it", ("architecture", "method", "stage2", "output")),
        Item("23", _MODEL, "software with versions", ("software",)),
        Item("24", _MODEL, "how parameters were initialised", ("initialisation",)),
        Item(
            "25",
            _TRAINING,
            "training: augmentation, optimiser, epochs",
            ("training", "augmentation", "balancing", "hardware"),
        ),
        Item("26", _TRAINING, "how the final model was selected", ("selection",)),
        Item("27", _TRAINING, "how models were combined", ("ensemble", "averaging")),
        Item("28", _EVALUATION, "metrics of performance", ("metrics",)),
        Item("29", _EVALUATION, "tests and intervals", ("uncertainty",)),
        Item("30", _EVALUATION, "robustness or sensitivity", ("stability", "ablations", "robustness", "subgroups")),
        Item(
            "31",
            _EVALUATION,
            "explanations, and how they were checked",
            ("attribution",),
            "how they were checked, or that they were not",
        ),
        Item("32", _EVALUATION, "evaluation on internal data", ("internal", "result")),
        Item(
            "33", _EVALUATION, "testing on external data", ("external",), "where they come from, or why there are none"
        ),
        Item("34", _EVALUATION, "registration, if a trial", (), "registration, or that there is none"),
        Item(
            "35",
            _RESULT_DATA,
            "numbers included and excluded, as a diagram",
            ("flow", "counts"),
            "scans excluded before this run",
        ),
        Item(
            "36",
            _RESULT_DATA,
            "patients' characteristics in each partition",
            ("population", "unknown_values"),
            "clinical data, sources of bias",
        ),
        Item(
            "37", _RESULTS, "performance with its uncertainty", ("result", "discrimination", "calibration", "subgroups")
        ),
        Item("38", _RESULTS, "diagnostic performance with its precision", ("rates", "decision")),
        Item("39", _RESULTS, "analysis of the errors", ("errors", "confusion"), "the reasons that you see"),
        Item("40", _DISCUSSION, "limitations", ("limitations",), "all others"),
        Item("41", _DISCUSSION, "implications for practice", (), "intended use and role"),
        Item("42", _OTHER, "the study protocol, or more technical detail", ("plan", "commands"), "the protocol"),
        Item(
            "43",
            _OTHER,
            "availability of software, model and data",
            ("code", "specification"),
            "availability of model and data",
        ),
        Item("44", _OTHER, "funding, and the role of the funders", (), "funding"),
    ),
)
