"""Writing files whole or not at all: to a temporary name, synced, then renamed."""

import contextlib
import csv
import io
import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fer_batch.errors import OutputError
from fer_batch.faults import fault_point

LEFT_S = 3600.0
"""A temporary file of another host is nobody's after this long: writing one takes less than a second."""

QUIET_S = 5.0
"""For so long a store may take to answer before that is told."""


@contextlib.contextmanager
def warn_if_slow(name: object) -> Iterator[None]:
    """Say what is waited for where the body takes long: a store's library tries for minutes, and says
    nothing.
    """
    told = threading.Timer(
        QUIET_S, lambda: print(f"waiting for an answer about {name} …", file=sys.stderr, flush=True)
    )
    told.daemon = True
    told.start()
    try:
        yield
    finally:
        told.cancel()


def check_path(out: Path) -> None:
    """Raise OutputError for an output folder whose name the Delta and SQL libraries can't take."""
    if is_in_store(out):
        try:
            with warn_if_slow(out):
                out.exists()
        except Exception as error:  # each store's library has errors of its own
            raise OutputError(
                f"{out} can't be reached: {error}; look at its address, the store's (AWS_ENDPOINT_URL), and "
                "the credentials"
            ) from error
        return
    if any(part.endswith(":") for part in out.parts[:-1]):
        raise OutputError(f"{out} is a path made of an address: give that as text")
    bad = sorted(set(str(out)) & set("[]*?\\%"))
    if bad:
        raise OutputError(
            f"{out} has {' '.join(bad)} in its name, which the tables can't; name another folder"
        )


def write_bytes(path: Path, content: bytes, step: str = "file") -> None:
    """Replace `path` by `content`; after a crash it holds either the old or the new.

    A store does that by itself. In a folder, a crash may leave the temporary file `.name.host.pid.tmp`, see
    `remove_temporary_files`. Tests kill it at `faults.fault_point(f"{step}.temporary")`.
    """
    if is_in_store(path):
        fault_point(f"{step}.temporary")
        try:
            path.write_bytes(content)
        except Exception as error:  # each store's library has errors of its own
            raise OutputError(f"{path} can't be written: {error}; run the same command again") from error
        return
    with replace_file(path, step) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replace_file(path: Path, step: str = "file") -> Iterator[Path]:
    """A temporary name beside `path`, for what writes a file itself; it replaces `path` when that is done,
    and is gone where it fails. In a folder only.
    """
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync_to_disk(temporary)
        fault_point(f"{step}.temporary")
        os.replace(temporary, path)
    except BaseException:  # a full disk must not stay full of what can't be used
        temporary.unlink(missing_ok=True)
        raise
    sync_to_disk(path.parent)


def is_in_store(path: Path) -> bool:
    """Whether it is in a store, and no path of this machine: see `storage.outputs`."""
    return not isinstance(path, Path)


def content(path: Path) -> bytes:
    """All of a file as it is at one moment, also where it is being replaced."""
    if is_in_store(path):
        read: bytes = path.fs.cat_file(path.path)  # type: ignore[attr-defined]
        return read
    return path.read_bytes()


def source(path: Path) -> Any:
    """What Arrow's functions read a file from."""
    return pa.BufferReader(content(path)) if is_in_store(path) else path


def names_in(folder: Path) -> list[str]:
    """Names of what is in a folder, also a large one; none where there is no folder."""
    try:
        if is_in_store(folder):
            found = folder.fs.ls(folder.path, detail=False)  # type: ignore[attr-defined]
            return [name.rstrip("/").rpartition("/")[2] for name in found]
        with os.scandir(folder) as entries:  # three times as fast as paths, and there may be a million
            return [entry.name for entry in entries]
    except FileNotFoundError:
        return []


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it."""
    if is_in_store(folder):
        folder.fs.rm(folder.path, recursive=True)  # type: ignore[attr-defined]
    else:
        shutil.rmtree(folder)


def sync_to_disk(path: Path) -> None:
    """See to it that a file's content, or a folder's list of names, outlives a power failure."""
    if is_in_store(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any, step: str = "file") -> None:
    """Write a JSON file whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
    write_bytes(path, text.encode(), step)


def format_csv(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> bytes:
    """A table as CSV, with `\\n` at the end of lines."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def write_parquet(
    path: Path, table: pa.Table, notes: Mapping[str, str] | None = None, step: str = "file"
) -> None:
    """Write a Parquet file whole or not at all, with `notes` in its metadata, and checksums of its pages."""
    metadata = {**(table.schema.metadata or {}), **{k.encode(): v.encode() for k, v in (notes or {}).items()}}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata), sink, compression="zstd", write_page_checksum=True
    )
    write_bytes(path, sink.getvalue().to_pybytes(), step)


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files in `folder` whose writers are gone: processes of this host that run no
    more, and those of other hosts that have had an hour.
    """
    if is_in_store(folder):
        return
    for temporary in folder.glob(".*.tmp"):
        name, _, pid = temporary.name.removesuffix(".tmp").rpartition(".")
        with contextlib.suppress(FileNotFoundError):  # its writer has just renamed it
            if name.endswith(f".{socket.gethostname()}") and pid.isdecimal():
                gone = not Path(f"/proc/{pid}").exists()
            else:
                gone = time.time() - temporary.stat().st_mtime > LEFT_S
            if gone:
                temporary.unlink()
