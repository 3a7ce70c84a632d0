"""An ensemble on Weights & Biases: the figures and tables of its report, beside the runs of its networks."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnr_iemn.engine.wandb_run import opened
from cnr_iemn.patients.evidence.tables import ResultTable
from cnr_iemn.settings.schema import LoggerSettings

_SUMMARY = ("accuracy", "balanced_accuracy", "majority_p", "n_patients", "method", "selected_on")


def log_ensemble(
    settings: LoggerSettings,
    folder: Path,
    metrics: Mapping[str, Any],
    tables: Sequence[ResultTable],
    *,
    study: str,
    name: str,
) -> None:
    """Log an ensemble that is written: figures of metrics.json as the run's summary, its tables, its drawings.

    ``folder``: the ensemble's, which holds figures/. The page itself stays here: it holds pictures of scans.
    """
    import wandb

    about = {
        "name": f"ensemble/{name}",
        "group": study,
        "job_type": "aggregate",
        "tags": [*settings.tags, "ensemble"],
        "notes": metrics.get("notice"),
        "config": {key: metrics[key] for key in ("cohort", "classes", "models", "method", "folds", "checkpoints")},
    }
    with opened(settings, folder, about) as run:
        recalls = {f"sensitivity/{label}": value for label, value in metrics["sensitivity"].items()}
        run.summary.update({**{key: metrics[key] for key in _SUMMARY}, **recalls})
        made: dict[str, Any] = {f"table/{_key(each)}": _table(each) for each in tables}
        for path in sorted((folder / "figures").glob("*.svg")):
            made[f"figure/{path.stem}"] = wandb.Html(path.read_text(encoding="utf-8"), inject=False)
        run.log(made)


def _key(table: ResultTable) -> str:
    """Return a name that is the same for every study: the title's first clause, without the signs that files forbid."""
    return re.sub(r"[^A-Za-z0-9]+", "_", table.title.split(",")[0]).strip("_")


def _table(table: ResultTable) -> Any:
    import wandb

    columns: list[str | int] = [name or " " for name in table.columns]  # W&B wants a name
    return wandb.Table(columns=columns, data=[list(row) for row in table.rows])
