"""Looks at the files of several scans at once: on a network disk each look waits for the server."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

LOOKS = 16
"""Looks at once."""


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """Yield the function's result for each item, in order; ``LOOKS`` threads work on the items that come next.

    Each result takes one more item, so that memory does not grow with their number.

    Args:
        function: Safe to call in several threads. What it raises is raised in place of its result, and ends this.
        items: May be a generator, which is asked in the caller's thread.
    """
    iterator = iter(items)
    threads = ThreadPoolExecutor(LOOKS)
    try:
        looks = deque(threads.submit(function, item) for item in islice(iterator, LOOKS))
        while looks:
            result = looks.popleft().result()
            looks.extend(threads.submit(function, item) for item in islice(iterator, 1))
            yield result
    finally:
        threads.shutdown(cancel_futures=True)  # Ctrl-C waits for the looks of the moment alone
