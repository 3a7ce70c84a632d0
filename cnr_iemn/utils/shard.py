"""The scans of one of several processes or machines that share the work on an input."""

import hashlib


def shard_of(scan_id: str, n_shards: int | None) -> int:
    """Return which of ``n_shards`` a scan belongs to, from 0 up, whatever other scans there are; 0 without shards."""
    return int.from_bytes(hashlib.sha256(scan_id.encode(errors="surrogatepass")).digest()[:8]) % (n_shards or 1)
