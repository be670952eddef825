"""Write one bucket of the tables: a Parquet file for each table, which a later commit adds to the table.

Buckets do not depend on each other, so each can be written by another process on another node.
"""

import json
import math
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.transaction import AddAction

from fer_batch.faults import fault_point
from fer_batch.run.checks import check_bucket, planned_keys
from fer_batch.run.record import RunRecord
from fer_batch.run.rows import build_rows
from fer_batch.run.snapshot import TABLES
from fer_batch.run.summary import summarize_bucket
from fer_batch.run.tables import KEEP_LOG_FILES, statistics_columns
from fer_batch.storage.folder import OutputFolder

ROW_GROUP_ROWS = 131_072
"""Rows of a row group, a few MB: readers skip the groups without a video, and share the others."""


@dataclass(frozen=True, kw_only=True)
class PlannedBucket:
    """The videos of a bucket, rows of `schema.PROBED_SCHEMA`, and their segments, rows of PLAN_SCHEMA."""

    number: int
    videos: pa.Table
    segments: pa.Table
    file_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    """Name of the files to write. A repeated call replaces the files of the one before."""


@dataclass(frozen=True, kw_only=True)
class WrittenBucket:
    """The files of a bucket before their commit."""

    files: dict[str, AddAction]
    """The file of each table that has rows."""
    totals: dict[str, Any]
    """A row of `summary.TOTALS_SCHEMA`."""
    problems: tuple[str, ...]
    """Inconsistencies of the written rows, a line each."""


def write_bucket(folder: OutputFolder, run: RunRecord, bucket: PlannedBucket) -> WrittenBucket:
    """Write the files of a bucket and read them back to check them. No reader sees them before the commit.

    Raises OutputError if a segment has no result or a result is damaged.
    """
    rows = build_rows(folder, run, bucket.number, bucket.videos, bucket.segments)
    files = {
        name: write_file(folder, name, bucket.number, rows[name], bucket.file_id)
        for name in TABLES
        if len(rows[name])
    }
    fault_point("finalize.bucket")
    stored = {name: [f"{name}/{file.path}"] for name, file in files.items()}
    planned = planned_keys(bucket.videos, run.columns)
    return WrittenBucket(
        files=files,
        totals=summarize_bucket(bucket.number, rows["videos"], len(rows["tracks"])),
        problems=tuple(check_bucket(folder, bucket.number, stored, planned, run.columns)),
    )


def write_file(folder: OutputFolder, name: str, bucket: int, rows: pa.Table, file_id: str) -> AddAction:
    """Write all rows of one bucket of a table to a file; a column `bucket` is left out."""
    part = f"bucket={bucket}"
    path = f"{part}/{file_id}.parquet"
    content = encode_rows(rows.select([column for column in rows.column_names if column != "bucket"]))
    folder.subfolder(f"{name}/{part}").create()
    folder.write_bytes(f"{name}/{path}", content, "table")
    return AddAction(
        path=path,
        size=len(content),
        partition_values={"bucket": str(bucket)},
        modification_time=int(time.time() * 1000),
        data_change=True,
        stats=json.dumps(_measure_statistics(rows)),
    )


def commit_buckets(table: DeltaTable, buckets: Collection[int], files: Sequence[AddAction]) -> None:
    """Replace all rows of some buckets in a table by those of `files`, in one commit."""
    table.create_write_transaction(
        list(files),
        mode="overwrite",
        schema=table.schema(),
        partition_by=["bucket"],
        partition_filters=[("bucket", "in", [str(bucket) for bucket in buckets])],
        post_commithook_properties=KEEP_LOG_FILES,
    )
    table.update_incremental()


def encode_rows(rows: pa.Table) -> bytes:
    """Encode rows as Parquet. The bytes of floats are split into streams, which ZSTD compresses better."""
    floats = [field.name for field in rows.schema if pa.types.is_floating(field.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows,
        sink,
        compression="zstd",
        use_byte_stream_split=floats,
        use_dictionary=[name for name in rows.column_names if name not in floats],
        row_group_size=ROW_GROUP_ROWS,
        write_page_checksum=True,
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _measure_statistics(rows: pa.Table) -> dict[str, Any]:
    """Return the statistics of a file as the Delta log has them, for `statistics_columns` only."""
    minima, maxima, nulls = {}, {}, {}
    for name in statistics_columns(rows.schema):
        column = rows.column(name)
        low, high = pc.min_max(column).as_py().values()
        # NaN has no order, which `min_max` ignores, and JSON has no infinity.
        has_nan = pa.types.is_floating(column.type) and pc.any(pc.is_nan(column)).as_py()
        if low is not None and math.isfinite(low) and math.isfinite(high) and not has_nan:
            minima[name], maxima[name], nulls[name] = low, high, column.null_count
    return {"numRecords": len(rows), "minValues": minima, "maxValues": maxima, "nullCount": nulls}
