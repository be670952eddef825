"""Selection of the stream that is read, of the video streams of a file."""

import contextlib
import functools
import logging
from dataclasses import dataclass
from typing import Any

import av
import av.error
from av.stream import Discard, Disposition

from fer_batch.errors import DecodeError, NoVideoError
from fer_batch.video.container import CODEC_OPTIONS, find_size_problem
from fer_batch.video.metadata import parse_duration

NOT_A_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
MAX_CANDIDATES = 64
"""Video streams that are considered, as the memory that each needs is known only while it is decoded."""
MAX_STILL_FRAMES = 1
SURVEY_PACKETS = 100
"""Packets of the longest stream that are enough when every stream has a decoded frame."""
MAX_SURVEY_PACKETS = 500
"""Packets of the longest stream after which a stream without a decoded frame counts as empty."""
MAX_SURVEY_BYTES = 64 << 20

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Candidate:
    """A video stream that may be the film, and the part of it that the survey has read."""

    stream: av.VideoStream
    stated_frames: int
    """Number of frames by the index or by Matroska's tags, 0 if there is neither."""
    stated_s: float
    """Duration by the container, 0 if it states none."""
    pixels: int
    packets: int = 0
    decodes: bool = False

    @property
    def frames(self) -> int:
        return max(self.stated_frames, self.packets)


def list_candidates(container: av.container.InputContainer) -> list[Candidate]:
    """Return the video streams that have a decoder and are neither cover pictures nor thumbnails.

    Raises NoVideoError if there is no video stream, and DecodeError if none can be decoded.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & NOT_A_FILM]
    if not streams:
        raise NoVideoError("the file has no video stream")
    candidates = []
    problem = "FFmpeg has no decoder for the codec of the video"
    for stream in streams:
        context: Any = stream.codec_context  # None without a decoder, unlike in PyAV's stubs
        if context is None:
            continue
        if context.width and (size_problem := find_size_problem(context.width, context.height)):
            problem = size_problem
            continue
        context.thread_count = 1
        context.options = dict(CODEC_OPTIONS)
        stated_frames, stated_s = _read_stated_length(stream)
        pixels = context.width * context.height
        candidates.append(
            Candidate(stream=stream, stated_frames=stated_frames, stated_s=stated_s, pixels=pixels)
        )
    if not candidates:
        raise DecodeError(problem)
    return candidates[:MAX_CANDIDATES]


def choose_stream(container: av.container.InputContainer, candidates: list[Candidate], name: str) -> int:
    """Return the index of the stream to read, and read some packets of a container that was just opened.

    Streams without frames are last, then stills. Of the others, the container's default comes first, then
    streams with at least half of the length of the longest one, then those with more pixels. `name` is the
    file's name in the log. The choice depends only on the file.
    """
    _survey(container, candidates)
    streams = [candidate for candidate in candidates if candidate.decodes] or candidates
    most_frames = max(candidate.frames for candidate in streams)
    lengths = _compare_lengths(streams)

    def rank(number: int) -> tuple[bool, bool, bool, int, int]:
        candidate = streams[number]
        is_still = candidate.frames <= MAX_STILL_FRAMES < most_frames
        is_default = bool(candidate.stream.disposition & Disposition.default)
        is_short = 2 * lengths[number] < max(lengths)
        return is_still, not is_default, is_short, -candidate.pixels, candidate.stream.index

    index = streams[min(range(len(streams)), key=rank)].stream.index
    _log_choice(name, index, tuple(c.stream.index for c in candidates if c.stream.index != index))
    return index


def discard_other_streams(container: av.container.InputContainer, stream: av.VideoStream) -> None:
    """Let the demuxer skip all streams but `stream` and those with sound."""
    for other in container.streams:
        if other is not stream and other.type != "audio":
            other.discard = Discard.all


@functools.lru_cache  # once per file, not for each of its segments
def _log_choice(name: str, index: int, others: tuple[int, ...]) -> None:
    names = ", ".join(map(str, others))
    logger.info("%s: reading stream %d, the other video streams are %s", name, index, names)


def _survey(container: av.container.InputContainer, candidates: list[Candidate]) -> None:
    """Count the packets of each stream at the beginning of the file, and decode its first frame."""
    by_index = {candidate.stream.index: candidate for candidate in candidates}
    read_bytes = 0
    # PyAV raises IndexError at the end if damage has created streams in the meantime.
    with contextlib.suppress(av.error.FFmpegError, IndexError):
        for packet in container.demux():
            read_bytes += packet.size
            candidate = by_index.get(packet.stream.index)
            if candidate is None:
                continue
            candidate.packets += packet.size > 0
            if not candidate.decodes:
                _try_decoding(candidate, packet)
            most = max(candidate.packets for candidate in candidates)
            is_enough = most >= SURVEY_PACKETS and all(candidate.decodes for candidate in candidates)
            if is_enough or most >= MAX_SURVEY_PACKETS or read_bytes > MAX_SURVEY_BYTES:
                break


def _try_decoding(candidate: Candidate, packet: av.Packet) -> None:
    with contextlib.suppress(av.error.FFmpegError):
        for frame in packet.decode():
            if isinstance(frame, av.VideoFrame) and not find_size_problem(frame.width, frame.height):
                candidate.decodes = True
                candidate.pixels = frame.width * frame.height
    if candidate.decodes:
        candidate.stream.codec_context.flush_buffers()  # each decoder holds up to 20 frames


def _read_stated_length(stream: av.VideoStream) -> tuple[int, float]:
    """Return the number of frames and the seconds that the container states, 0 where it states none."""
    tags = {name.partition("-")[0]: value for name, value in stream.metadata.items()}  # Matroska's
    frames, duration_s = stream.frames, float((stream.duration or 0) * (stream.time_base or 0))
    with contextlib.suppress(ValueError):
        frames = frames or int(tags.get("NUMBER_OF_FRAMES", 0))
    return frames, duration_s or parse_duration(tags.get("DURATION", "")) or 0.0


def _compare_lengths(candidates: list[Candidate]) -> list[float]:
    """Return the length of each stream in the first unit that is known for all of them."""
    for lengths in (
        [float(candidate.stated_frames) for candidate in candidates],
        [candidate.stated_s for candidate in candidates],
    ):
        if all(lengths):
            return lengths
    return [float(candidate.packets) for candidate in candidates]
