"""Parquet files with their origin as JSON in the schema metadata and a checksum, written whole or not at all."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cnr_iemn.errors import RunError
from cnr_iemn.utils.atomic_io import write_bytes_atomic

METADATA_KEY = b"cnr_iemn"
"""Key of the parquet schema's metadata that holds the origin as JSON."""
DIGEST_KEY = b"cnr_iemn_sha256"
"""Key of ``content_digest``."""


def write_parquet(path: Path, table: pa.Table, origin: Mapping[str, object]) -> None:
    """Write a table (zstd). ``origin``: JSON-ready, with its schema_version."""
    text = json.dumps(origin, ensure_ascii=False).encode()
    buffer = pa.BufferOutputStream()
    metadata = {METADATA_KEY: text, DIGEST_KEY: content_digest(table, text).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd")
    write_bytes_atomic(path, buffer.getvalue().to_pybytes())


def content_digest(table: pa.Table, origin: bytes) -> str:
    """Return the SHA-256 of a table's values and origin.

    Parquet's own checksums cover its pages, but neither their lengths nor the columns' types and the origin.

    Args:
        table: Columns of numbers, truth values and text.
        origin: JSON of the origin.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(origin)
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(f"{name} {column.type} {len(column)}".encode())
        digest.update(column.is_null().to_numpy().tobytes())
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            texts = column.fill_null("")
            digest.update(pc.binary_length(texts).to_numpy().tobytes())
            digest.update("".join(texts.to_pylist()).encode())
        else:
            digest.update(column.fill_null(pa.scalar(0).cast(column.type)).to_numpy().tobytes())
    return digest.hexdigest()


def read_parquet(path: Path, *, first: str, again: str) -> tuple[pa.Table, bytes]:
    """Return a table and its origin as JSON.

    ``first``, ``again``: the remedies where the file is missing and where it is damaged, sentences. Raises RunError
    where it is missing, damaged, or of another program.
    """
    if not path.is_file():
        raise RunError(f"There are no predictions at {path}. {first}")
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        digest = content_digest(table, metadata.get(METADATA_KEY, b""))
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise RunError(f"{path} cannot be read as parquet ({error}). {again}") from error
    if METADATA_KEY not in metadata:
        raise RunError(f"{path} was not written by this program: its schema has no entry cnr_iemn. {again}")
    if DIGEST_KEY not in metadata:
        raise RunError(f"{path} has no checksum: an earlier version wrote it, or it is damaged. {again}")
    if metadata[DIGEST_KEY] != digest.encode():
        raise RunError(f"{path} is damaged: it does not hold what was written (its checksum differs). {again}")
    return table, metadata[METADATA_KEY]
