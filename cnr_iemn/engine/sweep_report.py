"""What a sweep ends with: the table of its trials, the same as a file, and the command of the best."""

import csv
import io
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from cnr_iemn.engine.sweep_storage import SELECTED_ON
from cnr_iemn.files import write_text_atomic
from cnr_iemn.records import SCHEMA_VERSION
from cnr_iemn.settings.ranges import setting_words
from cnr_iemn.settings.schema import SweepSettings

_STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "open",
}


def report(study: optuna.Study, folder: Path, sweep: SweepSettings, words: Sequence[str]) -> None:
    """Print the trials and the command of the best one, and write trials.csv."""
    trials = study.trials
    keys = sorted({key for trial in trials for key in trial.params})
    selected = SELECTED_ON[sweep.score]
    table = Table(title=f"sweep {sweep.name}: balanced slice accuracy, {selected}")
    names = [key.rsplit(".", 1)[-1] for key in keys]
    shown = names if len(set(names)) == len(names) else keys
    for column in ("trial", *shown, "value", "state"):
        table.add_column(column, justify="left" if column == "state" else "right")
    for trial in trials:
        settings = [_text(trial.params.get(key, "")) for key in keys]
        value = "" if _value(trial) is None else f"{_value(trial):.4f}"
        table.add_row(str(trial.number), *settings, value, _STATES[trial.state])
    console = Console(width=None if Console().is_terminal else 140)
    console.print(table)
    path = folder / "trials.csv"
    write_text_atomic(path, _csv(trials, keys, sweep))
    console.print(f"wrote {path}", soft_wrap=True)
    if any(trial.state == TrialState.COMPLETE for trial in trials):
        best = study.best_trial
        print(f"Best trial: {best.number}, {best.values[0]:.4f} ({selected}). Train it with:")
        print(f"  {best_command(words, best.params)}", flush=True)


def best_command(words: Sequence[str], params: Mapping[str, Any]) -> str:
    """Return the command that trains with these settings, quoted for the shell and for Hydra."""
    kept = [word for word in words if not re.match(r"[+~]*(sweep|hydra)\b", word)]
    kept = [word for word in kept if word.lstrip("+~").split("=")[0] not in params]
    return shlex.join(["python", "train.py", *kept, *setting_words(params)])


def _csv(trials: Sequence[FrozenTrial], keys: Sequence[str], sweep: SweepSettings) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("schema_version", "trial", *keys, "value", "state", "selected_on"))
    for trial in trials:
        values = ["" if _value(trial) is None else _value(trial), _STATES[trial.state], sweep.score]
        writer.writerow((SCHEMA_VERSION, trial.number, *(trial.params.get(key, "") for key in keys), *values))
    return text.getvalue()


def _value(trial: FrozenTrial) -> float | None:
    """Return a trial's value, of a pruned one that of the epoch at which it was stopped."""
    return trial.values[0] if trial.values else None


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
