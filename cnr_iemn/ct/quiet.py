"""What libraries say of the files they read is not passed on: it quotes them, and free text can hold names."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("pydicom", "nibabel.global")


@contextmanager
def unheard() -> Iterator[None]:
    """Drop what pydicom and nibabel warn of or log meanwhile. What matters of it, the reader finds and says itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loggers = [logging.getLogger(name) for name in _LOGGERS]
        before = [logger.disabled for logger in loggers]
        try:
            for logger in loggers:
                logger.disabled = True
            yield
        finally:
            for logger, disabled in zip(loggers, before, strict=True):
                logger.disabled = disabled
