"""Loops over pixels or bits that are compiled to machine code when they are first needed."""

import logging
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar, cast

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def compiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return the function, which numba compiles at its first call; the machine code is kept for later processes.

    It takes numpy arrays and numbers; numbers and functions that it takes from elsewhere must stand in this package,
    whose sources tell whether kept code is still right. No index is checked, so that the function must not leave its
    arrays, whatever they hold.
    """

    @cache
    def machine_code() -> Callable[Arguments, Result]:
        from numba import njit  # takes 0.2 seconds, which most commands do without

        from cnr_iemn.ct.kept_code import KeptCode, tell_once

        logging.getLogger("numba").setLevel(logging.WARNING)  # it writes down every step at hydra.verbose=true
        code: Any = njit(function)
        try:
            code._cache = KeptCode(function)  # type: ignore[no-untyped-call]
        except RuntimeError:
            tell_once("numba finds no folder for it")
        return cast(Callable[Arguments, Result], code)

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return machine_code()(*args, **kwargs)

    return call
