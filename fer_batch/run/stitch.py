"""Stitch the segments of each video into one timeline and link their tracks.

Each segment answers for its core. Neighbouring segments overlap and sample the same frames there; tracks that
share boxes in these frames are one track. All videos of a table are stitched together: most have one or two
segments, and a run may have millions of them.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.run.steps import measure_steps
from fer_batch.schema import FACE_TYPE, MOMENT_TYPE, probability_column, tracks_schema
from fer_batch.vision.iou import compute_iou

MIN_SAME_FACE_IOU = 0.5
"""Least IoU of two boxes of the same face in the same frame, found in two segments."""
TIME_KEYS_PER_S = 1e4
"""Resolution at which times of two segments are compared."""
FRAME_INDEX_BITS = 40
"""Enough for the frames of a video of 35 years at 1000 frames/s."""
PER_VIDEO_COLUMNS = ("uri", "model_id", "bucket")
"""Columns of `tracks` with one value for a whole video, which `finalize` adds."""


@dataclass(frozen=True, kw_only=True)
class Timelines:
    """The stitched timelines of some videos, ordered by `video_id`."""

    tracks: pa.Table
    """Columns of `schema.tracks_schema` except PER_VIDEO_COLUMNS, ordered by track and time in each video."""
    moments: pa.Table
    """`video_id`, the fields of `schema.MOMENT_TYPE` and `step_s`, ordered by time in each video."""


def stitch_segments(segments: pa.Table, classes: tuple[str, ...]) -> Timelines:
    """Stitch rows of `schema.RESULTS_SCHEMA` into timelines.

    In each video, track ids count from 0 in the order in which faces appear, from left to right for faces
    that appear in the same frame. `frame_index` counts from the video's first frame. So neither depends on
    how the video was cut.
    """
    segments = segments.combine_chunks().sort_by([("video_id", "ascending"), ("index", "ascending")])
    ids = segments.column("video_id").combine_chunks()
    video = _number_videos(ids)
    frames = segments.column("frames").to_numpy()
    frames_before = np.cumsum(frames) - frames
    offsets = frames_before - frames_before[np.searchsorted(video, video)] if len(video) else frames_before
    faces = _Faces.from_lists(segments.column("faces"))
    owner = _link_tracks(faces, video)
    core = np.flatnonzero(faces.frame_index >= 0)
    segment = faces.segment[core]
    times_s, x0 = faces.columns["time_s"][core], faces.columns["box_x0"][core]
    track = _number_tracks(video[segment], owner[core], times_s, x0)
    order = np.lexsort((times_s, track, video[segment]))
    core, segment = core[order], segment[order]
    # Only faces in the core have probabilities, so their rows count the core's faces in the original order.
    probs = pc.list_flatten(pc.struct_field(pc.list_flatten(segments.column("faces")), "probs"))
    probs = probs.to_numpy().astype(np.float32, copy=False).reshape(-1, len(classes))[order]
    moments, moment_keys = _stitch_moments(segments, ids, video, offsets)
    frame_index = faces.frame_index[core] + offsets[segment]
    columns = {name: values[core] for name, values in faces.columns.items()} | {
        "video_id": ids.take(pa.array(segment)),
        "track_id": track[order],
        "frame_index": frame_index,
        "step_s": moments.column("step_s").take(
            pa.array(np.searchsorted(moment_keys, _make_keys(video[segment], frame_index)))
        ),
        "emotion": pa.array(classes, pa.string()).take(pa.array(probs.argmax(axis=1))),
        "confidence": probs.max(axis=1, initial=0),
        **{probability_column(name): probs[:, k] for k, name in enumerate(classes)},
    }
    tracks = {
        f.name: pa.chunked_array([pa.array(columns[f.name], f.type, from_pandas=f.name == "pitch_deg")])
        for f in tracks_schema(classes)
        if f.name not in PER_VIDEO_COLUMNS
    }
    return Timelines(tracks=pa.table(tracks), moments=moments)


def match_segment_tracks(
    a_times_s: np.ndarray,
    a_tracks: np.ndarray,
    a_boxes: np.ndarray,
    b_times_s: np.ndarray,
    b_tracks: np.ndarray,
    b_boxes: np.ndarray,
) -> list[tuple[int, int]]:
    """Match the tracks of two overlapping segments, each track at most once.

    Pairs with the same box in most frames come first. Times are `(n,) float64`, tracks `(n,) int64`, boxes
    `(n, 4)` as x0, y0, x1, y1.
    """
    a_keys = np.round(a_times_s * TIME_KEYS_PER_S).astype(np.int64)
    b_keys = np.round(b_times_s * TIME_KEYS_PER_S).astype(np.int64)
    votes: dict[tuple[int, int], int] = {}
    for key in np.intersect1d(a_keys, b_keys):
        in_a, in_b = np.flatnonzero(a_keys == key), np.flatnonzero(b_keys == key)
        iou = compute_iou(a_boxes[in_a], b_boxes[in_b])
        is_best = iou == iou.max(axis=1, keepdims=True)
        for i, j in zip(*np.nonzero((iou >= MIN_SAME_FACE_IOU) & is_best), strict=True):
            pair = int(a_tracks[in_a[i]]), int(b_tracks[in_b[j]])
            votes[pair] = votes.get(pair, 0) + 1
    pairs: list[tuple[int, int]] = []
    for left, right in sorted(votes, key=lambda pair: (-votes[pair], pair)):
        if all(left != a and right != b for a, b in pairs):
            pairs.append((left, right))
    return pairs


@dataclass(frozen=True, kw_only=True)
class _Faces:
    """The faces of all segments in columns of shape `(n,)`."""

    segment: np.ndarray
    first: np.ndarray
    """Position of each segment's first face, and at the end the number of all faces."""
    columns: dict[str, np.ndarray]
    frame_index: np.ndarray
    track: np.ndarray
    boxes: np.ndarray
    """`(n, 4) float64` as x0, y0, x1, y1."""

    @classmethod
    def from_lists(cls, lists: pa.ChunkedArray) -> "_Faces":
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy().astype(np.int64)
        faces = pc.list_flatten(lists)
        columns = {field.name: pc.struct_field(faces, field.name).to_numpy() for field in FACE_TYPE}
        frame_index, track = columns.pop("frame_index"), columns.pop("track").astype(np.int64)
        boxes = np.stack([columns[f"box_{side}"] for side in ("x0", "y0", "x1", "y1")], axis=1)
        return cls(
            segment=np.repeat(np.arange(len(lengths)), lengths),
            first=np.concatenate([[0], np.cumsum(lengths)]),
            columns=columns,
            frame_index=frame_index,
            track=track,
            boxes=boxes.astype(np.float64),
        )


def _number_videos(ids: pa.StringArray) -> np.ndarray:
    """Number the video of each segment from 0, `(n,) int64`; the segments are sorted by video."""
    is_other = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return np.cumsum(np.concatenate([[0], is_other]))[: len(ids)].astype(np.int64)


def _link_tracks(faces: _Faces, video: np.ndarray) -> np.ndarray:
    """Return a number for each face that is equal for all faces of one linked track and unique to it."""
    counts = np.zeros(len(video), np.int64)
    np.maximum.at(counts, faces.segment, faces.track + 1)
    first = np.cumsum(counts) - counts
    parent = np.arange(counts.sum())

    def find_root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return node

    is_followed = (video[1:] == video[:-1]) & (counts[1:] > 0) & (counts[:-1] > 0)
    times_s = faces.columns["time_s"]
    for number in np.flatnonzero(is_followed).tolist():
        a, b = (slice(*faces.first[n : n + 2]) for n in (number, number + 1))
        for left, right in match_segment_tracks(
            times_s[a], faces.track[a], faces.boxes[a], times_s[b], faces.track[b], faces.boxes[b]
        ):
            parent[find_root(int(first[number + 1]) + right)] = find_root(int(first[number]) + left)
    roots = np.array([find_root(node) for node in range(len(parent))], np.int64)
    return roots[first[faces.segment] + faces.track]


def _number_tracks(video: np.ndarray, owner: np.ndarray, times_s: np.ndarray, x0: np.ndarray) -> np.ndarray:
    """Number the owners of each video from 0 by their first appearance, then from left to right."""
    order = np.lexsort((x0, times_s, video))
    owners, first = np.unique(owner[order], return_index=True)
    by_appearance = np.argsort(first)
    rank = np.empty(len(owners), np.int64)
    rank[by_appearance] = np.arange(len(owners))
    video_of_rank = video[order][first[by_appearance]]
    return rank[np.searchsorted(owners, owner)] - np.searchsorted(video_of_rank, video)


def _stitch_moments(
    segments: pa.Table, ids: pa.StringArray, video: np.ndarray, offsets: np.ndarray
) -> tuple[pa.Table, np.ndarray]:
    """Return the sampled frames and their keys, see `_make_keys`."""
    lists = segments.column("moments")
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy().astype(np.int64)
    segment = np.repeat(np.arange(len(lengths)), lengths)
    moments = pc.list_flatten(lists)
    columns = {field.name: pc.struct_field(moments, field.name) for field in MOMENT_TYPE}
    columns["frame_index"] = pc.add(columns["frame_index"], pa.array(offsets[segment], pa.int64()))
    frame_index, count = columns["frame_index"].to_numpy(), video[-1] + 1 if len(video) else 0
    end_s, frames = np.zeros(count), np.zeros(count, np.int64)
    np.maximum.at(end_s, video, segments.column("read_s").to_numpy())
    np.add.at(frames, video, segments.column("frames").to_numpy())
    steps_s = measure_steps(video[segment], columns["time_s"].to_numpy(), frame_index, end_s, frames)
    columns["step_s"] = pa.array(steps_s)
    keys = _make_keys(video[segment], frame_index)
    return pa.table({"video_id": ids.take(pa.array(segment)), **columns}), keys


def _make_keys(video: np.ndarray, frame_index: np.ndarray) -> np.ndarray:
    """Return a number for each frame that is unique to it and its video and rises with both, `(n,) int64`."""
    keys: np.ndarray = (video << FRAME_INDEX_BITS) + frame_index
    return keys
