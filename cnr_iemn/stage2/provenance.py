"""provenance.json: commands, versions, seeds and checksums of an ensemble, and its selection of checkpoints."""

import platform
from importlib.metadata import version
from typing import NotRequired

from typing_extensions import TypedDict

from cnr_iemn.config.multirun import command_line
from cnr_iemn.config.schema.aggregate import BoosterSettings
from cnr_iemn.data.predictions.slice_predictions import Predictions
from cnr_iemn.schemas import SCHEMA_VERSION
from cnr_iemn.stage1.training.run_folder import RunFolder
from cnr_iemn.stage2.ensemble_runs import EnsembleRuns
from cnr_iemn.stage2.methods.boosted import Boosted
from cnr_iemn.stage2.methods.infected_first import InfectedFirst
from cnr_iemn.stage2.methods.registry import METHODS
from cnr_iemn.stage2.run_settings import RunSettings

_PACKAGES = ("cnr-iemn", "xgboost", "scikit-learn", "scipy", "numpy", "pandas")


class NetworkProvenance(TypedDict):
    """One network. ``command`` and ``ended``: None for runs of earlier versions. ``channels``: of its input."""

    model: str
    tag: str
    command: str | None
    seed: int
    weights: str
    checkpoint: str
    checkpoint_sha256: str
    selected_on_validation: bool
    labels_permuted: bool
    hardware: str
    ended: str | None
    versions: dict[str, str]
    channels: NotRequired[list[str]]


class BoosterProvenance(TypedDict):
    """``TreeSettings`` of stage 2."""

    rounds: int
    max_depth: int
    eta: float


class StudyProvenance(TypedDict):
    """An aggregation and its networks. ``split_seed``: None where the split is from a file.

    ``booster``: XGBoost's settings; None where the primary method does not use it. ``phantom_disease``: of the phantom
    cohort, published or clear; None for another cohort.
    """

    schema_version: int
    command: str | None
    versions: dict[str, str]
    booster_seed: int
    split_seed: int | None
    split_sha256: str
    phantom_disease: str | None
    store: str
    left_out: list[str]
    runs: list[NetworkProvenance]
    booster: NotRequired[BoosterProvenance | None]


def provenance(runs: EnsembleRuns, booster: BoosterSettings, *, method: str) -> StudyProvenance:
    """Return the provenance of an ensemble. Raises RunError for a run of an earlier version.

    ``booster``: settings of stage 2. ``method``: name of the primary one.
    """
    first, settings = next(iter(runs.predictions.values())).metadata, RunSettings.read(runs.first_run)
    return {
        "schema_version": SCHEMA_VERSION,
        "command": command_line(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "booster_seed": booster.seed,
        "split_seed": settings.split_seed,
        "split_sha256": first.split_sha256,
        "phantom_disease": settings.phantom_disease,
        "store": first.store,
        "left_out": settings.excluded_scans,
        "booster": _booster(booster) if isinstance(METHODS[method], Boosted | InfectedFirst) else None,
        "runs": [
            _run(run, predictions)
            for networks in (runs, *(runs.folds or {}).values())
            for run, predictions in networks.networks
        ],
    }


def _booster(settings: BoosterSettings) -> BoosterProvenance:
    return {"rounds": settings.rounds, "max_depth": settings.max_depth, "eta": settings.eta}


def _run(run: RunFolder, predictions: Predictions) -> NetworkProvenance:
    settings, metadata = RunSettings.read(run), predictions.metadata
    return {
        "model": run.model,
        "tag": run.tag,
        "command": settings.command,
        "seed": metadata.seed,
        "weights": settings.weights,
        "checkpoint": metadata.checkpoint,
        "checkpoint_sha256": metadata.checkpoint_sha256,
        "selected_on_validation": bool(predictions.table["used_for_selection"].any()),
        "labels_permuted": settings.labels_permuted,
        "hardware": settings.hardware,
        "ended": settings.end_time,
        "versions": settings.versions,
        "channels": list(settings.channels),
    }
