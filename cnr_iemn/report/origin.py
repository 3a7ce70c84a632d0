"""Where the figures come from, as tables."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from cnr_iemn.patients.evidence.tables import ResultTable, model_title

_UNKNOWN = "not recorded"


def origin_tables(found: Mapping[str, Any]) -> tuple[ResultTable, ...]:
    """Return the aggregation's own facts, then a row for each network. ``found``: provenance.json."""
    facts = {
        "command": found["command"] or _UNKNOWN,
        "versions": _versions(found["versions"]),
        "booster's seed": str(found["booster_seed"]),
        "split's seed": _UNKNOWN if found["split_seed"] is None else str(found["split_seed"]),
        "split, SHA-256": found["split_sha256"],
        "slice store": found["store"],
    }
    rows = tuple(
        (
            model_title(run["model"]),
            run["tag"],
            str(run["seed"]),
            PurePath(run["weights"]).name,
            run["checkpoint"],
            "this validation set" if run["selected_on_validation"] else "nothing",
            run["checkpoint_sha256"][:12],
            run["hardware"],
            run["ended"] or _UNKNOWN,
        )
        for run in found["runs"]
    )
    columns = ("model", "tag", "seed", "start", "checkpoint", "selected on", "SHA-256", "hardware", "ended")
    commands = tuple((model_title(run["model"]), run["tag"], run["command"] or _UNKNOWN) for run in found["runs"])
    versions = sorted({_versions(run["versions"]) for run in found["runs"]})
    return (
        ResultTable("Aggregation", ("what", ""), tuple(facts.items())),
        ResultTable("Networks", columns, rows, caption=f"Made with {'; or '.join(versions)}."),
        ResultTable("Commands", ("model", "tag", "command"), commands),
    )


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
