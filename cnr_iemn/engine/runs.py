"""Run folders: ``runs/<study>/<model>/<tag>/``. Made when everything has been checked, never overwritten unasked."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cnr_iemn.cohort.cohort import Cohort
from cnr_iemn.cohort.splits import make_split, read_split, split_csv
from cnr_iemn.errors import RunError
from cnr_iemn.files import exclusive, write_text_atomic
from cnr_iemn.records import SCHEMA_VERSION
from cnr_iemn.settings.schema import SplitSettings

_WAYS_OUT = "Give another tag= (or study=) to keep it, or overwrite=true to train it again from the start."


@dataclass(frozen=True)
class RunFolder:
    """One run of one model. ``status`` in run.json: running, finished or interrupted."""

    path: Path
    study: str
    model: str
    tag: str

    @classmethod
    def of(cls, runs: Path, study: str, model: str, tag: str) -> "RunFolder":
        """Return the folder of a run, existing or not."""
        return cls(runs / study / model / tag, study, model, tag)

    @property
    def predictions(self) -> Path:
        """The run's predictions.parquet."""
        return self.path / "predictions.parquet"

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.path / "checkpoints"

    def record(self) -> dict[str, Any] | None:
        """Return run.json, or None where there is no run. Raises RunError for another schema version."""
        path = self.path / "run.json"
        if not path.is_file():
            return None
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record.get("schema_version") != SCHEMA_VERSION:
            raise RunError(
                f"{path} has schema_version {record.get('schema_version')}, this version reads {SCHEMA_VERSION}. "
                "Train again under another study=, or use the version of the project that wrote it."
            )
        return record

    def finished_score(
        self, configuration: Mapping[str, Any], *, overwrite: bool, resume: str = "auto"
    ) -> float | None:
        """Return the score of a finished run of this very configuration; None where the run is to be made or resumed.

        ``resume``: auto goes on with an interrupted run of this configuration, never refuses it. Raises RunError where
        the tag is taken by another configuration.
        """
        record = self.record()
        if overwrite or record is None:
            if record is None and not overwrite and self.path.exists() and any(self.path.glob("[!.]*")):
                raise RunError(f"{self.path} holds no run.json, so it is not known what made it. {_WAYS_OUT}")
            return None
        finished = record["status"] == "finished"
        different = differences(record["configuration"], configuration)
        if different:
            how = "is finished" if finished else "was begun and interrupted"
            raise RunError(f"The run {self.path} {how} with another configuration: {different}. {_WAYS_OUT}")
        if not finished and resume == "never":
            raise RunError(
                f"The run {self.path} was interrupted before it was finished. resume=auto goes on with it. {_WAYS_OUT}"
            )
        return float(record["score"]) if finished else None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the run's lock. Raises RunError where another process trains it."""

        def refuse() -> None:
            raise RunError(f"Another process is training {self.path}. Wait for it, or give another tag=.")

        with exclusive(self.path.with_name(f".{self.tag}.lock"), refuse):
            yield

    def begin(self, record: Mapping[str, Any], config_yaml: str) -> None:
        """Make the folder with config.yaml and run.json, in place of whatever stood there."""
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)
        self.write_record({**record, "status": "running", "started": _now()})
        write_text_atomic(self.path / "config.yaml", config_yaml)

    def resume(self, record: Mapping[str, Any], config_yaml: str) -> None:
        """Note in run.json that an interrupted run goes on.

        ``record``: what it would be begun with now; other hardware is told. Raises RunError where its pixels would be
        others.
        """
        before = self.record() or {}
        if before["store"] != record["store"]:
            raise RunError(
                f"The run {self.path} was begun on the slices of {before['store']}, which now are {record['store']}: "
                f"they are prepared otherwise since. {_WAYS_OUT}"
            )
        if before["hardware"] != record["hardware"]:
            print(f"{self.path} was begun on {before['hardware']}: its figures will not be exactly those.", flush=True)
        if not (self.path / "config.yaml").is_file():  # killed before it was written
            write_text_atomic(self.path / "config.yaml", config_yaml)
        again = {"at": _now(), "hardware": record["hardware"]}
        self.write_record({**before, "status": "running", "resumed": [*before.get("resumed", []), again]})

    def end(self, *, status: str, **values: Any) -> None:
        """Note in run.json how the run ended."""
        self.note(**values, status=status, ended=_now())

    def note(self, **values: Any) -> None:
        """Add to run.json, or replace in it."""
        self.write_record({**(self.record() or {}), **values})

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Replace run.json."""
        head = {"schema_version": SCHEMA_VERSION, "study": self.study, "model": self.model, "tag": self.tag}
        write_text_atomic(self.path / "run.json", json.dumps({**head, **record}, indent=1))


def finished_runs(runs: Path, study: str, models: tuple[str, ...], tag: str) -> dict[str, RunFolder]:
    """Return the finished run of each model under one tag. Raises RunError that lists what there is instead."""
    folders = {model: RunFolder.of(runs, study, model, tag) for model in models}
    missing = []
    for model, run in folders.items():
        record = run.record()
        if record is None:
            missing.append(f"{model} has no run {tag}")
        elif record["status"] != "finished" or not run.predictions.is_file():
            missing.append(f"{model}'s run {tag} was interrupted")
    if missing:
        there = sorted(str(p.parent.relative_to(runs)) for p in (runs / study).glob("*/*/predictions.parquet"))
        raise RunError(
            f"The study {runs / study} is not complete: {'; '.join(missing)}. Runs with predictions: "
            f"{', '.join(there) or 'none'}. Train what is missing (python train.py "
            f"model={missing[0].split()[0].strip()} "
            f"study={study} ...), or name the models or the tag that are there (ensemble=, tag=)."
        )
    return folders


def fold_runs(
    runs: Path, study: str, models: tuple[str, ...], tag: str, whole: Mapping[str, RunFolder]
) -> dict[int, dict[str, RunFolder]]:
    """Return the finished runs that hold out one fold each, by fold, then by model.

    ``whole``: the runs under ``tag`` itself; they say how many folds there are. Raises RunError where one is missing.
    """
    record = next(iter(whole.values())).record() or {}
    folds = range(int(record["configuration"]["data"]["folds"]))
    return {fold: finished_runs(runs, study, models, f"{tag}-fold{fold}") for fold in folds}


def study_split(study: Path, cohort: Cohort, settings: SplitSettings) -> dict[str, str]:
    """Return the study's one split: from a file, the cohort's own, or made from the settings.

    It must equal runs/<study>/split.csv where that exists. Writes nothing; see ``save_split``. Raises RunError where
    the study was split otherwise.
    """
    if settings.file is not None:
        split = read_split(Path(settings.file), cohort)
    elif cohort.split is not None:
        split = dict(cohort.split)
    else:
        split = make_split(cohort, validation=settings.validation, seed=settings.seed)
    path = study / "split.csv"
    if path.is_file() and path.read_text(encoding="utf-8") != split_csv(cohort, split):
        raise RunError(
            f"{path} is not the split that this configuration makes of the cohort {cohort.name}: the study was begun "
            "on other scans, labels or data.split settings. All runs of a study share one split. Give another study=, "
            f"or data.split.file={path} to use it as it is."
        )
    return split


def save_split(study: Path, cohort: Cohort, split: Mapping[str, str]) -> None:
    """Write runs/<study>/split.csv where it is not there yet."""
    path = study / "split.csv"
    if not path.is_file():
        study.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, split_csv(cohort, split))


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """Return in words what differs between two configurations, by key; an empty text where nothing does."""
    found = []
    for key in {**before, **now}:
        a, b = before.get(key), now.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found.append(differences(a, b, f"{prefix}{key}."))
        elif a != b:
            found.append(f"{prefix}{key} was {a}, now {b}")
    return "; ".join(entry for entry in found if entry)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
