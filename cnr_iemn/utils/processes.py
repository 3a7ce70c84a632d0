"""How this program starts processes of its own."""

from multiprocessing import get_all_start_methods, get_context, get_start_method, set_start_method
from multiprocessing.context import SpawnContext


def require_start_method() -> None:
    """Have the default start method be one that a new process knows.

    A process gets that of its parent and ends where it does not know it: a worker of joblib has joblib's. The system's
    takes its place then; joblib names its own wherever it starts a process.
    """
    methods = get_all_start_methods()
    if get_start_method(allow_none=True) not in (None, *methods):
        set_start_method(methods[0], force=True)


def spawn_context() -> SpawnContext:
    """Return what starts a process anew: a fork would copy the locks of torch's and OpenCV's threads."""
    require_start_method()
    return get_context("spawn")
