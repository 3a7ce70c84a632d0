"""A data sheet of the cohort, after Datasheets for Datasets; every question in our own words."""

from cnr_iemn.report.checklists.checklist import Checklist, Item

_WHY, _WHAT, _HOW = "Motivation", "Composition", "Collection"
_LABELS, _USES, _SHARING, _CARE = "Preparation and labels", "Uses", "Distribution", "Maintenance"

DATASHEET = Checklist(
    "datasheet",
    "Data sheet of the cohort",
    "T. Gebru et al., Communications of the ACM 2021, doi 10.1145/3458723",
    (
        Item("1", _WHY, "for which purpose the data were made", (), "purpose"),
        Item("2", _WHY, "by whom, and funded by whom", (), "makers and funding"),
        Item("3", _WHAT, "what an instance is, and how many there are", ("cohort", "counts")),
        Item("4", _WHAT, "whether it is a sample of a larger set", (), "the larger set, and how it was sampled"),
        Item("5", _WHAT, "what an instance holds", ("preprocessing", "acquisition")),
        Item("6", _WHAT, "labels", ("labels",), "how the diagnosis was made"),
        Item(
            "7",
            _WHAT,
            "what is missing, and why",
            ("flow", "missing", "unknown_values"),
            "what is missing before this run",
        ),
        Item("8", _WHAT, "relations between instances", ("disjoint",)),
        Item("9", _WHAT, "recommended splits", ("partition",)),
        Item("10", _WHAT, "errors, noise and redundancy", ("quality", "audit")),
        Item("11", _WHAT, "groups of people", ("population",), "other groups"),
        Item("12", _WHAT, "whether persons can be identified", (), "how the scans were de-identified"),
        Item("13", _HOW, "how and when the data were acquired", ("devices",), "institutions and dates"),
        Item("14", _HOW, "ethical review, notice and consent", (), "review and consent"),
        Item("15", _LABELS, "preparation, cleaning and labelling", ("preprocessing", "crop", "eligibility")),
        Item("16", _LABELS, "whether the raw data were kept", (), "where the raw data are"),
        Item("17", _USES, "what the data have been used for", ("method", "result")),
        Item("18", _USES, "what could harm future uses", ("limitations",), "other risks"),
        Item("19", _USES, "what the data must not be used for", ("prevalence",), "other uses"),
        Item("20", _SHARING, "distribution and licence", (), "distribution and licence"),
        Item("21", _CARE, "who maintains the data, and errata", (), "contact and errata"),
    ),
)
