"""Key frames of a video: the places where decoding can start."""

import itertools

import numpy as np

from fer_batch.video.metadata import VideoInfo
from fer_batch.video.report import ReadReport
from fer_batch.video.source import Source
from fer_batch.video.timestamps import packet_timestamp

LONG_GAP_S = 12.0
"""Distance between key frames beyond which a start between them is expensive: a fifth of a minute."""
KEY_STEP_S = 6.0
"""Least distance between two key frames that are listed."""
MAX_SURVEY_BYTES = 64 << 20
"""Most bytes that are read at one place of a file to find its key frames."""
SCANNED_FORMATS = ("mpeg", "mpegts")
"""Formats without an index, in which seeks look for times. They cost little, anywhere in the file."""


def find_key_times(source: Source, info: VideoInfo) -> list[float] | None:
    """Return the times of key frames in seconds, if some are farther apart than `LONG_GAP_S`, else None.

    Of key frames that are less than `KEY_STEP_S` apart, one is listed. They are those of the container's
    index. Without an index, they are those at the beginning of the file, usually two, and in some formats
    also in the middle. `source` is at another place afterwards.
    """
    if info.duration_s is None or info.duration_s <= LONG_GAP_S:
        return None
    times_s = _Survey(source, info.first_pts, info.duration_s).find_times()
    if times_s is None:
        return None
    gaps_s = (after - before for before, after in itertools.pairwise([0.0, *times_s, info.duration_s]))
    return times_s if max(gaps_s) > LONG_GAP_S else None


def list_key_times(source: Source, info: VideoInfo) -> np.ndarray:
    """Return the times of all key frames in the container's index in seconds, sorted, `(n,) float64`.

    It is empty if the container has no index of key frames, or a clock that breaks.
    """
    if source.has_breaks:
        return np.zeros(0)
    entries = source.stream.index_entries
    keys = np.array([entry.timestamp for entry in entries if entry.is_keyframe], np.float64)
    times_s = np.sort((keys - info.first_pts) * float(source.time_base))
    # An index has times of decoding, which begin before the first frame is shown.
    return times_s - min(times_s[0], 0.0) if len(times_s) else times_s


def measure_decoding_s(key_times_s: np.ndarray, times_s: np.ndarray) -> np.ndarray | None:
    """Return how many seconds of video have to be decoded to reach each time, `(n,) float64`.

    None if no key frame is known.
    """
    if not len(key_times_s):
        return None
    position = np.searchsorted(key_times_s, times_s, side="right") - 1
    return np.where(position >= 0, times_s - key_times_s[np.maximum(position, 0)], times_s)


class _Survey:
    """The search for the key frames of one video. Its methods return times in seconds."""

    def __init__(self, source: Source, first_pts: int, end_s: float) -> None:
        self.source, self.first_pts, self.end_s = source, first_pts, end_s

    def find_times(self) -> list[float] | None:
        """Return the known key frames, None if there is no index and the key frames seem to be near."""
        if self.source.format_name in SCANNED_FORMATS:
            return self._read_two_places()
        entries = self.source.stream.index_entries
        if len(entries) and self._to_seconds(entries[len(entries) - 1].timestamp) > self.end_s - LONG_GAP_S:
            return self._list_index()
        if self.source.format_name.startswith("matroska"):
            return self._load_index()
        times_s = self._read_from(0.0)
        return None if _are_near(times_s) else times_s

    def _read_two_places(self) -> list[float] | None:
        first, middle_s = self._read_from(0.0), self.end_s / 2
        if first[-1] >= middle_s:
            return first
        middle = self._read_from(middle_s)
        return None if _are_near(first) and _are_near(middle) else first + middle[1:]

    def _load_index(self) -> list[float] | None:
        """Let the demuxer of Matroska load the index, which it does at its first seek.

        A seek behind the last key frame in the index reads the rest of the file. If the demuxer knows a
        single key frame, that is any seek.
        """
        size = self.source.media.size
        if size > MAX_SURVEY_BYTES and not self._read_to_second_entry():
            return [0.0]
        read_s = self._list_index()
        times_s = self._list_index() if self.source.seek(self.first_pts) else []
        if not times_s:
            return None
        if size * (1 - times_s[-1] / self.end_s) <= MAX_SURVEY_BYTES:
            self.source.seek(self._to_timestamp(self.end_s))
            return self._list_index()
        return times_s if len(times_s) > len(read_s) else None

    def _read_to_second_entry(self) -> bool:
        """Read until the demuxer knows two key frames. Packets may be marked by their content instead."""
        entries, read_bytes = self.source.stream.index_entries, 0
        for packet in self.source.packets(ReadReport()):
            read_bytes += packet.size
            if len(entries) > 1 or read_bytes > MAX_SURVEY_BYTES:
                break
        return len(entries) > 1

    def _list_index(self) -> list[float]:
        entries = self.source.stream.index_entries
        step = max(int(KEY_STEP_S / self.source.time_base), 1)
        times_s: list[float] = []
        place = 0
        while 0 <= place < len(entries):
            timestamp = entries[place].timestamp
            if entries[place].is_keyframe:
                times_s.append(self._to_seconds(timestamp))
            place = entries.search_timestamp(timestamp + step, backward=False)
        return times_s

    def _read_from(self, start_s: float) -> list[float]:
        """Return a start and the key frames that follow it, up to the first one that is near."""
        times_s, read_bytes = [start_s], 0
        self.source.seek(self._to_timestamp(start_s))
        for packet in self.source.packets(ReadReport()):
            read_bytes += packet.size
            timestamp = packet_timestamp(packet)
            if packet.stream is self.source.stream and packet.is_keyframe and timestamp is not None:
                time_s = self._to_seconds(timestamp)
                if start_s < time_s <= start_s + LONG_GAP_S:
                    return [start_s, time_s]
                if time_s >= times_s[-1] + KEY_STEP_S:
                    times_s.append(time_s)
            if read_bytes > MAX_SURVEY_BYTES:
                break
        return times_s

    def _to_seconds(self, timestamp: int) -> float:
        return float((timestamp - self.first_pts) * self.source.time_base)

    def _to_timestamp(self, time_s: float) -> int:
        return self.first_pts + int(time_s / self.source.time_base)


def _are_near(times_s: list[float]) -> bool:
    return len(times_s) > 1 and times_s[1] - times_s[0] <= LONG_GAP_S
