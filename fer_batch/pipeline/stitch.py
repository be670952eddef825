"""The segments of one video back to one timeline: each keeps its core, and tracks are linked across the
seams.

Segments overlap, and looked at the same moments there; tracks that share boxes at those moments are one
track.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.schema import MOMENT, probability_column, tracks_schema
from fer_batch.vision.track import overlap

SAME_BOX = 0.5
"""Least intersection over union of a face's boxes as seen by two segments at the same moment."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What is known of one video, in the tables' columns."""

    tracks: pa.Table
    """As `schema.tracks_schema`, without the columns that are the same for the whole video; by track, then
    time."""
    moments: pa.Table
    """As `schema.MOMENT`, by time."""
    track_count: int


def stitch(segments: pa.Table, classes: tuple[str, ...]) -> Timeline:
    """The rows of `schema.RESULTS` of one video to its timeline.

    Track ids count from 0 in the order in which faces appear (from left to right where they appear at
    once), and `frame_index` from the video's first frame, so neither depends on how the video was cut.
    """
    segments = segments.sort_by("index")
    frames = np.array(segments.column("frames").to_pylist(), np.int64)
    offsets = np.concatenate([[0], np.cumsum(frames)])
    parts = [_Faces.of(column, len(classes)) for column in segments.column("faces")]
    owners = _link(parts)
    core = [part.frame_index >= 0 for part in parts]
    columns = {
        name: np.concatenate(
            [part.columns[name][keep] for part, keep in zip(parts, core, strict=True)] or [np.zeros(0)]
        )
        for name in (parts[0].columns if parts else ())
    }
    index = [p.frame_index[keep] + o for p, keep, o in zip(parts, core, offsets, strict=False)]
    owner = [
        owners[n][part.track[keep]]
        for n, (part, keep) in enumerate(zip(parts, core, strict=True))
        if len(keep)
    ]
    probs = np.concatenate([p.probs for p in parts]) if parts else np.zeros((0, len(classes)), np.float32)
    schema = tracks_schema(classes)
    if not columns or not len(columns["time_s"]):
        tracks = pa.table({f.name: pa.array([], f.type) for f in schema if f.name not in _PER_VIDEO})
        return Timeline(tracks=tracks, moments=_moments(segments, offsets), track_count=0)
    columns["frame_index"] = np.concatenate(index)
    columns["track_id"] = _number(np.concatenate(owner), columns["time_s"], columns["box_x0"])
    best = probs.argmax(axis=1)
    columns["emotion"] = np.array(classes, object)[best]
    columns["confidence"] = probs.max(axis=1)
    columns |= {probability_column(name): probs[:, k] for k, name in enumerate(classes)}
    order = np.lexsort((columns["time_s"], columns["track_id"]))
    tracks = pa.table(
        {f.name: pa.array(columns[f.name][order], f.type) for f in schema if f.name not in _PER_VIDEO}
    )
    return Timeline(
        tracks=tracks, moments=_moments(segments, offsets), track_count=int(columns["track_id"].max()) + 1
    )


_PER_VIDEO = ("video_id", "uri", "model_id", "bucket")


@dataclass(frozen=True, kw_only=True)
class _Faces:
    """One segment's faces in columns."""

    columns: dict[str, np.ndarray]
    frame_index: np.ndarray
    track: np.ndarray
    boxes: np.ndarray
    probs: np.ndarray
    """Of the faces in the core only."""

    @classmethod
    def of(cls, faces: pa.ListScalar, classes: int) -> "_Faces":
        table = pa.Table.from_struct_array(faces.values)
        columns = {
            name: table.column(name).to_numpy()
            for name in table.column_names
            if name not in ("track", "probs")
        }
        boxes = np.stack([columns[f"box_{side}"] for side in ("x0", "y0", "x1", "y1")], axis=1)
        probs = table.column("probs").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return cls(
            columns=columns,
            frame_index=columns["frame_index"],
            track=table.column("track").to_numpy().astype(np.int64),
            boxes=boxes.astype(np.float64),
            probs=np.asarray(probs, np.float32).reshape(-1, classes),
        )


def _link(parts: list[_Faces]) -> list[np.ndarray]:
    """For each segment, the video-wide owner of each of its tracks (any number that is the same for one
    track).
    """
    counts = [int(part.track.max()) + 1 if len(part.track) else 0 for part in parts]
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    parent = np.arange(first[-1])

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return node

    for number, (a, b) in enumerate(itertools.pairwise(parts)):
        for left, right in shared_tracks(
            a.columns["time_s"], a.track, a.boxes, b.columns["time_s"], b.track, b.boxes
        ):
            parent[root(int(first[number + 1]) + right)] = root(int(first[number]) + left)
    roots = np.array([root(node) for node in range(len(parent))], np.int64)
    return [roots[first[n] : first[n + 1]] for n in range(len(parts))]


def shared_tracks(
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
        same = overlap(a_boxes[in_a], b_boxes[in_b])
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


def _number(owner: np.ndarray, times: np.ndarray, x0: np.ndarray) -> np.ndarray:
    """Owners to ids from 0, in order of first appearance, then from left to right."""
    order = np.lexsort((x0, times))
    owners, first = np.unique(owner[order], return_index=True)
    rank = np.empty(len(owners), np.int64)
    rank[np.argsort(first)] = np.arange(len(owners))
    return rank[np.searchsorted(owners, owner)]


def _moments(segments: pa.Table, offsets: np.ndarray) -> pa.Table:
    parts = [pa.table({f.name: pa.array([], f.type) for f in MOMENT})]
    for moments, offset in zip(segments.column("moments"), offsets.tolist(), strict=False):
        table = pa.Table.from_struct_array(moments.values)
        index = pc.add(table.column("frame_index"), offset)
        parts.append(table.set_column(table.schema.get_field_index("frame_index"), "frame_index", index))
    return pa.concat_tables(parts)
