"""Write local files atomically: under a temporary name, synced to disk, then renamed."""

import contextlib
import csv
import io
import json
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fer_batch.errors import OutputError
from fer_batch.faults import fault_point

FOREIGN_FILE_MAX_AGE_S = 3600.0
"""Age after which a temporary file of another host counts as abandoned; writing one takes under a second."""


def write_bytes(path: Path, content: bytes, step: str = "file") -> None:
    """Replace a file by `content`. After a crash it holds either the old or the new content.

    A crash may leave the temporary file `.name.host.pid.tmp`, see `remove_temporary_files`. Tests kill the
    process at `fault_point(f"{step}.temporary")`.
    """
    with replace_file(path, step) as temporary:
        temporary.write_bytes(content)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by name into `folder`, created if needed; raises OutputError if that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_bytes(folder / name, content)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}; give another --out") from error


def write_json(path: Path, content: Any, step: str = "file") -> None:
    """Write a JSON file atomically."""
    write_bytes(path, encode_json(content), step)


def write_parquet(
    path: Path, table: pa.Table, metadata: Mapping[str, str] | None = None, step: str = "file"
) -> None:
    """Write a Parquet file atomically, see `encode_parquet`."""
    write_bytes(path, encode_parquet(table, metadata), step)


class FileWriter(ABC):
    """The methods for writing that a local folder and a folder in a store have in common."""

    @abstractmethod
    def write_bytes(self, name: str, content: bytes, step: str = "file") -> None:
        """Write a file atomically; `step` names the fault point for tests."""

    def write_json(self, name: str, content: Any, step: str = "file") -> None:
        """Write a JSON file atomically."""
        self.write_bytes(name, encode_json(content), step)

    def write_parquet(
        self, name: str, table: pa.Table, metadata: Mapping[str, str] | None = None, step: str = "file"
    ) -> None:
        """Write a Parquet file atomically, see `encode_parquet`."""
        self.write_bytes(name, encode_parquet(table, metadata), step)


@contextlib.contextmanager
def convert_write_error(target: object) -> Iterator[None]:
    """Raise OutputError, which names `target`, if the body cannot write."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error


@contextlib.contextmanager
def replace_file(path: Path, step: str = "file") -> Iterator[Path]:
    """Provide a temporary path beside `path` that replaces `path` after the body has written it.

    The temporary file is removed if the body raises.
    """
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync_to_disk(temporary)
        fault_point(f"{step}.temporary")
        os.replace(temporary, path)
    except BaseException:  # an unusable file must not keep a full disk full
        temporary.unlink(missing_ok=True)
        raise
    sync_to_disk(path.parent)


def sync_to_disk(path: Path) -> None:
    """Flush a file's content, or a folder's list of names, so that it survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files in `folder` whose writers have ended.

    A writer on this host has ended if its process does not exist. Files of other hosts are removed after
    `FOREIGN_FILE_MAX_AGE_S`.
    """
    for temporary in folder.glob(".*.tmp"):
        name, _, pid = temporary.name.removesuffix(".tmp").rpartition(".")
        with contextlib.suppress(FileNotFoundError):  # its writer has just renamed it
            if name.endswith(f".{socket.gethostname()}") and pid.isdecimal():
                abandoned = not Path(f"/proc/{pid}").exists()
            else:
                abandoned = time.time() - temporary.stat().st_mtime > FOREIGN_FILE_MAX_AGE_S
            if abandoned:
                temporary.unlink()


def encode_json(content: Any) -> bytes:
    """Format an object as indented JSON in UTF-8; types that JSON lacks become text."""
    return (json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n").encode()


def encode_parquet(table: pa.Table, metadata: Mapping[str, str] | None = None) -> bytes:
    """Encode a table as Parquet with ZSTD and page checksums, and add `metadata` to the schema's."""
    added = {key.encode(): value.encode() for key, value in (metadata or {}).items()}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **added})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def format_csv(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> bytes:
    """Format a table as CSV with `\\n` line ends."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
