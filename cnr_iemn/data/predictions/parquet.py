"""Parquet files with their origin as JSON in the schema metadata and a checksum, written whole or not at all."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cnr_iemn.errors import RunError
from cnr_iemn.utils.atomic_io import atomic_file

METADATA_KEY = b"cnr_iemn"
"""Key of the parquet schema's metadata that holds the origin as JSON."""
DIGEST_KEY = b"cnr_iemn_sha256"
"""Key of ``content_digest``."""
GROUP_ROWS = 2**20
"""Rows of a row group: parquet's own default."""


def write_parquet(path: Path, table: pa.Table, origin: Mapping[str, object]) -> None:
    """Write a table (zstd). ``origin``: JSON-ready, with its schema_version."""
    write_parquet_stream(path, [table], origin)


def write_parquet_stream(path: Path, tables: Iterable[pa.Table], origin: Mapping[str, object]) -> None:
    """Write tables of one schema, one below the other, as ``write_parquet`` writes them in one.

    Args:
        path: The file.
        tables: At least one; no more than ``GROUP_ROWS`` rows and one table are in memory.
        origin: As of ``write_parquet``.
    """
    text = json.dumps(origin, ensure_ascii=False).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent) as spool:  # the digest, which comes first, is of all rows
        _write_groups(spool, _row_groups(tables))
        rows = pq.ParquetFile(spool)
        metadata = {METADATA_KEY: text, DIGEST_KEY: _digest_of_groups(rows, text).encode()}
        groups = (rows.read_row_group(k).replace_schema_metadata(metadata) for k in range(rows.num_row_groups))
        with atomic_file(path) as file:
            _write_groups(file, groups)


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the rows of the tables in tables of ``GROUP_ROWS``; the last one has the rest."""
    rest = None
    for table in tables:
        plain = table.replace_schema_metadata(None)
        rest = plain if rest is None else pa.concat_tables([rest, plain])
        while len(rest) > GROUP_ROWS:
            yield rest.slice(0, GROUP_ROWS).combine_chunks()
            rest = rest.slice(GROUP_ROWS)
    if rest is not None:
        yield rest.combine_chunks()


def _write_groups(file: IO[bytes], tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
        for table in chain([first], tables):
            writer.write_table(table, row_group_size=GROUP_ROWS)


def content_digest(table: pa.Table, origin: bytes) -> str:
    """Return the SHA-256 of a table's values and origin.

    Parquet's own checksums cover its pages, but neither their lengths nor the columns' types and the origin.

    Args:
        table: Columns of numbers, truth values and text.
        origin: JSON of the origin.

    Returns:
        64 hexadecimal digits.
    """
    return _digest(table.schema, len(table), lambda name: iter([table[name]]), origin)


def _digest_of_groups(rows: pq.ParquetFile, origin: bytes) -> str:
    """Return ``content_digest`` of a file, of which a column of a row group is in memory."""

    def column_groups(name: str) -> Iterator[pa.ChunkedArray]:
        return (rows.read_row_group(k, columns=[name]).column(0) for k in range(rows.num_row_groups))

    return _digest(rows.schema_arrow, rows.metadata.num_rows, column_groups, origin)


def _digest(
    schema: pa.Schema, n_rows: int, column_groups: Callable[[str], Iterator[pa.ChunkedArray]], origin: bytes
) -> str:
    digest = hashlib.sha256(origin)
    for name, kind in zip(schema.names, schema.types, strict=True):
        digest.update(f"{name} {kind} {n_rows}".encode())
        for column in column_groups(name):
            digest.update(column.is_null().to_numpy().tobytes())
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            for column in column_groups(name):
                digest.update(pc.binary_length(column.fill_null("")).to_numpy().tobytes())
            for column in column_groups(name):
                digest.update("".join(column.fill_null("").to_pylist()).encode())
        else:
            for column in column_groups(name):
                digest.update(column.fill_null(pa.scalar(0).cast(kind)).to_numpy().tobytes())
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
