"""Manifests in all formats, their columns and their errors."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer_batch.errors import InputError
from fer_batch.inputs.manifest import Entry, manifest_values, merge_column_types, read_manifest

ROWS: list[dict[str, Any]] = [
    {"path": "a.mp4", "id": "1", "duration_s": 61.5, "who": "Ann", "year": 1999, "open": True, "score": 0.5},
    {"path": "b.mp4", "id": "2", "duration_s": None, "who": None, "year": 2001, "open": False, "score": 2.0},
]
COLUMN_TYPES = {"id": "string", "who": "string", "year": "int64", "open": "bool", "score": "double"}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a manifest in the format of its suffix."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        lines = [",".join("" if value is None else str(value) for value in row.values()) for row in rows]
        path.write_text("\n".join([",".join(rows[0]) if rows else "path", *lines]))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl", "ndjson"])
def test_formats_give_the_same_entries(tmp_path: Path, suffix: str) -> None:
    manifest = read_manifest(write(tmp_path / f"list.{suffix}", ROWS))
    assert manifest.columns == COLUMN_TYPES
    one, other = manifest.entries
    assert (one.path, one.duration_s, one.version) == ("a.mp4", 61.5, None)
    assert (other.path, other.duration_s) == ("b.mp4", None)
    for entry, row in zip((one, other), ROWS, strict=True):
        assert manifest_values(entry.extra, COLUMN_TYPES) == {name: row[name] for name in COLUMN_TYPES}


def test_text_file_has_one_path_per_line(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# comment\na.mp4\n\n b.mp4 \n")
    manifest = read_manifest(path)
    assert list(manifest.entries) == [Entry(path="a.mp4"), Entry(path="b.mp4")]
    assert manifest.columns == {}


@pytest.mark.parametrize(
    ("column", "kind", "values"),
    [
        ("x\n\n\n", "string", [None, None]),
        ("x\n1\n-2\n", "int64", [1, -2]),
        ("x\n1\n\n", "int64", [1, None]),
        ("x\n1\n2.5\n", "double", [1.0, 2.5]),
        ("x\ntrue\nfalse\n", "bool", [True, False]),
        ("x\n007\n12\n", "string", ["007", "12"]),
        ("x\n1\ntwo\n", "string", ["1", "two"]),
    ],
)
def test_csv_column_type_fits_all_values(tmp_path: Path, column: str, kind: str, values: list[Any]) -> None:
    cells = column.removesuffix("\n").split("\n")
    (tmp_path / "list.csv").write_text(
        "".join(f"{name},{cell}\n" for name, cell in zip(("path", "a", "b"), cells, strict=True))
    )
    manifest = read_manifest(tmp_path / "list.csv")
    assert manifest.columns == {"x": kind}
    assert [manifest_values(e.extra, manifest.columns)["x"] for e in manifest.entries] == values


def test_json_columns_with_different_types_become_text(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"path": "a.mp4", "x": 1, "id": 7}\n\n{"path": "b.mp4", "x": "two", "y": true}\n')
    manifest = read_manifest(path)
    assert manifest.columns == {"x": "string", "id": "string", "y": "bool"}
    assert [manifest_values(e.extra, manifest.columns) for e in manifest.entries] == [
        {"x": "1", "id": "7", "y": None},
        {"x": "two", "id": None, "y": True},
    ]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_nan_is_a_missing_value(tmp_path: Path, suffix: str) -> None:
    rows = [{"path": "a.mp4", "x": math.nan}, {"path": "b.mp4", "x": 1.5}]
    manifest = read_manifest(write(tmp_path / f"list.{suffix}", rows))
    assert manifest.columns == {"x": "double"}
    assert [manifest_values(e.extra, manifest.columns)["x"] for e in manifest.entries] == [None, 1.5]


def test_quoted_cell_may_contain_newlines_and_commas(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('path,note\na.mp4,"one, and\ntwo"\n')
    manifest = read_manifest(tmp_path / "list.csv")
    (entry,) = manifest.entries
    assert manifest_values(entry.extra, manifest.columns) == {"note": "one, and\ntwo"}


def test_rows_without_a_path_are_counted(tmp_path: Path) -> None:
    manifest = read_manifest(
        write(tmp_path / "list.jsonl", [{"path": "a.mp4"}, {"path": None}, {"path": " "}])
    )
    assert manifest.rows_without_path == 2
    assert [entry.path for entry in manifest.entries] == ["a.mp4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,x,x\na.mp4,1,2\n", "two columns x"),
        ("path,x\na.mp4,1,2\n", "3 cells in line 2 and 2 columns"),
    ],
)
def test_csv_with_repeated_or_missing_columns_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path / "list.csv")


@pytest.mark.parametrize("text", ["[1]", '[{"path": "a.mp4"}]'])
def test_json_line_that_is_not_an_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.jsonl").write_text(text)
    with pytest.raises(InputError, match="no JSON object in line 1: give one per line"):
        read_manifest(tmp_path / "list.jsonl")


def test_lists_and_dates_become_text(tmp_path: Path) -> None:
    rows = [{"path": "a.mp4", "tags": ["x", "y"], "born": pa.scalar(0, pa.date32()).as_py()}]
    manifest = read_manifest(write(tmp_path / "list.parquet", rows))
    assert manifest.columns == {"tags": "string", "born": "string"}
    (entry,) = manifest.entries
    assert manifest_values(entry.extra, manifest.columns) == {"tags": '["x", "y"]', "born": "1970-01-01"}


@pytest.mark.parametrize("length", [None, 0.0, -1.0, math.nan, math.inf])
def test_invalid_duration_is_unknown(tmp_path: Path, length: float | None) -> None:
    rows = [{"path": "a.mp4", "duration": length}, {"path": "b.mp4", "duration": 3.0}]
    entries = read_manifest(write(tmp_path / "list.parquet", rows)).entries
    assert [entry.duration_s for entry in entries] == [None, 3.0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Speaker Name", "speaker_name"),
        ("status", "manifest_status"),
        ("p_happy", "manifest_p_happy"),
        ("Jahr", "jahr"),
    ],
)
def test_columns_get_valid_and_unreserved_names(tmp_path: Path, given: str, expected: str) -> None:
    manifest = read_manifest(write(tmp_path / "list.jsonl", [{"path": "a.mp4", given: "x"}]))
    assert manifest.columns == {expected: "string"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"name": "a.mp4"}], "no column named path, uri, video or file"),
        ([{"path": "a.mp4", "id": 1}, {"path": "b.mp4", "id": 1}], "the id 1 for several videos"),
        ([{"path": "a.mp4", "duration_s": "long"}], "no numbers of seconds in duration_s"),
        ([{"path": "a.mp4", "a b": 1, "A_b": 2}], "two columns a_b"),
    ],
)
def test_contradictory_manifest_is_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(read_manifest(write(tmp_path / "list.jsonl", rows)).entries)


@pytest.mark.parametrize("name", ["list.parquet", "list.jsonl"])
def test_read_error_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"neither {")
    with pytest.raises(InputError, match="can't be read: ") as refused:
        read_manifest(tmp_path / name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("int64", "int64", "int64"),
        ("int64", "double", "double"),
        ("bool", "int64", "string"),
        ("string", "double", "string"),
    ],
)
def test_merged_column_type_holds_both_types(one: str, other: str, both: str) -> None:
    assert merge_column_types(one, other) == merge_column_types(other, one) == both


def test_values_get_the_column_types_of_the_run() -> None:
    extra = json.dumps({"year": 1999, "who": "Ann"})
    assert manifest_values(extra, {"year": "double", "who": "string", "later": "bool"}) == {
        "year": 1999.0,
        "who": "Ann",
        "later": None,
    }
    assert manifest_values(extra, {"year": "string"}) == {"year": "1999"}
    assert manifest_values(None, {"year": "string"}) == {"year": None}
