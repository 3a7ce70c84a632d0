"""The settings of ``aggregate.py``, as ``schema`` has those of training."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from cnr_iemn.config.schema.fields import PATH, TEXTS, OneOf, setting_choices, setting_numbers
from cnr_iemn.config.schema.settings import LoggerSettings
from cnr_iemn.constants import BOOSTER, CHECKLISTS, method_names

_Count = Annotated[int, Ge(1)]
_Number = Annotated[int, Ge(0)]
_Share = Annotated[float, Gt(0), Le(1)]
_OneGpu = Annotated[int, Ge(0), Le(1)]


@dataclass
class BoosterSettings:
    """XGBoost of stage 2 (section 2.2), written out because its two interfaces differ in their defaults.

    ``features``: paper, or out_of_fold, for which the runs ``<tag>-fold<k>`` are needed too.
    """

    features: Annotated[str, OneOf(("paper", "out_of_fold"))] = "paper"
    rounds: int = 100
    max_depth: int = 6
    eta: float = 0.3
    seed: int = 0


@dataclass
class AggregateSettings:
    """``aggregate.py``: saved predictions to the patient's class. ``ensemble``: all, one name, or a list of names.

    ``permutations``: of the training labels, for the test whether stage 2 could be as good by chance; 0 leaves it out.
    ``answer_share``: of new scans that stage 2 is to be sure enough of, 0 to 1; the others are undecided.
    ``methods``: whether other ways from slices to patients are tried beside, ``method_repeats`` times within the
    training scans. ``primary_method``: of stage 2, booster or one of ``method_names``. ``threshold_class``:
    whose ``threshold_sensitivity`` (0 to 1) on new scans is wanted; auto, null or a class. ``prevalence``: of that
    class among new scans, a share or a list of them. ``refits``: of stage 2 on resampled training patients; 0 for
    none. ``seeds``: tags, ``splits``: studies that repeat this one with other seeds. ``verbose``: the terminal shows
    every table. ``evaluate``: predictions of predict.py, a file or a list;
    ``labels``: their true classes, a CSV file a set. ``compare``: another study, or study/ensemble, on the same scans;
    ``compare_on``: the validation scans, or a set that both have scored. ``ablations``: of the networks' input.
    ``robustness``: whether the validation scans are read again, perturbed (``evaluation.robustness``).
    ``tag``: of the runs, or a list of tags, one for each seed, whose means are joined.
    ``checklist``: reporting checklists to fill, one or a list.
    ``plan``: a YAML file, see ``evaluation.clinical.analysis_plan``.
    """

    study: str = ""
    ensemble: Any = field(default="all", metadata=TEXTS)
    permutations: _Number = 99
    answer_share: _Share = 0.9
    methods: bool = True
    logger: LoggerSettings = field(default_factory=lambda: LoggerSettings(name="csv"))
    refits: _Number = 50
    seeds: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    verbose: bool = False
    method_repeats: _Count = 3
    primary_method: Annotated[str, OneOf((BOOSTER, *method_names()))] = BOOSTER
    threshold_class: str | None = "auto"
    threshold_sensitivity: _Share = 0.9
    prevalence: Any = None
    evaluate: Any = field(default=None, metadata=PATH | TEXTS)
    labels: Any = field(default=None, metadata=PATH | TEXTS)
    compare: str | None = None
    compare_on: str = "validation"
    plan: str | None = field(default=None, metadata=PATH)
    checklist: Any = field(default=None, metadata=TEXTS)
    ablations: bool = False
    robustness: bool = False
    gpus: _OneGpu | None = None
    tag: Any = field(default="seed0", metadata=TEXTS)
    runs: str = field(default="runs", metadata=PATH)
    booster: BoosterSettings = field(default_factory=BoosterSettings)

    @property
    def prevalences(self) -> tuple[float, ...]:
        """The prevalences as numbers. Raises ConfigurationError."""
        return setting_numbers("prevalence", self.prevalence)

    @property
    def checklists(self) -> tuple[str, ...]:
        """The names of the checklists. Raises ConfigurationError."""
        return setting_choices("checklist", self.checklist, CHECKLISTS)
