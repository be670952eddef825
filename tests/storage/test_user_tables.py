"""Tables of users: which are read, and that small files with large tables are refused in little time."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer_batch.storage import user_tables
from fer_batch.storage.user_tables import read_csv_table, read_json_table, read_parquet_table

REFUSED = (OSError, ValueError, pa.ArrowException)
TEXTS = {
    "columns.csv": (b"," * 1000, "1,001 columns, and at most 1,000"),
    "quoted.csv": (b'"a\n"' + b"," * 1000, "1,001 columns, and at most 1,000"),
    "twice.csv": (b"a,b,a\n1,2,3\n", "two columns a"),
    "bytes.csv": (b"a\n\xff\n", "invalid start byte"),
    "cell.csv": (b'"' + b"x" * 200_000, "field larger than field limit"),
    "deep.jsonl": (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n", "line 1: it is nested deeper"),
    "objects.jsonl": (b'{"a": ' * 50 + b"1" + b"}" * 50, "line 1: it is nested deeper"),
    "surrogate.jsonl": (b'{"a": 1}\n{"a": "\\ud800"}\n', "line 2: .*surrogates not allowed"),
    "bytes.jsonl": (b'{"a": "\xff"}\n', "line 1: .*invalid start byte"),
    "twice.jsonl": (b'{"a": 1, "a": 2}\n', "twice"),
    "keys.jsonl": (b"".join(b'{"k%d": 1}\n' % n for n in range(1001)), "1,001 columns"),
    "nested.jsonl": (b"".join(b'{"a": [{"k%d": 1}]}\n' % n for n in range(1001)), "1,001 columns"),
}


def read_table(path: Path) -> pa.Table:
    readers: dict[str, Callable[[Path], pa.Table]] = {
        ".csv": read_csv_table,
        ".jsonl": read_json_table,
        ".parquet": read_parquet_table,
    }
    return readers[path.suffix](path)


def repeat(value: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))


def test_tables_are_read(tmp_path: Path) -> None:
    rows = {"start_s": [0.5, 2.5], "text": ["ä\nb", None], "tags": [["x"], []]}
    (tmp_path / "a.csv").write_text('\ufeffstart_s,text\n0.5,"ä\nb"\n2.5,c\n')
    assert read_csv_table(tmp_path / "a.csv").to_pydict() == {"start_s": [0.5, 2.5], "text": ["ä\nb", "c"]}
    (tmp_path / "a.jsonl").write_text(
        '{"start_s": 0.5, "text": "ä\\nb", "tags": ["x"]}\n\n{"start_s": 2.5, "tags": []}\n'
    )
    assert read_json_table(tmp_path / "a.jsonl").to_pydict() == rows
    pq.write_table(pa.table(rows), tmp_path / "a.parquet", row_group_size=1)
    assert read_parquet_table(tmp_path / "a.parquet").to_pydict() == rows
    assert read_parquet_table(tmp_path / "a.parquet", ["text"]).to_pydict() == {"text": rows["text"]}


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_text_is_refused(tmp_path: Path, name: str) -> None:
    content, message = TEXTS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(REFUSED, match=message):
        read_table(tmp_path / name)


def test_missing_values_of_json_lines_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_tables, "MAX_BYTES", 8_000_000)
    first = ", ".join(f'"k{number}": 1' for number in range(1000))
    (tmp_path / "a.jsonl").write_text(f"{{{first}}}\n" + "{}\n" * 1000)
    with pytest.raises(ValueError, match=r"8,008,000 bytes, and at most 8,000,000"):
        read_json_table(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("make_columns", "message"),
    [
        (lambda: {"x": repeat("x", 10_000_001)}, "10,000,001 rows, and at most 10,000,000"),
        (lambda: {"x": repeat("x" * 500_000, 5000)}, "2,500,.* bytes, and at most 2,000,000,000"),
        (lambda: dict.fromkeys(map(str, range(501)), pa.nulls(500_000, pa.int64())), "2,004,000,000 bytes"),
        (lambda: {f"c{n}": [n] for n in range(1001)}, "1,001 columns"),
        (lambda: {"x": pa.array([b"\xff"]).view(pa.string())}, "Invalid UTF8"),
    ],
    ids=["rows", "text", "numbers", "columns", "bytes"],
)
def test_hostile_parquet_file_is_refused(
    tmp_path: Path, make_columns: Callable[[], dict[str, Any]], message: str
) -> None:
    pq.write_table(pa.table(make_columns()), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 1_000_000
    with pytest.raises(REFUSED, match=message):
        read_parquet_table(tmp_path / "a.parquet")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "huge"])
def test_other_kinds_of_files_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    with pytest.raises(REFUSED):
        read_table(path)
