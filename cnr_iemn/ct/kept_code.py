"""Where the machine code of compiled functions is kept between processes."""

import hashlib
import logging
import pickle
from functools import cache
from pathlib import Path

import numba
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps

from cnr_iemn.files import write_bytes_atomic

_log = logging.getLogger(__name__)


class KeptCode(FunctionCache):
    """A file for each function and types of its arguments, in numba's folder but in place of numba's own files.

    Those know a changed source by its file alone, not by what it imports; they name code by its place in an index, so
    that an index without its code, as a full disk leaves it, leads to the code of an older version, which then runs
    without a word; and they have no checksum.
    """

    def load_overload(self, sig, target_context):  # type: ignore[no-untyped-def]  # as numba has it
        """Return what was kept, None where there is nothing or it was damaged."""
        target_context.refresh()
        try:
            content = self._path(sig, target_context.codegen()).read_bytes()
        except OSError:
            return None
        digest, data = content[:32], content[32:]
        if hashlib.sha256(data).digest() != digest:
            return None
        # machine code of this user's own, which whoever can write it can make do anything, however it is read
        return self._impl.rebuild(target_context, pickle.loads(data))

    def save_overload(self, sig, data):  # type: ignore[no-untyped-def]  # as numba has it
        """Keep code; where that fails, say so."""
        if not self._impl.check_cachable(data):
            return
        path = self._path(sig, data.codegen)
        code = dumps(self._impl.reduce(data))  # type: ignore[no-untyped-call]
        try:
            write_bytes_atomic(path, hashlib.sha256(code).digest() + code)
        except OSError as error:
            tell_once(f"{path.parent}: {error.strerror}")

    def _path(self, sig: object, codegen: object) -> Path:
        key = self._index_key(sig, codegen)  # type: ignore[no-untyped-call]
        function = self._py_func
        told = repr((function.__module__, function.__qualname__, key, numba.__version__, _sources()))
        name = f"{function.__name__}.{hashlib.sha256(told.encode()).hexdigest()[:32]}.code"
        return Path(self.cache_path, name)


@cache
def _sources() -> str:
    """Return a hash of all sources that compiled functions may take constants from."""
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.rglob("*.py")))).hexdigest()


@cache
def tell_once(reason: str) -> None:
    """Say that code cannot be kept."""
    _log.warning(
        "Compiled code cannot be kept (%s), so that each process compiles it again, which takes some seconds. Set "
        "NUMBA_CACHE_DIR to a folder that can be written.",
        reason,
    )
