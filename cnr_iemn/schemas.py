"""The contracts between the parts: file names, column names, dtypes, units and the schema's version."""

from dataclasses import dataclass, field

from cnr_iemn.constants import N_GROUPS

SCHEMA_VERSION = 2
"""Version of every file the project writes. Readers refuse another one."""

TRAINING, VALIDATION = "training", "validation"
"""The two values of ``split``."""
NO_CLASS = NO_SIDE = ""
"""``label`` of a scan of which no class is known, and its ``split``: it trains and measures nothing."""
READER = "reader"
"""Slice labels are a reader's, for the whole of the cohort."""

PREDICTION_COLUMNS: dict[str, str] = {
    "scan_id": "string",
    "patient_id": "string",
    "split": "string",  # training or validation; the empty string where the scan's class is not known
    "fold": "Int64",  # nullable: the fold of data.folds that this scan belongs to
    "seen_in_training": "bool",  # a slice of this scan trained the network
    "used_for_selection": "bool",  # a slice of this scan chose the checkpoint
    "label": "string",  # class of the scan; the empty string where it is not known
    "slice_index": "int64",  # 0-based, head first
    "n_slices": "int64",
    "slice_label": "string",  # nullable: class of the slice where a reader labelled it
}
"""Fixed columns of predictions.parquet; ``p_<class>`` and ``region_<k>`` (float32 probabilities) follow, and ``score``
of a network with attention (float32)."""
SCORE = "score"


NEW_SCANS = "new scans"
"""What the predictions of new scans call themselves; those of a run's cohort have no ``kind``."""

NEW_SCAN_COLUMNS: dict[str, str] = {
    "scan_id": "string",
    "model": "string",
    "fold": "Int64",  # nullable: the fold that the network has not seen; missing where the ensemble has no folds
    "slice_index": "int64",  # 0-based, head first
    "n_slices": "int64",
    "z_mm": "float64",  # missing where the slices have no position
    "phantom": "bool",  # the scan says that it is synthetic
    "grey_sha256": "string",  # of the scan's grey slices, as the store has it for the study's own scans
}
"""Fixed columns of the predictions.parquet of new scans (predict.py): a row for every slice and network of an ensemble;
``p_<class>`` (float32 probabilities) follow, then ``score`` where a network has attention, and ``component_<k>`` where
stage 2 reads features (float32)."""


def component_columns(n_components: int) -> list[str]:
    """Return the names of the columns of the features' components."""
    return [f"component_{k}" for k in range(n_components)]


def channel_columns(metadata: "NewScansMetadata") -> list[str]:
    """Return the names of the columns behind the fixed ones, as stage 2 reads them."""
    score = [SCORE] if metadata.attention else []
    return [*probability_columns(metadata.classes), *score, *component_columns(metadata.components)]


def probability_columns(classes: tuple[str, ...] | list[str]) -> list[str]:
    """Return the names of the class probability columns, in class order."""
    return [f"p_{name}" for name in classes]


def calibrated_columns(classes: tuple[str, ...] | list[str]) -> list[str]:
    """Return the names of the calibrated probability columns, in class order."""
    return [f"calibrated_{name}" for name in classes]


def region_columns(n_regions: int) -> list[str]:
    """Return the names of the region probability columns."""
    return [f"region_{k}" for k in range(n_regions)]


@dataclass(frozen=True)
class PredictionMetadata:
    """What predictions.parquet says about its origin, stored as JSON in the file's schema metadata.

    ``store``: fingerprint of the slice store. ``split_sha256``: of split.csv. ``scans_sha256``: of all scans' pixels,
    labels and sides, as run.json has them. ``training_scan_ids``: scans of which a slice trained the network.
    ``phantom``: the cohort is synthetic. ``slice_labels``: reader, or from_patient where slices that no reader labelled
    have their scan's class.
    """

    model: str
    classes: tuple[str, ...]
    tag: str
    seed: int
    precision: str
    checkpoint: str
    checkpoint_sha256: str
    store: str
    split_sha256: str
    scans_sha256: str
    training_scan_ids: tuple[str, ...]
    phantom: bool
    slice_labels: str = READER
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class TrainingScans:
    """The training scans of a study.

    ``values``: the meaning of their pixels, of ``image_stack.VALUES``; empty in files of earlier versions.
    ``fewest_slices``: the smallest number of slices of a scan.
    """

    values: tuple[str, ...] = ()
    fewest_slices: int = N_GROUPS


UNKNOWN_SCANS = TrainingScans()


@dataclass(frozen=True)
class NetworkId:
    """One network of an ensemble. ``fold``: which has not trained it, None without folds."""

    model: str
    fold: int | None
    checkpoint_sha256: str


@dataclass(frozen=True)
class NewScansMetadata:
    """What the predictions.parquet of new scans says about its origin, stored as JSON in the file's schema metadata.

    ``networks``: in ensemble order. ``method_sha256``: of the stage-2 method's file. ``refused``: scans that could
    not be read, with the reason. ``phantom``: the study is synthetic. ``components``: of the features, if stage 2 reads
    them. ``attention``: some network has it. ``codes``: ``RefusalCode`` by refused scan; earlier versions wrote none.
    """

    study: str
    ensemble: str
    classes: tuple[str, ...]
    networks: tuple[NetworkId, ...]
    method_sha256: str
    refused: dict[str, str]
    phantom: bool
    components: int = 0
    attention: bool = False
    codes: dict[str, str] = field(default_factory=dict)
    kind: str = NEW_SCANS
    schema_version: int = SCHEMA_VERSION
