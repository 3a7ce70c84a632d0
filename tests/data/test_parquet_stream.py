"""A parquet file that is written piece by piece is the one that is written in one."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnr_iemn.data.predictions import parquet
from cnr_iemn.data.predictions.parquet import (
    DIGEST_KEY,
    METADATA_KEY,
    content_digest,
    read_parquet,
    write_parquet_stream,
)

ROWS, ORIGIN = 2_000, {"study": "é", "schema_version": 2}


@pytest.fixture
def table() -> pa.Table:
    generator = np.random.default_rng(0)
    columns = {
        "scan_id": pa.array([f"P{k // 50}" if k % 7 else None for k in range(ROWS)]),
        "fold": pa.array([None] * ROWS, pa.int64()),
        "phantom": pa.array(generator.random(ROWS) > 0.5),
        "z_mm": pa.array(np.where(generator.random(ROWS) > 0.1, generator.random(ROWS), np.nan)),
        "p": pa.array(generator.random(ROWS).astype(np.float32)),
    }
    return pa.table(columns)


@pytest.mark.parametrize("group_rows", [2**20, 500, 333])
@pytest.mark.parametrize("piece", [1, 50, 700, ROWS])
def test_pieces_give_the_bytes_of_the_whole(
    table: pa.Table, group_rows: int, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "GROUP_ROWS", group_rows)
    pieces = (table.slice(start, piece) for start in range(0, ROWS, piece))
    write_parquet_stream(tmp_path / "pieces.parquet", pieces, ORIGIN)
    text = json.dumps(ORIGIN, ensure_ascii=False).encode()
    metadata = {METADATA_KEY: text, DIGEST_KEY: content_digest(table, text).encode()}
    whole = table.replace_schema_metadata(metadata)
    pq.write_table(whole, tmp_path / "whole.parquet", compression="zstd", row_group_size=group_rows)
    assert (tmp_path / "pieces.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    back, origin = read_parquet(tmp_path / "pieces.parquet", first="", again="")
    assert back.schema.equals(whole.schema)
    assert content_digest(back, origin) == content_digest(table, text)
    assert len(list(tmp_path.iterdir())) == 2
