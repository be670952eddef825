"""The episodes of a video as captions (WebVTT, SubRip) and as annotation tiers (ELAN, Praat's TextGrid).

Times are whole milliseconds since the start of the file, as players count them; ranges are half-open.
"""

import bisect
import html
import itertools
import mimetypes
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from fer_batch.storage.media import uri_to_path

UNSUPPORTED_CHARS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""Characters that end a line or that XML does not allow."""
ROUNDING_MS = 1
"""Milliseconds by which rounding moves two equal times apart."""
SUBRIP_BRACKETS = str.maketrans("<>", "‹›")


class Interval(NamedTuple):
    """A text over a time."""

    start_ms: int
    end_ms: int
    text: str


class Episode(NamedTuple):
    """One emotion of one face, in seconds since the start of the file."""

    track_id: int
    person: str | None
    emotion: str
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The annotations of a video."""

    uri: str
    length_ms: int
    tiers: Mapping[str, Sequence[Interval]]
    """By a face's name, its intervals in order, without overlap."""
    notes: Sequence[str]
    """Lines that describe the file."""


def measure_length_ms(lengths_s: Iterable[float | None], episodes: Sequence[Episode]) -> int:
    """Return the largest of a video's lengths, or the end of its episodes if one begins only after it."""
    length = round(1000 * max((s for s in lengths_s if s), default=0.0))
    if any(round(1000 * episode.start_s) >= length for episode in episodes):
        return max(round(1000 * max(e.start_s, e.end_s)) + 1 for e in episodes)
    return length


class FrameGrid:
    """The sampled frames of a video in whole milliseconds, so that equal times are equal on all tiers.

    Frames that adjoin share a boundary. Times are rounded once here, and never again for a face.
    """

    def __init__(self, frames_s: Sequence[tuple[float, float]]) -> None:
        """`frames_s` has the start and end of each sampled frame in seconds of the file, in any order."""
        frames = sorted((round(1000 * start), round(1000 * end)) for start, end in frames_s)
        starts = [start for start, _ in frames]
        ends = [end for _, end in frames]
        for number, after in enumerate(starts[1:]):
            if ends[number] >= after - ROUNDING_MS:
                ends[number] = after
        self._boundaries = sorted({*starts, *ends})
        known = set(starts)
        complete = [end - start for start, end in zip(starts, ends, strict=True) if end in known]
        self.shortest_ms = min((step for step in complete if step > 0), default=0)
        """Length of the shortest sampled frame that another one follows at once, 0 if there is none."""

    def snap(self, time_s: float) -> int:
        """Return a time in milliseconds: the boundary that it means, if there is one."""
        time_ms = round(1000 * time_s)
        after = bisect.bisect_left(self._boundaries, time_ms - ROUNDING_MS)
        nearest = self._boundaries[after : after + 3]
        boundary = min(nearest, key=lambda boundary: abs(boundary - time_ms), default=time_ms)
        return boundary if abs(boundary - time_ms) <= ROUNDING_MS else time_ms


def build_tiers(episodes: Iterable[Episode], grid: FrameGrid, length_ms: int) -> dict[str, list[Interval]]:
    """Return the intervals of each face by its name: its person, or "track N".

    An episode ends where the same track's next one begins, if that is not later. If two tracks of a person
    overlap, the second begins where the first ends. Intervals are cut at `length_ms`, and empty ones are left
    out. The face of a picture lasts one millisecond.

    All boundaries are those of sampled frames. Intervals of a face adjoin, or are at least
    `grid.shortest_ms` apart: shorter gaps belong to the interval before. None is shorter either, as that of a
    last frame which the end of the video cuts: it belongs to the interval before if they adjoin, and is left
    out otherwise.
    """
    cut: list[tuple[Episode, int, int]] = []
    next_start: dict[int, int] = {}
    for episode in sorted(episodes, key=lambda e: (e.start_s, e.track_id), reverse=True):
        start, end = grid.snap(episode.start_s), grid.snap(episode.end_s)
        end = min(max(end, start + 1), next_start.get(episode.track_id, end + 1))
        cut.append((episode, start, end))
        next_start[episode.track_id] = start
    faces: dict[tuple[str, int], list[Interval]] = {}
    for episode, start, end in reversed(cut):
        face = (episode.person or "", -1 if episode.person else episode.track_id)
        intervals = faces.setdefault(face, [])
        start, end = max(start, intervals[-1].end_ms if intervals else 0), min(end, length_ms)
        if intervals and start < end and start - intervals[-1].end_ms < grid.shortest_ms:
            intervals[-1] = intervals[-1]._replace(end_ms=start)
        if end - start >= max(grid.shortest_ms, 1):
            intervals.append(Interval(start, end, clean_text(episode.emotion)))
        elif intervals and start < end and intervals[-1].end_ms == start:
            intervals[-1] = intervals[-1]._replace(end_ms=end)
    tiers: dict[str, list[Interval]] = {}
    for (person, track), intervals in sorted(faces.items()):
        tiers[_make_unique(clean_text(person) if person else f"track {track}", tiers)] = intervals
    return tiers


def merge_tiers(tiers: Mapping[str, Sequence[Interval]]) -> list[Interval]:
    """Merge tiers into captions: one from each change to the next, with a line for each face."""
    times = sorted({time for own in tiers.values() for i in own for time in (i.start_ms, i.end_ms)})
    position = {time: number for number, time in enumerate(times)}
    lines: dict[int, list[str]] = {time: [] for time in times}
    for name, intervals in tiers.items():
        for interval in intervals:
            for time in times[position[interval.start_ms] : position[interval.end_ms]]:
                lines[time].append(f"{name}: {interval.text}")
    captions: list[Interval] = []
    for start, end in itertools.pairwise(times):
        text = "\n".join(lines[start])
        if captions and captions[-1].text == text and captions[-1].end_ms == start:
            captions[-1] = captions[-1]._replace(end_ms=end)
        elif text:
            captions.append(Interval(start, end, text))
    return captions


def write_vtt(path: Path, video: Annotations) -> int:
    """Write captions for a player, and return their number."""
    from webvtt import Caption, WebVTT

    captions = [
        Caption(_format_time(i.start_ms), _format_time(i.end_ms), html.escape(i.text, quote=False))
        for i in merge_tiers(video.tiers)
    ]
    note = "\n".join(html.escape(clean_text(line), quote=False) for line in video.notes)
    path.write_text(WebVTT(captions=captions, header_comments=[note]).content + "\n", encoding="utf-8")
    return len(captions)


def write_srt(path: Path, video: Annotations) -> int:
    """Write SubRip captions, for programs that do not read WebVTT, and return their number.

    The format has no notes, and no escape for the characters of its tags: < and > become ‹ and ›.
    """
    from webvtt import Caption, WebVTT

    captions = [
        Caption(_format_time(i.start_ms), _format_time(i.end_ms), i.text.translate(SUBRIP_BRACKETS))
        for i in merge_tiers(video.tiers)
    ]
    with path.open("w", encoding="utf-8") as file:
        WebVTT(captions=captions).write(file, format="srt")
    return len(captions)


def write_eaf(path: Path, video: Annotations) -> int:
    """Write an ELAN document, linked to the video, with a tier for each face; return the intervals' count."""
    from pympi import Eaf

    eaf = Eaf(author="fer_batch")
    eaf.add_linked_file(_to_elan_address(video.uri), mimetype=mimetypes.guess_type(video.uri)[0] or "unknown")
    eaf.add_property("note", clean_text(" ".join(video.notes)))
    for name, intervals in video.tiers.items():
        eaf.add_tier(name)
        for interval in intervals:
            eaf.add_annotation(name, *interval)
    if video.tiers:
        eaf.remove_tier("default")
    eaf.to_file(path)
    return sum(map(len, video.tiers.values()))


def write_textgrid(path: Path, video: Annotations) -> int:
    """Write a TextGrid for Praat with a tier for each face; return the number of intervals.

    It has at least one tier and lasts at least a millisecond, as the format demands.
    """
    from praatio.textgrid import IntervalTier, Textgrid

    end_s = max(video.length_ms, 1) / 1000
    grid = Textgrid(0, end_s)
    for name, intervals in (video.tiers or {"no episodes": []}).items():
        entries = [(i.start_ms / 1000, i.end_ms / 1000, i.text) for i in intervals]
        grid.addTier(IntervalTier(name, entries, 0, end_s))
    grid.save(str(path), format="long_textgrid", includeBlankSpaces=True)
    return sum(map(len, video.tiers.values()))


def clean_text(text: str) -> str:
    """Return a text in one line, without characters that XML and players do not allow."""
    return " ".join(UNSUPPORTED_CHARS.sub(" ", text).split())


def _make_unique(name: str, existing: Mapping[str, object]) -> str:
    candidates = itertools.chain(
        [name or "?"], (f"{name or '?'} ({number})" for number in itertools.count(2))
    )
    return next(candidate for candidate in candidates if candidate not in existing)


def _format_time(time_ms: int) -> str:
    seconds, thousandths = divmod(time_ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{thousandths:03d}"


def _to_elan_address(uri: str) -> str:
    path = uri_to_path(uri)
    return f"file://{quote(os.fsencode(path))}" if path.startswith("/") else uri
