"""Bundles pack and unpack without loss, and every column has a plain type and may be null."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_batch.schema import (
    EMOTIONS,
    FACES_SCHEMA,
    MOMENTS_SCHEMA,
    PLAN_SCHEMA,
    PROBED_SCHEMA,
    RESULTS_SCHEMA,
    VIDEOS_SCHEMA,
    bundle_schema,
    pack_bundle,
    probability_column,
    tracks_schema,
    unpack_bundles,
)

STAGES = {"plan": PLAN_SCHEMA, "faces": FACES_SCHEMA, "results": RESULTS_SCHEMA}
TABLES = STAGES | {
    "probed": PROBED_SCHEMA,
    "videos": VIDEOS_SCHEMA,
    "moments": MOMENTS_SCHEMA,
    "tracks": tracks_schema(EMOTIONS),
}


def make_row(schema: pa.Schema, seed: int) -> dict[str, object]:
    """Return a row with one null."""

    def value(kind: pa.DataType) -> object:
        if pa.types.is_struct(kind):
            return {field.name: value(field.type) for field in kind}
        if pa.types.is_list(kind):
            return [value(kind.value_type)] * (seed % 3)
        if pa.types.is_string(kind):
            return f"text {seed}"
        if pa.types.is_large_binary(kind):
            return bytes([seed % 256]) * seed
        return seed % 100 + (0.5 if pa.types.is_floating(kind) else 0)

    return {
        field.name: None if number == seed % len(schema) else value(field.type)
        for number, field in enumerate(schema)
    }


def make_rows(schema: pa.Schema, count: int) -> pa.Table:
    return pa.Table.from_pylist([make_row(schema, seed) for seed in range(count)], schema=schema)


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("name", STAGES)
def test_bundle_round_trip(name: str, count: int) -> None:
    rows = make_rows(STAGES[name], count)
    bundle = pack_bundle("b", rows)
    assert bundle.num_rows == 1
    assert bundle.schema == bundle_schema(STAGES[name])
    assert bundle.column("bundle_id").to_pylist() == ["b"]
    assert unpack_bundles(bundle, STAGES[name]) == rows


@pytest.mark.parametrize("name", STAGES)
def test_no_bundles_have_no_rows(name: str) -> None:
    schema = STAGES[name]
    assert unpack_bundles(bundle_schema(schema).empty_table(), schema) == schema.empty_table()


@given(st.lists(st.integers(0, 4), max_size=5), st.sampled_from(sorted(STAGES)))
def test_concatenated_bundles_unpack_to_all_rows(counts: list[int], name: str) -> None:
    schema = STAGES[name]
    rows = make_rows(schema, sum(counts))
    starts = [sum(counts[:number]) for number in range(len(counts))]
    parts = [rows.slice(start, count) for start, count in zip(starts, counts, strict=True)]
    bundles = pa.concat_tables(
        [bundle_schema(schema).empty_table(), *(pack_bundle(str(n), part) for n, part in enumerate(parts))]
    )
    assert unpack_bundles(bundles, schema) == rows
    assert unpack_bundles(bundles.combine_chunks(), schema) == rows
    for number, part in enumerate(parts):
        assert unpack_bundles(bundles.slice(number, 1), schema) == part
        assert unpack_bundles(bundles.combine_chunks().slice(number, 1), schema) == part


def test_chunked_rows_become_one_bundle() -> None:
    rows = pa.concat_tables([make_rows(PLAN_SCHEMA, 2), make_rows(PLAN_SCHEMA, 3)])
    assert unpack_bundles(pack_bundle("b", rows), PLAN_SCHEMA) == rows.combine_chunks()


@pytest.mark.parametrize("name", TABLES)
def test_columns_are_nullable_and_unique(name: str) -> None:
    schema = TABLES[name]
    assert all(field.nullable for field in schema)
    assert len(set(schema.names)) == len(schema)
    assert all(column == column.lower() and column.isidentifier() for column in schema.names)


@pytest.mark.parametrize("name", TABLES)
def test_columns_have_plain_types(name: str) -> None:
    for field in TABLES[name]:
        assert not pa.types.is_dictionary(field.type)
        assert not pa.types.is_null(field.type)


@pytest.mark.parametrize(
    ("name", "column"),
    [("", "p_"), ("happy", "p_happy"), ("Very Sad", "p_very_sad"), ("a-b/c", "p_a_b_c"), ("7up", "p_7up")],
)
def test_probability_column(name: str, column: str) -> None:
    assert probability_column(name) == column


@pytest.mark.parametrize("classes", [(), ("calm", "Not calm"), EMOTIONS])
def test_tracks_schema_has_a_column_for_each_class(classes: tuple[str, ...]) -> None:
    names = tracks_schema(classes).names
    first = names.index("confidence") + 1
    assert names[first : first + len(classes)] == [probability_column(name) for name in classes]
    assert names[first + len(classes) :] == ["model_id", "step_s", "bucket"]
    assert names[:4] == ["video_id", "uri", "track_id", "time_s"]
