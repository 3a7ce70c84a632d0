"""What a study says about its data."""

from cnr_iemn.constants import PHANTOM_NOTICE
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.checklists.checklist import Statement
from cnr_iemn.report.checklists.study_facts import CohortFacts, QualityFacts, Spread
from cnr_iemn.report.checklists.training_facts import TrainingFacts

_READERS = {
    "covid_ct_md": "DICOM folders and the tables of COVID-CT-MD",
    "manifest": "a list of scans with their classes",
    "phantom": "synthetic scans, drawn by this software",
}
_LUNGS = {
    "pleura": "rules, with disease at the pleura kept",
    "border": "rules",
    "tutorial": "thresholds and morphology after the scikit-image tutorial",
    "lungmask": "the network R231",
}
_ALLOWED = {
    "allow_gaps": "missing slices",
    "allow_unreadable": "damaged files among the slices",
    "allow_missing_position": "slices without a position",
    "allow_missing_rescale": "slices without a rescaling to HU",
    "allow_range_mismatch": "pixels outside the range that their file states",
    "assume_hu": "values that do not look like HU",
}


def source(cohort: CohortFacts) -> Statement:
    """Return what the cohort is."""
    notice = f" {PHANTOM_NOTICE[0].upper()}{PHANTOM_NOTICE[1:]}." if cohort.phantom else ""
    return Statement(
        f"Cohort {cohort.name}, read from {_READERS.get(cohort.reader, cohort.reader)}: {cohort.n_scans} scans with a "
        f"class, of {cohort.n_patients} patients.{notice}",
        "Cohort",
        "patients.csv: patient_id, label",
    )


def eligibility(cohort: CohortFacts) -> Statement:
    """Return which scans were taken."""
    classes = ", ".join(next(iter(cohort.counts.values())))
    return Statement(
        f"A scan is included if it has one of the classes {classes} and its files can be read. One that cannot be read "
        f"stops the training until it is left out by name; left out by name: {cohort.left_out}.",
        "Cohort",
        "provenance.json: left_out",
    )


def subsets(cohort: CohortFacts) -> Statement:
    """Return which scans trained which stage."""
    n_training = sum(cohort.counts.get("training", {}).values())
    return Statement(
        f"Slices of {cohort.n_network_scans} of {n_training} training scans trained the networks; all training scans "
        "fitted stage 2.",
        "Cohort",
        "predictions.parquet of each run",
    )


def labels(cohort: CohortFacts) -> Statement:
    """Return where the labels come from, as far as the run knows."""
    weak = "; slices that no reader labelled have their scan's class (weak labels)" if cohort.weak_labels else ""
    pseudo = " Networks labelled slices of unlabelled training scans (pseudo-labels)." if cohort.pseudo_labels else ""
    permuted = " The training labels were permuted: a negative control." if cohort.labels_permuted else ""
    return Statement(
        f"The class of each scan and the labels of slices are those of the cohort ({cohort.name}){weak}.{pseudo}"
        f"{permuted}",
        "",
        "patients.csv: label",
    )


def counts(cohort: CohortFacts) -> Statement:
    """Return the scans of each class on each side of the split."""
    sides = "; ".join(
        f"{split}: {sum(classes.values())} ({', '.join(f'{name} {count}' for name, count in classes.items())})"
        for split, classes in cohort.counts.items()
    )
    return Statement(f"{cohort.n_scans} scans: {sides}.", "Cohort", "patients.csv: label, split")


def preprocessing(pixels: PixelSettings) -> Statement:
    """Return how the pixels of the slice store are made; which channels a network reads is its own matter."""
    low, high = pixels.window
    return Statement(
        f"HU from {low:g} to {high:g} become grey values; each image is resized to {pixels.size} x {pixels.size} "
        f"pixels; lung mask by {_LUNGS.get(pixels.lungs, pixels.lungs)}. The same for all scans.",
        "",
        "ensemble.json: pixels.size, pixels.lungs, pixels.window",
    )


def crop(pixels: PixelSettings) -> Statement:
    """Return which part of a scan is kept."""
    part = "the square around the lungs, found by the lung mask" if pixels.crop == "lungs" else "the whole image"
    return Statement(f"All slices of a scan are kept; of each, {part}.", "", "ensemble.json: pixels.crop")


def missing(pixels: PixelSettings) -> Statement:
    """Return what happens to scans with something missing."""
    allowed = [text for key, text in _ALLOWED.items() if getattr(pixels.read_options, key)]
    refused = [text for key, text in _ALLOWED.items() if not getattr(pixels.read_options, key)]
    sentences = [f"Scans are refused for {', '.join(refused)}."] if refused else []
    sentences += [f"Accepted on request: {', '.join(allowed)}."] if allowed else []
    sentences.append("Missing slices are not interpolated.")
    return Statement(" ".join(sentences), "", "ensemble.json: pixels.read_options")


def acquisition(spreads: tuple[Spread, ...]) -> Statement | None:
    """Return how the scans were taken, as far as their files state it."""
    if not spreads:
        return None
    texts = "; ".join(
        f"{spread.name}: {spread.median:.4g} [{spread.low:.4g}, {spread.high:.4g}] in {spread.n} scans"
        for spread in spreads
    )
    return Statement(
        f"As the files state it, median [25%, 75%]: {texts}.",
        "Cohort",
        "scan.json of each stored scan; source.json of each stored scan: acquisition",
    )


def quality(scans: QualityFacts) -> Statement:
    """Return the findings of preparation."""
    return Statement(
        f"Of {scans.n} scans {scans.n_without_finding} are without any finding of preparation, {scans.n_doubtful} have "
        "a lung mask in doubt.",
        "Data quality",
        "scan.json of each stored scan: findings",
    )


def partition(training: tuple[TrainingFacts, ...]) -> Statement:
    """Return how scans came to their side of the split."""
    first = training[0]
    rule = "A file gave the side of each scan."
    if first.split_share is not None:
        drawn = (
            f"{100 * first.split_share:g}% of the patients of each class, rounded down and stratified by whether their "
            f"slices are labelled, were drawn for validation (seed {first.split_seed})."
        )
        # run.json does not say whether a manifest names the sides itself
        rule = f"The sides are the manifest's, where it has a column split; else {drawn}"
        rule = rule if first.reader == "manifest" else drawn
    return Statement(f"{rule} One split for both stages and all networks.", "Provenance", "split.csv: scan_id, split")


def disjoint(metrics: StudyMetrics) -> Statement:
    """Return what lies on one side of the split alone."""
    search = "Near-duplicates across the split were not searched for."
    if metrics["near_duplicates"] is not None:
        pairs, threshold = metrics["near_duplicates"]["pairs"], metrics["near_duplicates"]["threshold"]
        search = f"Pairs across the split that look like one scan (correlation of {threshold:g} or more): {len(pairs)}."
    return Statement(
        "Partitions are disjoint by the cohort's patient ids, and no two scans with the same pixels lie on two sides. "
        f"{search}",
        "" if metrics["near_duplicates"] is None else "Near-duplicates",
        "split.csv: patient_id, split; metrics.json: near_duplicates",
    )
