"""The end of a search: the table of its trials, the same as a file, and the command of the best."""

import csv
import io
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from cnr_iemn.config.schema.settings import SearchSettings
from cnr_iemn.config.search_space import setting_words
from cnr_iemn.schemas import SCHEMA_VERSION
from cnr_iemn.utils.atomic_io import write_text_atomic
from cnr_iemn.utils.console import table_console
from cnr_iemn.utils.shell_words import command
from cnr_iemn.utils.spreadsheet import harmless

log = logging.getLogger(__name__)
SELECTED_ON = {
    "inner_folds": "selected on inner folds of the training scans",
    "validation": "selected on the validation scans",
}
_STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "interrupted",
}


def report(trials: Sequence[FrozenTrial], folder: Path, search: SearchSettings, words: Sequence[str]) -> float | None:
    """Print the trials and the command of the best one, and write trials.csv.

    Args:
        trials: In the order of their index.
        folder: The search's.
        search: Its settings.
        words: Of the command line.

    Returns:
        The best value, None where no trial has finished.
    """
    keys = sorted({key for trial in trials for key in trial.params})
    selected = SELECTED_ON[search.score]
    table = Table(title=f"search {search.name}: balanced slice accuracy, {selected}")
    names = [key.rsplit(".", 1)[-1] for key in keys]
    headings = names if len(set(names)) == len(names) else keys
    for column in ("trial", *headings, "value", "state"):
        table.add_column(column, justify="left" if column == "state" else "right")
    for index, trial in enumerate(trials):
        settings = [_text(trial.params.get(key, "")) for key in keys]
        value = "" if _value(trial) is None else f"{_value(trial):.4f}"
        table.add_row(str(index), *settings, value, _STATES[trial.state])
    table_console().print(table)
    path = folder / "trials.csv"
    write_text_atomic(path, _csv(trials, keys, search))
    log.info("wrote %s", path)
    finished = [(trial.values[0], -index) for index, trial in enumerate(trials) if trial.state == TrialState.COMPLETE]
    if not finished:
        return None
    value, index = max(finished)
    best = float(value)
    log.info("Best trial: %d, %.4f (%s). Train it with:", -index, value, selected)
    log.info("  %s", best_command(words, trials[-index].params))
    return best


def best_command(words: Sequence[str], params: Mapping[str, Any]) -> str:
    """Return the command that trains with these settings, quoted for the shell and for Hydra."""
    words = [word for word in words if not re.match(r"[+~]*(search|hydra)\b", word)]
    words = [word for word in words if word.lstrip("+~").split("=")[0] not in params]
    return command("train", *words, *setting_words(params))


def _csv(trials: Sequence[FrozenTrial], keys: Sequence[str], search: SearchSettings) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("schema_version", "trial", *keys, "value", "state", "selected_on"))
    for index, trial in enumerate(trials):
        settings = (trial.params.get(key, "") for key in keys)
        cells = (harmless(value) if isinstance(value, str) else value for value in settings)
        value = "" if _value(trial) is None else _value(trial)
        writer.writerow((SCHEMA_VERSION, index, *cells, value, _STATES[trial.state], search.score))
    return text.getvalue()


def _value(trial: FrozenTrial) -> float | None:
    """Return a trial's value, of a pruned one that of the epoch at which it was stopped."""
    return trial.values[0] if trial.values else None


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
