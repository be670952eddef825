"""Write the three Delta tables of a run: `moments`, `tracks` and `videos`, partitioned by bucket."""

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, PostCommitHookProperties, write_deltalake
from deltalake.exceptions import DeltaError

from fer_batch.errors import OutputError
from fer_batch.faults import fault_point
from fer_batch.inputs.manifest import COLUMN_TYPES, manifest_values
from fer_batch.run.record import SUCCESS_FILE, RunRecord, write_run
from fer_batch.run.snapshot import (
    SNAPSHOT_FILE,
    TABLES,
    list_table_files,
    open_table,
    open_tables,
    read_snapshot,
)
from fer_batch.schema import MOMENTS_SCHEMA, SCHEMA_VERSION, VIDEOS_SCHEMA, conform_table, tracks_schema
from fer_batch.storage.folder import OutputFolder

TABLE_PROPERTIES = {"delta.dataSkippingNumIndexedCols": "0"}
"""Keeps statistics out of the log: they would contain names of videos after the rows are deleted."""
KEEP_LOG_FILES = PostCommitHookProperties(cleanup_expired_logs=False)
"""Keeps old versions readable while the tables are written: readers open the versions of the snapshot."""
VIDEO_KEY = ("video_id", "version", "attempt")
"""The columns that identify one analysis of a video."""
MANIFEST_ROWS_PER_CHUNK = 65_536
"""Videos whose manifest columns are decoded at a time."""


def table_schemas(classes: tuple[str, ...], columns: Mapping[str, str]) -> dict[str, pa.Schema]:
    """Return the schema of each table for a model's classes and the manifest columns of the run."""
    added = [pa.field(name, COLUMN_TYPES[kind]) for name, kind in columns.items()]
    return {
        "moments": MOMENTS_SCHEMA,
        "tracks": tracks_schema(classes),
        "videos": pa.schema([*VIDEOS_SCHEMA, *added]),
    }


def open_current_tables(
    folder: OutputFolder, schemas: Mapping[str, pa.Schema]
) -> dict[str, DeltaTable] | None:
    """Open the tables for writing, restored to the versions of the snapshot.

    All files that the snapshot does not need are removed. Returns None if the tables are missing or
    damaged or have other columns.
    """
    if read_snapshot(folder) is None:
        return None
    try:
        current = open_tables(folder)
        tables = {name: open_table(folder, name) for name in TABLES}
    except (OutputError, DeltaError):
        return None
    if any(pa.schema(current[name].schema().to_arrow()) != schemas[name] for name in TABLES):
        return None
    files = [file for name in TABLES for file in list_table_files(name, current[name])]
    if not all(folder.exists(file) for file in files):
        return None
    for name in TABLES:
        if set(tables[name].file_uris()) != set(current[name].file_uris()):
            tables[name].restore(current[name].version(), post_commithook_properties=KEEP_LOG_FILES)
    remove_stale_files(folder)
    return tables


def create_tables(
    folder: OutputFolder, schemas: Mapping[str, pa.Schema], run: RunRecord
) -> dict[str, DeltaTable]:
    """Create empty tables and remove the existing ones."""
    for name in (SUCCESS_FILE, SNAPSHOT_FILE):
        folder.remove_file(name)
    if run.schema_version != SCHEMA_VERSION:  # in the new schema, a run without a snapshot has no tables
        write_run(folder, replace(run, schema_version=SCHEMA_VERSION))
    for name in TABLES:
        folder.remove_folder(name)
    return {
        name: DeltaTable.create(
            f"{folder}/{name}",
            schemas[name],
            partition_by=["bucket"],
            configuration=TABLE_PROPERTIES,
            storage_options=folder.delta_options(),
        )
        for name in TABLES
    }


def replace_bucket(table: DeltaTable, bucket: int, rows: pa.Table) -> None:
    """Replace all rows of one bucket in a table."""
    write_deltalake(
        table,
        rows,
        mode="overwrite",
        predicate=f"bucket = {bucket}",
        post_commithook_properties=KEEP_LOG_FILES,
    )


def sync_table(folder: OutputFolder, name: str, table: DeltaTable, version: int, files: set[str]) -> None:
    """Flush the files and commits that a table got since `version`, when it had `files`, to disk."""
    new = [file for file in list_table_files(name, table) if file not in files]
    log = f"{name}/_delta_log"
    commits = [f"{log}/{number:020d}.json" for number in range(version, table.version() + 1)]
    folders = {file.rpartition("/")[0] for file in new}
    folder.sync(*new, *commits, *folders, log, name, "")


def remove_stale_files(folder: OutputFolder) -> None:
    """Remove every file of the tables that the snapshot does not need."""
    for name, table in open_tables(folder).items():
        stale = set(folder.find_names(f"{name}/bucket=*/*")) - set(list_table_files(name, table))
        # The Delta library gives such names to files that it has not committed.
        for pattern in ("*.tmp", "*#*"):
            stale.update(folder.find_names(f"{name}/_delta_log/{pattern}"))
        for file in stale:
            folder.remove_file(file)
    fault_point("finalize.stale_files")


def read_videos_table(table: DeltaTable, schema: pa.Schema) -> pa.Table:
    """Read columns of the table `videos`; those that an older schema lacks are null."""
    known = {field.name for field in table.schema().fields}
    columns = [name for name in schema.names if name in known]
    return conform_table(pa.table(table.to_pyarrow_table(columns=columns)), schema)


def fill_attempts(videos: pa.Table) -> pa.Table:
    """Replace null by 0 in the column `attempt`."""
    column = videos.schema.get_field_index("attempt")
    return videos.set_column(column, videos.field(column), videos.column(column).fill_null(0))


def planned_keys(videos: pa.Table, columns: Mapping[str, str]) -> pa.Table:
    """Return what identifies the expected rows of the table `videos`.

    The columns are `uri`, VIDEO_KEY, `bucket`, and the manifest columns with their values.
    """
    schema = pa.schema([pa.field(name, COLUMN_TYPES[kind]) for name, kind in columns.items()])
    chunks = [schema.empty_table()]
    for first in range(0, len(videos) if columns else 0, MANIFEST_ROWS_PER_CHUNK):
        extras = videos.column("extra").slice(first, MANIFEST_ROWS_PER_CHUNK).to_pylist()
        rows = [manifest_values(extra, columns) for extra in extras]
        chunks.append(pa.Table.from_pylist(rows, schema=schema))
    keys = videos.select(["uri", *VIDEO_KEY, "bucket"])
    for field, column in zip(schema, pa.concat_tables(chunks).columns, strict=True):
        keys = keys.append_column(field, column)
    return keys


def stored_keys(table: DeltaTable, columns: Mapping[str, str], more: tuple[str, ...] = ()) -> pa.Table:
    """Return the same columns, except `uri`, of the stored rows of `videos`, and the columns `more`."""
    schema = table_schemas((), columns)["videos"]
    names = (*VIDEO_KEY, "bucket", *columns, *more)
    return fill_attempts(read_videos_table(table, pa.schema([schema.field(name) for name in names])))


def is_missing(keys: pa.Table, other: pa.Table) -> pa.ChunkedArray:
    """Return for each row of `keys` whether `other` has no row with the same video and equal values."""
    other = other.combine_chunks()
    position = pc.index_in(keys.column("video_id"), other.column("video_id").combine_chunks())
    same = position.is_valid()
    for name in keys.column_names:
        if name != "uri" and name in other.column_names:
            left, right = keys.column(name), other.column(name).take(position)
            both_null = pc.and_(left.is_null(), right.is_null())
            same = pc.and_(same, pc.or_(pc.equal(left, right).fill_null(False), both_null))
    return pc.invert(same)
