"""One scan, without learning: read, segment the lungs, window."""
