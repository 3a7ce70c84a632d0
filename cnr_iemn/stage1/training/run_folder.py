"""Run folders, ``runs/<study>/<model>/<tag>/``: created after all checks, overwritten only with overwrite=true."""

import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from cnr_iemn.config.schema.settings import TrainSettings
from cnr_iemn.data.predictions.slice_features import FEATURES
from cnr_iemn.errors import RunError
from cnr_iemn.schemas import SCHEMA_VERSION
from cnr_iemn.stage1.training.run_record import RunRecord, RunScans, describe_config_diff, with_later_settings
from cnr_iemn.utils.atomic_io import exclusive, write_text_atomic
from cnr_iemn.utils.json_io import read_json
from cnr_iemn.utils.shell_words import command, model_words, study_words

log = logging.getLogger(__name__)

_REMEDY = "Give another tag= (or study=) to keep it, or overwrite=true to train it again from the start."
_NEEDED = ("store", "scans", "hardware", "run_id")
"""Entries of run.json without which no run goes on."""


@dataclass(frozen=True)
class RunFolder:
    """One run of one model. ``status`` in run.json: running, finished, interrupted, failed or, of a trial, pruned."""

    path: Path
    study: str
    model: str
    tag: str

    @classmethod
    def of(cls, runs: Path, study: str, model: str, tag: str) -> "RunFolder":
        """Return the folder of a run, existing or not."""
        return cls(runs / study / model / tag, study, model, tag)

    @classmethod
    def from_settings(cls, settings: TrainSettings) -> "RunFolder":
        """Return the folder of the run that the settings describe."""
        return cls.of(Path(settings.runs), settings.study, settings.model.name, settings.run_tag)

    @property
    def predictions(self) -> Path:
        """The run's predictions.parquet."""
        return self.path / "predictions.parquet"

    @property
    def features(self) -> Path:
        """The run's features.npy, where it keeps features."""
        return self.path / FEATURES

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.path / "checkpoints"

    def record(self) -> dict[str, Any] | None:
        """Return run.json, None without a run. Raises RunError where the file is damaged or of another version."""
        path = self.path / "run.json"
        if not path.exists():
            return None
        again = f"Copy the file back from a backup, if there is one. {_REMEDY}"
        record: dict[str, Any] = dict(read_json(path, RunRecord, again=again, extra="allow"))
        return {**record, "configuration": with_later_settings(record["configuration"])}

    @property
    def run_id(self) -> str:
        """The random name that run.json and the run's checkpoints share. Raises RunError where run.json has none."""
        return str(self._required("run_id"))

    def _required(self, key: str) -> Any:
        """Return an entry of run.json that every run of this version has."""
        record = self.record() or {}
        if key not in record:
            raise RunError(
                f"{self.path / 'run.json'} has no {key}: an earlier version began the run, or the file is damaged. "
                f"{_REMEDY}"
            )
        return record[key]

    def scans(self) -> RunScans:
        """Return what the run has learnt from. Raises RunError where an earlier version did not note it."""
        return RunScans(**self._required("scans"))

    def require_scans(self, now: RunScans) -> None:
        """Raise RunError where the run has learnt from other pixels, labels or sides than there are ``now``."""
        changes = self.scans().changes(now)
        if changes:
            raise RunError(
                f"The run {self.path} was made with other data; changed since: {changes}. Its figures do not describe "
                f"the present data. Put the data back as they were. {_REMEDY}"
            )

    def finished_score(
        self, configuration: Mapping[str, Any], *, overwrite: bool, resume: str = "auto"
    ) -> float | None:
        """Return the score of a finished run with this configuration; None where the run has to start or resume.

        Args:
            configuration: Of ``reproducible_config``.
            overwrite: Start again in any case.
            resume: auto resumes an interrupted run of this configuration, never refuses it.

        Raises:
            RunError: The tag belongs to a run with another configuration, or run.json is damaged.
        """
        if overwrite:
            return None
        record = self.record()
        if record is not None and "debug" in record:
            return None  # nobody misses it
        if record is None:
            if self.path.exists() and any(self.path.glob("[!.]*")):
                raise RunError(f"{self.path} holds no run.json, so it is not known what made it. {_REMEDY}")
            return None
        finished = record["status"] == "finished"
        difference = describe_config_diff(record["configuration"], with_later_settings(configuration))
        if difference:
            how = "is finished" if finished else "was begun and interrupted"
            raise RunError(f"The run {self.path} {how} with another configuration: {difference}. {_REMEDY}")
        if not finished and resume == "never":
            raise RunError(
                f"The run {self.path} was interrupted before it was finished. resume=auto goes on with it. {_REMEDY}"
            )
        if finished and "score" not in record:
            raise RunError(f"{self.path / 'run.json'} is damaged: the run is finished and has no score. {_REMEDY}")
        if not finished:
            return None
        return math.nan if record["score"] is None else float(record["score"])

    def require_replaceable(self) -> None:
        """Raise RunError where a debug run would take the place of a run whose results count."""
        if self.path.exists() and "debug" not in (self.record() or {}):
            raise RunError(
                f"{self.path} is no debug run, and one would replace it. Leave tag= out, or give another one."
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run's lock. Raises RunError where another process trains it."""

        def refuse() -> None:
            raise RunError(f"Another process is training {self.path}. Wait for it, or give another tag=.")

        with exclusive(self.path.with_name(f".{self.tag}.lock"), refuse):
            yield

    def start(self, record: Mapping[str, Any], config_yaml: str) -> None:
        """Make the folder with config.yaml and run.json, in place of whatever stood there."""
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)
        self.write_record({**record, "run_id": uuid4().hex, "status": "running", "started": _timestamp()})
        write_text_atomic(self.path / "config.yaml", config_yaml)

    def resume(self, record: Mapping[str, Any], config_yaml: str) -> None:
        """Note in run.json that an interrupted run goes on.

        ``record``: what it would be begun with now; other hardware, and another place of the store, are taken. Raises
        RunError where its pixels, labels or sides would be others.
        """
        before: dict[str, Any] = {**(self.record() or {}), **{key: self._required(key) for key in _NEEDED}}
        if self.checkpoints.exists() and not self.checkpoints.is_dir():
            raise RunError(f"{self.checkpoints} is not a folder: it must hold the run's checkpoints. Remove it.")
        if Path(before["store"]).name != Path(record["store"]).name:  # the fingerprint of the pixel settings
            raise RunError(
                f"The run {self.path} was begun on the slices of {before['store']}, and these settings give those of "
                f"{record['store']}: they are prepared differently. {_REMEDY}"
            )
        self.require_scans(RunScans(**record["scans"]))
        if before["hardware"] != record["hardware"]:
            log.warning("%s was begun on %s: its figures will differ slightly.", self.path, before["hardware"])
        if not (self.path / "config.yaml").is_file():  # killed before it was written
            write_text_atomic(self.path / "config.yaml", config_yaml)
        again = {"at": _timestamp(), "hardware": record["hardware"]}
        here = {"store": record["store"], "status": "running"}
        self.write_record({**before, **here, "resumed": [*before.get("resumed", []), again]})

    def finish(self, *, status: str, **values: Any) -> None:
        """Note in run.json how the run ended."""
        self.update(**values, status=status, ended=_timestamp())

    def update(self, **values: Any) -> None:
        """Add to run.json, or replace in it."""
        self.write_record({**(self.record() or {}), **values})

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Replace run.json."""
        head = {"schema_version": SCHEMA_VERSION, "study": self.study, "model": self.model, "tag": self.tag}
        write_text_atomic(self.path / "run.json", json.dumps({**head, **record}, indent=1))


def finished_runs(runs: Path, study: str, models: tuple[str, ...], tag: str) -> dict[str, RunFolder]:
    """Return the finished run of each model under one tag. Raises RunError that lists what there is instead."""
    folders = {model: RunFolder.of(runs, study, model, tag) for model in models}
    missing, to_train = [], []
    for model, run in folders.items():
        record = run.record()
        if record is None:
            missing.append(f"{model} has no run {tag}")
        elif "debug" in record:
            missing.append(f"{model}'s run {tag} is a debug run ({record['debug']}), which predicts nothing")
        elif record["status"] != "finished":
            missing.append(f"{model}'s run {tag} was interrupted")
        elif not run.predictions.is_file():
            reason = "is a folder" if run.predictions.is_dir() else "is missing"
            missing.append(f"{run.predictions}, which {model}'s run {tag} wrote, {reason}")
        else:
            continue
        to_train.append(model)
    if missing:
        words = [*model_words(to_train[0]), *study_words(study, runs)]
        written = (p for p in (runs / study).glob("*/*/predictions.parquet") if p.is_file())
        available = sorted(str(p.parent.relative_to(runs)) for p in written)
        raise RunError(
            f"The study {runs / study} is not complete: {'; '.join(missing)}. Runs with predictions: "
            f"{', '.join(available) or 'none'}. Train what is missing ({command('train', *words)} ...), "
            "or name the models or the tag that are there (ensemble=, tag=)."
        )
    return folders


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
