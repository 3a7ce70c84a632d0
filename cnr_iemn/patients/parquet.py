"""Tables with their origin as JSON in the file's schema metadata, written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cnr_iemn.errors import RunError
from cnr_iemn.files import write_bytes_atomic
from cnr_iemn.records import SCHEMA_VERSION

METADATA_KEY = b"cnr_iemn"
"""Key of the parquet schema's metadata that holds the origin as JSON."""


def write_parquet(path: Path, table: pa.Table, about: Mapping[str, object]) -> None:
    """Write a table (zstd). ``about``: JSON-ready, with its schema_version."""
    text = json.dumps(about, ensure_ascii=False)
    buffer = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: text.encode()}), buffer, compression="zstd")
    write_bytes_atomic(path, buffer.getvalue().to_pybytes())


def read_parquet(path: Path, *, first: str, again: str) -> tuple[pa.Table, dict[str, Any]]:
    """Return a table and what it says of its origin.

    ``first``, ``again``: sentences that say what makes the file where it is missing, and where it cannot be used.
    Raises RunError where it is missing, damaged, of another program or of another schema version.
    """
    if not path.is_file():
        raise RunError(f"There are no predictions at {path}. {first}")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{path} cannot be read as parquet ({error}). {again}") from error
    text = (table.schema.metadata or {}).get(METADATA_KEY)
    if text is None:
        raise RunError(f"{path} was not written by this program: its schema has no entry cnr_iemn. {again}")
    try:
        about = dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise RunError(f"{path} has damaged metadata ({error}). {again}") from error
    if about.get("schema_version") != SCHEMA_VERSION:
        raise RunError(
            f"{path} has schema_version {about.get('schema_version')}, this program reads {SCHEMA_VERSION}. {again}"
        )
    return table, about
