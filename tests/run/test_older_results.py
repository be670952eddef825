"""Results of schema 6 and older get the columns of the current schema."""

import math

import pyarrow as pa
import pytest

from fer_batch.run.older_results import conform_results
from fer_batch.schema import RESULTS_SCHEMA

OLD_FACE = pa.struct([("time_s", pa.float64()), ("yaw", pa.float32()), ("probs", pa.list_(pa.float32()))])
OLD_SCHEMA = pa.schema([("segment_id", pa.string()), ("faces", pa.list_(OLD_FACE))])


def make_face(yaw: float | None) -> dict[str, object]:
    return {"time_s": 1.0, "yaw": yaw, "probs": [0.5]}


def test_no_rows_have_the_current_schema() -> None:
    assert conform_results(OLD_SCHEMA.empty_table()).schema == RESULTS_SCHEMA
    assert conform_results(RESULTS_SCHEMA.empty_table()) == RESULTS_SCHEMA.empty_table()


def test_yaw_becomes_degrees_and_pitch_is_null() -> None:
    lists = [
        [make_face(1.17), make_face(-1.17)],
        None,
        [],
        [make_face(0), make_face(None), make_face(math.nan)],
    ]
    parts = [
        pa.table({"segment_id": [str(number)], "faces": pa.array([faces], pa.list_(OLD_FACE))})
        for number, faces in enumerate(lists)
    ]
    rows = conform_results(pa.concat_tables(parts))
    assert rows.schema == RESULTS_SCHEMA
    found = rows.column("faces").to_pylist()
    assert [None if faces is None else len(faces) for faces in found] == [2, None, 0, 3]
    faces = [face for faces in found for face in faces or ()]
    assert [face["yaw_deg"] for face in faces[:3]] == pytest.approx([45, -45, 0], abs=1e-4)
    assert all(face["yaw_deg"] is None or math.isnan(face["yaw_deg"]) for face in faces[3:])
    assert {face["pitch_deg"] for face in faces} == {None}
    assert [(face["time_s"], face["probs"]) for face in faces] == [(1.0, [0.5])] * 5
