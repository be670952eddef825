"""A video that was cut into segments has the same timeline as an uncut one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.config import AnalyzeConfig
from fer_batch.inputs.segments import compute_padding
from fer_batch.run.stitch import Timelines, match_segment_tracks, stitch_segments
from fer_batch.schema import EMOTIONS, RESULTS_SCHEMA, probability_column

STEP_S = 0.2
FRAMES_A_MOMENT = 5
BEFORE_S, AFTER_S = compute_padding(AnalyzeConfig(), half_window_s=0.8, video_fps=25.0)
LANES = 4


@dataclass(frozen=True, kw_only=True)
class Video:
    """The true content of a video: which face is in which sampled frame."""

    moments: int
    tracks: tuple[tuple[int, tuple[int, ...]], ...]
    """The lane of each track, from left to right, and the moments at which it is seen."""


@st.composite
def videos(draw: st.DrawFn) -> Video:
    """Draw faces in separate lanes; a track may miss frames, and another may follow in its lane."""
    moments = draw(st.integers(1, 90))
    tracks = []
    for lane in range(draw(st.integers(0, LANES))):
        moment = draw(st.integers(0, moments - 1))
        while moment < moments:
            length = draw(st.integers(1, moments))
            whole = list(range(moment, min(moment + length, moments)))
            missed = {m for m in whole[1:-1:2] if draw(st.integers(0, 3)) == 0}
            tracks.append((lane, tuple(m for m in whole if m not in missed)))
            moment = whole[-1] + draw(st.integers(4, 30))
    return Video(moments=moments, tracks=tuple(tracks))


def cut_positions(moments: int) -> st.SearchStrategy[list[int]]:
    """Draw the sampled frames at which a core starts, a second or more apart."""
    return st.lists(st.integers(5, 40), max_size=6).map(
        lambda lengths: [int(m) for m in np.cumsum(lengths) if m < moments - 4]
    )


def box(lane: int, moment: int) -> dict[str, float]:
    left, top = 0.02 + 0.24 * lane + 0.001 * (moment % 40), 0.3 + 0.002 * (moment % 50)
    return {"box_x0": left, "box_y0": top, "box_x1": left + 0.12, "box_y1": top + 0.3}


def probabilities(track: int, moment: int) -> list[float]:
    values = np.random.default_rng([track, moment]).random(len(EMOTIONS)).astype(np.float32)
    return (values / values.sum()).tolist()


def faces_at(video: Video, moment: int) -> list[int]:
    """Return the tracks in a sampled frame, from left to right."""
    return sorted(
        (number for number, (_, seen) in enumerate(video.tracks) if moment in seen),
        key=lambda number: video.tracks[number][0],
    )


def segment(video: Video, index: int, core: tuple[int, int], last: bool, names: list[int]) -> dict[str, Any]:
    """Return one segment's result; `names` is the order in which its tracks are numbered."""
    start_s = core[0] * STEP_S - BEFORE_S
    end_s = np.inf if last else core[1] * STEP_S + AFTER_S
    inside = [m for m in range(video.moments) if start_s <= m * STEP_S < end_s]
    present = [t for t in names if set(video.tracks[t][1]) & set(inside)]
    faces, moments = [], []
    for moment in inside:
        seen = faces_at(video, moment)
        in_core = core[0] <= moment < core[1]
        frame = (moment - core[0]) * FRAMES_A_MOMENT if in_core else -1
        if in_core:
            moments.append({"time_s": moment * STEP_S, "frame_index": frame, "faces": len(seen)})
        for track in seen:
            quality = {"face_score": 0.99, "face_px": 100.0, "blur": 0.5}
            quality |= {"roll_deg": 1.0, "yaw_deg": 5.0, "pitch_deg": -3.0}
            faces.append(
                {"time_s": moment * STEP_S, "frame_index": frame, "track": present.index(track)}
                | box(video.tracks[track][0], moment)
                | quality
                | {"probs": probabilities(track, moment) if in_core else []}
            )
    return {
        "segment_id": f"v/1/{index:05d}", "video_id": "v", "version": "1", "index": index,
        "core_start_s": core[0] * STEP_S, "core_end_s": core[1] * STEP_S, "status": "ok",
        "read_s": core[1] * STEP_S, "frames": (core[1] - core[0]) * FRAMES_A_MOMENT, "moments": moments,
        "faces": faces, "model_id": "m", "decode_s": 0.0, "detect_s": 0.0, "crop_s": 0.0, "recognize_s": 0.0,
    }  # fmt: skip


def sorted_results(video: Video, cuts: list[int]) -> list[dict[str, Any]]:
    return sorted(results(video, cuts).to_pylist(), key=lambda row: row["index"])


def stitch_rows(rows: list[dict[str, Any]]) -> Timelines:
    return stitch_segments(pa.Table.from_pylist(rows, schema=RESULTS_SCHEMA), EMOTIONS)


def results(video: Video, cuts: list[int], seed: int = 0) -> pa.Table:
    """Return the results of a video cut before these frames, shuffled, each with its own track numbers."""
    random = np.random.default_rng(seed)
    edges = [0, *cuts, video.moments]
    rows = [
        segment(video, index, (edges[index], edges[index + 1]), index == len(cuts),
                random.permutation(len(video.tracks)).tolist())
        for index in range(len(edges) - 1)
    ]  # fmt: skip
    return pa.Table.from_pylist([rows[i] for i in random.permutation(len(rows))], schema=RESULTS_SCHEMA)


def expected_rows(video: Video) -> list[dict[str, Any]]:
    """Return the rows of the uncut video: tracks by first appearance, then from left to right."""
    order = sorted(range(len(video.tracks)), key=lambda t: (video.tracks[t][1][0], video.tracks[t][0]))
    rows = []
    for number, track in enumerate(order):
        lane, seen = video.tracks[track]
        for moment in seen:
            probs = probabilities(track, moment)
            row = {"track_id": number, "time_s": moment * STEP_S, "frame_index": moment * FRAMES_A_MOMENT}
            row["step_s"] = pytest.approx(STEP_S)
            row |= {name: float(np.float32(value)) for name, value in box(lane, moment).items()}
            row |= {probability_column(name): p for name, p in zip(EMOTIONS, probs, strict=True)}
            rows.append(row | {"emotion": EMOTIONS[int(np.argmax(probs))], "confidence": max(probs)})
    return rows


def rows_of(timeline: Timelines, names: list[str]) -> list[dict[str, Any]]:
    return timeline.tracks.select(names).to_pylist() if timeline.tracks.num_rows else []


def track_count(timeline: Timelines) -> int:
    return len(set(timeline.tracks["track_id"].to_pylist()))


def check(video: Video, timeline: Timelines) -> None:
    expected = expected_rows(video)
    assert rows_of(timeline, list(expected[0]) if expected else []) == expected
    assert track_count(timeline) == len(video.tracks)
    assert timeline.moments.to_pylist() == [
        {
            "video_id": "v",
            "time_s": m * STEP_S,
            "frame_index": m * FRAMES_A_MOMENT,
            "faces": len(faces_at(video, m)),
            "step_s": pytest.approx(STEP_S),
        }
        for m in range(video.moments)
    ]


COLUMNS = [
    "video_id", "track_id", "time_s", "frame_index", "box_x0", "box_y0", "box_x1", "box_y1", "face_score",
    "face_px", "blur", "roll_deg", "yaw_deg", "pitch_deg", "emotion", "confidence",
    *[probability_column(name) for name in EMOTIONS], "step_s",
]  # fmt: skip


def test_no_segments_give_empty_timelines() -> None:
    timeline = stitch_segments(RESULTS_SCHEMA.empty_table(), EMOTIONS)
    assert timeline.tracks.num_rows == timeline.moments.num_rows == 0
    assert timeline.tracks.column_names == COLUMNS
    assert timeline.moments.column_names == ["video_id", "time_s", "frame_index", "faces", "step_s"]


EMPTY = Video(moments=20, tracks=())


@pytest.mark.parametrize(
    ("video", "cuts"),
    [
        *[(EMPTY, cuts) for cuts in ([], [10], [5, 10, 15])],
        (Video(moments=12, tracks=((1, tuple(range(4, 12))), (0, tuple(range(4, 9))), (3, (0, 1, 3)))), []),
        (Video(moments=60, tracks=((0, tuple(range(18))), (0, tuple(range(22, 60))))), [20, 40]),
        (Video(moments=90, tracks=tuple((n, tuple(range(90))) for n in range(LANES))), list(range(5, 85, 5))),
    ],
    ids=["no faces", "no faces, cut", "no faces, cut often", "uncut", "face returns", "long tracks"],
)
def test_known_video_has_its_timeline(video: Video, cuts: list[int]) -> None:
    timeline = stitch_segments(results(video, cuts), EMOTIONS)
    check(video, timeline)
    assert timeline.tracks.column_names == COLUMNS


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_timeline_does_not_depend_on_the_cuts(data: st.DataObject) -> None:
    video = data.draw(videos())
    cuts = data.draw(cut_positions(video.moments))
    seed = data.draw(st.integers(0, 100))
    check(video, stitch_segments(results(video, cuts, seed), EMOTIONS))


def test_videos_are_stitched_independently() -> None:
    seen = [
        Video(moments=60, tracks=((2, tuple(range(60))), (0, tuple(range(3, 40))))),
        Video(moments=20, tracks=()),
        Video(moments=40, tracks=((1, tuple(range(5, 40))),)),
        Video(moments=7, tracks=((0, (6,)), (3, (0, 1)))),
    ]
    cuts: list[list[int]] = [[20, 40], [10], [], []]
    parts = []
    for number, video in enumerate(seen):
        part = results(video, cuts[number], seed=number)
        parts.append(part.set_column(1, RESULTS_SCHEMA.field(1), pa.repeat(f"v{number}", len(part))))
    alone = [stitch_segments(part, EMOTIONS) for part in parts]
    rows = pa.concat_tables(parts)
    shuffled = rows.take(np.random.default_rng(1).permutation(len(rows)))
    together = stitch_segments(shuffled, EMOTIONS)
    assert together.tracks.equals(pa.concat_tables(one.tracks for one in alone).combine_chunks())
    assert together.moments.equals(pa.concat_tables(one.moments for one in alone))


def test_faces_outside_all_cores_give_no_rows() -> None:
    timeline = stitch_rows(sorted_results(Video(moments=20, tracks=((0, tuple(range(20))),)), [10])[:1])
    assert timeline.tracks["time_s"].to_pylist() == [m * STEP_S for m in range(10)]


def test_failed_segment_does_not_affect_others() -> None:
    video = Video(moments=60, tracks=((0, tuple(range(60))), (2, tuple(range(45, 60)))))
    rows = sorted_results(video, [20, 40])
    rows[1] |= {"status": "failed", "error": "broken", "frames": 0, "moments": [], "faces": []}
    timeline = stitch_rows(rows)
    seen = [m for m in range(60) if not 20 <= m < 40]
    assert timeline.moments["time_s"].to_pylist() == [m * STEP_S for m in seen]
    assert timeline.tracks.num_rows == len(seen) + 15
    assert track_count(timeline) == 3
    assert timeline.moments["step_s"].to_numpy() == pytest.approx(STEP_S), "the missing part does not count"
    assert set(timeline.tracks["step_s"].to_pylist()) <= set(timeline.moments["step_s"].to_pylist())


def test_face_missing_in_one_segment_is_still_linked() -> None:
    rows = sorted_results(Video(moments=40, tracks=((1, tuple(range(40))),)), [20])
    rows[1]["faces"] = [face for face in rows[1]["faces"] if face["frame_index"] >= 0]
    timeline = stitch_rows(rows)
    assert track_count(timeline) == 1
    assert timeline.tracks.num_rows == 40


Faces = list[tuple[float, int, float]]
"""Time, track, and left edge of each face."""


@pytest.mark.parametrize(
    ("a", "b", "pairs"),
    [
        ([], [], []),
        ([(0.0, 0, 0.0)], [], []),
        ([(0.0, 0, 0.0)], [(0.2, 0, 0.0)], []),
        ([(0.0, 0, 0.0)], [(0.0, 0, 0.5)], []),
        ([(0.0, 4, 0.0)], [(0.0, 7, 0.01)], [(4, 7)]),
        ([(0.1 + 0.2, 0, 0.0)], [(0.3, 1, 0.0)], [(0, 1)]),
        ([(0.0, 0, 0.0), (0.0, 1, 0.5)], [(0.0, 0, 0.5), (0.0, 1, 0.0)], [(0, 1), (1, 0)]),
        ([(0.0, 0, 0.0), (0.2, 1, 0.0), (0.4, 1, 0.0)], [(t, 5, 0.0) for t in (0.0, 0.2, 0.4)], [(1, 5)]),
        ([(t, 5, 0.0) for t in (0.0, 0.2, 0.4)], [(0.0, 0, 0.0), (0.2, 1, 0.0), (0.4, 1, 0.0)], [(5, 1)]),
    ],
)
def test_tracks_with_shared_boxes_are_matched_once(a: Faces, b: Faces, pairs: list[tuple[int, int]]) -> None:
    columns = []
    for faces in (a, b):
        times = np.array([f[0] for f in faces], np.float64)
        tracks = np.array([f[1] for f in faces], np.int64)
        boxes = np.array([[f[2], 0.1, f[2] + 0.2, 0.5] for f in faces], np.float64).reshape(-1, 4)
        columns += [times, tracks, boxes]
    assert sorted(match_segment_tracks(*columns)) == pairs
