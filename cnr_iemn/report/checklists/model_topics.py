"""What a study says about its networks, their training and stage 2."""

from collections.abc import Mapping

from cnr_iemn.constants import BOOSTER_METHOD, N_GROUPS, N_REGIONS
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.checklists.checklist import Statement
from cnr_iemn.report.checklists.training_facts import CHANNEL_WORDS, TrainingFacts
from cnr_iemn.report.tables.results import ensemble_title, model_title
from cnr_iemn.schemas import probability_columns
from cnr_iemn.stage2.provenance import StudyProvenance

_RUN = "run.json of each run"
_POSITIONS = {
    "both": "number of slices and location",
    "location": "location of the slice",
    "none": "",
    "sinusoids": "number of slices and location, through a small network,",
}


def _per_network(networks: tuple[TrainingFacts, ...], texts: list[str]) -> str:
    """Return one text where all networks have the same, else one for each model, the same ones of its seeds once."""
    if len(set(texts)) == 1:
        return texts[0]
    pairs = dict.fromkeys(zip((network.model for network in networks), texts, strict=True))
    return "; ".join(f"{model_title(model)}: {text}" for model, text in pairs)


def method(metrics: StudyMetrics) -> Statement:
    """Return which kind of model this is."""
    networks = ", ".join(model_title(model) for model in metrics["models"])
    return Statement(
        f"Deep learning: neural networks ({networks}) predict slices, and {metrics['method']} predicts the class of "
        f"the scan from them: {', '.join(metrics['classes'])}.",
        "Methods",
        "metrics.json: models, method, classes",
    )


def architecture(networks: tuple[TrainingFacts, ...]) -> Statement:
    """Return the networks, their input and their heads."""
    sizes = ", ".join(
        dict.fromkeys(
            f"{model_title(network.model)} of {network.library} at {network.image_size} x {network.image_size} pixels"
            for network in networks
        )
    )
    inputs = _per_network(networks, [_input_text(network) for network in networks])
    task = _per_network(
        networks, ["bags of slices of a scan" if network.task == "bags" else "single slices" for network in networks]
    )
    lobes = ", and for the diseased lobes in training alone" if networks[0].lobes else ""
    return Statement(
        f"{sizes}; heads for the class and for one of {N_REGIONS} regions{lobes}; input: {inputs}; trained on {task}.",
        "Methods",
        f"{_RUN}: configuration.model, configuration.task, configuration.data.lobes",
    )


def _input_text(network: TrainingFacts) -> str:
    channels = ", ".join(CHANNEL_WORDS[name] for name in network.channels)
    position = _POSITIONS[network.position]
    flips = "; predictions are means over a slice and its mirror image" if network.flips else ""
    place_text = f", {position} beside the image" if position else ""
    return f"{len(network.channels)} channels ({channels}){place_text}{flips}"


def initialisation(networks: tuple[TrainingFacts, ...]) -> Statement:
    """Return where the networks' weights came from."""
    texts = [_weights_text(network) for network in networks]
    seeds = _per_network(networks, [f"seed {network.seed}" for network in networks])
    return Statement(
        f"The networks start from {_per_network(networks, texts)}, their heads at random; {seeds}.",
        "Provenance",
        f"{_RUN}: configuration.model.weights, configuration.seed",
    )


def _weights_text(network: TrainingFacts) -> str:
    if network.weights == "none":
        return "random weights"
    if network.weights == "imagenet":  # timm has weights of other data under some of its names
        return "weights of ImageNet" if network.library == "torchvision" else "the weights that timm has for the name"
    return f"the weights {network.weights}"


def training(networks: tuple[TrainingFacts, ...]) -> Statement:
    """Return optimiser, schedule, batches and loss."""
    texts = [_training_text(network) for network in networks]
    return Statement(
        f"Training: {_per_network(networks, texts)}. The file has all further settings.",
        "",
        f"{_RUN}: configuration.trainer",
    )


def _training_text(network: TrainingFacts) -> str:
    trainer = network.trainer
    decay = f", weight decay {trainer.weight_decay:g}" if trainer.optimizer == "adamw" else ""
    bags = f" in bags of {trainer.bag_size} slices of a scan" if network.task == "bags" else ""
    loss = f"focal loss with gamma {trainer.gamma:g}" if trainer.gamma else "cross-entropy"
    epochs = f"{trainer.max_epochs} epoch{'s' if trainer.max_epochs > 1 else ''}"
    text = (
        f"{trainer.optimizer}{decay}, learning rate {trainer.learning_rate:g}, schedule {trainer.schedule}, at most "
        f"{epochs}, batches of {trainer.batch_size} slices{bags}, {loss} of the class plus "
        f"{trainer.region_weight:g} times that of the region"
    )
    text += f", label smoothing {trainer.label_smoothing:g}" if trainer.label_smoothing else ""
    text += f", weights averaged with decay {trainer.ema:g}" if trainer.ema else ""
    text += f", gradients clipped at {trainer.clip:g}" if trainer.clip else ""
    return text + (f", stopped after {trainer.early_stopping} epochs without gain" if trainer.early_stopping else "")


def augmentation(networks: tuple[TrainingFacts, ...]) -> Statement:
    """Return how training slices are changed."""
    texts = []
    for network in networks:
        change = network.augmentation
        text = (
            f"brightness and contrast by up to {100 * change.brightness:g}% and {100 * change.contrast:g}% "
            f"(probability {change.jitter_probability:g}), flip ({change.flip_probability:g}), perspective "
            f"{change.perspective_distortion:g} ({change.perspective_probability:g}), rotation by up to "
            f"{change.rotation_degrees:g} degrees, crop to {100 * change.crop_ratio:.3g}% of the side"
        )
        text += f"; with probability {change.probability:g}, else unchanged" if change.probability < 1 else ""
        text += f"; mixup {change.mixup:g}" if change.mixup else ""
        text += f"; cutmix {change.cutmix:g}" if change.cutmix else ""
        texts.append(text)
    return Statement(f"Augmentation: {_per_network(networks, texts)}.", "", f"{_RUN}: configuration.augmentation")


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
        "",
        f"{_RUN}: configuration.balancing",
    )


def hardware(networks: tuple[TrainingFacts, ...]) -> Statement:
    """Return what the networks were trained on."""
    return Statement(
        f"Hardware: {_per_network(networks, [network.hardware for network in networks])}.",
        "Provenance",
        f"{_RUN}: hardware",
    )


def averaging(networks: tuple[TrainingFacts, ...]) -> Statement | None:
    """Return over how many networks a model's predictions are means; None where each model has one."""
    n_seeds = len(networks) // len({network.model for network in networks})
    if n_seeds == 1:
        return None
    return Statement(
        f"Of each model the predictions are means over {n_seeds} networks that differ in their seed.",
        "Provenance",
        "provenance.json: runs",
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
        f"The CT images alone: no clinical information, and nothing that a reader interprets.{percentages}",
        "Methods",
        "features.parquet; metrics.json: n_features",
    )


def selection(metrics: StudyMetrics) -> Statement:
    """Return what chose the networks' checkpoints and the method."""
    words = {"best": "the best epoch", "last": "the last epoch"}
    rules = ", ".join(f"{model_title(name)}: {words.get(rule, rule)}" for name, rule in metrics["checkpoints"].items())
    reason = (
        f"Selected on the {metrics['selected_on']} slices, so that the results are optimistic"
        if metrics["selected_on"]
        else "The scans of these results selected none of them"
    )
    return Statement(
        f"Checkpoints: {rules}. {reason}. The stage-2 method, {metrics['method']}, is the one that the settings "
        "name as primary.",
        "Provenance",
        "metrics.json: checkpoints, selected_on, method",
    )


def ensemble(metrics: StudyMetrics) -> Statement:
    """Return how networks are joined."""
    folds = f" The probabilities of {metrics['folds']} folds are averaged." if metrics["folds"] else ""
    n = len(metrics["models"])
    join_text = f"joins {n} networks" if n > 1 else "reads one network; nothing is joined"
    return Statement(
        f"{ensemble_title(metrics)}: {metrics['method']} {join_text}.{folds}",
        "Backbones and baselines",
        "metrics.json: models, method, folds",
    )


def output(metrics: StudyMetrics) -> Statement:
    """Return what the model gives."""
    return Statement(
        f"A probability of each class ({', '.join(metrics['classes'])}); the most probable one is the prediction.",
        "Patients",
        f"patients.csv: {', '.join(probability_columns(metrics['classes']))}, predicted",
    )


def stage2(provenance: StudyProvenance) -> Statement | None:
    """Return the settings of stage 2; None where the method has other ones, or an earlier version kept none."""
    settings = provenance.get("booster")
    if settings is None:
        return None
    return Statement(
        f"XGBoost in stage 2: {settings['rounds']} trees for each class, depth at most {settings['max_depth']}, "
        f"learning rate {settings['eta']:g}, seed {provenance['booster_seed']}.",
        "Provenance",
        "provenance.json: booster, booster_seed",
    )


def specification(provenance: StudyProvenance) -> Statement:
    """Return what predicts new scans."""
    digests = ", ".join(f"{run['model']} {run['checkpoint_sha256'][:12]}" for run in provenance["runs"])
    return Statement(
        f"ensemble.json, the fitted stage-2 method and the checkpoints (SHA-256: {digests}) predict new scans with "
        "predict.py; export.py writes them as one bundle.",
        "Provenance",
        "ensemble.json: members, method",
    )


def software(provenance: StudyProvenance) -> Statement:
    """Return the software with its versions."""
    trained = "; or ".join(dict.fromkeys(_versions(run["versions"]) for run in provenance["runs"]))
    return Statement(
        f"Aggregated with {_versions(provenance['versions'])}; trained with {trained}.",
        "Provenance",
        "provenance.json: versions, runs",
    )


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items()) or "versions that are not recorded"


def code(provenance: StudyProvenance) -> Statement | None:
    """Return the version of this software; None where it is not recorded."""
    version = provenance["versions"].get("cnr-iemn")
    if version is None:
        return None
    return Statement(
        f"Software: cnr-iemn {version}, licence Apache-2.0.", "Provenance", "provenance.json: versions.cnr-iemn"
    )


def commands(provenance: StudyProvenance) -> Statement | None:
    """Return how the study can be repeated; None where no command is recorded."""
    runs = [run for run in provenance["runs"] if run["command"]]
    if not runs or not provenance["command"]:
        return None
    return Statement(
        f"The commands, seeds and checksums of {len(runs)} of {len(provenance['runs'])} trainings and of the "
        "aggregation are recorded.",
        "Provenance",
        "provenance.json: command, runs",
    )
