"""The dataclass behind every configuration group: names, types and defaults that YAML files are checked against.

Untyped YAML accepts a misspelt key silently; these do not. Nothing heavy is imported here.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt
from omegaconf import MISSING

from cnr_iemn.config.schema.debug import DebugSettings
from cnr_iemn.config.schema.fields import PATH, FolderName, OneOf
from cnr_iemn.constants import INPUT_WINDOW, PAPER_CHANNELS
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.read_options import ReadOptions

_Count = Annotated[int, Ge(1)]
_Number = Annotated[int, Ge(0)]
_Name = Annotated[str, FolderName()]
_Lungs = Annotated[str, OneOf(("pleura", "border", "tutorial", "lungmask"))]


@dataclass
class SplitSettings:
    """One split by patient for both stages. ``validation``: share of patients, floored per stratum; 0 trains on all.

    ``uncertain``: side of the scans whose side in the SPGC challenge is not known, where ``file`` is one of its tables.
    """

    validation: Annotated[float, Ge(0), Lt(1)] = 0.325
    seed: int = 0
    file: str | None = field(default=None, metadata=PATH)
    uncertain: Annotated[str, OneOf(("training", "validation"))] = "training"


@dataclass
class PhantomSettings:
    """Arguments of ``phantom.cohort_writer.write_cohort``; scans and labelled scans by class name."""

    scans: dict[str, int] = field(default_factory=dict)
    labelled: dict[str, int] = field(default_factory=dict)
    seed: int = 0
    rows: int = 512
    n_slices: list[int] = field(default_factory=lambda: [112, 186])
    disease: Annotated[str, OneOf(("published", "clear"))] = "published"


@dataclass
class DataSettings:
    """Which cohort. ``reader``: covid_ct_md, phantom (written on first use, then read as covid_ct_md) or manifest.

    ``csv``, ``slices``, ``classes``, ``empty_class``: of a manifest (see ``data.readers.manifest``). ``slice_labels``:
    reader, or from_patient for weak ones where no reader has labelled (see ``Cohort.with_weak_labels``).
    ``exclude_file``: scan ids to leave out, one a line.

    ``pseudo_labels``: a finished study, or study/tag, whose fold networks label slices of unlabelled training scans;
    ``pseudo_confidence``: see ``stage1.training.pseudo_labels``. ``shuffle_training_labels``: the negative control,
    training labels of both stages permuted (never the validation's). ``lobes``: read which lobes of labelled slices
    are diseased, and train a third head on them.
    """

    name: _Name = MISSING
    reader: Annotated[str, OneOf(("covid_ct_md", "phantom", "manifest"))] = MISSING
    root: str | None = field(default=None, metadata=PATH)
    csv: str | None = field(default=None, metadata=PATH)
    slices: str | None = field(default=None, metadata=PATH)
    classes: list[str] | None = None
    empty_class: Annotated[str, OneOf(("refuse", "predict"))] = "refuse"
    slice_labels: Annotated[str, OneOf(("reader", "from_patient"))] = "reader"
    labels: Annotated[str, OneOf(("updated-1", "original"))] = "updated-1"
    labelled_normals: int | None = 30
    exclude: list[str] = field(default_factory=list)
    exclude_file: str | None = field(default=None, metadata=PATH)
    split: SplitSettings = field(default_factory=SplitSettings)
    folds: Annotated[int, Ge(2)] = 5
    fold: int | None = None
    pseudo_labels: str | None = None
    pseudo_confidence: Annotated[float, Gt(0.5), Lt(1)] = 0.9
    shuffle_training_labels: bool = False
    lobes: bool = False
    phantom: PhantomSettings | None = None


@dataclass
class IngestSettings(ReadOptions):
    """How a scan becomes pixels of the store. ``size``: side in pixels; ``window``: HU at grey 0 and 255.

    ``crop``: none, or lungs for the square around the scan's lungs. ``workers``: processes, 0 for none but this one.
    ``demographics``: whether headers are read for sex, age band and scanner (``data.demographics``).
    """

    size: Annotated[int, Ge(32)] = 336
    crop: Annotated[str, OneOf(("none", "lungs"))] = "none"
    window: list[float] = field(default_factory=lambda: list(INPUT_WINDOW))
    cache: str = field(default="cache", metadata=PATH)
    workers: _Number | None = None
    demographics: bool = False


@dataclass
class ModelSettings:
    """One network. ``library``: torchvision, for the backbones of the registry, or timm, for any of its names.

    ``weights``: imagenet (timm: the ones that it has for the name), none or a file. ``channels``: three of
    ``constants.INPUT_CHANNELS``. ``tta``: test-time augmentation, see ``SliceNetwork``.
    """

    name: str = MISSING
    library: Annotated[str, OneOf(("torchvision", "timm"))] = "torchvision"
    image_size: _Count = MISSING
    weights: str = field(default="imagenet", metadata=PATH)
    position: Annotated[str, OneOf(("both", "location", "none", "sinusoids"))] = "both"
    drop_path: Annotated[float, Ge(0), Lt(1)] = 0.0
    channels: list[str] = field(default_factory=lambda: list(PAPER_CHANNELS))
    tta: Annotated[str, OneOf(("none", "flip"))] = "none"


@dataclass
class AugmentationSettings:
    """How far a slice may be changed; the defaults are the paper's (section 2.1.2).

    ``brightness``, ``contrast``: a factor is drawn from 1 - value to 1 + value. ``perspective_distortion``: each corner
    moves inwards by up to this share of half the side; beyond 0.6 corners can fold the image. ``rotation_degrees``: an
    angle is drawn from -value to value. ``crop_ratio``: side of the random crop over that of its image. ``mixup``,
    ``cutmix``: alpha of ``stage1.data.batch_mixing``.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    jitter_probability: float = 0.2
    flip_probability: float = 0.2
    perspective_distortion: float = 0.5
    perspective_probability: float = 1.0
    rotation_degrees: float = 30.0
    crop_ratio: float = 224 / 244
    probability: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        """Raise ConfigurationError where a value lies outside its range."""
        limits = {"perspective_distortion": 0.6, "rotation_degrees": 180.0}
        for name, value in vars(self).items():
            highest = limits.get(name, 1.0)
            if not 0 <= value <= highest or (name == "crop_ratio" and value == 0):
                raise ConfigurationError(
                    f"augmentation.{name}={value} is out of range. Give a number from 0 to {highest:g}."
                )


@dataclass
class BalancingSettings:
    """Augmented copies on top of the original. ``copies``: by class name, or auto; ``augment``: paper, all_classes.

    ``sampling``: classes shows as many slices of each class in an epoch of the same length (``EpochShuffle``).
    """

    copies: Any = "auto"
    augment: Annotated[str, OneOf(("paper", "all_classes"))] = "paper"
    redraw: bool = False
    sampling: Annotated[str, OneOf(("all", "classes"))] = "all"


@dataclass
class TrainerSettings:
    """Stage-1 training (section 3.1.1). ``gpus``: null = a GPU where there is one, 0 = CPU, n = n GPUs of each node.

    ``batch_size``: slices that a step of the optimizer sees, over all processes and their ``accumulate`` parts.
    ``bag_size``: slices of a scan in a bag. ``optimizer``, ``weight_decay``, ``layer_decay``: see
    ``stage1.models.optimizers``. ``schedule``: steps (``milestones`` and ``decay``), cosine, constant or one_cycle
    (see ``stage1.models.lr_schedules``). ``early_stopping``: epochs without a better validation; ``ema``: decay of
    averaged weights; ``clip``: norm of the gradient; null for none of these.
    """

    gpus: _Number | None = None
    nodes: _Count = 1
    cpu_processes: _Count = 1
    max_epochs: _Count = 10
    batch_size: Annotated[int, Ge(2)] = 64
    bag_size: Annotated[int, Ge(2)] = 32
    accumulate: _Count = 1
    learning_rate: Annotated[float, Gt(0)] = 1e-4
    optimizer: Annotated[str, OneOf(("adam", "adamw"))] = "adam"
    weight_decay: Annotated[float, Ge(0)] = 0.05
    layer_decay: Annotated[float, Gt(0), Le(1)] | None = None
    schedule: Annotated[str, OneOf(("steps", "cosine", "constant", "one_cycle"))] = "steps"
    milestones: list[int] = field(default_factory=lambda: [3, 6])
    decay: Annotated[float, Gt(0), Le(1)] = 0.1
    warmup_epochs: Annotated[float, Ge(0)] = 0.0
    gamma: Annotated[float, Ge(0)] = 1.5
    region_weight: Annotated[float, Ge(0)] = 1.0
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    clip: Annotated[float, Gt(0)] | None = None
    ema: Annotated[float, Gt(0), Lt(1)] | None = None
    early_stopping: _Count | None = None
    checkpoint: Annotated[str, OneOf(("best", "last"))] = "best"
    keep_last: bool = False
    precision: Annotated[str, OneOf(("auto", "32", "bf16", "fp16", "tf32"))] = "auto"
    deterministic: bool = False
    workers: _Number | None = None


@dataclass
class LoggerSettings:
    """Where scalars go beside metrics.csv. ``name``: csv, wandb, tensorboard or mlflow; wandb reads the others."""

    name: Annotated[str, OneOf(("csv", "wandb", "tensorboard", "mlflow"))] = MISSING
    project: str = "cnr-iemn"
    offline: bool | None = None
    tags: list[str] = field(default_factory=list)
    worst_slices: _Number = 32
    log_checkpoint: bool = False


@dataclass
class TrainSettings:
    """``train.py``: one backbone. ``features``: whether the trunk's features of every slice are kept.

    ``task``: slices, or bags to learn the patients' classes from bags of their slices.
    """

    study: _Name = MISSING
    seed: int = 0
    features: bool = False
    task: Annotated[str, OneOf(("slices", "bags"))] = "slices"
    tag: _Name | None = None
    overwrite: bool = False
    resume: Annotated[str, OneOf(("auto", "never"))] = "auto"
    runs: str = field(default="runs", metadata=PATH)
    lungs: _Lungs = "pleura"
    data: DataSettings = MISSING
    ingest: IngestSettings = field(default_factory=IngestSettings)
    model: ModelSettings = MISSING
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    balancing: BalancingSettings = field(default_factory=BalancingSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    logger: LoggerSettings = MISSING
    debug: DebugSettings = field(default_factory=DebugSettings)

    @property
    def run_tag(self) -> str:
        """Name of the run within its model: what was given, or seed<s>, or seed<s>-fold<k>; or debug-<mode>."""
        fold = "" if self.data.fold is None else f"-fold{self.data.fold}"
        return self.tag or (f"debug-{self.debug.mode}" if self.debug.mode else f"seed{self.seed}{fold}")


@dataclass
class SearchSettings:
    """A search of settings by Optuna; conf/tune.yaml explains the keys.

    ``process``: number of this process among several at once, which changes nothing but the command's words.
    """

    name: _Name = "default"
    trials: _Count = 20
    seed: _Number = 0
    score: Annotated[str, OneOf(("inner_folds", "validation"))] = "inner_folds"
    folds: list[int] | None = None
    startup_trials: _Number = 10
    prune: bool = True
    prune_after_trials: _Number = 5
    prune_after_epochs: _Number = 2
    process: int = 0
    space: dict[str, Any] = field(default_factory=dict)


@dataclass
class TuneSettings(TrainSettings):
    """``tune.py``: a search of the settings of train.py."""

    search: SearchSettings = field(default_factory=SearchSettings)


@dataclass
class PrepareSettings:
    """``prepare.py``: DICOM to the slice store. ``part``, ``parts``: as in predict.py."""

    part: _Number | None = None
    parts: _Count | None = None
    lungs: _Lungs = "pleura"
    data: DataSettings = MISSING
    ingest: IngestSettings = field(default_factory=IngestSettings)
