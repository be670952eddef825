"""Manifests in all formats, their columns and their errors."""

import json
import math
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.csv", f"path,x\na.mp4,{'y' * 140_000}\n", "line 2: .* a cell has at most 131,072 characters"),
        ("list.csv", 'path\na.mp4\n"b.mp4\n' + "c.mp4\n" * 30_000, "line .* a quote may be missing"),
        ("list.csv", ",".join(f"c{n}" for n in range(200_000)), "has 200,000 columns, and at most 1,000"),
        ("list.csv", "path\na.mp4\nb\0.mp4\n", "line 3 contains zero bytes"),
        ("list.txt", b"a.mp4\nb\xff.mp4\n", "UTF-8 text: line 2"),
        ("list.jsonl", f'{{"path": "a.mp4", "x": {"[" * 200_000}{"]" * 200_000}}}', "line 1: .*too deeply"),
        ("list.jsonl", f'{{"path": "a.mp4", "x": {"{" * 200_000}', "line 1"),
        ("list.jsonl", f'{{"path": "a.mp4", "x": 1{"0" * 5000}}}', "line 1: Exceeds the limit"),
        ("list.jsonl", '{"path": "a.mp4"}\n{"path": "\\ud800.mp4"}', "line 2: .*surrogate"),
        ("list.jsonl", '{"path": "a.mp4", "x": "\\udc80"}', "line 1: .*surrogate"),
        ("list.jsonl", '{"path": "a.mp4", "\\ud800": 1}', "line 1: .*surrogate"),
        ("list.jsonl", '{"path": "a.mp4", "x": ["\\ud800"], "id": "\\ud800"}', "line 1: .*surrogate"),
        ("list.jsonl", "".join(f'{{"c{n}": 1}}\n' for n in range(2000)), "has 1,001 columns"),
    ],
)
def test_hostile_line_is_one_error_that_names_it(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as refused:
        list(read_manifest(tmp_path / name).entries)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("value", "kind", "stored"),
    [
        ("1e999", "double", None),
        ("-Infinity", "double", None),
        ("1" + "0" * 400, "string", "1" + "0" * 400),
        ("18446744073709551616", "string", "18446744073709551616"),
        ('"a\\u0000b\\u001b[2J"', "string", "a\0b\x1b[2J"),
        ('["\\ud800", {"deep": [null]}]', "string", '["\\ud800", {"deep": [null]}]'),
        ("[" * 500 + "]" * 500, "string", "[" * 500 + "]" * 500),
    ],
)
def test_hostile_value_can_be_stored_and_queried(
    tmp_path: Path, value: str, kind: str, stored: str | None
) -> None:
    (tmp_path / "list.jsonl").write_text(f'{{"path": "a.mp4", "x": {value}}}\n')
    manifest = read_manifest(tmp_path / "list.jsonl")
    assert manifest.columns == {"x": kind}
    (values,) = (manifest_values(entry.extra, manifest.columns) for entry in manifest.entries)
    assert values == {"x": stored}
    table = pa.table({"x": pa.array([values["x"]], {"double": pa.float64(), "string": pa.string()}[kind])})
    pq.write_table(table, tmp_path / "values.parquet")
    (row,) = duckdb.sql(f"SELECT x FROM read_parquet('{tmp_path}/values.parquet') GROUP BY x").fetchall()
    assert row == (stored,)


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


def encode(values: list[Any], indices: np.ndarray) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(indices.astype(np.int32)), pa.array(values))


def test_repeated_rows_of_a_parquet_file_are_read_in_little_memory(tmp_path: Path) -> None:
    """The first row of a path counts, also where rows are in many row groups; tables are kept small."""
    count = 1_000_000
    table = pa.table(
        {
            "path": encode(["a.mp4", "b.mp4", " ", ""], np.arange(count) % 4),
            "number": pa.array(np.arange(count)),
            "note": encode(["x" * 1_000_000], np.zeros(count)),
        }
    )
    pq.write_table(table, tmp_path / "list.parquet", row_group_size=100_000)
    before = pa.total_allocated_bytes()
    pa.default_memory_pool().release_unused()
    manifest = read_manifest(tmp_path / "list.parquet")
    entries = list(manifest.entries)
    assert [entry.path for entry in entries] == ["a.mp4", "b.mp4"]
    assert [manifest_values(e.extra, manifest.columns)["number"] for e in entries] == [0, 1]
    assert (manifest.repeated_rows, manifest.rows_without_path) == (499_998, 500_000)
    assert pa.total_allocated_bytes() - before < 50_000_000


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": encode(["a.mp4"], np.zeros(10_000_001))}, "10,000,001 rows, and at most 10,000,000"),
        (
            {"path": [f"{n}.mp4" for n in range(5000)], "x": encode(["x" * 500_000], np.zeros(5000))},
            "2,500,0.* bytes, and at most 2,000,000,000",
        ),
        (
            {
                "path": [f"{n}.mp4" for n in range(5000)],
                "x": pa.ListArray.from_arrays(
                    pa.array(np.arange(5001, dtype=np.int32)), encode(["x" * 500_000], np.zeros(5000))
                ),
            },
            "2,500,0.* bytes, and at most 2,000,000,000",
        ),
        ({"path": ["a.mp4"]} | {f"c{n}": [n] for n in range(1000)}, "1,001 columns, and at most 1,000"),
        ({"path": [["a.mp4"]]}, "no text in path"),
        ({"path": ["a.mp4"], "x": pa.array([b"\xff"]).view(pa.string())}, "Invalid UTF8"),
        ({"path": pa.array([b"\xff.mp4"]).view(pa.string())}, "Invalid UTF8"),
    ],
)
def test_hostile_parquet_file_is_one_error(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    assert (tmp_path / "list.parquet").stat().st_size < 1_000_000
    with pytest.raises(InputError, match=message) as refused:
        list(read_manifest(tmp_path / "list.parquet").entries)
    assert "\n" not in str(refused.value)


def test_nested_columns_of_many_row_groups_become_text(tmp_path: Path) -> None:
    rows = [{"path": f"{n % 9}.mp4", "tags": [f"x{n}", None], "map": {"k": [n]}} for n in range(100)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet", row_group_size=7)
    manifest = read_manifest(tmp_path / "list.parquet")
    entries = list(manifest.entries)
    assert [manifest_values(e.extra, manifest.columns)["tags"] for e in entries] == [
        f'["x{n}", null]' for n in range(9)
    ]
    assert manifest.repeated_rows == 91


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
