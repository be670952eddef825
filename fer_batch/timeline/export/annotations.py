"""The episodes of a video as captions (WebVTT) and as tiers to annotate on (ELAN, Praat's TextGrid).

Times are whole milliseconds from the video's beginning, ranges half-open.
"""

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

UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""Characters that end a line, or that XML doesn't take."""


class Interval(NamedTuple):
    """A stretch of time and what is said of it."""

    start_ms: int
    end_ms: int
    text: str


class Episode(NamedTuple):
    """One emotion of one face for a while, in seconds."""

    track_id: int
    person: str | None
    emotion: str
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """A video with what is annotated of it."""

    uri: str
    length_ms: int
    tiers: Mapping[str, Sequence[Interval]]
    """By the face's name; the intervals of each are in order and don't overlap."""
    notes: Sequence[str]
    """What it is, in lines."""


def length_ms(seconds: Iterable[float | None], episodes: Sequence[Episode]) -> int:
    """How long a video is by the largest of `seconds`; by its episodes where one begins only after that."""
    length = round(1000 * max((s for s in seconds if s), default=0.0))
    if any(round(1000 * episode.start_s) >= length for episode in episodes):
        return max(round(1000 * max(e.start_s, e.end_s)) + 1 for e in episodes)
    return length


def tiers(episodes: Iterable[Episode], length: int) -> dict[str, list[Interval]]:
    """The intervals of each face by its name: its person's, else "track N".

    An episode ends at the latest where the same track's next one begins, and lasts a millisecond at least;
    where two tracks of one person are there at once, the second begins where the first ends. What lasts
    beyond `length` milliseconds is cut, and what nothing is left of is left out.
    """
    cut: list[Episode] = []
    until: dict[int, float] = {}
    for episode in sorted(episodes, key=lambda e: (e.start_s, e.track_id), reverse=True):
        cut.append(episode._replace(end_s=min(episode.end_s, until.get(episode.track_id, episode.end_s))))
        until[episode.track_id] = episode.start_s
    faces: dict[tuple[str, int], list[Interval]] = {}
    for episode in reversed(cut):
        own = faces.setdefault((episode.person or "", -1 if episode.person else episode.track_id), [])
        start = max(round(1000 * episode.start_s), own[-1].end_ms if own else 0)
        end = min(max(round(1000 * episode.end_s), round(1000 * episode.start_s) + 1), length)
        if start < end:
            own.append(Interval(start, end, plain(episode.emotion)))
    named: dict[str, list[Interval]] = {}
    for (person, track), own in sorted(faces.items()):
        named[_unique(plain(person) if person else f"track {track}", named)] = own
    return named


def changes(named: Mapping[str, Sequence[Interval]]) -> list[Interval]:
    """All faces' intervals as one row of cues, one from each change to the next, a line for each face."""
    times = sorted({time for own in named.values() for i in own for time in (i.start_ms, i.end_ms)})
    lines: dict[int, list[str]] = {time: [] for time in times}
    at = {time: number for number, time in enumerate(times)}
    for name, own in named.items():
        for interval in own:
            for time in times[at[interval.start_ms] : at[interval.end_ms]]:
                lines[time].append(f"{name}: {interval.text}")
    cues: list[Interval] = []
    for start, end in itertools.pairwise(times):
        text = "\n".join(lines[start])
        if cues and cues[-1].text == text and cues[-1].end_ms == start:
            cues[-1] = cues[-1]._replace(end_ms=end)
        elif text:
            cues.append(Interval(start, end, text))
    return cues


def write_vtt(path: Path, video: Annotated) -> int:
    """Captions for a player: a cue from each change to the next with all faces' emotions; how many."""
    from webvtt import Caption, WebVTT

    cues = changes(video.tiers)
    captions = [
        Caption(_clock(cue.start_ms), _clock(cue.end_ms), html.escape(cue.text, quote=False)) for cue in cues
    ]
    note = "\n".join(html.escape(plain(line), quote=False) for line in video.notes)
    path.write_text(WebVTT(captions=captions, header_comments=[note]).content + "\n", encoding="utf-8")
    return len(cues)


def write_eaf(path: Path, video: Annotated) -> int:
    """A document of ELAN, linked to the video, with a tier a face; how many annotations it has."""
    from pympi import Eaf

    eaf = Eaf(author="fer_batch")
    eaf.add_linked_file(_address(video.uri), mimetype=mimetypes.guess_type(video.uri)[0] or "unknown")
    eaf.add_property("note", plain(" ".join(video.notes)))
    for name, intervals in video.tiers.items():
        eaf.add_tier(name)
        for interval in intervals:
            eaf.add_annotation(name, *interval)
    if video.tiers:
        eaf.remove_tier("default")
    eaf.to_file(path)
    return sum(map(len, video.tiers.values()))


def write_textgrid(path: Path, video: Annotated) -> int:
    """A TextGrid of Praat with a tier a face, from 0 to the video's end; how many annotations it has.

    It has at least one tier, and lasts at least a millisecond, as the format demands.
    """
    from praatio.textgrid import IntervalTier, Textgrid

    end_s = max(video.length_ms, 1) / 1000
    grid = Textgrid(0, end_s)
    for name, intervals in (video.tiers or {"no episodes": []}).items():
        entries = [(i.start_ms / 1000, i.end_ms / 1000, i.text) for i in intervals]
        grid.addTier(IntervalTier(name, entries, 0, end_s))
    grid.save(str(path), format="long_textgrid", includeBlankSpaces=True)
    return sum(map(len, video.tiers.values()))


def plain(text: str) -> str:
    """A text on one line, without characters that XML and players don't take."""
    return " ".join(UNFIT.sub(" ", text).split())


def _unique(name: str, taken: Mapping[str, object]) -> str:
    name = name or "?"
    number, chosen = 1, name
    while chosen in taken:
        number += 1
        chosen = f"{name} ({number})"
    return chosen


def _clock(time_ms: int) -> str:
    seconds, thousandths = divmod(time_ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{thousandths:03d}"


def _address(uri: str) -> str:
    """What ELAN finds a video by."""
    path = uri_to_path(uri)
    return f"file://{quote(os.fsencode(path))}" if path.startswith("/") else uri
