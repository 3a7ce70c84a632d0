"""One wrapper around the five entry points: composed and checked settings in, exit codes out, no traceback for users.

Exit codes: 0 done; 1 some scans, or some jobs of a multirun, failed and the others finished; 2 wrong configuration or
input, or a training that cannot go on; 130 interrupted; 143 terminated (SIGTERM; 129: SIGHUP).
"""

import functools
import logging
import os
import signal
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import TypeVar, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.version import VersionBase, getbase
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from cnr_iemn.config.command_line import flag_words, parse_flags, text_words
from cnr_iemn.config.composition import Plan, checked_settings, plan_jobs
from cnr_iemn.config.help import command_help
from cnr_iemn.config.messages import explain, system_error
from cnr_iemn.config.schema.prediction import PredictSettings
from cnr_iemn.config.signals import termination, termination_of_jobs
from cnr_iemn.config.validation import check_places
from cnr_iemn.errors import CnrIemnError, ConfigurationError, JobError, PartialFailureError, Termination
from cnr_iemn.utils.console import line_label, print_error, print_text, start_logging
from cnr_iemn.utils.text import visible

log = logging.getLogger(__name__)

S = TypeVar("S")
INTERRUPTED = 130


def configuration_folder() -> Path:
    """Return the folder of the YAML files: inside an installed package, or ``conf/`` of the checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigurationError(
        f"The configuration files (conf/train.yaml) are neither in {package} nor in its parent folder. "
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
            # before torch loads OpenMP, whose threads would spin while they wait and hold up whatever else runs
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
            try:
                with termination(process_ends=True):
                    return _run(name, schema, task, list(sys.argv[1:] if arguments is None else arguments))
            except KeyboardInterrupt as interrupt:
                return _interrupted(interrupt)

        return main

    return decorate


def _run(name: str, schema: type[S], task: Callable[[S], float | None], arguments: list[str]) -> int:
    ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    failures: list[Exception] = []
    try:
        flags = parse_flags(name, arguments)
        flags.overrides = text_words(flags.overrides, schema)
        with _hydra_command_line(name):
            if flags.help:
                docstring = cast(FunctionType, task).__globals__["__doc__"]  # of the script
                print_text(command_help(name, flags.overrides, configuration_folder(), docstring))
                return 0
            if flags.hydra_help or flags.cfg or flags.info or flags.shell_completion:
                _run_hydra(name, task, flags, flags.overrides, lambda config: None)
                return 0
            plan = plan_jobs(name, schema, flags, configuration_folder())
            if plan.multirun is not None:
                flags.multirun = True
                _run_jobs(plan, functools.partial(_run_hydra, name, task, flags, plan.words), task, schema)
            else:

                def job(config: DictConfig) -> None:
                    try:
                        _run_task(task, config, schema)
                    except (CnrIemnError, OmegaConfBaseException) as error:  # raising would add Hydra's line to ours
                        failures.append(error)

                _run_hydra(name, task, flags, plan.words, job)
    except (CnrIemnError, HydraException, OmegaConfBaseException) as error:
        failures.append(error)
    except OSError as error:  # of Hydra's own folders
        failure = system_error(error)
        if failure is None:
            raise
        failures.append(failure)
    return _exit_code(failures, schema)


def _run_hydra(
    name: str,
    task: Callable[[S], float | None],
    flags: Namespace,
    words: Sequence[str],
    job: Callable[[DictConfig], None],
) -> None:
    """Have Hydra act on the command line and call ``job`` with each composed configuration."""
    # what hydra.main looks at to name the job; the path is absolute, so nothing is searched beside the task
    job.__module__, job.__qualname__ = task.__module__, task.__qualname__
    sys.argv[1:] = [*flag_words(flags), *words]
    hydra.main(version_base="1.3", config_path=str(configuration_folder()), config_name=name)(job)()


def _run_jobs(
    plan: Plan,
    run_hydra: Callable[[Callable[[DictConfig], None]], None],
    task: Callable[[S], float | None],
    schema: type[S],
) -> None:
    """Run all jobs of a multirun. Raises PartialFailureError or JobError that names those that failed."""
    multirun = plan.multirun
    assert multirun is not None

    def job(config: DictConfig) -> None:  # maybe in another process: it raises nothing, so that it stops no other
        number = int(HydraConfig.get().job.num)
        multirun.start(number)
        try:
            with line_label(f"[{number + 1}/{len(multirun.jobs)}]"):
                start_logging()
                log.info("%s", multirun.jobs[number])
                _run_task(task, config, schema)
        except (CnrIemnError, OmegaConfBaseException) as error:
            kind = PartialFailureError if isinstance(error, PartialFailureError) else JobError
            failure: CnrIemnError | None = kind(explain(error, schema))
        except Exception as error:  # noqa: BLE001 - shown with its traceback
            traceback.print_exc()
            failure = JobError(f"{type(error).__name__}: {error} (a fault of the program)")
        else:
            failure = None
        multirun.finish(number, failure)
        if failure is not None:
            words = " ".join(HydraConfig.get().overrides.task)
            print_error(f"Job failed: {visible(words)}\n{failure}")

    multirun.clear()
    try:
        with termination_of_jobs():
            run_hydra(job)
    except KeyboardInterrupt:
        print_error(multirun.interruption())
        raise
    except (CnrIemnError, HydraException, OmegaConfBaseException, OSError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise JobError(
            f"The launcher lost its jobs ({type(error).__name__}: {reason}). A process was killed, perhaps for lack of "
            "memory, or could not be started. What is finished is kept: the same command goes on."
        ) from error
    multirun.raise_failures()


def _run_task(task: Callable[[S], float | None], config: DictConfig, schema: type[S]) -> None:
    """Run the task; what the system refuses ends it with a message, wherever it is met."""
    from cnr_iemn.utils.processes import require_start_method

    require_start_method()
    start_logging()
    with termination():  # a job of a multirun may have a process of its own
        settings = checked_settings(config, schema)
        try:
            check_places(settings)
            task(settings)
        except OSError as error:
            failure = system_error(error, hidden=_hidden_input(settings))
            if failure is None:
                raise
            raise failure from error


def _hidden_input(settings: object) -> str | None:
    """Return the input whose names must not be told, None where they may be."""
    return settings.input if isinstance(settings, PredictSettings) and settings.anonymise_ids else None


def _interrupted(interrupt: KeyboardInterrupt) -> int:
    """Say what has ended the command, and return its exit code."""
    if not isinstance(interrupt, Termination):
        print_error("Interrupted.")
        return INTERRUPTED
    print_error(f"Terminated by {signal.Signals(interrupt.number).name}.")
    return interrupt.exit_code


def _exit_code(failures: list[Exception], schema: type) -> int:
    if not failures:
        return 0
    print_error(f"Error: {explain(failures[0], schema)}")
    return 1 if isinstance(failures[0], PartialFailureError) else 2


@contextmanager
def _hydra_command_line(name: str) -> Iterator[None]:
    """Have Hydra raise its errors instead of printing a traceback and exiting with 1.

    Also within a process that uses Hydra itself, whose state is restored at the end, as ``sys.argv`` is.
    """
    argv, full_error, previous = sys.argv, os.environ.get("HYDRA_FULL_ERROR"), GlobalHydra.instance().hydra
    base = getbase() if previous is not None else None
    sys.argv = [f"{name}.py"]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        sys.argv = argv
        if previous is not None:
            GlobalHydra.instance().hydra = previous
        if base is not None:
            VersionBase.instance().setbase(base)
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
