"""Loops over pixels or bits that are compiled to machine code when they are first needed."""

import logging
from collections.abc import Callable
from functools import cache, wraps
from pickle import UnpicklingError
from typing import ParamSpec, TypeVar, cast

_log = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def compiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return the function, which numba compiles at its first call; the machine code is kept for later processes.

    It takes numpy arrays and numbers. No index is checked, so that the function must not leave its arrays, whatever
    they hold.
    """

    @cache
    def machine_code(*, kept: bool) -> Callable[Arguments, Result]:
        from numba import njit  # takes 0.2 seconds, which most commands do without

        logging.getLogger("numba").setLevel(logging.WARNING)  # it writes down every step at hydra.verbose=true
        return cast(Callable[Arguments, Result], njit(cache=kept)(function))

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return machine_code(kept=True)(*args, **kwargs)
        except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
            _tell_once(type(error).__name__)
            return machine_code(kept=False)(*args, **kwargs)

    return call


@cache
def _tell_once(error: str) -> None:
    """Say that numba has no folder for its code, no space in it, or found code there that was cut."""
    _log.warning(
        "Compiled code cannot be kept (%s), so that each process compiles it again, in some seconds: empty the folder "
        "that NUMBA_CACHE_DIR names, or set it to one that can be written.",
        error,
    )
