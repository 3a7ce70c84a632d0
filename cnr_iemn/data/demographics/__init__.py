"""Who was scanned and on which scanner: from manifests and headers, in groups too coarse to name anybody."""
