"""Group the tracks of one video into persons. Nothing that is learned about a face leaves this process.

`PersonGrouper` runs in a guarded child process, as it reads the video.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from PIL import Image

from fer_batch.people.cluster import Pair, cluster_tracks, find_uncertain
from fer_batch.people.describe import FaceDescriber
from fer_batch.people.number import divide_tracks, make_numbered, read_track_faces
from fer_batch.people.overlaps import find_continuations, find_tracks_apart
from fer_batch.people.select import TrackFaces, mark_best, rate_faces, select_faces
from fer_batch.storage.media import open_unchanged
from fer_batch.video.decode import decode_first
from fer_batch.video.key_frames import list_key_times, measure_decoding_s
from fer_batch.video.metadata import VideoInfo
from fer_batch.video.planes import Frame
from fer_batch.video.random_access import read_in_order
from fer_batch.video.sampling import SampleGrid
from fer_batch.video.source import Source

SAME_SHOT_MAX_DISTANCE = 0.55
"""Largest distance of two tracks that are one face in one place of one shot."""
THUMBNAIL_SIZE = (64, 36)
"""Width and height in pixels of the pictures that are compared to see whether they belong to one shot."""
SAME_SHOT_MAX_CHANGE, SAME_SHOT_MAX_PEAK = 4.0, 25.0
"""Largest mean and largest 98 % quantile of the change between two pictures of one shot, in grey levels."""
FACE_MARGIN = 0.5
"""Share of a box's sides that does not count around faces when pictures are compared."""


@dataclass(frozen=True, kw_only=True)
class VideoFile:
    """The file of an analyzed video."""

    uri: str
    offset: int | None
    """Position of a member's header in its archive, in bytes."""
    version: str
    """Hash of its size and time."""


@dataclass(frozen=True, kw_only=True)
class _Video:
    """An open video."""

    source: Source
    info: VideoInfo
    keys_s: np.ndarray
    """Times of key frames, as far as they are known."""
    grid: SampleGrid
    """The grid of its sampled frames."""


class DescribedTracks:
    """The sums of the descriptors of tracks, by position in their sorted ids."""

    def __init__(self, count: int, size: int) -> None:
        self._sums = np.zeros((count, size))
        self.counts = np.zeros(count)
        """Number of described faces of each track."""

    def add(self, track: int, descriptor: np.ndarray) -> None:
        self._sums[track] += descriptor
        self.counts[track] += 1

    @property
    def means(self) -> np.ndarray:
        """The mean descriptor of each track, `(n, size) float64`, NaN without one."""
        with np.errstate(invalid="ignore"):
            return self._sums / self.counts[:, None]


class PersonGrouper:
    """Groups the tracks of videos into persons. Raises ConfigError if the extra `people` is not installed."""

    def __init__(self) -> None:
        self.describer = FaceDescriber()
        self.keep_alive: Callable[[], None] = lambda: None
        """Callback for each packet of a file and each described face."""

    def group(self, file: VideoFile, rows: pa.Table, with_means: bool = False) -> pa.Table:
        """Return a row of NUMBERED_SCHEMA for each track of a video, in order of `track_id`.

        `rows` has FACES_COLUMNS of `tracks`. Persons are numbered by their time in view, longest first.
        With `with_means`, `mean` is the mean descriptor of a person, at its first described track. It is for
        the memory of the calling process only. All other values are null.

        Raises DecodeError if the video cannot be read or is another file now.
        """
        faces = read_track_faces(rows)
        open_unchanged(file.uri, file.offset, file.version).close()
        source = Source(file.uri, file.offset)
        source.on_packet = self.keep_alive
        with source.container:
            info = decode_first(source)
            grid = SampleGrid(1 / float(np.median(faces.step_s)), 0.0, math.inf)
            video = _Video(source=source, info=info, keys_s=list_key_times(source, info), grid=grid)
            reach_s = measure_decoding_s(video.keys_s, faces.time_s)
            selected, reasons = select_faces(faces, reach_s)
            ids = np.unique(faces.track)
            compared, is_person = divide_tracks(faces, np.isin(ids, faces.track[selected]))
            if not with_means:
                selected = selected[np.isin(faces.track[selected], ids[compared])]
            described = DescribedTracks(len(ids), self.describer.size)
            is_best = mark_best(rate_faces(faces, reach_s)[selected], faces.track[selected])
            labels = self._cluster(video, faces, selected, is_best, described)
        if with_means:
            return make_numbered(faces, labels, reasons, described.means, described.counts)
        is_new = is_person & (labels < 0)
        labels[is_new] = labels.max(initial=-1) + 1 + np.arange(is_new.sum())
        return make_numbered(faces, labels, reasons)

    def _cluster(
        self,
        video: _Video,
        faces: TrackFaces,
        selected: np.ndarray,
        is_best: np.ndarray,
        described: DescribedTracks,
    ) -> np.ndarray:
        """Return the clusters of tracks, and describe as many of their selected faces as that needs.

        The best face of each track comes first, the others only where that does not settle the cluster.
        """
        track = np.searchsorted(np.unique(faces.track), faces.track[selected])
        apart = find_tracks_apart(faces)
        self._describe(video, faces, selected[is_best], described)
        is_uncertain = find_uncertain(described.means, described.counts, apart)
        self._describe(video, faces, selected[~is_best & is_uncertain[track]], described)
        labels = cluster_tracks(described.means, described.counts, apart=apart)
        same = _find_same(video, faces, described.means, labels)
        return cluster_tracks(described.means, described.counts, same, apart) if same else labels

    def _describe(
        self, video: _Video, faces: TrackFaces, rows: np.ndarray, described: DescribedTracks
    ) -> None:
        """Add the descriptors of rows of faces to those of their tracks."""
        track = np.searchsorted(np.unique(faces.track), faces.track)
        for row, frame in _read_rows(video, faces, rows):
            box = faces.boxes[row] * _size_of(frame)
            descriptor = self.describer.describe(frame.picture, box, video.info.pixel_aspect)
            described.add(int(track[row]), descriptor)
            self.keep_alive()


def _find_same(video: _Video, faces: TrackFaces, descriptors: np.ndarray, labels: np.ndarray) -> list[Pair]:
    """Return the pairs of tracks of two clusters that are one face in one place of one shot."""
    near = [
        (pair, rows)
        for pair, rows in find_continuations(faces)
        if labels[pair[0]] != labels[pair[1]]
        and np.linalg.norm(descriptors[pair[0]] - descriptors[pair[1]]) <= SAME_SHOT_MAX_DISTANCE
    ]
    rows = np.unique([row for _, pair in near for row in pair]).astype(np.int64)
    thumbnails = {row: _make_thumbnail(frame) for row, frame in _read_rows(video, faces, rows)}
    return [pair for pair, (a, b) in near if _is_same_shot(thumbnails[a], thumbnails[b], faces.boxes[[a, b]])]


def _read_rows(video: _Video, faces: TrackFaces, rows: np.ndarray) -> Iterator[tuple[int, Frame]]:
    """Yield rows of faces with their frames, in order of time."""
    ordered = rows[np.argsort(faces.time_s[rows], kind="stable")].tolist()
    times_s = faces.time_s[ordered].tolist()
    frames = read_in_order(video.source, video.info, times_s, video.keys_s.tolist(), video.grid)
    for row, (_, frame) in zip(ordered, frames, strict=True):
        yield row, frame


def _size_of(frame: Frame) -> np.ndarray:
    return np.array([frame.picture.width, frame.picture.height] * 2)


def _make_thumbnail(frame: Frame) -> np.ndarray:
    """Return the brightness of a small picture of a frame, `(36, 64) float32`."""
    return np.asarray(frame.picture.y.resize(THUMBNAIL_SIZE, Image.Resampling.BOX), np.float32)


def _is_same_shot(before: np.ndarray, after: np.ndarray, boxes: np.ndarray) -> bool:
    """Return whether two thumbnails differ little outside `(n, 4)` boxes in shares of the picture."""
    rows, columns = before.shape
    x, y = (np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows
    counts = np.ones(before.shape, bool)
    for x0, y0, x1, y1 in boxes:
        margin_x, margin_y = FACE_MARGIN * (x1 - x0), FACE_MARGIN * (y1 - y0)
        inside_x, inside_y = np.abs(x - (x0 + x1) / 2), np.abs(y - (y0 + y1) / 2)
        counts &= ~np.outer(inside_y <= (y1 - y0) / 2 + margin_y, inside_x <= (x1 - x0) / 2 + margin_x)
    change = np.abs(after - before)[counts]
    if not len(change):
        return False
    return bool(change.mean() <= SAME_SHOT_MAX_CHANGE and np.quantile(change, 0.98) <= SAME_SHOT_MAX_PEAK)
