"""Which versions of the three tables belong together: `snapshot.json`, replaced whole once all are written.

Readers open those versions, so they see a state as one `finalize` left it, never a mix of two.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from fer_batch.errors import OutputError
from fer_batch.storage.atomic import check_path, content, is_in_store, write_json
from fer_batch.storage.folder import delta_options

TABLES = ("moments", "tracks", "videos")
"""In the order in which they are written."""


def read_snapshot(out: Path) -> dict[str, int] | None:
    """The Delta version of each table, None where there is no snapshot that can be read."""
    try:
        tables = json.loads(content(out / "snapshot.json"))["tables"]
        return {name: int(tables[name]) for name in TABLES}
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def write_snapshot(out: Path, tables: dict[str, DeltaTable]) -> None:
    """Make the tables, as they are now, what readers see."""
    versions = {name: tables[name].version() for name in TABLES}
    write_json(out / "snapshot.json", {"tables": versions}, "snapshot")


def open_tables(out: Path) -> dict[str, DeltaTable]:
    """The three tables in the state that was last completed.

    Raises OutputError where `out` holds no run, or none that has been finished.
    """
    check_path(out)
    versions = read_snapshot(out)
    if versions is None and not _without_snapshots(out):
        if not out.is_dir():
            raise OutputError(f"there is no folder {out}")
        if not (out / "run.json").exists():
            raise OutputError(f"{out} holds no run of fer-batch (there is no {out / 'run.json'})")
        raise OutputError(f"the run in {out} is not finished: run `fer-batch analyze` on it again")
    try:
        return {
            name: DeltaTable(
                str(out / name),
                version=None if versions is None else versions[name],
                storage_options=delta_options(out),
            )
            for name in TABLES
        }
    except (DeltaError, OSError) as error:
        raise OutputError(
            f"the tables in {out} are not whole, `fer-batch finalize {out}` writes them anew: "
            + str(error).strip().split("\n")[0]
        ) from error


def lock_for_reading(out: Path) -> IO[bytes] | None:
    """Have the files kept of the state that is opened next, until what is returned is closed.

    Readers share a lock on `run.json`. None where there is none to be had: then they take their chance.
    """
    if is_in_store(out):
        return None
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context((out / "run.json").open("rb"))
            fcntl.flock(file, fcntl.LOCK_SH)
        except OSError:
            return None
        stack.pop_all()
        return file


@contextlib.contextmanager
def lock_if_unread(out: Path) -> Iterator[bool]:
    """Whether nobody holds a state, as far as that can be told; nobody can begin to while the body runs."""
    if is_in_store(out):
        yield False
        return
    with (out / "run.json").open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def list_table_files(folder: Path, table: DeltaTable) -> list[Path]:
    """The Parquet files that a table in `folder` consists of."""
    return [folder / uri.rsplit(f"/{folder.name}/", 1)[-1] for uri in table.file_uris()]


def _without_snapshots(out: Path) -> bool:
    """Whether `out` holds a run from before there were snapshots: what was written last is its state."""
    try:
        return bool(json.loads(content(out / "run.json"))["schema_version"] == 1)
    except (OSError, ValueError, KeyError, TypeError):
        return False
