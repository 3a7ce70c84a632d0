"""One scan, without learning: read, segment the lungs, window. ``read_scan(path)`` is a good call on its own."""

from cnr_iemn.ct.reader import read_scan

__all__ = ["read_scan"]
