"""The snapshot, `snapshot.json`: which versions of the three Delta tables belong together, and their plan.

It is replaced after all three tables are written. Readers open the versions that it names, so they see the
result of one `finalize` and never a mixture of two.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from fer_batch.errors import OutputError
from fer_batch.storage.folder import FolderLike, OutputFolder, open_folder
from fer_batch.terminal import count

TABLES = ("moments", "tracks", "videos")
"""The tables in the order in which they are written."""
SNAPSHOT_FILE = "snapshot.json"
UNCLEAN_MARKER = ".unclean"
"""Name of an empty file that exists while the folders of the tables may hold files that no snapshot needs."""


NO_ROUND = "-"
"""Name before those of all rounds: partial tables have no complete round, and `finalize` writes all again."""


@dataclass(frozen=True, kw_only=True)
class Partial:
    """How much of a run is in tables that were written before the run was finished."""

    videos: int
    planned_videos: int
    video_s: float
    """Length of the finished videos, in seconds, as far as it was known when they were planned."""
    planned_s: float

    def __str__(self) -> str:
        return (
            f"partial results: {self.videos:,} of {count(self.planned_videos, 'video')}, "
            f"{self.video_s / 3600:.3g} of {self.planned_s / 3600:.3g} hours"
        )


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The content of `snapshot.json`."""

    tables: dict[str, int]
    """The Delta version of each table."""
    round: str
    """The last planning round whose videos are in the tables; empty if an earlier version wrote them."""
    partial: Partial | None = None
    """Which part of the run the tables have; None if they have all."""


def read_snapshot(out: FolderLike) -> Snapshot | None:
    """Read the snapshot; return None if there is no valid one."""
    try:
        content = json.loads(open_folder(out).read_bytes(SNAPSHOT_FILE))
        tables = {name: int(content["tables"][name]) for name in TABLES}
        part = content.get("partial")
        partial = Partial(**{field.name: part[field.name] for field in fields(Partial)}) if part else None
        return Snapshot(tables=tables, round=str(content.get("round", "")), partial=partial)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_snapshot(
    out: FolderLike, tables: Mapping[str, DeltaTable], round: str, partial: Partial | None = None
) -> None:
    """Show the current versions of the tables to readers.

    `round` is the last planning round whose videos they contain. If it is empty, the next `finalize` writes
    all tables again.
    """
    content: dict[str, Any] = {"tables": read_versions(tables), "round": round}
    if partial is not None:
        content["partial"] = asdict(partial)
    open_folder(out).write_json(SNAPSHOT_FILE, content, "snapshot")


def read_versions(tables: Mapping[str, DeltaTable]) -> dict[str, int]:
    """Return the version at which each table is open."""
    return {name: tables[name].version() for name in TABLES}


def open_tables(out: FolderLike) -> dict[str, DeltaTable]:
    """Open the three tables at the versions of the snapshot.

    Raises OutputError if `out` contains no run, or none that is finished.
    """
    folder = open_folder(out)
    folder.check_usable()
    snapshot = read_snapshot(folder)
    if snapshot is None and not _has_first_schema(folder):
        if not folder.exists():
            raise OutputError(f"The folder {folder} does not exist")
        if not folder.exists("run.json"):
            raise OutputError(f"{folder} contains no run of fer-batch ({folder}/run.json does not exist)")
        raise OutputError(
            f"The run in {folder} is not finished: run `fer-batch analyze` on it again, or "
            f"`fer-batch finalize --partial {folder}` for the tables of the finished videos"
        )
    try:
        return {
            name: open_table(folder, name, snapshot.tables[name] if snapshot else None) for name in TABLES
        }
    except (DeltaError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise OutputError(
            f"The tables in {folder} are damaged; `fer-batch finalize {folder}` writes them again: {reason}"
        ) from error


def open_table(folder: OutputFolder, name: str, version: int | None = None) -> DeltaTable:
    """Open one table, by default at its latest version."""
    return DeltaTable(f"{folder}/{name}", version=version, storage_options=folder.delta_options())


def list_table_files(name: str, table: DeltaTable) -> list[str]:
    """List the Parquet files of a table, relative to the folder of the run."""
    paths = pa.table(table.get_add_actions(flatten=True)).column("path").to_pylist()
    return [f"{name}/{path}" for path in paths]


def group_table_files(name: str, table: DeltaTable) -> dict[int, list[str]]:
    """Group the Parquet files of a table, relative to the folder of the run, by bucket."""
    files: dict[int, list[str]] = {}
    for file in list_table_files(name, table):
        bucket = file.split("/")[-2].removeprefix("bucket=")
        files.setdefault(int(bucket), []).append(file)
    return files


def count_rows(folder: OutputFolder, name: str, table: DeltaTable) -> dict[int, int]:
    """Count the rows of each bucket of a table from its log, or from its files if the log has no numbers."""
    counts: dict[int, int] = {}
    actions = pa.table(table.get_add_actions(flatten=True))
    for action in actions.select(["path", "num_records", "partition.bucket"]).to_pylist():
        bucket, rows = int(action["partition.bucket"]), action["num_records"]
        if rows is None:
            rows = pq.read_metadata(folder.arrow_source(f"{name}/{action['path']}")).num_rows
        counts[bucket] = counts.get(bucket, 0) + rows
    return counts


def lock_for_reading(out: FolderLike) -> IO[bytes] | None:
    """Keep the files of the snapshot that is opened next until the returned file is closed.

    Readers share a lock on `run.json`. Returns None without locks, as in a store; then `finalize` may remove
    files in use.
    """
    path = open_folder(out).path
    if path is None:
        return None
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context((path / "run.json").open("rb"))
            fcntl.flock(file, fcntl.LOCK_SH)
        except OSError:
            return None
        stack.pop_all()
        return file


@contextlib.contextmanager
def lock_if_unread(out: FolderLike) -> Iterator[bool]:
    """Exclude new readers during the body; gives False if there are readers or it cannot know."""
    path = open_folder(out).path
    if path is None:
        yield False
        return
    with (path / "run.json").open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _has_first_schema(folder: OutputFolder) -> bool:
    """Return whether the run has schema 1, which has no snapshots: then the latest versions count."""
    try:
        return bool(json.loads(folder.read_bytes("run.json"))["schema_version"] == 1)
    except (OSError, ValueError, KeyError, TypeError):
        return False
