"""Writing files whole or not at all: to a temporary name, synced, then renamed."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fer_batch.errors import OutputError


def check_path(out: Path) -> None:
    """Raise OutputError for an output folder whose name the Delta and SQL libraries can't take."""
    bad = sorted(set(str(out)) & set("[]*?\\%"))
    if bad:
        raise OutputError(
            f"{out} has {' '.join(bad)} in its name, which the tables can't; name another folder"
        )


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`; after a crash it holds either the old or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n").encode())


def write_parquet(path: Path, table: pa.Table, notes: Mapping[str, str] | None = None) -> None:
    """Write a Parquet file whole or not at all, with `notes` in its metadata."""
    metadata = {**(table.schema.metadata or {}), **{k.encode(): v.encode() for k, v in (notes or {}).items()}}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())
