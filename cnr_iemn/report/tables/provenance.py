"""Tables of the provenance: the aggregation, its networks and their commands."""

from collections.abc import Mapping
from pathlib import PurePath

from cnr_iemn.report.tables import ResultTable, make_table
from cnr_iemn.report.tables.results import model_title
from cnr_iemn.stage2.provenance import StudyProvenance

_UNKNOWN = "not recorded"


def provenance_tables(provenance: StudyProvenance) -> tuple[ResultTable, ...]:
    """Return the aggregation, then a row for each network. ``provenance``: provenance.json."""
    aggregation = {
        "command": provenance["command"] or _UNKNOWN,
        "versions": _versions(provenance["versions"]),
        "seed of stage 2": str(provenance["booster_seed"]),
        "split's seed": _UNKNOWN if provenance["split_seed"] is None else str(provenance["split_seed"]),
        "split, SHA-256": provenance["split_sha256"],
        "slice store": provenance["store"],
    }
    runs = [(model_title(run["model"]), run) for run in provenance["runs"]]
    networks = make_table(
        "Networks",
        "model",
        runs,
        {
            "tag": lambda run: run["tag"],
            "seed": lambda run: str(run["seed"]),
            "initial weights": lambda run: PurePath(run["weights"]).name,
            "checkpoint": lambda run: run["checkpoint"],
            "selected on": lambda run: "this validation set" if run["selected_on_validation"] else "nothing",
            "SHA-256": lambda run: run["checkpoint_sha256"][:12],
            "hardware": lambda run: run["hardware"],
            "ended": lambda run: run["ended"] or _UNKNOWN,
        },
        caption=f"Trained with {'; or '.join(sorted({_versions(run['versions']) for _, run in runs}))}.",
    )
    commands = make_table(
        "Commands",
        "model",
        runs,
        {"tag": lambda run: run["tag"], "command": lambda run: run["command"] or _UNKNOWN},
    )
    return ResultTable("Aggregation", ("property", "value"), tuple(aggregation.items())), networks, commands


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
