"""The jobs of a multirun: their words, what became of each, and the command of the current one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.types import RunMode
from omegaconf import DictConfig

from cnr_iemn.config.command_line import text_words
from cnr_iemn.errors import CnrIemnError, ConfigurationError, JobError, PartialFailureError
from cnr_iemn.utils.atomic_io import write_text_atomic
from cnr_iemn.utils.shell_words import command, override, shell

_FINISHED, _RUNNING, _FAILED, _PARTIAL = "finished", "running", "failed", "partial"
_LISTED = 5
"""Jobs that a message names."""


@dataclass(frozen=True)
class Multirun:
    """A multirun's folder, in which each job records how it ended, whichever process or machine runs it.

    Hydra's launchers hand results back in different ways, and its sweeper raises the first failure only.

    Attributes:
        folder: Hydra's own of the multirun, which all jobs can write.
        jobs: The words that tell each job from the others, in order.
    """

    folder: Path
    jobs: tuple[str, ...]

    def clear(self) -> None:
        """Remove the results of an earlier multirun in the same folder."""
        for path in (self.folder / "results").glob("[0-9]*.json"):
            path.unlink()

    def start(self, number: int) -> None:
        """Record that a job has begun. Raises OSError where the folder cannot be written."""
        self._write(number, _RUNNING, words=_job_words())

    def finish(self, number: int, error: CnrIemnError | None = None) -> None:
        """Record a job's end. ``error``: why it failed; PartialFailureError where it did part of its work."""
        status = _FINISHED if error is None else _PARTIAL if isinstance(error, PartialFailureError) else _FAILED
        self._write(number, status, words=_job_words(), reason="" if error is None else str(error))

    def raise_failures(self) -> None:
        """Name all failed jobs. Raises PartialFailureError where some work was done, else JobError."""
        results = self._results()
        failures = [result for _, result in sorted(results.items()) if result["status"] != _FINISHED]
        missing = [words for k, words in enumerate(self.jobs) if k not in results]
        if missing:
            raise JobError(f"The launcher ran no job for {_listed(missing)}. The same command runs what is missing.")
        if not failures:
            return
        reasons = "\n".join(f"  {result['words']}: {result['reason']}" for result in failures)
        partial = len(failures) < len(results) or any(result["status"] == _PARTIAL for result in failures)
        kind = PartialFailureError if partial else JobError
        raise kind(f"{len(failures)} of {len(results)} jobs failed:\n{reasons}")

    def interruption(self) -> str:
        """Return which jobs a signal has stopped and which did not run."""
        results = self._results()
        finished = sum(result["status"] != _RUNNING for result in results.values())
        stopped = [result["words"] for _, result in sorted(results.items()) if result["status"] == _RUNNING]
        sentences = [f"The multirun was stopped: {finished} of {len(self.jobs)} jobs ended"]
        sentences += [f"stopped: {_listed(stopped)}"] if stopped else []
        missing = [words for k, words in enumerate(self.jobs) if k not in results]
        sentences += [f"{len(missing)} did not run: {_listed(missing)}"] if missing else []
        return (
            f"{'; '.join(sentences)}. Jobs that a queue has taken go on there. The same command runs what is missing."
        )

    def _write(self, number: int, status: str, **texts: str) -> None:
        write_text_atomic(self.folder / "results" / f"{number}.json", json.dumps({"status": status, **texts}))

    def _results(self) -> dict[int, dict[str, str]]:
        files = (self.folder / "results").glob("[0-9]*.json")
        return {int(path.stem): json.loads(path.read_text(encoding="utf-8")) for path in files}


def expand_sweeps(
    words: Sequence[str], schema: type, loader: ConfigLoader, search_path: Sequence[str], name: str
) -> dict[str, list[str]]:
    """Write out the values of each key, as Hydra's basic sweeper does.

    Args:
        words: The words of a multirun.
        schema: Dataclass of the settings; text that Hydra's choice() and the like unquote is quoted again.
        loader: Finds the options that a ``glob()`` selects.
        search_path: Further folders of YAML files.
        name: The primary configuration.

    Returns:
        For each key its words, one for each value.

    Raises:
        ConfigurationError: A list of values is empty, or an interval, so that there is no list of jobs.
    """
    expanded: dict[str, list[str]] = {}
    for parsed in OverridesParser.create(loader).parse_overrides(list(words)):
        key = parsed.get_key_element()
        if not parsed.is_sweep_override():
            expanded[key] = [parsed.input_line or ""]
            continue
        if not parsed.is_discrete_sweep():
            raise ConfigurationError(
                f"{shell(parsed.input_line or key)} is an interval, and -m cannot run all its values. Give a list of "
                "values, or search the interval with tune.py (search.space)."
            )
        values = _values(parsed, loader, search_path, name)
        if not values:
            raise ConfigurationError(
                f"{shell(parsed.input_line or key)} names no job: its list of values is empty. Correct it."
            )
        expanded[key] = text_words([f"{key}={value}" for value in values], schema)
    return expanded


def job_list(expanded: dict[str, list[str]]) -> list[list[str]]:
    """Return the words of each job: all combinations, the last key's values in turn first."""
    return [list(job) for job in product(*expanded.values())]


def varying_words(expanded: dict[str, list[str]]) -> tuple[str, ...]:
    """Return for each job the words that not all jobs share."""
    varying = {key: values for key, values in expanded.items() if len(values) > 1 and not key.startswith("hydra")}
    return tuple(shell(*job) for job in product(*varying.values()))


def multirun_words(expanded: dict[str, list[str]]) -> list[str]:
    """Return one word for each key, its values between commas."""
    return [",".join([values[0], *(value.partition("=")[2] for value in values[1:])]) for values in expanded.values()]


def _values(parsed: Override, loader: ConfigLoader, search_path: Sequence[str], name: str) -> list[str]:
    selection = parsed.value()
    if not isinstance(selection, Glob):
        return list(parsed.sweep_string_iterator())
    folders = [override("hydra.searchpath", search_path)] if search_path else []
    return selection.filter(loader.get_group_options(parsed.key_or_group, config_name=name, overrides=folders))


def _listed(words: Sequence[str]) -> str:
    return "; ".join(words[:_LISTED]) + ("; ..." if len(words) > _LISTED else "")


def _job_words() -> str:
    return shell(*HydraConfig.get().overrides.task)


def multirun_name() -> str | None:
    """Return the name of the multirun's folder (the time of its start, by default), None for a single run."""
    if not HydraConfig.initialized():
        return None
    config = HydraConfig.get()
    return Path(config.sweep.dir).name if config.mode == RunMode.MULTIRUN else None


def command_words() -> list[str]:
    """Return the words that make this very job, also of a multirun; none outside an entry point."""
    if not HydraConfig.initialized():
        return []
    config = HydraConfig.get()
    return [*_config_folder_words(config), *config.overrides.task]


def command_line() -> str | None:
    """Return the command that makes this very job, also of a multirun; None outside an entry point."""
    if not HydraConfig.initialized():
        return None
    return command(str(HydraConfig.get().job.config_name), *command_words())


def _config_folder_words(config: DictConfig | HydraConf) -> list[str]:
    """Return ``--config-dir`` and its folder where the command has it. ``config``: the section ``hydra``."""
    folders = [source.path for source in config.runtime.config_sources if source.provider == "command-line"]
    return [word for folder in folders for word in ("--config-dir", folder)]
