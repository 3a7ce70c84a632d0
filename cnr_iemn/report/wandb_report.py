"""An ensemble on Weights & Biases: the figures and tables of its report."""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from cnr_iemn.config.schema.settings import LoggerSettings
from cnr_iemn.evaluation.study_metrics import StudyMetrics
from cnr_iemn.report.population.tables import population_tables
from cnr_iemn.report.tables import ResultTable
from cnr_iemn.report.tables.evidence import evidence_tables
from cnr_iemn.report.tables.results import confusion_table, scan_table, slice_table
from cnr_iemn.schemas import VALIDATION, probability_columns
from cnr_iemn.stage1.training.loggers.wandb_logger import start_run


def log_ensemble(
    settings: LoggerSettings,
    folder: Path,
    metrics: StudyMetrics,
    patients: pd.DataFrame,
    *,
    study: str,
    name: str,
) -> None:
    """Log an ensemble: the main metrics as the run's summary, its tables and its drawings.

    The page is not uploaded: it holds pictures of scans.

    Args:
        settings: Of the logger.
        folder: The ensemble's, which holds figures/.
        metrics: metrics.json.
        patients: One row a scan, index scan_id; the validation scans are logged, without patient ids.
        study: Its name.
        name: Of the ensemble.
    """
    import wandb

    init_kwargs = {
        "name": f"ensemble/{name}",
        "group": study,
        "job_type": "aggregate",
        "tags": [*settings.tags, "ensemble"],
        "notes": metrics.get("notice"),
        "config": {
            "cohort": metrics["cohort"],
            "classes": metrics["classes"],
            "models": metrics["models"],
            "features": metrics["features"],
            "folds": metrics["folds"],
            "checkpoints": metrics["checkpoints"],
        },
    }
    with start_run(settings, folder, init_kwargs) as run:
        strongest = metrics["strongest_baseline"]
        tables = (slice_table(metrics), scan_table(metrics), *population_tables(metrics), *evidence_tables(metrics))
        run.summary.update(
            {
                "accuracy": metrics["accuracy"],
                "balanced_accuracy": metrics["balanced_accuracy"],
                "strongest_baseline": strongest,
                "strongest_baseline_p_holm": metrics["baseline_comparisons"][strongest]["p_holm"],
                "n_patients": metrics["n_patients"],
                "features": metrics["features"],
                "selected_on": metrics["selected_on"],
                **{f"sensitivity/{label}": value for label, value in metrics["sensitivity"].items()},
            }
        )
        media: dict[str, Any] = {f"table/{_key(table)}": _table(table) for table in tables}
        media["table/confusion_matrix"] = _table(confusion_table(metrics))
        media["table/validation_scans"] = _answer_table(patients, metrics["classes"])
        for path in sorted((folder / "figures").glob("*.svg")):
            media[f"figure/{path.stem}"] = wandb.Html(path.read_text(encoding="utf-8"), inject=False)
        run.log(media)


def _key(table: ResultTable) -> str:
    """Return a key that is the same for every study: the title's first clause in letters and digits."""
    return re.sub(r"[^A-Za-z0-9]+", "_", table.title.split(",")[0]).strip("_")


def _table(table: ResultTable) -> Any:
    import wandb

    columns: list[str | int] = [name or " " for name in table.columns]  # W&B wants a name
    return wandb.Table(columns=columns, data=[list(row) for row in table.rows])


def _answer_table(patients: pd.DataFrame, classes: list[str]) -> Any:
    """Return the answer for each validation scan, numbers as numbers, which W&B sorts and filters."""
    import wandb

    held_out = patients[patients["split"] == VALIDATION].reset_index()
    columns = ["scan_id", "label", "predicted", "correct", *probability_columns(classes)]
    return wandb.Table(dataframe=held_out[columns])
