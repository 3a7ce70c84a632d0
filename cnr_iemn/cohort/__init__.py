"""Which scans, which labels, which split; the slice store."""
