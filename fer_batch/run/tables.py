"""Write the three Delta tables of a run: `moments`, `tracks` and `videos`, partitioned by bucket."""

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
from deltalake import DeltaTable, PostCommitHookProperties
from deltalake.exceptions import DeltaError

from fer_batch.errors import OutputError
from fer_batch.faults import fault_point
from fer_batch.inputs.manifest import COLUMN_TYPES
from fer_batch.run.record import SUCCESS_FILE, RunRecord, write_run
from fer_batch.run.snapshot import (
    SNAPSHOT_FILE,
    TABLES,
    UNCLEAN_MARKER,
    list_table_files,
    lock_if_unread,
    open_table,
    open_tables,
    read_snapshot,
    read_versions,
)
from fer_batch.schema import MOMENTS_SCHEMA, SCHEMA_VERSION, VIDEOS_SCHEMA, conform_table, tracks_schema
from fer_batch.storage.folder import OutputFolder

STATISTICS_COLUMNS = frozenset({"time_s", "faces", "confidence"})
"""With the columns of probabilities, the columns whose bounds are in the log, so that readers can skip files.
Bounds of other columns would contain names of videos after the rows are deleted."""
KEEP_LOG_FILES = PostCommitHookProperties(cleanup_expired_logs=False)
"""Keeps old versions readable while the tables are written: readers open the versions of the snapshot."""
VIDEO_KEY = ("video_id", "version", "attempt")
"""The columns that identify one analysis of a video."""


def table_schemas(classes: tuple[str, ...], columns: Mapping[str, str]) -> dict[str, pa.Schema]:
    """Return the schema of each table for a model's classes and the manifest columns of the run."""
    added = [pa.field(name, COLUMN_TYPES[kind]) for name, kind in columns.items()]
    return {
        "moments": MOMENTS_SCHEMA,
        "tracks": tracks_schema(classes),
        "videos": pa.schema([*VIDEOS_SCHEMA, *added]),
    }


def statistics_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of a table whose bounds are in its log."""
    return [name for name in schema.names if name in STATISTICS_COLUMNS or name.startswith("p_")]


def open_current_tables(
    folder: OutputFolder, schemas: Mapping[str, pa.Schema]
) -> dict[str, DeltaTable] | None:
    """Open the tables for writing, restored to the versions of the snapshot.

    Returns None if the tables are missing or damaged, have other columns, or were written by an earlier
    version.
    """
    snapshot = read_snapshot(folder)
    if snapshot is None or not snapshot.round:
        return None
    try:
        tables = {name: open_table(folder, name) for name in TABLES}
        if any(pa.schema(table.schema().to_arrow()) != schemas[name] for name, table in tables.items()):
            return None
        if read_versions(tables) != snapshot.tables:
            current = open_tables(folder)
            for name in TABLES:
                if list_table_files(name, tables[name]) != list_table_files(name, current[name]):
                    version = current[name].version()
                    tables[name].restore(version, post_commithook_properties=KEEP_LOG_FILES)
    except (OutputError, DeltaError, FileNotFoundError):
        return None
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
            configuration=_make_properties(schemas[name]),
            storage_options=folder.delta_options(),
        )
        for name in TABLES
    }


def sync_log(folder: OutputFolder, name: str, table: DeltaTable, version: int) -> None:
    """Flush the commits that a table got since `version` to disk; its files are flushed already."""
    log = f"{name}/_delta_log"
    commits = [f"{log}/{number:020d}.json" for number in range(version, table.version() + 1)]
    folder.sync(*commits, log, name, "")


def remove_unread_files(folder: OutputFolder, *, in_store: bool) -> None:
    """Remove the files of the tables that the snapshot does not need, unless there may be readers.

    Those are files of killed writers and of earlier snapshots. Readers of a store hold no lock, so files in a
    store are only removed with `in_store`.
    """
    if not folder.exists(UNCLEAN_MARKER):
        return
    with lock_if_unread(folder) as is_unread:
        if is_unread or (in_store and folder.path is None):
            remove_stale_files(folder)
            folder.remove_file(UNCLEAN_MARKER)


def remove_stale_files(folder: OutputFolder) -> None:
    """Remove every file of the tables that the snapshot does not need."""
    for name, table in open_tables(folder).items():
        for file in set(folder.walk_names(name)).difference(list_table_files(name, table)):
            in_log, last = "/_delta_log/" in file, file.rpartition("/")[2]
            # The Delta library gives such names to files that it has not committed.
            if not in_log or last.endswith(".tmp") or "#" in last:
                folder.remove_file(file)
    fault_point("finalize.stale_files")


def _make_properties(schema: pa.Schema) -> dict[str, str]:
    """Return the properties of a table: for which columns its log has statistics."""
    columns = statistics_columns(schema)
    if not columns:
        return {"delta.dataSkippingNumIndexedCols": "0"}
    quoted = (name if name.isascii() else f"`{name}`" for name in columns)
    return {"delta.dataSkippingStatsColumns": ",".join(quoted)}


def read_videos_table(table: DeltaTable, schema: pa.Schema) -> pa.Table:
    """Read columns of the table `videos`; those that an older schema lacks are null."""
    known = {field.name for field in table.schema().fields}
    columns = [name for name in schema.names if name in known]
    return conform_table(pa.table(table.to_pyarrow_table(columns=columns)), schema)


def fill_attempts(videos: pa.Table) -> pa.Table:
    """Replace null by 0 in the column `attempt`."""
    column = videos.schema.get_field_index("attempt")
    return videos.set_column(column, videos.field(column), videos.column(column).fill_null(0))
