"""TRIPOD+AI for diagnostic prediction models, development and evaluation; every request in our own words."""

from cnr_iemn.report.checklists.checklist import Checklist, Item

_FRONT, _INTRODUCTION, _METHODS, _OPEN = "Title and abstract", "Introduction", "Methods", "Open science"
_PUBLIC, _RESULTS, _DISCUSSION = "Patient and public involvement", "Results", "Discussion"

TRIPOD_AI = Checklist(
    "tripod-ai",
    "TRIPOD+AI",
    "G. S. Collins et al., BMJ 2024, doi 10.1136/bmj-2023-078378",
    (
        Item("1", _FRONT, "the title says development or evaluation, population and outcome", ("method",), "the title"),
        Item("2", _FRONT, "the abstract follows TRIPOD+AI for abstracts", ("result",), "the abstract"),
        Item("3a", _INTRODUCTION, "setting in health care, reason, existing models", (), "context and other models"),
        Item("3b", _INTRODUCTION, "target population, purpose and users", (), "population, purpose and users"),
        Item("3c", _INTRODUCTION, "known inequalities in health", (), "known inequalities"),
        Item("4", _INTRODUCTION, "objectives: development, evaluation or both", (), "objectives"),
        Item(
            "5a", _METHODS, "sources of the data, and whom they represent", ("cohort",), "sources, representativeness"
        ),
        Item("5b", _METHODS, "dates of the data", (), "dates"),
        Item("6a", _METHODS, "setting, number and place of the centres", (), "centres"),
        Item("6b", _METHODS, "eligibility of participants", ("eligibility",), "criteria applied before this run"),
        Item("6c", _METHODS, "treatments", (), "treatments, or that they do not matter"),
        Item(
            "7",
            _METHODS,
            "preparation and checks of the data, and whether alike in all groups",
            ("preprocessing", "quality"),
            "whether findings differ between groups",
        ),
        Item("8a", _METHODS, "the outcome, and how it was assessed", ("labels",), "how the diagnosis was made"),
        Item("8b", _METHODS, "who assessed the outcome", (), "assessors"),
        Item("8c", _METHODS, "blinding of that assessment", (), "blinding"),
        Item("9a", _METHODS, "choice of predictors", ("predictors",), "reasons for the choice"),
        Item(
            "9b",
            _METHODS,
            "predictors, how and when measured",
            ("predictors", "preprocessing"),
            "when scans were taken",
        ),
        Item("9c", _METHODS, "who assessed subjective predictors", ("predictors",)),
        Item("10", _METHODS, "how the size of the study was reached", ("precision",), "how the size was chosen"),
        Item("11", _METHODS, "missing data", ("missing", "unknown_values"), "missing clinical data"),
        Item("12a", _METHODS, "how the data were used and divided", ("partition", "counts", "subsets")),
        Item("12b", _METHODS, "how predictors were transformed", ("preprocessing", "crop", "predictors")),
        Item(
            "12c",
            _METHODS,
            "type of model, building, tuning and internal validation",
            ("architecture", "training", "augmentation", "stage2", "selection", "internal"),
            "the rationale; settings that were tuned before this run",
        ),
        Item("12d", _METHODS, "differences between centres", ("centres",), "clusters other than sites"),
        Item("12e", _METHODS, "measures and plots of performance", ("metrics", "uncertainty"), "the rationale"),
        Item("12f", _METHODS, "updating after evaluation", ("updating",)),
        Item("12g", _METHODS, "how predictions were computed", ("specification",)),
        Item("13", _METHODS, "methods for class imbalance", ("balancing", "updating"), "the reason for them"),
        Item("14", _METHODS, "approaches to fairness", ("subgroups",), "further approaches, or that there were none"),
        Item(
            "15", _METHODS, "the output, and how thresholds were found", ("output", "threshold"), "why these thresholds"
        ),
        Item(
            "16", _METHODS, "differences between development and evaluation data", ("partition",), "other differences"
        ),
        Item("17", _METHODS, "ethical approval and consent", (), "ethics committee and consent"),
        Item("18a", _OPEN, "funding", (), "funding"),
        Item("18b", _OPEN, "conflicts of interest", (), "conflicts of interest"),
        Item("18c", _OPEN, "protocol", ("plan",), "the protocol, or that there was none"),
        Item("18d", _OPEN, "registration", (), "registration, or that there was none"),
        Item("18e", _OPEN, "availability of the data", (), "availability of the data"),
        Item("18f", _OPEN, "availability of the code", ("code",), "code beyond this package"),
        Item("19", _PUBLIC, "involvement of patients and the public", (), "involvement, or that there was none"),
        Item("20a", _RESULTS, "flow of participants", ("flow", "counts"), "scans excluded before this run"),
        Item(
            "20b",
            _RESULTS,
            "characteristics of participants",
            ("population", "unknown_values", "devices", "acquisition"),
            "clinical data, dates",
        ),
        Item(
            "20c",
            _RESULTS,
            "distributions in development and evaluation data",
            ("counts", "population"),
            "of clinical data",
        ),
        Item("21", _RESULTS, "participants and outcomes in each analysis", ("counts", "subsets")),
        Item(
            "22", _RESULTS, "the full model, for others to use", ("specification", "code"), "how others get the model"
        ),
        Item(
            "23a",
            _RESULTS,
            "performance with intervals, also in subgroups",
            ("result", "rates", "calibration", "subgroups"),
        ),
        Item(
            "23b",
            _RESULTS,
            "performance by centre, if examined",
            ("centres",),
            "other clusters, or that none were examined",
        ),
        Item("24", _RESULTS, "results of updating", ("updating",)),
        Item("25", _DISCUSSION, "interpretation, with fairness", (), "interpretation"),
        Item("26", _DISCUSSION, "limitations", ("limitations",), "all others"),
        Item("27a", _DISCUSSION, "input of poor quality in use", ("missing",), "what users do then"),
        Item("27b", _DISCUSSION, "interaction and expertise of users", (), "users' part and expertise"),
        Item("27c", _DISCUSSION, "next steps", (), "next steps"),
    ),
)
