"""Episodes, turning points and peaks."""

import itertools
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.schema import probability_column
from fer_batch.timeline.sql import TIME_TOLERANCE_S
from fer_batch.timeline.store import Timeline
from fer_batch.timeline.views import episodes_sql
from tests.timeline.queries.helpers import STEP_S, WINDOWS_S, assert_same_rows, list_tracks, select
from tests.timeline.videos import TALK


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"video": "empty.mp4"}, []),
        ({"emotion": "fear"}, []),
        ({"video": "shop.mp4"}, [(0, "happy", 0.4, 1.0, 3, 0.4)]),
        (
            {"person": "Bo"},
            [(1, "sad", 0.0, 0.6, 3, 0.0), (1, "sad", 0.8, 1.6, 4, 0.8), (1, "happy", 1.8, 2.6, 4, 1.8)],
        ),
        ({"track": 0, "video": TALK, "min_s": 0.7}, [(0, "happy", 0.0, 1.0, 5, 0.6)]),
        ({"track": 0, "video": TALK, "threshold": 0.8, "min_s": 0.0}, [(0, "happy", 0.6, 0.8, 1, 0.6)]),
        ({"emotion": "sad", "person": "Ann"}, [(0, "sad", 1.0, 1.6, 3, 1.0)]),
        ({"start_s": 1.8, "person": "Bo", "min_s": 0.1}, [(1, "happy", 1.8, 2.6, 4, 1.8)]),
    ],
    ids=["no faces", "none", "one", "a gap", "longer", "a moment", "one emotion", "from a time on"],
)
def test_episodes(timeline: Timeline, options: Any, rows: list[Any]) -> None:
    columns = ("track_id", "emotion", "start_s", "end_s", "moments", "peak_s")
    assert select(timeline.episodes(**options), *columns) == rows


def test_view_has_episodes_of_default_arguments(timeline: Timeline) -> None:
    order = ["uri", "track_id", "start_s"]
    ours = timeline.sql("FROM episodes").df().sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(ours, timeline.episodes().df())


WORDS = st.lists(st.sampled_from(["happy", "sad", "unsure", "gone"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, max_size=3), st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.sampled_from([0, 4, 993]))
def test_episodes_are_longest_runs(tracks: list[list[str]], min_s: float, begin_s: int) -> None:
    rows = [
        (
            "v",
            "/v",
            track,
            None,
            begin_s + k * 0.2,
            "happy" if word == "unsure" else word,
            0.3 if word == "unsure" else 0.9,
        )
        for track, words in enumerate(tracks)
        for k, word in enumerate(words)
        if word != "gone"
    ]
    names = ["video_id", "uri", "track_id", "person", "time_s", "emotion", "confidence"]
    rows_of_tracks = pd.DataFrame(rows[::-1], columns=names).astype({"time_s": float, "confidence": float})
    connection = duckdb.connect()
    connection.register("tracks", rows_of_tracks.assign(step_s=0.2))
    expected = []
    for track, words in enumerate(tracks):
        first = 0
        for word, run in itertools.groupby(words):
            count = len(list(run))
            if word in ("happy", "sad") and count * 0.2 >= min_s - 1e-6:
                span = round(begin_s + first * 0.2, 6), round(begin_s + (first + count) * 0.2, 6)
                expected.append((track, word, *span, count))
            first += count
    found = connection.sql(f"FROM ({episodes_sql(0.6, min_s)}) ORDER BY track_id, start_s").df()
    columns = ["track_id", "emotion", "start_s", "end_s", "moments"]
    assert [tuple(row) for row in found[columns].round(6).itertuples(index=False)] == expected


@pytest.mark.parametrize(
    ("last_step_s", "min_s", "expected"),
    [(0.04, 0.0, [(0.0, 1.04)]), (0.04, 1.1, []), (0.2, 1.2, [(0.0, 1.2)]), (0.2, 1.21, [])],
)
def test_episode_ends_where_its_last_row_ends(
    last_step_s: float, min_s: float, expected: list[tuple[float, float]]
) -> None:
    tracks = pd.DataFrame({"time_s": [k / 5 for k in range(6)], "step_s": [0.2] * 5 + [last_step_s]})
    tracks = tracks.assign(video_id="v", uri="/v", track_id=0, person=None, emotion="happy", confidence=0.9)
    connection = duckdb.connect()
    connection.register("tracks", tracks)
    found = connection.sql(f"SELECT start_s, end_s, duration_s FROM ({episodes_sql(0.6, min_s)})").fetchall()
    assert [(start, end) for start, end, _ in found] == [pytest.approx(span) for span in expected]
    assert [length for *_, length in found] == [pytest.approx(end - start) for start, end in expected]


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"video": "empty.mp4"}, []),
        ({"video": "shop.mp4"}, []),
        ({"person": "Ann", "min_s": 0.6}, [(1.0, "happy", "sad", 0.0)]),
        ({"person": "Ann", "min_s": 0.4}, [(1.0, "happy", "sad", 0.0), (1.6, "sad", "happy", 0.0)]),
        ({"person": "Ann", "min_s": 1.0}, []),
        ({"person": "Bo", "min_s": 0.5}, [(1.8, "sad", "happy", 0.2)]),
    ],
    ids=["no faces", "one emotion", "a change", "two", "too short", "over a gap and a doubt"],
)
def test_turning_points(timeline: Timeline, options: Any, rows: list[Any]) -> None:
    found = timeline.turning_points(**options)
    assert select(found, "time_s", "before", "after", "gap_s") == rows


@settings(max_examples=10, deadline=None)
@given(min_s=st.sampled_from([0.0, 0.2, 0.4, 1.0]))
def test_turning_points_are_between_long_runs(random_timeline: Timeline, min_s: float) -> None:
    parts = []
    for track in list_tracks(random_timeline):
        time_s, emotion = track["time_s"].to_numpy(), track["emotion"].to_numpy()
        breaks = (emotion[1:] != emotion[:-1]) | (np.diff(time_s) > 1.5 * STEP_S)
        runs = np.split(np.arange(len(track)), np.flatnonzero(breaks) + 1)
        long = [run for run in runs if time_s[run[-1]] + STEP_S - time_s[run[0]] >= min_s - TIME_TOLERANCE_S]
        for one, other in itertools.pairwise(long):
            if emotion[one[0]] != emotion[other[0]]:
                gap_s = time_s[other[0]] - time_s[one[-1]] - STEP_S
                change = {"before": emotion[one[0]], "after": emotion[other[0]], "gap_s": gap_s}
                parts.append(track.iloc[other[:1]].assign(**change))
    assert_same_rows(random_timeline.turning_points(min_s).df(), pd.concat(parts))


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"emotion": "fear"}, []),
        ({"video": "shop.mp4"}, [("happy", 0.4, 0.9)]),
        (
            {"person": "Ann", "emotion": "happy", "distance_s": 0.7},
            [("happy", 0.6, 0.9), ("happy", 1.6, 0.7)],
        ),
        ({"person": "Ann", "emotion": "happy", "distance_s": 5.0}, [("happy", 0.6, 0.9)]),
        ({"person": "Ann", "threshold": 0.8}, [("happy", 0.6, 0.9)]),
    ],
    ids=["none", "equal ones", "near", "far", "threshold"],
)
def test_peaks(timeline: Timeline, options: Any, rows: list[Any]) -> None:
    assert select(timeline.peaks(**options), "emotion", "time_s", "probability") == rows


@settings(max_examples=10, deadline=None)
@given(
    distance_s=WINDOWS_S, emotion=st.sampled_from([None, "angry", "sad"]), threshold=st.sampled_from([0, 0.6])
)
def test_peaks_are_higher_than_rows_around(
    random_timeline: Timeline, distance_s: float, emotion: str | None, threshold: float
) -> None:
    found = random_timeline.peaks(emotion, threshold, distance_s).df()
    parts = []
    for track in list_tracks(random_timeline):
        time_s, name = track["time_s"].to_numpy(), track["emotion"].to_numpy()
        values = track["confidence" if emotion is None else probability_column(emotion)].to_numpy()
        away = time_s - time_s[:, None]
        near = (np.abs(away) <= distance_s + TIME_TOLERANCE_S) & (values >= threshold)
        if emotion is None:
            near &= name == name[:, None]
        beaten = (near & (away < 0) & (values >= values[:, None])).any(1)
        beaten |= (near & (away > 0) & (values > values[:, None])).any(1)
        track = track.assign(probability=values, emotion=emotion or name)
        parts.append(track[~beaten & (values >= threshold)])
    assert_same_rows(found, pd.concat(parts))
