"""Plans of segments and bundles."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.config import AnalyzeConfig
from fer_batch.inputs.segments import (
    KEY_MARGIN_S,
    MAX_PLANNED_S,
    MAX_SEGMENTS_PER_BUNDLE,
    MIN_LAST_SEGMENT_S,
    choose_cuts,
    compute_padding,
    plan_segments,
    planned_durations_s,
    split_into_cores,
)
from fer_batch.schema import PLAN_SCHEMA, PROBED_SCHEMA

HALF_WINDOW_S = 0.8

durations = st.one_of(st.none(), st.floats(0, 20_000), st.integers(0, 20_000).map(float))


def video(number: int, duration_s: float | None, fps: float = 25.0, status: str = "ok") -> dict:
    return {
        "video_id": f"{number:016x}",
        "version": "00000000000000ff",
        "uri": f"/videos/{number}.mp4",
        "size_bytes": 10**9,
        "duration_s": duration_s,
        "fps": fps,
        "first_pts": 512 * number,
        "status": status,
    }


def plan(
    lengths: list[float | None], workers: int = 2, config: AnalyzeConfig | None = None, model: str = "model"
) -> list[dict]:
    videos = [video(number, length) for number, length in enumerate(lengths)]
    return planned(videos, config, workers, model).to_pylist()


def planned(
    videos: list[dict], config: AnalyzeConfig | None = None, workers: int = 2, model: str = "model"
) -> pa.Table:
    table = pa.Table.from_pylist(videos, schema=PROBED_SCHEMA)
    return plan_segments(table, config or AnalyzeConfig(), HALF_WINDOW_S, model, workers)


def segment_bounds(duration_s: float | None, segment_s: float) -> list[tuple[float, float]]:
    """Return the cores of one video."""
    length_s = np.array([math.nan if duration_s is None else duration_s])
    video, starts_s, ends_s = split_into_cores(length_s, segment_s, {})
    assert set(video.tolist()) == {0}
    return list(zip(starts_s.tolist(), ends_s.tolist(), strict=True))


@pytest.mark.parametrize(
    ("duration_s", "expected"),
    [
        (None, [(0, 0)]),
        (0.0, [(0, 0)]),
        (-3.0, [(0, 0)]),
        (0.04, [(0, 0.04)]),
        (60.0, [(0, 60)]),
        (61.0, [(0, 61)]),
        (61.5, [(0, 60), (60, 61.5)]),
        (120.0, [(0, 60), (60, 120)]),
        (120.9, [(0, 60), (60, 120.9)]),
        (121.5, [(0, 60), (60, 120), (120, 121.5)]),
    ],
)
def test_last_segment_has_at_least_a_second(
    duration_s: float | None, expected: list[tuple[float, float]]
) -> None:
    assert segment_bounds(duration_s, 60.0) == expected


@pytest.mark.parametrize("duration_s", [math.nan, math.inf])
def test_invalid_duration_counts_as_unknown(duration_s: float) -> None:
    ((start_s, end_s),) = segment_bounds(duration_s, 60.0)
    assert start_s == 0
    assert not math.isnan(end_s)


@settings(deadline=None)
@given(duration_s=st.floats(1e-3, 1e4), segment_s=st.one_of(st.floats(1, 3600), st.just(60.0)))
def test_cores_tile_the_duration(duration_s: float, segment_s: float) -> None:
    bounds = segment_bounds(duration_s, segment_s)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == duration_s
    assert all(before[1] == after[0] for before, after in itertools.pairwise(bounds))
    lengths = [end - start for start, end in bounds]
    assert all(length == pytest.approx(segment_s) for length in lengths[:-1])
    assert 0 < lengths[-1] <= segment_s + MIN_LAST_SEGMENT_S + 1e-6
    assert len(bounds) == 1 or lengths[-1] >= MIN_LAST_SEGMENT_S - 1e-6


@settings(deadline=None)
@given(duration_s=st.floats(1e-3, 1e4), segment_s=st.floats(1, 600), where=st.floats(0, 1, exclude_max=True))
def test_each_time_is_in_exactly_one_core(duration_s: float, segment_s: float, where: float) -> None:
    time_s = min(duration_s * where, math.nextafter(duration_s, 0))
    assert sum(start <= time_s < end for start, end in segment_bounds(duration_s, segment_s)) == 1


@pytest.mark.parametrize(
    ("duration_s", "size_bytes", "expected"),
    [
        (None, 10**9, None),
        (math.nan, 10**9, None),
        (math.inf, 5000, 5.0),
        (7200.0, 10**9, 7200.0),
        (7200.0, 7_200_000, 7200.0),
        (1e9, 7_200_000, 7200.0),
        (1e9, 10**12, MAX_PLANNED_S),
        (60.0, 10**6, 60.0),
        (60.0, 10_000, 10.0),
        (600.0, 0, 600.0),  # stores may not state a size
    ],
)
def test_planned_duration_is_limited_by_the_file_size(
    duration_s: float | None, size_bytes: int, expected: float | None
) -> None:
    row = {"duration_s": duration_s, "size_bytes": size_bytes, "first_pts": 0}
    (planned_s,) = planned_durations_s(pa.Table.from_pylist([row], schema=PROBED_SCHEMA)).tolist()
    assert planned_s == expected or (expected is None and math.isnan(planned_s))


@pytest.mark.parametrize(
    ("key_times_s", "duration_s", "expected"),
    [
        ([0.0], 600.0, []),
        ([0.0], 600.5, []),
        ([0.0], 1500.0, [600.0, 1200.0]),
        ([0.0, 700.0, 1000.0], 1040.0, [600.0, 700.0, 1000.0]),
        ([0.0], 30.0, []),
        ([], 300.0, []),
        ([0.0, 50.0, 100.0, 150.0], 200.0, [50.0, 100.0, 150.0]),
        ([0.0, 20.0, 40.0, 70.0, 100.0], 120.0, [70.0]),
        ([0.0, 6.0, 12.0, 500.0], 530.0, [500.0]),
        ([0.0, 6.0, 12.0, 500.0], 500.5, []),
        ([0.0, 20.0], 600.0, []),
    ],
)
def test_videos_are_cut_at_key_frames(
    key_times_s: list[float], duration_s: float, expected: list[float]
) -> None:
    assert choose_cuts(np.array(key_times_s), duration_s, 60.0, 600.0).tolist() == expected


@settings(deadline=None)
@given(
    gaps_s=st.lists(st.floats(0.1, 300), max_size=60),
    duration_s=st.floats(1, 10_000),
    segment_s=st.floats(5, 600),
)
def test_segments_start_at_key_frames_and_tile_the_video(
    gaps_s: list[float], duration_s: float, segment_s: float
) -> None:
    key_times_s = np.cumsum([0.0, *gaps_s]).tolist()
    config = AnalyzeConfig(segment_s=segment_s)
    rows = planned([video(1, 100.0), video(2, duration_s) | {"key_times_s": key_times_s}], config).to_pylist()
    rows = [row for row in rows if row["video_id"] == f"{2:016x}"]
    assert (rows[0]["core_start_s"], rows[-1]["core_end_s"]) == (0.0, duration_s)
    assert all(a["core_end_s"] == b["core_start_s"] for a, b in itertools.pairwise(rows))
    longest_s = max(segment_s, 600.0)
    for before, row in itertools.pairwise(rows):
        on_the_way_s = row["start_s"] - np.array(key_times_s)
        is_far = on_the_way_s[on_the_way_s > 0].min() > KEY_MARGIN_S + 1e-6
        length_s = before["core_end_s"] - before["core_start_s"]
        assert segment_s / 2 - 1e-6 <= length_s <= longest_s + 1e-6
        if is_far:  # the segment continues with the open decoder of the one before it, in the same bundle
            assert length_s == pytest.approx(longest_s)
            assert row["bundle_id"] == before["bundle_id"]
    assert [row["index"] for row in rows] == list(range(len(rows)))
    assert {row["segments"] for row in rows} == {len(rows)}


def test_wrong_duration_of_a_small_file_gives_few_segments() -> None:
    assert len(planned([video(0, 90_000.0) | {"size_bytes": 700_000}])) == 12


def test_no_videos_give_an_empty_plan() -> None:
    table = planned([])
    assert table.num_rows == 0
    assert table.schema.equals(PLAN_SCHEMA)


def test_unreadable_videos_are_not_planned() -> None:
    table = planned([video(0, None, status="failed"), video(1, 5.0), video(2, None, status="no_video")])
    assert table.column("video_id").to_pylist() == [f"{1:016x}"]


def test_plan_has_all_columns_without_nulls() -> None:
    table = planned([video(3, 130.0) | {"offset": 512}])
    assert table.schema.equals(PLAN_SCHEMA)
    assert all(column.null_count == 0 for column in table.columns)
    assert pc.unique(table.column("offset")).to_pylist() == [512]
    assert table.column("segment_id").to_pylist() == [f"{3:016x}/00000000000000ff/{i:05d}" for i in range(3)]
    assert table.column("index").to_pylist() == [0, 1, 2]
    assert pc.unique(table.column("segments")).to_pylist() == [3]
    assert pc.unique(table.column("first_pts")).to_pylist() == [1536]


def test_segments_have_padding_inside_the_video() -> None:
    before_s, after_s = compute_padding(AnalyzeConfig(), HALF_WINDOW_S, np.array(25.0))
    first, middle, last = plan([180.0])
    assert (first["start_s"], first["end_s"]) == (0.0, 60 + after_s)
    assert (middle["start_s"], middle["end_s"]) == (60 - before_s, 120 + after_s)
    assert (last["start_s"], last["end_s"]) == (120 - before_s, 180.0)


@pytest.mark.parametrize(
    ("options", "video_fps", "interval_s", "gap_s", "searches_s"),
    [
        ({}, 25.0, 0.2, 0.5, 2.0),
        ({"fps": 1.0}, 25.0, 1.0, 1.5, 2.0),
        ({"detect_every": 0.1}, 2.0, 0.5, 0.75, 0.5),
        ({"max_gap_s": 2.0}, 25.0, 0.2, 2.0, 2.0),
        ({"fast": "nonref"}, 25.0, 0.2, 0.5, 4.0),
        ({"detect_every": 3.0}, 25.0, 0.2, 0.5, 6.0),
        ({"every_frame": True}, 25.0, 0.04, 0.5, 2.0),
        ({"every_frame": True}, 0.5, 2.0, 3.0, 2.0),
    ],
)
def test_padding_covers_window_searches_and_gaps(
    options: dict, video_fps: float, interval_s: float, gap_s: float, searches_s: float
) -> None:
    before_s, after_s = compute_padding(AnalyzeConfig(**options), HALF_WINDOW_S, np.array(video_fps))
    assert after_s == pytest.approx(HALF_WINDOW_S + searches_s + 2 * interval_s)
    assert before_s == pytest.approx(after_s + 2 * gap_s)


@settings(deadline=None)
@given(lengths=st.lists(durations, max_size=30), workers=st.integers(1, 64))
def test_bundles_contain_every_segment_once_within_their_budget(
    lengths: list[float | None], workers: int
) -> None:
    rows = plan(lengths, workers)
    expected = [
        (f"{number:016x}", *bounds)
        for number, length in enumerate(lengths)
        for bounds in segment_bounds(length, 60.0)
    ]
    assert [(r["video_id"], r["core_start_s"], r["core_end_s"]) for r in rows] == expected
    assert len({r["segment_id"] for r in rows}) == len(rows)
    runs = [key for key, _ in itertools.groupby(r["bundle_id"] for r in rows)]
    assert len(runs) == len(set(runs))
    for _, group in itertools.groupby(rows, key=lambda r: r["bundle_id"]):
        bundle = list(group)
        assert len(bundle) <= MAX_SEGMENTS_PER_BUNDLE
        assert len(bundle) == 1 or sum(r["end_s"] - r["start_s"] for r in bundle) <= 600 + 1e-6


@settings(deadline=None)
@given(lengths=st.lists(durations, min_size=1, max_size=20), workers=st.integers(1, 8))
def test_equal_input_gives_equal_plans(lengths: list[float | None], workers: int) -> None:
    assert plan(lengths, workers) == plan(lengths, workers)


@pytest.mark.parametrize(
    ("config", "model"),
    [(AnalyzeConfig(fps=10), "model"), (AnalyzeConfig(min_face=0.1), "model"), (AnalyzeConfig(), "another")],
)
def test_settings_and_model_change_bundle_ids(config: AnalyzeConfig, model: str) -> None:
    one, other = plan([30.0, 90.0]), plan([30.0, 90.0], config=config, model=model)
    assert [r["segment_id"] for r in one] == [r["segment_id"] for r in other]
    assert not {r["bundle_id"] for r in one} & {r["bundle_id"] for r in other}


@pytest.mark.parametrize(
    ("lengths", "workers", "least"),
    [([3600.0], 1, 6), ([3600.0], 8, 30), ([1.0] * 1000, 1, 16), ([20.0, 20.0], 2, 2), ([1.0, 1.0], 8, 1)],
)
def test_there_are_enough_bundles_for_all_workers(lengths: list[float], workers: int, least: int) -> None:
    assert len({r["bundle_id"] for r in plan(lengths, workers)}) >= least
