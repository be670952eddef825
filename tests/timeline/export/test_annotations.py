"""Episodes as intervals, captions and annotation files."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import webvtt
from hypothesis import example, given
from hypothesis import strategies as st
from praatio import textgrid
from pympi import Eaf

from fer_batch.timeline.export.annotations import (
    Annotations,
    Episode,
    FrameGrid,
    Interval,
    build_tiers,
    measure_length_ms,
    merge_tiers,
    write_eaf,
    write_srt,
    write_textgrid,
    write_vtt,
)

Row = tuple[int, float, str]
"""A track, a time in seconds, and an emotion."""
NAMES = {0: None, 1: None, 2: "Ann", 3: "Bo"}
"""The persons of tracks."""
NO_FRAMES = FrameGrid([])


def episodes_of(rows: list[Row], step_s: float, names: Mapping[int, str | None] = NAMES) -> list[Episode]:
    """Return the runs of rows with one emotion, each until one step after its last row."""
    found: list[Episode] = []
    for track, time_s, emotion in sorted(rows):
        if found and found[-1].track_id == track and found[-1].emotion == emotion:
            found[-1] = found[-1]._replace(end_s=time_s + step_s)
        else:
            found.append(Episode(track, names[track], emotion, time_s, time_s + step_s))
    return found


@st.composite
def looks(draw: st.DrawFn) -> tuple[list[Row], float, float]:
    """Generate rows of four tracks at any times, a step, and a duration."""
    distances = draw(st.lists(st.floats(0.001, 3), max_size=12))
    times = list(itertools.accumulate(distances, initial=draw(st.floats(0, 3))))
    faces = st.dictionaries(st.sampled_from(sorted(NAMES)), st.sampled_from(["sad", "happy"]))
    rows = [(track, time_s, emotion) for time_s in times for track, emotion in draw(faces).items()]
    return rows, draw(st.floats(0.001, 2)), draw(st.floats(times[-1] + 0.001, 50))


def texts_at(intervals: list[Interval], time_ms: int) -> list[str]:
    return [interval.text for interval in intervals if interval.start_ms <= time_ms < interval.end_ms]


@given(looks())
def test_intervals_are_ordered_and_equal_the_rows(case: tuple[list[Row], float, float]) -> None:
    rows, step_s, duration_s = case
    episodes = episodes_of(rows, step_s)
    length = measure_length_ms([duration_s], episodes)
    named = build_tiers(episodes, NO_FRAMES, length)
    assert named.keys() == {NAMES[track] or f"track {track}" for track, *_ in rows}
    for intervals in named.values():
        edges = [time for interval in intervals for time in (interval.start_ms, interval.end_ms)]
        assert edges == sorted(edges)
        assert all(0 <= interval.start_ms < interval.end_ms <= length for interval in intervals)
    before: dict[int, int] = {}
    for track, time_s, emotion in sorted(rows, key=lambda row: row[1]):
        time_ms = round(1000 * time_s)
        if time_ms > before.get(track, -1):  # of two moments in a millisecond it says one
            assert texts_at(named[NAMES[track] or f"track {track}"], time_ms) == [emotion]
        before[track] = time_ms


@given(looks())
def test_captions_are_ordered_and_equal_the_intervals(case: tuple[list[Row], float, float]) -> None:
    rows, step_s, duration_s = case
    episodes = episodes_of(rows, step_s)
    named = build_tiers(episodes, NO_FRAMES, measure_length_ms([duration_s], episodes))
    cues = merge_tiers(named)
    for one, next_one in itertools.pairwise(cues):
        assert one.end_ms <= next_one.start_ms
        assert one.end_ms < next_one.start_ms or one.text != next_one.text
    times = {time for own in named.values() for i in own for time in (i.start_ms, i.end_ms - 1, i.end_ms)}
    for time in times:
        lines = [f"{name}: {text}" for name, own in named.items() for text in texts_at(own, time)]
        assert "\n".join(texts_at(cues, time)).splitlines() == lines


@pytest.mark.parametrize(
    ("episodes", "length", "wanted"),
    [
        ([], 0, {}),
        ([], 5000, {}),
        ([(0, None, "sad", 0.0, 1.0)], 5000, {"track 0": [(0, 1000, "sad")]}),
        # it ends with the video
        ([(0, None, "sad", 0.0, 9.0)], 5000, {"track 0": [(0, 5000, "sad")]}),
        # to the millisecond, and one at least
        ([(0, None, "sad", 0.0004, 1.0006)], 5000, {"track 0": [(0, 1001, "sad")]}),
        ([(0, None, "sad", 1.0, 1.0)], 5000, {"track 0": [(1000, 1001, "sad")]}),
        # the next episode of a track cuts a step that is too long
        (
            [(0, None, "sad", 0.0, 1.2), (0, None, "happy", 1.0, 2.0)],
            5000,
            {"track 0": [(0, 1000, "sad"), (1000, 2000, "happy")]},
        ),
        # two tracks at once are two tiers, or, of one person, one after the other
        (
            [(0, None, "sad", 0.0, 2.0), (1, None, "happy", 1.0, 3.0)],
            5000,
            {"track 0": [(0, 2000, "sad")], "track 1": [(1000, 3000, "happy")]},
        ),
        (
            [(0, "Ann", "sad", 0.0, 2.0), (1, "Ann", "happy", 1.0, 3.0), (2, "Ann", "fear", 1.5, 2.5)],
            5000,
            {"Ann": [(0, 2000, "sad"), (2000, 3000, "happy")]},
        ),
        # names that would be one
        (
            [(1, None, "sad", 0.0, 1.0), (2, "track 1", "sad", 0.0, 1.0), (3, "track\n1", "sad", 0.0, 1.0)],
            5000,
            {name: [(0, 1000, "sad")] for name in ("track 1", "track 1 (2)", "track 1 (3)")},
        ),
    ],
)
def test_build_tiers(episodes: list[tuple], length: int, wanted: dict[str, list[tuple]]) -> None:
    assert build_tiers([Episode(*episode) for episode in episodes], NO_FRAMES, length) == wanted


Sampled = tuple[list[tuple[float, float]], list[Episode], float]
"""Start and end of each sampled frame, the episodes of faces, and the length of the video, in seconds."""


@st.composite
def sampled_videos(draw: st.DrawFn) -> Sampled:
    """Generate videos with frame rates, pauses, a late start and an early end, and their faces' episodes."""
    fps = draw(st.sampled_from([10, 23.976, 25, 29.97, 30, 59.94, 90, 120]))
    every = draw(st.integers(1, max(1, round(fps / 4))))
    start_s = draw(st.floats(0, 2))
    counts = draw(st.lists(st.integers(1, 8), min_size=1, max_size=4))  # sampled frames before each pause
    noise = st.floats(-1e-7, 1e-7)  # of sums in another order
    frames: list[tuple[float, float]] = []
    first = 0
    for count in counts:
        lasting = [*[every] * (count - 1), draw(st.integers(1, every))]  # frames of each sampled one
        for k, n in enumerate(lasting):
            begin = first + k * every
            frames.append((begin / fps + start_s, (begin + n) / fps + start_s))
        first += (count + draw(st.integers(3, 20))) * every
    episodes = []
    for track, person in NAMES.items():
        looks = draw(
            st.lists(st.sampled_from(["", "sad", "happy"]), min_size=len(frames), max_size=len(frames))
        )
        run: list[tuple[float, float]] = []
        for k, emotion in enumerate(looks):
            adjoins = k and emotion == looks[k - 1] and abs(frames[k - 1][1] - frames[k][0]) < 1e-6
            if not adjoins:
                run = []
            if emotion and not run:
                episodes.append(Episode(track, person, emotion, frames[k][0] + draw(noise), 0.0))
            if emotion:
                run.append(frames[k])
                episodes[-1] = episodes[-1]._replace(end_s=frames[k][1] + draw(noise))
    length_s = frames[-1][1] - draw(st.floats(0, 0.9)) * (frames[-1][1] - frames[-1][0])
    return frames, episodes, draw(st.sampled_from([length_s, frames[-1][1], frames[-1][1] + 3]))


@example(
    (
        [(0.0, 0.2), (0.2, 0.4), (0.4, 0.44)],
        [Episode(0, None, "sad", 0.0, 0.4), Episode(0, None, "happy", 0.4, 0.44)],
        0.44,
    )
)
@given(sampled_videos())
def test_tiers_have_whole_sampled_frames(case: Sampled) -> None:
    """Intervals of a tier adjoin or are a step apart, and none is shorter. Tiers share their boundaries."""
    frames, episodes, length_s = case
    complete = [b[0] - a[0] for a, b in itertools.pairwise(frames) if abs(a[1] - b[0]) < 1e-6]
    step_ms = round(1000 * min(complete, default=0)) - 1  # as each of two times is rounded
    length = measure_length_ms([length_s], episodes)
    tiers = build_tiers(episodes, FrameGrid(frames), length)
    for intervals in tiers.values():
        assert all(i.end_ms - i.start_ms >= max(step_ms, 1) for i in intervals)
        gaps = [after.start_ms - before.end_ms for before, after in itertools.pairwise(intervals)]
        assert all(gap == 0 or gap >= step_ms for gap in gaps)
    times = sorted({time for own in tiers.values() for i in own for time in i[:2]} - {length})
    exact = {round(1000 * time) for frame in frames for time in frame}
    assert all(any(abs(time - e) <= 1 for e in exact) for time in times)
    assert all(b - a > 1 for a, b in itertools.pairwise(times))


@pytest.mark.parametrize(
    ("seconds", "episodes", "wanted"),
    [
        ([], [], 0),
        ([None, None], [], 0),
        ([10.0, 9.0], [], 10_000),
        ([None, 9.0], [(0, None, "sad", 0.0, 9.2)], 9000),
        ([1.0], [(0, None, "sad", 1.0, 1.2)], 1201),
    ],
)
def test_measure_length(seconds: list[float | None], episodes: list[tuple], wanted: int) -> None:
    assert measure_length_ms(seconds, [Episode(*episode) for episode in episodes]) == wanted


HOSTILE = [
    '"; DROP TABLE',
    "<script>alert(1)</script>",
    "a --> b & c",
    "=HYPERLINK(1)",
    "two\nlines\n\nWEBVTT\r\n00:00.000 --> 00:09.000",
    "\x00\x1b[31m\ufffe",
    "漢字 é 🙂",
    "NOTE",
]


def annotated(tiers: dict[str, list[Interval]], length: int = 5000) -> Annotations:
    return Annotations(
        uri="/a b/é#?%.mp4", length_ms=length, tiers=tiers, notes=["Video: a --> <b>", *HOSTILE]
    )


def of_vtt(path: Path) -> dict[str, list[tuple[int, int, str]]]:
    read: dict[str, list[tuple[int, int, str]]] = {}
    for caption in webvtt.read(str(path)):
        for line in caption.text.split("\n"):
            name, _, text = line.rpartition(": ")
            times = [round(1000 * s) for s in (caption.start_in_seconds, caption.end_in_seconds)]
            times = [t // 1000 * 1000 + m for t, m in zip(times, milliseconds(caption), strict=True)]
            read.setdefault(unescaped(name), []).append((times[0], times[1], unescaped(text)))
    return read


def of_srt(path: Path) -> dict[str, list[tuple[int, int, str]]]:
    """Read the captions as `of_vtt` does, with < and > for the characters that replace them."""
    content = path.read_text(encoding="utf-8")
    if not content:
        return {}
    converted = path.with_suffix(".vtt")
    webvtt.from_buffer(content.splitlines(), format="srt").save(str(converted))
    brackets = str.maketrans("‹›", "<>")
    return {
        name.translate(brackets): [(start, end, text.translate(brackets)) for start, end, text in own]
        for name, own in of_vtt(converted).items()
    }


def milliseconds(caption: webvtt.Caption) -> list[int]:
    return [int(clock.rpartition(".")[2]) for clock in (caption.start, caption.end)]


def unescaped(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def of_eaf(path: Path) -> dict[str, list[tuple[int, int, str]]]:
    eaf = Eaf(str(path))
    names = [name for name in eaf.get_tier_names() if name != "default"]
    return {name: sorted(eaf.get_annotation_data_for_tier(name)) for name in names}


def of_textgrid(path: Path) -> dict[str, list[tuple[int, int, str]]]:
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
    return {
        tier.name: [(round(1000 * start), round(1000 * end), text) for start, end, text in tier.entries]
        for tier in grid.tiers
        if tier.name != "no episodes"
    }


Write = Callable[[Path, Annotations], int]
Read = Callable[[Path], dict[str, list[tuple[int, int, str]]]]
FORMATS: list[tuple[Write, Read]] = [
    (write_vtt, of_vtt),
    (write_srt, of_srt),
    (write_eaf, of_eaf),
    (write_textgrid, of_textgrid),
]


@pytest.mark.parametrize(("write", "read"), FORMATS)
@pytest.mark.parametrize("length", [0, 5000])
def test_files_without_episodes(write: Write, read: Read, length: int, tmp_path: Path) -> None:
    assert write(tmp_path / "file", annotated({}, length)) == 0
    assert read(tmp_path / "file") == {}


@pytest.mark.parametrize(("write", "read"), FORMATS)
def test_files_equal_intervals_with_any_names(write: Write, read: Read, tmp_path: Path) -> None:
    episodes = [
        Episode(number, name, name, number * 1.25, number * 1.25 + 1) for number, name in enumerate(HOSTILE)
    ]
    named = build_tiers(episodes, NO_FRAMES, 20_000)
    assert len(named) == len(HOSTILE)
    assert write(tmp_path / "file", annotated(named, 20_000)) == len(HOSTILE)
    assert read(tmp_path / "file") == named


@given(looks())
def test_files_equal_the_rows(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[list[Row], float, float]
) -> None:
    rows, step_s, duration_s = case
    path = tmp_path_factory.mktemp("files") / "file"
    episodes = episodes_of(rows, step_s)
    length = measure_length_ms([duration_s], episodes)
    named = {name: own for name, own in build_tiers(episodes, NO_FRAMES, length).items() if own}
    for write, read in FORMATS[2:]:
        path.unlink(missing_ok=True)
        assert write(path, annotated(named, length)) == sum(map(len, named.values()))
        assert read(path) == named


def test_textgrid_covers_the_whole_video(tmp_path: Path) -> None:
    """Praat rejects other files."""
    named = {"track 0": [Interval(1000, 2000, "sad"), Interval(2500, 3000, "happy")], "Ann": []}
    write_textgrid(tmp_path / "file", annotated(named))
    for tier in textgrid.openTextgrid(str(tmp_path / "file"), includeEmptyIntervals=True).tiers:
        assert tier.entries[0].start == 0
        assert tier.entries[-1].end == 5
        assert all(one.end == other.start for one, other in itertools.pairwise(tier.entries))


def test_eaf_links_the_video(tmp_path: Path) -> None:
    write_eaf(tmp_path / "file", annotated({}))
    (linked,) = Eaf(str(tmp_path / "file")).get_linked_files()
    assert linked["MEDIA_URL"] == "file:///a%20b/%C3%A9%23%3F%25.mp4"
    assert linked["MIME_TYPE"] == "video/mp4"


def test_vtt_has_notes(tmp_path: Path) -> None:
    write_vtt(tmp_path / "file", annotated({"Ann": [Interval(0, 1000, "sad")]}))
    (note,) = webvtt.read(str(tmp_path / "file")).header_comments
    assert note.startswith("Video: a --&gt; &lt;b&gt;\n")
    assert (tmp_path / "file").read_text().startswith("WEBVTT\n\nNOTE\n")
