"""Errors a user can mend. Each message says what was given, why it cannot work and what to do.

The entry points print the message without a traceback and exit with code 2 (see ``settings.entry_point``). Whatever
else is raised is a fault of the program and keeps its traceback.
"""

from pathlib import Path
from traceback import extract_tb


class CnrIemnError(Exception):
    """Base of all errors that a user can mend."""


class ConfigurationError(CnrIemnError):
    """A setting, or two settings together, cannot work."""


class ScanError(CnrIemnError):
    """One scan cannot be read safely, so it is refused. The message begins with the scan's or the file's name."""


class CohortError(CnrIemnError):
    """The folder, labels or split of a cohort are missing or contradict each other."""


class StoreError(CnrIemnError):
    """The slice store is damaged, incomplete or not the one that was asked for."""


class RunError(CnrIemnError):
    """A run, its predictions or an ensemble is missing, unfinished or does not fit the others."""


class TrainingError(CnrIemnError):
    """A network cannot be trained on: its loss is no number, or the memory does not hold it."""


class WeightsError(CnrIemnError):
    """Start weights cannot be loaded."""


class PartialFailureError(CnrIemnError):
    """Some scans failed, each named with its reason, and the others are finished: exit code 1."""


class JobError(CnrIemnError):
    """A job of a multirun failed, or all of them; the message gives the reason."""


class Termination(KeyboardInterrupt):
    """The process was told to end by a signal: whatever ends in order at Ctrl-C does so here.

    Args:
        number: The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell says of a command that the signal has ended: 143 for SIGTERM."""
        return 128 + self.number


def own_words(error: CnrIemnError) -> str:
    """Return an error's message; torch puts that of a process which loads data at the end of its traceback."""
    text = str(error)
    if not text.startswith(f"Caught {type(error).__name__} in DataLoader worker"):
        return text
    return text.rpartition(f"{type(error).__module__}.{type(error).__qualname__}: ")[2].strip()


REFUSED = "Scan refused; other scans continue."


def fault(scan: str, error: Exception, *, costs: str = REFUSED) -> ScanError:
    """Return the refusal of a scan on which the program itself failed, so that it does not stop the others.

    Type and place of the error alone: its own words may quote the scan. ``costs``: what is lost by it.
    """
    last = extract_tb(error.__traceback__)[-1]
    return ScanError(
        f"{scan}: the program failed on it ({type(error).__name__} in {Path(last.filename).name}, line {last.lineno}). "
        f"{costs} Please report this fault."
    )
