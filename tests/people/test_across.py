"""Persons of several videos with common numbers."""

import pyarrow as pa
import pytest

from fer_batch.errors import InputError
from fer_batch.people import across
from fer_batch.people.across import DESCRIBED_SCHEMA, number_across_videos
from fer_batch.schema import PERSON_GROUPS_SCHEMA


def described(video: str, *tracks: tuple[int | None, float, list[float] | None]) -> pa.Table:
    rows = [
        {"video_id": video, "version": "1", "attempt": 0, "track_id": n, "number": number, "seconds": seconds}
        | {"reason": None if number else "too small", "faces": 2 if number else 0, "mean": mean}
        for n, (number, seconds, mean) in enumerate(tracks)
    ]
    return pa.Table.from_pylist(rows, schema=DESCRIBED_SCHEMA)


def test_no_videos_have_no_persons() -> None:
    assert number_across_videos([]).equals(PERSON_GROUPS_SCHEMA.empty_table())
    rows = number_across_videos([described("a", (None, 1.0, None))])
    assert rows.select(["number", "reason"]).to_pylist() == [{"number": None, "reason": "too small"}]


def test_number_is_one_person_in_all_videos() -> None:
    ann, bo = [0.0, 0.0], [0.9, 0.0]
    rows = number_across_videos(
        [
            described("a", (1, 5.0, ann), (2, 1.0, bo), (1, 1.0, None)),
            described("b", (1, 9.0, bo), (None, 0.2, None)),
        ]
    )
    assert rows.column("number").to_pylist() == [2, 1, 2, 1, None]
    assert rows.column("across_videos").to_pylist() == [True] * 5


def test_two_persons_of_one_video_stay_two() -> None:
    rows = number_across_videos(
        [described("a", (1, 2.0, [0.0]), (2, 1.0, [0.1])), described("b", (1, 1.0, [0.1]))]
    )
    first, second, _ = rows.column("number").to_pylist()
    assert first != second


def test_more_persons_than_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(across, "MAX_PERSONS", 2)
    tables = [described(video, (1, 1.0, [0.0]), (1, 1.0, None)) for video in "abc"]
    assert number_across_videos(tables[:2]).column("number").to_pylist() == [1, 1, 1, 1]
    with pytest.raises(InputError, match="3 persons, and at most 2"):
        number_across_videos(tables)
