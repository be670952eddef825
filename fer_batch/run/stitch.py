"""The segments of videos back to one timeline each: each segment keeps its core, and tracks are linked across
the seams.

Segments overlap, and looked at the same moments there; tracks that share boxes at those moments are one
track. All videos of a table are stitched at once: most are a segment or two, and there are millions.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.schema import FACE_TYPE, MOMENT_TYPE, probability_column, tracks_schema
from fer_batch.vision.track import compute_iou

SAME_BOX = 0.5
"""Least intersection over union of a face's boxes as seen by two segments at the same moment."""


@dataclass(frozen=True, kw_only=True)
class Timelines:
    """What is known of some videos, in the tables' columns, by `video_id`."""

    tracks: pa.Table
    """As `schema.tracks_schema`, without the other columns that are the same for a whole video; then by track
    and time."""
    moments: pa.Table
    """As `schema.MOMENT_TYPE`, with `video_id`; then by time."""


def stitch_segments(segments: pa.Table, classes: tuple[str, ...]) -> Timelines:
    """The rows of `schema.RESULTS_SCHEMA` of some videos to their timelines.

    Track ids count from 0 in the order in which faces appear (from left to right where they appear at
    once), and `frame_index` from the video's first frame, so neither depends on how the video was cut.
    """
    segments = segments.combine_chunks().sort_by([("video_id", "ascending"), ("index", "ascending")])
    ids = segments.column("video_id").combine_chunks()
    video = _numbered(ids)
    frames = segments.column("frames").to_numpy()
    before = np.cumsum(frames) - frames
    offsets = before - before[np.searchsorted(video, video)] if len(video) else before
    faces = _Faces.of(segments.column("faces"))
    owner = _link(faces, video)
    core = np.flatnonzero(faces.frame_index >= 0)
    of = faces.segment[core]
    track = _number(video[of], owner[core], faces.columns["time_s"][core], faces.columns["box_x0"][core])
    order = np.lexsort((faces.columns["time_s"][core], track, video[of]))
    core, of = core[order], of[order]
    # Of the faces in the core alone, in the order of all faces.
    probs = pc.list_flatten(pc.struct_field(pc.list_flatten(segments.column("faces")), "probs"))
    probs = probs.to_numpy().astype(np.float32, copy=False).reshape(-1, len(classes))[order]
    columns = {name: values[core] for name, values in faces.columns.items()} | {
        "video_id": ids.take(pa.array(of)),
        "track_id": track[order],
        "frame_index": faces.frame_index[core] + offsets[of],
        "emotion": pa.array(classes, pa.string()).take(pa.array(probs.argmax(axis=1))),
        "confidence": probs.max(axis=1, initial=0),
        **{probability_column(name): probs[:, k] for k, name in enumerate(classes)},
    }
    tracks = {
        f.name: pa.chunked_array([pa.array(columns[f.name], f.type)])
        for f in tracks_schema(classes)
        if f.name not in _PER_VIDEO
    }
    return Timelines(tracks=pa.table(tracks), moments=_moments(segments, ids, offsets))


_PER_VIDEO = ("uri", "model_id", "bucket")


def _numbered(ids: pa.StringArray) -> np.ndarray:
    """Which video each segment is of, from 0 in order, where those of one follow each other: `(n,) int64`."""
    other = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return np.cumsum(np.concatenate([[0], other]))[: len(ids)].astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class _Faces:
    """The faces of all segments in columns, `(n,)` each but for the boxes."""

    segment: np.ndarray
    first: np.ndarray
    """Of each segment's faces, and the number of all."""
    columns: dict[str, np.ndarray]
    frame_index: np.ndarray
    track: np.ndarray
    boxes: np.ndarray

    @classmethod
    def of(cls, lists: pa.ChunkedArray) -> "_Faces":
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


def _link(faces: _Faces, video: np.ndarray) -> np.ndarray:
    """For each face the owner of its track (any number that is the same for one track, and no other's)."""
    counts = np.zeros(len(video), np.int64)
    np.maximum.at(counts, faces.segment, faces.track + 1)
    first = np.cumsum(counts) - counts
    parent = np.arange(counts.sum())

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return node

    followed = (video[1:] == video[:-1]) & (counts[1:] > 0) & (counts[:-1] > 0)
    for number in np.flatnonzero(followed).tolist():
        a, b = (slice(*faces.first[n : n + 2]) for n in (number, number + 1))
        times = faces.columns["time_s"]
        for left, right in match_tracks(
            times[a], faces.track[a], faces.boxes[a], times[b], faces.track[b], faces.boxes[b]
        ):
            parent[root(int(first[number + 1]) + right)] = root(int(first[number]) + left)
    roots = np.array([root(node) for node in range(len(parent))], np.int64)
    return roots[first[faces.segment] + faces.track]


def match_tracks(
    a_times: np.ndarray,
    a_tracks: np.ndarray,
    a_boxes: np.ndarray,
    b_times: np.ndarray,
    b_tracks: np.ndarray,
    b_boxes: np.ndarray,
) -> list[tuple[int, int]]:
    """Pairs of tracks of two overlapping segments that are one: most moments with the same box first, each
    track once.

    Times are `(n,) float64` seconds, tracks `(n,) int64`, boxes `(n, 4)` xyxy.
    """
    a_keys, b_keys = np.round(a_times * 1e4).astype(np.int64), np.round(b_times * 1e4).astype(np.int64)
    votes: dict[tuple[int, int], int] = {}
    for key in np.intersect1d(a_keys, b_keys):
        in_a, in_b = np.flatnonzero(a_keys == key), np.flatnonzero(b_keys == key)
        same = compute_iou(a_boxes[in_a], b_boxes[in_b])
        for i, j in zip(
            *np.nonzero((same >= SAME_BOX) & (same == same.max(axis=1, keepdims=True))), strict=True
        ):
            pair = int(a_tracks[in_a[i]]), int(b_tracks[in_b[j]])
            votes[pair] = votes.get(pair, 0) + 1
    pairs: list[tuple[int, int]] = []
    for left, right in sorted(votes, key=lambda pair: (-votes[pair], pair)):
        if all(left != a and right != b for a, b in pairs):
            pairs.append((left, right))
    return pairs


def _number(video: np.ndarray, owner: np.ndarray, times: np.ndarray, x0: np.ndarray) -> np.ndarray:
    """Owners to ids from 0 for each video, in order of first appearance, then from left to right."""
    order = np.lexsort((x0, times, video))
    owners, first = np.unique(owner[order], return_index=True)
    appeared = np.argsort(first)
    rank = np.empty(len(owners), np.int64)
    rank[appeared] = np.arange(len(owners))
    whose = video[order][first[appeared]]
    return rank[np.searchsorted(owners, owner)] - np.searchsorted(whose, video)


def _moments(segments: pa.Table, ids: pa.StringArray, offsets: np.ndarray) -> pa.Table:
    lists = segments.column("moments")
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy().astype(np.int64)
    segment = np.repeat(np.arange(len(lengths)), lengths)
    moments = pc.list_flatten(lists)
    columns = {field.name: pc.struct_field(moments, field.name) for field in MOMENT_TYPE}
    columns["frame_index"] = pc.add(columns["frame_index"], pa.array(offsets[segment], pa.int64()))
    return pa.table({"video_id": ids.take(pa.array(segment)), **columns})
