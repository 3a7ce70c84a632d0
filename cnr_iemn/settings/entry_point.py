"""One wrapper around the five entry points: composed and checked settings in, exit codes out, no traceback for users.

Exit codes: 0 done; 1 some scans, or some jobs of a multirun, failed and the others finished; 2 wrong configuration or
input, or a training that cannot go on; 130 interrupted.
"""

import difflib
import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from cnr_iemn.errors import CnrIemnError, ConfigurationError, JobError, PartialFailureError, own_words
from cnr_iemn.settings.keys import setting_keys
from cnr_iemn.settings.render import checked_settings

S = TypeVar("S")
INTERRUPTED = 130


def configuration_folder() -> Path:
    """Return the folder of the YAML files: inside an installed package, or ``conf/`` of the checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigurationError(
        f"The configuration files (conf/train.yaml) are neither in {package} nor beside it. "
        "The installation is incomplete: install the package again."
    )


def entry_point(name: str, schema: type[S]) -> Callable[[Callable[[S], float | None]], Callable[..., int]]:
    """Decorate the task of an entry point. The result takes command-line words and returns the exit code.

    ``name``: its YAML file; ``schema``: the dataclass of its settings. The task receives an instance of ``schema``
    and returns one float for sweepers.
    """

    def decorate(task: Callable[[S], float | None]) -> Callable[..., int]:
        @functools.wraps(task)
        def main(arguments: Sequence[str] | None = None) -> int:
            return _run(name, schema, task, list(sys.argv[1:] if arguments is None else arguments))

        return main

    return decorate


def _run(name: str, schema: type[S], task: Callable[[S], float | None], arguments: list[str]) -> int:
    ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    failures: list[Exception] = []  # of a single run; a multirun's come from the sweeper, whatever process ran the job

    def job(config: DictConfig) -> float | None:
        multirun = HydraConfig.get().mode == RunMode.MULTIRUN
        try:
            return _run_task(task, checked_settings(config, schema))
        except (CnrIemnError, OmegaConfBaseException) as error:
            if not multirun:  # raising would only add Hydra's own line to ours
                failures.append(error)
                return None
            kind = PartialFailureError if isinstance(error, PartialFailureError) else JobError
            raise _failed_job(kind(_explain(error, schema))) from error
        except Exception as error:
            if not multirun:
                raise
            traceback.print_exc()
            raise _failed_job(JobError(f"{type(error).__name__}: {error} (a fault of the program)")) from error

    # what hydra.main looks at to name the job; the path is absolute, so nothing is searched beside the task
    job.__module__, job.__qualname__ = task.__module__, task.__qualname__
    try:
        if {"-m", "--multirun"} & set(arguments):
            _check_every_job(name, schema, arguments)
        with _hydra_command_line(name, arguments):
            hydra.main(version_base="1.3", config_path=str(configuration_folder()), config_name=name)(job)()
    except (CnrIemnError, HydraException, OmegaConfBaseException) as error:
        failures.append(error)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    return _exit_code(failures, schema)


def _run_task(task: Callable[[S], float | None], settings: S) -> float | None:
    """Run the task; a full disk ends it with a message, wherever it is met."""
    try:
        return task(settings)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        what = error.filename or "A file"
        raise CnrIemnError(
            f"{what} cannot be written ({error.strerror}). Free some space and run again; what is finished is kept."
        ) from error


def _failed_job(error: CnrIemnError) -> CnrIemnError:
    """Say at once which job failed; the error holds nothing but text, so that it passes between processes."""
    words = " ".join(HydraConfig.get().overrides.task)
    print(f"Job failed: {words}\n{error}", file=sys.stderr, flush=True)
    return error


def _exit_code(failures: list[Exception], schema: type[Any]) -> int:
    if not failures:
        return 0
    print(f"Error: {_explain(failures[0], schema)}", file=sys.stderr)
    return 1 if isinstance(failures[0], PartialFailureError) else 2


def _check_every_job(name: str, schema: type[Any], arguments: list[str]) -> None:
    """Compose and check each job of a multirun before the first starts: a misspelt value costs no hours."""
    words = [word for word in arguments if not word.startswith("-")]
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(configuration_folder())):
        overrides = OverridesParser.create().parse_overrides(words)
        if any(o.is_sweep_override() and not o.is_discrete_sweep() for o in overrides):
            return  # intervals are for sweepers that draw from them
        (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
        for job in jobs:
            checked_settings(hydra.compose(name, overrides=job), schema)


@contextmanager
def _hydra_command_line(name: str, arguments: list[str]) -> Iterator[None]:
    """Give Hydra our words, and have it raise its errors instead of printing a traceback and exiting with 1."""
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [f"{name}.py", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = argv
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _explain(error: Exception, schema: type) -> str:
    """Turn Hydra's or OmegaConf's error into what was given, why it cannot work and what to do."""
    if isinstance(error, CnrIemnError):
        return own_words(error)
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        quoted = value.strip("'\"").replace('"', '\\"')
        return (
            f"'{error.override}' cannot be parsed: values with spaces, commas, parentheses, '=' or '$' need quotes for "
            f"Hydra inside those of the shell. Write: '{key}=\"{quoted}\"'"
        )
    cause = error.__cause__
    texts = [str(error), str(cause) if isinstance(cause, OmegaConfBaseException) else ""]
    lines = [line for text in texts for line in text.split("\nConfig search path")[0].splitlines() if _useful(line)]
    source = cause if isinstance(cause, OmegaConfBaseException) else error
    if isinstance(source, OmegaConfBaseException):
        key = str(source.full_key or source.key or "")
        near = difflib.get_close_matches(key, [known for known, _ in setting_keys(schema)], n=3, cutoff=0.6)
        if near and key not in near:
            lines.append(f"Did you mean {' or '.join(near)}?")
    if any(f"Could not find 'hydra/launcher/{name}" in lines[0] for name in ("joblib", "submitit")):
        return f"{lines[0]}\nThe launchers are an extra: pip install 'cnr-iemn[launchers]'."
    lines.append("--help lists all groups and keys.")
    return "\n".join(dict.fromkeys(lines))


def _useful(line: str) -> bool:
    """Tell whether a line of Hydra's message helps a user: its schema forbids new keys, so '+key' would not."""
    return bool(line.strip()) and not line.strip().startswith(
        ("full_key:", "reference_type=", "object_type=", "To append to your config")
    )
