"""Loops over pixels or bits that are compiled to machine code when they are first needed."""

import logging
from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar, cast

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
        except (OSError, RuntimeError):  # no folder where it can be kept, or no space
            return machine_code(kept=False)(*args, **kwargs)

    return call
