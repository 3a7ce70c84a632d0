"""What a study says about its networks, their training and stage 2."""

from cnr_iemn.constants import BOOSTER_METHOD, N_GROUPS, N_REGIONS
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.checklists.checklist import Statement
from cnr_iemn.report.checklists.training_facts import TrainingFacts
from cnr_iemn.report.tables.results import ensemble_title, model_title
from cnr_iemn.stage2.provenance import StudyProvenance

_RECORD = "run.json of each run"


def _per_network(networks: tuple[TrainingFacts, ...], texts: list[str]) -> str:
    """Return one text where all networks have the same, else one for each."""
    if len(set(texts)) == 1:
        return texts[0]
    return "; ".join(f"{model_title(network.model)}: {text}" for network, text in zip(networks, texts, strict=True))


def method(metrics: StudyMetrics) -> Statement:
    """Return which kind of model this is."""
    networks = ", ".join(model_title(model) for model in metrics["models"])
    return Statement(
        f"Deep learning: convolutional networks ({networks}) predict slices, and {metrics['method']} predicts the "
        f"class of the scan from them: {', '.join(metrics['classes'])}.",
        "Methods",
        "metrics.json",
    )


def architecture(networks: tuple[TrainingFacts, ...]) -> Statement:
    """Return the networks, their input and their heads."""
    sizes = ", ".join(
        f"{model_title(network.model)} of {network.library} at {network.image_size} x {network.image_size} pixels"
        for network in networks
    )
    position = {
        "both": "number of slices and location beside the image",
        "location": "location of the slice beside the image",
        "none": "no position",
        "sinusoids": "number of slices and location through a small network",
    }
    inputs = _per_network(networks, [position[network.position] for network in networks])
    task = _per_network(
        networks, ["bags of slices" if network.task == "bags" else "single slices" for network in networks]
    )
    return Statement(
        f"{sizes}; heads for the class and for one of {N_REGIONS} regions; input: {inputs}; trained on {task}.",
        "Methods",
        _RECORD,
    )


def initialisation(networks: tuple[TrainingFacts, ...]) -> Statement:
    """Return where the networks' weights came from."""
    words = {"imagenet": "weights of ImageNet", "none": "random weights"}
    texts = [words.get(network.weights, f"weights of the file {network.weights}") for network in networks]
    seeds = _per_network(networks, [f"seed {network.seed}" for network in networks])
    return Statement(
        f"The networks start from {_per_network(networks, texts)}, their heads at random; {seeds}.",
        "Provenance",
        _RECORD,
    )


def training(networks: tuple[TrainingFacts, ...]) -> Statement:
    """Return optimiser, schedule, batches and loss."""
    texts = []
    for network in networks:
        trainer = network.trainer
        decay = f", weight decay {trainer.weight_decay:g}" if trainer.optimizer == "adamw" else ""
        texts.append(
            f"{trainer.optimizer}{decay}, learning rate {trainer.learning_rate:g}, schedule {trainer.schedule}, "
            f"at most {trainer.max_epochs} epochs, batches of {trainer.batch_size} slices, focal loss with gamma "
            f"{trainer.gamma:g} for class and region, precision {trainer.precision}"
        )
    return Statement(f"Training: {_per_network(networks, texts)}.", "Slices and training", _RECORD)


def augmentation(networks: tuple[TrainingFacts, ...]) -> Statement:
    """Return how training slices are changed."""
    texts = []
    for network in networks:
        change = network.augmentation
        text = (
            f"brightness and contrast by up to {100 * change.brightness:g}% and {100 * change.contrast:g}% "
            f"(probability {change.jitter_probability:g}), flip ({change.flip_probability:g}), perspective "
            f"{change.perspective_distortion:g} ({change.perspective_probability:g}), rotation by up to "
            f"{change.rotation_degrees:g} degrees, crop"
        )
        text += f", mixup {change.mixup:g}" if change.mixup else ""
        text += f", cutmix {change.cutmix:g}" if change.cutmix else ""
        texts.append(text)
    return Statement(f"Augmentation: {_per_network(networks, texts)}.", "Slices and training", _RECORD)


def balancing(networks: tuple[TrainingFacts, ...]) -> Statement:
    """Return what was done about classes of different size."""
    texts = []
    for network in networks:
        rule = network.balancing
        copies = "as many as bring each class near the largest" if rule.copies == "auto" else rule.copies
        if rule.sampling == "classes":
            texts.append("as many slices of each class in an epoch")
        elif not copies:
            texts.append("none")
        else:
            texts.append(f"copies of slices by class: {copies}")
    return Statement(
        f"Class imbalance in training of the networks: {_per_network(networks, texts)}. Stage 2 has one row a scan.",
        "Slices and training",
        _RECORD,
    )


def hardware(networks: tuple[TrainingFacts, ...]) -> Statement:
    """Return what the networks were trained on."""
    return Statement(
        f"Hardware: {_per_network(networks, [network.hardware for network in networks])}.", "Provenance", _RECORD
    )


def predictors(metrics: StudyMetrics) -> Statement:
    """Return what the model reads."""
    percentages = ""
    if metrics["method"] == BOOSTER_METHOD:
        percentages = (
            f" Stage 2 reads {metrics['n_features']} percentages: slices of each class in {N_GROUPS} groups from top "
            "to base, by network."
        )
    return Statement(
        f"The CT images alone; no clinical information and no reader's assessment.{percentages}",
        "Methods",
        "features.parquet",
    )


def selection(metrics: StudyMetrics) -> Statement:
    """Return what chose the networks' checkpoints and the method."""
    rules = ", ".join(f"{model_title(name)}: {rule}" for name, rule in metrics["checkpoints"].items())
    reason = (
        f"on the {metrics['selected_on']} slices, so that the results are optimistic"
        if metrics["selected_on"]
        else "by no score that these results show"
    )
    return Statement(
        f"Checkpoints ({rules}) were selected {reason}. The stage-2 method, {metrics['method']}, is the one that the "
        "command names as primary.",
        "Provenance",
        "metrics.json",
    )


def ensemble(metrics: StudyMetrics) -> Statement:
    """Return how networks are joined."""
    folds = f" The probabilities of {metrics['folds']} folds are averaged." if metrics["folds"] else ""
    return Statement(
        f"{ensemble_title(metrics)}: {metrics['method']} joins {len(metrics['models'])} network"
        f"{'s' if len(metrics['models']) > 1 else ''}.{folds}",
        "Backbones and baselines",
        "metrics.json",
    )


def output(metrics: StudyMetrics) -> Statement:
    """Return what the model gives."""
    return Statement(
        f"A probability of each class ({', '.join(metrics['classes'])}); the most probable one is the prediction.",
        "Methods",
        "patients.csv",
    )


def specification(provenance: StudyProvenance) -> Statement:
    """Return what predicts new scans."""
    digests = ", ".join(f"{run['model']} {run['checkpoint_sha256'][:12]}" for run in provenance["runs"])
    return Statement(
        f"ensemble.json, the fitted stage-2 method and the checkpoints (SHA-256: {digests}) predict new scans with "
        "predict.py; export.py writes them as one bundle.",
        "Provenance",
        "ensemble.json",
    )


def software(provenance: StudyProvenance) -> Statement:
    """Return the software with its versions."""
    versions = {**provenance["versions"]}
    for run in provenance["runs"]:
        versions |= run["versions"]
    return Statement(
        f"Versions: {', '.join(f'{name} {number}' for name, number in versions.items())}.",
        "Provenance",
        "provenance.json",
    )


def code(provenance: StudyProvenance) -> Statement | None:
    """Return the version of this software; None where it is not recorded."""
    version = provenance["versions"].get("cnr-iemn")
    if version is None:
        return None
    return Statement(f"Software: cnr-iemn {version}, licence Apache-2.0.", "Provenance", "provenance.json")


def commands(provenance: StudyProvenance) -> Statement | None:
    """Return how the study can be repeated; None where no command is recorded."""
    runs = [run for run in provenance["runs"] if run["command"]]
    if not runs or not provenance["command"]:
        return None
    return Statement(
        f"The commands, seeds and checksums of {len(runs)} of {len(provenance['runs'])} trainings and of the "
        "aggregation are recorded.",
        "Provenance",
        "provenance.json",
    )
