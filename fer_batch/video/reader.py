"""Reading of videos: their description, and the sampled frames of a segment."""

import dataclasses
import math
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import av.error

from fer_batch.errors import DecodeError
from fer_batch.video.changes import ChangeMeter, sample_points
from fer_batch.video.container import describe_error
from fer_batch.video.decode import decode_first, decode_from, start_decoding
from fer_batch.video.metadata import VideoInfo, quarter_turns
from fer_batch.video.overlap import OverlapKeeper
from fer_batch.video.planes import Frame, Picture
from fer_batch.video.prefetch import prefetch_frames
from fer_batch.video.report import ReadReport
from fer_batch.video.sampling import SampleGrid
from fer_batch.video.segment import Segment
from fer_batch.video.source import Source, keep_source, take_source
from fer_batch.video.timestamps import TIME_TOLERANCE_S, TimedFrame, repair_timestamps
from fer_batch.video.truncation import ends_inside_fragment, is_cut_short

MAX_LAST_FRAME_S = 600.0
"""Longest time that the last frame is shown. A later end of its packet is damaged."""


def read_info(path: str | Path, offset: int | None = None) -> VideoInfo:
    """Open a video, decode its first frame and return its description.

    `path` and `offset` are arguments of `open_media`. Raises NoVideoError if there is no video stream (cover
    art does not count), and DecodeError if the file cannot be read.
    """
    source = Source(path, offset)
    with source.container:
        return decode_first(source)


class SegmentReader:
    """Reads the sampled frames of a segment in order of time, with one frame in memory at a time.

        reader = SegmentReader(Segment.whole("video.mp4"), fps=5.0)
        for frame in reader:
            ...
        print(reader.report.error)

    The first frame of each cell `[k / fps, (k + 1) / fps)` of the video's time is sampled, or every frame if
    `fps` is None. With `fast="nonref"` it is the first one that other frames refer to, and with
    `fast="keyframes"` the first key frame of the cell. Codecs without such frames are read as without `fast`.
    With `prefetch`, a thread decodes up to this many frames before they are requested. `on_packet` is called
    for each packet of the file, by the thread that reads it. `gpu` is the number of a GPU that decodes, see
    `make_hardware_decoder`.
    """

    def __init__(
        self,
        segment: Segment,
        fps: float | None,
        *,
        fast: str | None = None,
        prefetch: int = 0,
        on_packet: Callable[[], None] = lambda: None,
        gpu: int | None = None,
    ) -> None:
        self.segment = segment
        self.info: VideoInfo | None = None
        """The description of the video, once it is open."""
        self.report = ReadReport(
            core_start_s=segment.core_start_s - TIME_TOLERANCE_S,
            core_end_s=math.inf if segment.is_last else segment.core_end_s - TIME_TOLERANCE_S,
        )
        """The damage so far. It is complete when all frames have been read."""
        self._end_s = math.inf if segment.is_last else segment.end_s
        self._grid = SampleGrid(fps, segment.start_s, self._end_s)
        self._fast, self._prefetch, self._on_packet = fast, prefetch, on_packet
        self._gpu = gpu
        self._source: Source | None = None
        self._meter = ChangeMeter()
        self._frames: Iterator[TimedFrame] = iter(())
        self._overlap: OverlapKeeper | None = None

    def open(self) -> VideoInfo:
        """Open the file and return the video's description.

        Raises NoVideoError and DecodeError as `read_info` does. The report then has the reason as well.
        """
        segment, grid, report = self.segment, self._grid, self.report
        is_first = segment.start_s <= 0
        # The segment of an undivided video finds the first timestamp itself.
        origin = segment.first_pts if segment.segments > 1 else None
        source = None if is_first else take_source(segment.uri, self._gpu)
        try:
            source = source or Source(segment.uri, segment.offset, self._gpu)
            source.on_packet = self._on_packet
            if is_first:
                source.info, frames = start_decoding(source, grid, origin, report, self._fast)
                report.damaged_packets += source.head_is_damaged
            elif source.info is None:
                source.info = decode_first(source)
        except BaseException as error:
            if isinstance(error, DecodeError):
                report.problem = str(error)
            if source is not None:
                source.container.close()
            raise
        if not is_first:
            overlap, source.overlap = source.overlap, None
            if overlap is not None and overlap.can_continue(segment, grid.fps, self._fast):
                source.report, grid = report, overlap.grid
                frames = overlap.pop_frames(self._meter)
            else:
                origin = source.info.first_pts if origin is None else origin
                frames = decode_from(source, segment.start_s, grid, origin, report, self._fast)
        self._overlap = OverlapKeeper(source, segment, grid, self._fast)
        self._frames = self._overlap.pass_on(frames)
        self._source, self.info = source, source.info
        return source.info

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames, once. Damage ends in the report.

        Raises DecodeError only if the file cannot be opened.
        """
        if self._source is None:
            self.open()
        frames = self._read_frames()
        return prefetch_frames(frames, self._prefetch) if self._prefetch else frames

    def _read_frames(self) -> Generator[Frame]:
        source, info, report, grid = self._source, self.info, self.report, self._grid
        overlap = self._overlap
        assert source is not None
        assert info is not None
        assert overlap is not None
        end_before_start_s = 0.0
        damaged_packets, damage_s = 0, -math.inf
        is_reusable = False
        try:
            for time_s, image in repair_timestamps(self._frames, self._end_s, info.duration_s, report):
                last_s = report.last_frame_s
                time_s = max(time_s, last_s)  # frames of one timestamp
                if time_s < grid.start_s - TIME_TOLERANCE_S:
                    end_before_start_s = max(end_before_start_s, time_s + 1 / info.fps)
                    continue
                if image is not None:
                    report.damaged_frames += bool(image.is_corrupt)
                if report.damaged_packets > damaged_packets:
                    damaged_packets, damage_s = report.damaged_packets, max(last_s, 0.0)
                # After damage, a decoder may still return frames from before it.
                if last_s + 1.5 / info.fps < time_s and -math.inf < last_s <= damage_s + 1.0:
                    report.lost_s += time_s - last_s - 1 / info.fps
                index = report.record_frame(time_s, info.fps)
                if image is not None:
                    self._meter.record_points(sample_points(image))
                if image is None or not grid.take(time_s):
                    continue
                try:
                    picture = Picture.from_decoded(image, info.mirrored, source.stated_transfer)
                except MemoryError:
                    raise
                except (av.error.FFmpegError, ValueError) as error:
                    report.problem = f"a frame can't be converted ({describe_error(error)})"
                    continue
                changes = self._meter.take_changes(quarter_turns(image), info.mirrored)
                yield Frame(time_s=time_s, index=index, picture=picture, changes=changes)
            if not math.isfinite(self._end_s):
                self._check_end(source, info, end_before_start_s)
            is_reusable = not source.at_end
        except DecodeError as error:
            report.problem = str(error)
            raise
        finally:
            if is_reusable:
                source.overlap = overlap if overlap.has_frames else None
                keep_source(source)
            else:
                source.container.close()

    def _check_end(self, source: Source, info: VideoInfo, end_before_start_s: float) -> None:
        """Report the seconds that are missing at the end of the file, beyond inaccurate stated durations."""
        report = self.report
        report.end_s = max(report.read_s, end_before_start_s)
        is_cut_off = is_cut_short(source.media, info.container, source.stream)
        if not is_cut_off:
            report.end_s = max(report.end_s, report.other_streams_end_s)
            if report.packets_end_s <= report.read_s + MAX_LAST_FRAME_S:
                report.end_s = max(report.end_s, report.packets_end_s)
        missing_s = 0.0
        if source.knows_breaks:
            self.info = dataclasses.replace(info, duration_s=None)
        elif info.duration_s is not None:
            missing_s = info.duration_s - report.end_s
        tolerance_s = 1.5 / info.fps if is_cut_off else 0.5 + 3 / info.fps
        report.missing_s = missing_s if missing_s > tolerance_s else 0.0
        states_no_end = info.container in ("mpegts", "ogg") or ends_inside_fragment(source.media)
        if is_cut_off and states_no_end and not report.missing_s and not report.problem:
            report.problem = f"read {report.read_s:.1f} s, then the file is truncated"
