"""Where the figures of an ensemble come from: commands, versions, seeds, checksums, and what selected on what."""

import platform
from importlib.metadata import version
from typing import Any

from cnr_iemn.engine.ensembles import written_by_this_version
from cnr_iemn.engine.joined import JoinedRuns
from cnr_iemn.engine.runs import RunFolder
from cnr_iemn.patients.predictions import Predictions
from cnr_iemn.records import SCHEMA_VERSION
from cnr_iemn.settings.multirun import command_line

_PACKAGES = ("cnr-iemn", "xgboost", "scikit-learn", "scipy", "numpy", "pandas")


def provenance(joined: JoinedRuns, *, booster_seed: int) -> dict[str, Any]:
    """Return what made an ensemble, JSON-ready: the aggregation, then ``runs``, one entry a network.

    Raises RunError for a run of an earlier version.
    """
    first, run = next(iter(joined.predictions.values())).metadata, next(iter(joined.runs.values()))
    with written_by_this_version(run):
        data = (run.record() or {})["configuration"]["data"]
        split_seed, left_out = None if data["split"]["file"] else data["split"]["seed"], list(data["exclude"])
    sets = [(joined.runs, joined.predictions), *(joined.folds or {}).values()]
    return {
        "schema_version": SCHEMA_VERSION,
        "command": command_line(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "booster_seed": booster_seed,
        "split_seed": split_seed,
        "split_sha256": first.split_sha256,
        "store": first.store,
        "left_out": left_out,
        "runs": [_run(each, made[name]) for those, made in sets for name, each in those.items()],
    }


def _run(run: RunFolder, predictions: Predictions) -> dict[str, Any]:
    record, metadata = run.record() or {}, predictions.metadata
    with written_by_this_version(run):
        configuration = record["configuration"]
        return {
            "model": run.model,
            "tag": run.tag,
            "command": record.get("command"),  # runs of earlier versions do not say it
            "seed": metadata.seed,
            "weights": configuration["model"]["weights"],
            "checkpoint": metadata.checkpoint,
            "checkpoint_sha256": metadata.checkpoint_sha256,
            "selected_on_validation": bool(predictions.table["used_for_selection"].any()),
            "labels_permuted": configuration["data"]["shuffle_training_labels"],
            "hardware": record["hardware"],
            "ended": record.get("ended"),
            "versions": record["versions"],
        }
