"""Manifests: what is named, how long it is said to be, and what else its owner knows."""

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
    """A manifest of these rows, in the format that its name says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        lines = [",".join("" if value is None else str(value) for value in row.values()) for row in rows]
        path.write_text("\n".join([",".join(rows[0]) if rows else "path", *lines]))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl", "ndjson"])
def test_each_format_says_the_same(tmp_path: Path, suffix: str) -> None:
    manifest = read_manifest(write(tmp_path / f"list.{suffix}", ROWS))
    assert manifest.columns == COLUMN_TYPES
    one, other = manifest.entries
    assert (one.path, one.duration_s, one.version) == ("a.mp4", 61.5, None)
    assert (other.path, other.duration_s) == ("b.mp4", None)
    for entry, row in zip((one, other), ROWS, strict=True):
        assert manifest_values(entry.extra, COLUMN_TYPES) == {name: row[name] for name in COLUMN_TYPES}


def test_a_text_file_is_a_path_a_line(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# mine\na.mp4\n\n b.mp4 \n")
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
def test_a_column_of_a_csv_is_what_all_its_values_are(
    tmp_path: Path, column: str, kind: str, values: list[Any]
) -> None:
    cells = column.removesuffix("\n").split("\n")
    (tmp_path / "list.csv").write_text(
        "".join(f"{name},{cell}\n" for name, cell in zip(("path", "a", "b"), cells, strict=True))
    )
    manifest = read_manifest(tmp_path / "list.csv")
    assert manifest.columns == {"x": kind}
    assert [manifest_values(e.extra, manifest.columns)["x"] for e in manifest.entries] == values


def test_lines_of_json_may_differ_in_their_kinds(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"path": "a.mp4", "x": 1, "id": 7}\n\n{"path": "b.mp4", "x": "two", "y": true}\n')
    manifest = read_manifest(path)
    assert manifest.columns == {"x": "string", "id": "string", "y": "bool"}
    assert [manifest_values(e.extra, manifest.columns) for e in manifest.entries] == [
        {"x": "1", "id": "7", "y": None},
        {"x": "two", "id": None, "y": True},
    ]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_what_is_not_a_number_is_no_value(tmp_path: Path, suffix: str) -> None:
    rows = [{"path": "a.mp4", "x": math.nan}, {"path": "b.mp4", "x": 1.5}]
    manifest = read_manifest(write(tmp_path / f"list.{suffix}", rows))
    assert manifest.columns == {"x": "double"}
    assert [manifest_values(e.extra, manifest.columns)["x"] for e in manifest.entries] == [None, 1.5]


def test_a_cell_may_have_lines_and_commas(tmp_path: Path) -> None:
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
    ("text", "said"),
    [
        ("path,x,x\na.mp4,1,2\n", "two columns x"),
        ("path,x\na.mp4,1,2\n", "3 cells in line 2 and 2 columns"),
    ],
)
def test_a_csv_that_would_lose_cells_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        read_manifest(tmp_path / "list.csv")


@pytest.mark.parametrize("text", ["[1]", '[{"path": "a.mp4"}]'])
def test_lines_that_are_no_objects_are_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.jsonl").write_text(text)
    with pytest.raises(InputError, match="no JSON object in line 1: give one per line"):
        read_manifest(tmp_path / "list.jsonl")


def test_what_no_plain_column_holds_is_text(tmp_path: Path) -> None:
    rows = [{"path": "a.mp4", "tags": ["x", "y"], "born": pa.scalar(0, pa.date32()).as_py()}]
    manifest = read_manifest(write(tmp_path / "list.parquet", rows))
    assert manifest.columns == {"tags": "string", "born": "string"}
    (entry,) = manifest.entries
    assert manifest_values(entry.extra, manifest.columns) == {"tags": '["x", "y"]', "born": "1970-01-01"}


@pytest.mark.parametrize("length", [None, 0.0, -1.0, math.nan, math.inf])
def test_a_duration_that_is_none_is_not_known(tmp_path: Path, length: float | None) -> None:
    rows = [{"path": "a.mp4", "duration": length}, {"path": "b.mp4", "duration": 3.0}]
    entries = read_manifest(write(tmp_path / "list.parquet", rows)).entries
    assert [entry.duration_s for entry in entries] == [None, 3.0]


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("Speaker Name", "speaker_name"),
        ("status", "manifest_status"),
        ("p_happy", "manifest_p_happy"),
        ("Jahr", "jahr"),
    ],
)
def test_columns_have_names_that_sql_takes_and_none_of_ours(tmp_path: Path, name: str, called: str) -> None:
    manifest = read_manifest(write(tmp_path / "list.jsonl", [{"path": "a.mp4", name: "x"}]))
    assert manifest.columns == {called: "string"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"name": "a.mp4"}], "no column named path, uri, video or file"),
        ([{"path": "a.mp4", "id": 1}, {"path": "b.mp4", "id": 1}], "the id 1 for several videos"),
        ([{"path": "a.mp4", "duration_s": "long"}], "no numbers of seconds in duration_s"),
        ([{"path": "a.mp4", "a b": 1, "A_b": 2}], "two columns a_b"),
    ],
)
def test_what_can_not_be_meant_is_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(read_manifest(write(tmp_path / "list.jsonl", rows)).entries)


@pytest.mark.parametrize("name", ["list.parquet", "list.jsonl"])
def test_what_can_not_be_read_is_one_line(tmp_path: Path, name: str) -> None:
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
def test_the_kind_of_two_manifests_holds_the_values_of_both(one: str, other: str, both: str) -> None:
    assert merge_column_types(one, other) == merge_column_types(other, one) == both


def test_values_are_read_as_the_run_has_them() -> None:
    extra = json.dumps({"year": 1999, "who": "Ann"})
    assert manifest_values(extra, {"year": "double", "who": "string", "later": "bool"}) == {
        "year": 1999.0,
        "who": "Ann",
        "later": None,
    }
    assert manifest_values(extra, {"year": "string"}) == {"year": "1999"}
    assert manifest_values(None, {"year": "string"}) == {"year": None}
