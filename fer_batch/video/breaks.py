"""A search for breaks of the clock in files that are not read completely, such as those that are planned."""

import contextlib
import itertools
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import av
import av.error

from fer_batch.storage.media import MediaFile
from fer_batch.video.clock import MAX_JUMP_S, MAX_STEP_BACK_S
from fer_batch.video.timestamps import has_flag

MAX_SAMPLES = 256
"""Most places of a local file whose timestamps are compared. A place costs 0.1 ms."""
MAX_REMOTE_SAMPLES = 32
"""The same for a file in a store, where a place costs a request."""
SAMPLE_BYTES = 16_384
"""Shortest distance of two places."""
MAX_LONG_STEPS = 8
"""Most steps between two places that are searched for a jump."""


def has_clock_breaks(
    container: av.container.InputContainer, stream: av.VideoStream, media: MediaFile
) -> bool:
    """Return whether a clock is seen to start again or to jump, so that timestamps are no addresses.

    In containers with running clocks (transport and program streams), timestamps at places all over the file
    are compared, and the container is at its beginning afterwards. Others have an index, whose places must be
    in order.
    """
    if container.format.name in ("matroska,webm", "flv"):
        return any(after.pos < before.pos for before, after in pairwise(stream.index_entries))
    if not has_flag(container, "ts_discont") or has_flag(container, "no_timestamps"):
        return False
    try:
        return _compare_samples(container, stream, media)
    finally:
        with contextlib.suppress(av.error.FFmpegError):
            container.seek(0, unsupported_byte_offset=True)


def _compare_samples(
    container: av.container.InputContainer, stream: av.VideoStream, media: MediaFile
) -> bool:
    max_samples = MAX_SAMPLES if isinstance(media.source, str) else MAX_REMOTE_SAMPLES
    count = max(2, min(media.size // SAMPLE_BYTES, max_samples))
    places = [media.size * number // count for number in range(count)]
    samples = [(time_s, place) for place in places for time_s in _first_time(container, stream, place)]
    steps = [(after[0] - before[0], before[1], after[1]) for before, after in pairwise(samples)]
    steps.sort()
    if not steps:
        return False
    typical_s = max(steps[len(steps) // 2][0], 0.0)
    long_steps = [step for step in steps[-MAX_LONG_STEPS:] if step[0] > 3 * typical_s + MAX_JUMP_S]
    return steps[0][0] < -MAX_STEP_BACK_S or any(
        _has_jump(container, stream, start, end) for _, start, end in long_steps
    )


def _has_jump(container: av.container.InputContainer, stream: av.VideoStream, start: int, end: int) -> bool:
    """Return whether the longest step between two places is a jump, not a part with few bytes per second."""
    while end - start > 2 * SAMPLE_BYTES:
        middle = (start + end) // 2
        times_s = [
            time_s for place in (start, middle, end) for time_s in _first_time(container, stream, place)
        ]
        if len(times_s) < 3:
            return False
        start, end = (start, middle) if times_s[1] - times_s[0] > times_s[2] - times_s[1] else (middle, end)
    times_s = []
    for packet in _packets_from(container, stream, start):
        times_s.append(float(packet.dts * packet.time_base))
        if packet.pos is not None and packet.pos > end:
            break
    return any(after - before > MAX_JUMP_S for before, after in pairwise(times_s))


def _first_time(container: av.container.InputContainer, stream: av.VideoStream, place: int) -> list[float]:
    """Return the decoding time in seconds of the first packet behind a place in bytes, if there is one."""
    packets = itertools.islice(_packets_from(container, stream, place), 1)
    return [float(packet.dts * packet.time_base) for packet in packets]


def _packets_from(
    container: av.container.InputContainer, stream: av.VideoStream, place: int
) -> Iterator[Any]:
    with contextlib.suppress(av.error.FFmpegError, IndexError):  # as in Source.packets
        container.seek(place, unsupported_byte_offset=True)
        yield from (packet for packet in container.demux(stream) if packet.dts is not None)
