"""How this program starts processes of its own."""

from multiprocessing import get_all_start_methods, get_context, get_start_method, set_start_method
from multiprocessing.context import ForkServerContext

_PRELOADED = ["cnr_iemn.ct.preprocess", "cnr_iemn.utils.sandbox"]
"""What a worker that reads scans imports: a second for each of them, if each did it alone."""


def require_start_method() -> None:
    """Have the default start method be one that a new process knows.

    A process gets that of its parent and ends where it does not know it: a worker of joblib has joblib's. The system's
    takes its place then; joblib names its own wherever it starts a process.
    """
    methods = get_all_start_methods()
    if get_start_method(allow_none=True) not in (None, *methods):
        set_start_method(methods[0], force=True)


def worker_context() -> ForkServerContext:
    """Return what forks workers from a server of its own: a fork of this process would copy its threads' locks."""
    require_start_method()
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context
