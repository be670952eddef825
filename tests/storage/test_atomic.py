"""Files are written atomically, and temporary files of ended writers are removed."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer_batch.storage.atomic import (
    FOREIGN_FILE_MAX_AGE_S,
    remove_temporary_files,
    write_bytes,
    write_json,
    write_parquet,
)
from tests.runs import flip_bits, kill_at, temporary_path


@pytest.mark.parametrize("before", [None, b"", b"old"])
def test_kill_before_rename_keeps_the_old_file(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    kill_at("file.temporary", write_bytes, path, b"new")
    assert (path.read_bytes() if path.exists() else None) == before
    assert len(list(tmp_path.glob(".*.tmp"))) == 1
    remove_temporary_files(tmp_path)
    assert set(tmp_path.iterdir()) == ({path} if before is not None else set())
    write_bytes(path, b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"new"]


def test_full_disk_keeps_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    script = """
import pathlib, resource, sys
from fer_batch.storage.atomic import write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_bytes(pathlib.Path(sys.argv[1]), bytes(5000))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert "File too large" in ended.stderr
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"file": b"old"}


@pytest.mark.parametrize("content", [None, {}, {"name": "ünï 漢字"}, [1.5, "a"]])
def test_json_round_trip(tmp_path: Path, content: object) -> None:
    write_json(tmp_path / "file.json", content)
    assert json.loads((tmp_path / "file.json").read_text()) == content


@pytest.mark.parametrize("rows", [0, 3])
def test_parquet_round_trip_with_metadata(tmp_path: Path, rows: int) -> None:
    table = pa.table({"a": pa.array(range(rows), pa.int64())})
    write_parquet(tmp_path / "file.parquet", table, {"faces": "7"})
    assert pq.read_table(tmp_path / "file.parquet").equals(table)
    assert pq.read_metadata(tmp_path / "file.parquet").metadata[b"faces"] == b"7"


def test_flipped_bit_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    write_parquet(path, pa.table({"a": [f"{n:020d}" for n in range(1000)]}))
    flip_bits(path, path.stat().st_size // 2)
    with pytest.raises((pa.ArrowException, OSError)):
        pq.read_table(path, page_checksum_verification=True)


OLD, YOUNG = FOREIGN_FILE_MAX_AGE_S + 60, FOREIGN_FILE_MAX_AGE_S - 60


@pytest.fixture(scope="module")
def dead_pid() -> int:
    """The id of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.mark.parametrize(
    ("host", "alive", "age_s", "goes"),
    [
        ("", True, 0, False),
        ("", True, OLD, False),
        ("", False, 0, True),
        ("", False, -OLD, True),
        ("node.other", True, 0, False),
        ("node.other", False, YOUNG, False),
        ("node.other", False, -OLD, False),
        ("node.other", True, OLD, True),
    ],
)
def test_temporary_file_of_ended_writer_is_removed(
    tmp_path: Path, dead_pid: int, host: str, alive: bool, age_s: float, goes: bool
) -> None:
    path = temporary_path(tmp_path / "0123.parquet", host, os.getpid() if alive else dead_pid)
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age_s,) * 2)
    remove_temporary_files(tmp_path)
    assert path.exists() != goes


@pytest.mark.parametrize(
    "name", ["run.json", ".lease", ".tmp", "a.tmp", ".hidden", f".x.{socket.gethostname()}.1.tmp.parquet"]
)
def test_other_files_are_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    remove_temporary_files(tmp_path)
    remove_temporary_files(tmp_path / "nowhere")
    assert (tmp_path / name).exists()
