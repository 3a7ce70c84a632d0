"""The dataclass behind every configuration group: names, types and defaults that YAML files are checked against.

Untyped YAML accepts a misspelt key silently; these do not. Nothing heavy is imported here.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from cnr_iemn.permissions import Permissions
from cnr_iemn.registry import BOOSTER


@dataclass
class SplitSettings:
    """One split by patient for both stages. ``validation``: share of patients, floored per stratum; 0 trains on all."""

    validation: float = 0.325
    seed: int = 0
    file: str | None = None


@dataclass
class PhantomSettings:
    """Arguments of ``cohort.phantom.writer.write_cohort``; scans and labelled scans by class name."""

    scans: dict[str, int] = field(default_factory=dict)
    labelled: dict[str, int] = field(default_factory=dict)
    seed: int = 0
    rows: int = 512
    n_slices: list[int] = field(default_factory=lambda: [112, 186])


@dataclass
class DataSettings:
    """Which cohort. ``reader``: covid_ct_md, phantom (written on first use, then read as covid_ct_md) or manifest.

    ``csv``, ``slices``, ``classes``: of a manifest (see ``cohort.manifest``).

    ``shuffle_training_labels``: the negative control, training labels of both stages permuted (never the validation's).
    """

    name: str = MISSING
    reader: str = MISSING
    root: str | None = None
    csv: str | None = None
    slices: str | None = None
    classes: list[str] | None = None
    labels: str = "updated-1"
    labelled_normals: int | None = 30
    exclude: list[str] = field(default_factory=list)
    split: SplitSettings = field(default_factory=SplitSettings)
    folds: int = 5
    fold: int | None = None
    shuffle_training_labels: bool = False
    phantom: PhantomSettings | None = None


@dataclass
class IngestSettings(Permissions):
    """How a scan becomes pixels of the store. ``size``: side in pixels; ``window``: HU at grey 0 and 255.

    ``crop``: none, or lungs for the square around the scan's lungs. ``workers``: processes, 0 for none but this one.
    """

    size: int = 336
    crop: str = "none"
    window: list[float] = field(default_factory=lambda: [-1000.0, 400.0])
    cache: str = "cache"
    workers: int | None = None


@dataclass
class ModelSettings:
    """One network. ``library``: torchvision, for the backbones of the registry, or timm, for any of its names.

    ``weights``: imagenet (timm: the ones that it has for the name), none or a file.
    """

    name: str = MISSING
    library: str = "torchvision"
    image_size: int = MISSING
    weights: str = "imagenet"
    position: str = "both"


@dataclass
class AugmentationSettings:
    """Parameters of the five augmentations (section 2.1.2)."""

    brightness: float = 0.2
    contrast: float = 0.2
    jitter_probability: float = 0.2
    flip_probability: float = 0.2
    perspective_distortion: float = 0.5
    perspective_probability: float = 1.0
    rotation_degrees: float = 30.0
    crop_ratio: float = 224 / 244


@dataclass
class BalancingSettings:
    """Augmented copies on top of the original. ``copies``: by class name, or auto; ``augment``: paper, all_classes."""

    copies: Any = "auto"
    augment: str = "paper"
    redraw: bool = False


@dataclass
class TrainerSettings:
    """Stage-1 training (section 3.1.1). ``gpus``: null = a GPU where there is one, 0 = CPU, n = n GPUs of each node.

    ``batch_size``: slices that a step of the optimizer sees, over all processes and their ``accumulate`` parts.
    ``schedule``: steps (``milestones`` and ``decay``), cosine, constant or one_cycle (see ``slices.schedules``).
    ``early_stopping``: epochs without a better validation; ``ema``: decay of averaged weights; ``clip``: norm of the
    gradient; null for none of these.
    """

    gpus: int | None = None
    nodes: int = 1
    cpu_processes: int = 1
    max_epochs: int = 10
    batch_size: int = 64
    accumulate: int = 1
    learning_rate: float = 1e-4
    schedule: str = "steps"
    milestones: list[int] = field(default_factory=lambda: [3, 6])
    decay: float = 0.1
    warmup_epochs: float = 0.0
    gamma: float = 1.5
    region_weight: float = 1.0
    clip: float | None = None
    ema: float | None = None
    early_stopping: int | None = None
    checkpoint: str = "best"
    precision: str = "auto"
    deterministic: bool = False
    workers: int | None = None


@dataclass
class LoggerSettings:
    """Where scalars go beside metrics.csv. ``name``: csv, wandb or tensorboard; the other keys are read by wandb."""

    name: str = MISSING
    project: str = "cnr-iemn"
    offline: bool | None = None
    tags: list[str] = field(default_factory=list)
    worst_slices: int = 32
    log_checkpoint: bool = False


@dataclass
class BoosterSettings:
    """XGBoost of stage 2 (section 2.2), written out because its two interfaces differ in their defaults.

    ``features``: paper, or out_of_fold, for which the runs ``<tag>-fold<k>`` are needed too.
    """

    features: str = "paper"
    rounds: int = 100
    max_depth: int = 6
    eta: float = 0.3
    seed: int = 0


@dataclass
class SweepSettings:
    """A search of settings by Optuna; see conf/sweep/optuna.yaml. ``trial``: set by the sweep for each of its jobs."""

    name: str = "default"
    trials: int = 20
    parallel: int = 1
    seed: int = 0
    score: str = "inner_folds"
    folds: list[int] | None = None
    startup_trials: int = 10
    prune: bool = True
    prune_after_trials: int = 5
    prune_after_epochs: int = 2
    space: dict[str, Any] = field(default_factory=dict)
    trial: int | None = None


@dataclass
class TrainSettings:
    """``train.py``: one backbone on slices."""

    study: str = "default"
    seed: int = 0
    tag: str | None = None
    overwrite: bool = False
    resume: str = "auto"
    runs: str = "runs"
    lungs: str = "pleura"
    data: DataSettings = MISSING
    ingest: IngestSettings = field(default_factory=IngestSettings)
    model: ModelSettings = MISSING
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    balancing: BalancingSettings = field(default_factory=BalancingSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    logger: LoggerSettings = MISSING
    sweep: SweepSettings | None = None

    @property
    def run_tag(self) -> str:
        """Name of the run within its model: what was given, or seed<s>, or seed<s>-fold<k>."""
        fold = "" if self.data.fold is None else f"-fold{self.data.fold}"
        return self.tag or f"seed{self.seed}{fold}"


@dataclass
class PrepareSettings:
    """``prepare.py``: DICOM to the slice store."""

    lungs: str = "pleura"
    data: DataSettings = MISSING
    ingest: IngestSettings = field(default_factory=IngestSettings)


@dataclass
class AggregateSettings:
    """``aggregate.py``: saved predictions to the patient's class. ``ensemble``: all, one name, or a list of names.

    ``permutations``: of the training labels, for the test whether stage 2 could be as good by chance; 0 leaves it out.
    ``answer_share``: of training scans that the booster is to be sure enough of, 0 to 1; the others are undecided.
    ``methods``: whether other ways from slices to patients are tried beside, ``method_repeats`` times within the
    training scans. ``confirmatory``: the way that counts, booster or one of ``registry.METHODS``. ``threshold_class``:
    whose ``threshold_sensitivity`` (0 to 1) is fixed on training scans; auto, null or a class. ``refits``: of the
    booster on resampled training patients; 0 for none. ``seeds``: tags, ``splits``: studies that repeat this one with
    other seeds. ``evaluate``: predictions of predict.py, a file or a list, scored by the ensemble as it is;
    ``labels``: their true classes, a CSV file a set. ``compare``: another study, or study/ensemble, on the same scans;
    ``compare_on``: the validation scans, or a set that both have scored.
    ``ablations``: whether the networks answer again for the validation scans, parts of their input taken away;
    ``gpus``: on what, null = a GPU where there is one, 0 = CPU, 1 = a GPU.
    """

    study: str = "default"
    ensemble: Any = "all"
    permutations: int = 99
    answer_share: float = 0.9
    methods: bool = True
    logger: LoggerSettings = field(default_factory=lambda: LoggerSettings(name="csv"))
    refits: int = 50
    seeds: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    method_repeats: int = 3
    confirmatory: str = BOOSTER
    threshold_class: str | None = "auto"
    threshold_sensitivity: float = 0.9
    evaluate: Any = None
    labels: Any = None
    compare: str | None = None
    compare_on: str = "validation"
    ablations: bool = False
    gpus: int | None = None
    tag: str = "seed0"
    runs: str = "runs"
    booster: BoosterSettings = field(default_factory=BoosterSettings)
