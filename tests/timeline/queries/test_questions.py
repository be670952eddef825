"""Questions to a timeline: the right answers, also where nothing was seen, and one line for what can't be."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.errors import QueryError
from fer_batch.run.record import add_manifest_columns
from fer_batch.schema import EMOTIONS
from fer_batch.timeline.assign import assign_by_position
from fer_batch.timeline.store import Timeline, open_timeline
from fer_batch.timeline.views import episodes_sql
from tests.runs import Seen, add_videos, write_run, write_tables
from tests.s3 import BUCKET, Store
from tests.timeline.videos import EMPTY, TALK, VIDEOS


@pytest.fixture(scope="module")
def timeline(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    out = write_tables(tmp_path_factory.mktemp("questions") / "out", VIDEOS)
    assign_by_position(out, ["Ann", "Bo"], ["talk.mp4"])
    return open_timeline(out)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    return open_timeline(write_tables(tmp_path_factory.mktemp("nothing") / "out", {}))


ALL: dict[str, Callable[[Timeline], duckdb.DuckDBPyRelation]] = {
    "shares": Timeline.shares,
    "shares of all": lambda t: t.shares(by=[]),
    "shares by all": lambda t: t.shares(by=["video", "person", "track"], every_s=1.0),
    "episodes": Timeline.episodes,
    "peaks": Timeline.peaks,
    "peaks of happy": lambda t: t.peaks("happy"),
    "turning points": lambda t: t.turning_points(0.4),
    "co-occurrence": Timeline.co_occurrence,
    "co-occurrence of all": lambda t: t.co_occurrence(by=[]),
    "co-occurrence by pair": lambda t: t.co_occurrence(by=["video", "pair"]),
    "baseline": Timeline.baseline,
    "smooth": Timeline.smooth,
    "resample": Timeline.resample,
    "resample by person": lambda t: t.resample(by="person"),
}


@pytest.mark.parametrize("question", ALL.values(), ids=ALL)
def test_nothing_was_looked_at(question: Callable[..., Any], nothing: Timeline) -> None:
    assert question(nothing).fetchall() == []


@pytest.mark.parametrize("question", ALL.values(), ids=ALL)
def test_answers_come_as_pandas_polars_and_arrow(question: Callable[..., Any], timeline: Timeline) -> None:
    answer = question(timeline)
    rows = len(answer.fetchall())
    assert rows > 0
    assert answer.df().columns.tolist() == answer.pl().columns == answer.to_arrow_table().column_names
    assert len(answer.df()) == len(answer.pl()) == len(answer.to_arrow_table()) == rows


def seen(answer: duckdb.DuckDBPyRelation, *columns: str) -> list[tuple[Any, ...]]:
    """Rows of an answer: these columns, numbers to four places."""
    rows = answer.df()[list(columns)].itertuples(index=False)
    return [tuple(round(v, 4) if isinstance(v, float) else v for v in row) for row in rows]


@pytest.mark.parametrize(
    ("options", "columns", "rows"),
    [
        ({"video": EMPTY}, ["emotion"], []),
        (
            {"video": "shop.mp4"},
            ["emotion", "moments", "seconds", "share", "mean"],
            [("happy", 3, 0.6, 1.0, 0.9)]
            + [(e, 0, 0.0, 0.0, 0.0167) for e in sorted({*EMOTIONS} - {"happy"})],
        ),
        (
            {"by": ["person"], "video": "talk.mp4"},
            ["person", "emotion", "moments"],
            [("Ann", "happy", 7), ("Ann", "sad", 3)]
            + [("Ann", e, 0) for e in sorted({*EMOTIONS} - {"happy", "sad"})]
            + [("Bo", "sad", 7), ("Bo", "happy", 4), ("Bo", "neutral", 1)]
            + [("Bo", e, 0) for e in sorted({*EMOTIONS} - {"happy", "sad", "neutral"})],
        ),
        ({"by": [], "start_s": 0.4, "end_s": 0.8, "track": 0}, ["emotion", "moments"], [("happy", 4)]),
        ({"by": [], "every_s": 1.0, "person": "Ann"}, ["start_s", "moments"], [(0.0, 5), (1.0, 3), (1.0, 2)]),
    ],
    ids=["no faces", "one video", "persons", "an interval", "every second"],
)
def test_shares(timeline: Timeline, options: Any, columns: list[str], rows: list[Any]) -> None:
    found = seen(timeline.shares(**options), *columns)
    if options.get("by") == []:
        found = [row for row in found if row[-1]]
    assert found == rows


def test_shares_sum_to_one(timeline: Timeline) -> None:
    sums = timeline.shares(by=["track"], every_s=0.6).df().groupby(["uri", "track_id", "start_s"])
    assert sums["share"].sum().to_numpy() == pytest.approx(1)
    assert sums["mean"].sum().to_numpy() == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"video": "empty.mp4"}, []),
        ({"emotion": "fear"}, []),
        ({"video": "shop.mp4"}, [(0, "happy", 0.4, 1.0, 3, 0.4)]),
        (
            {"person": "Bo"},
            [(1, "sad", 0.0, 0.6, 3, 0.0), (1, "sad", 0.8, 1.6, 4, 0.8), (1, "happy", 1.8, 2.6, 4, 1.8)],
        ),
        ({"track": 0, "video": TALK, "min_s": 0.7}, [(0, "happy", 0.0, 1.0, 5, 0.6)]),
        ({"track": 0, "video": TALK, "threshold": 0.8, "min_s": 0.0}, [(0, "happy", 0.6, 0.8, 1, 0.6)]),
        ({"emotion": "sad", "person": "Ann"}, [(0, "sad", 1.0, 1.6, 3, 1.0)]),
        ({"start_s": 1.8, "person": "Bo", "min_s": 0.1}, [(1, "happy", 1.8, 2.6, 4, 1.8)]),
    ],
    ids=["no faces", "none", "one", "a gap", "longer", "a moment", "one emotion", "from a time on"],
)
def test_episodes(timeline: Timeline, options: Any, rows: list[Any]) -> None:
    columns = ("track_id", "emotion", "start_s", "end_s", "moments", "peak_s")
    assert seen(timeline.episodes(**options), *columns) == rows


def test_the_view_has_the_episodes_of_the_defaults(timeline: Timeline) -> None:
    order = ["uri", "track_id", "start_s"]
    ours = timeline.sql("FROM episodes").df().sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(ours, timeline.episodes().df())


WORDS = st.lists(st.sampled_from(["happy", "sad", "unsure", "gone"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, max_size=3), st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.sampled_from([0, 4, 993]))
def test_episodes_are_the_longest_runs(tracks: list[list[str]], min_s: float, begin_s: int) -> None:
    rows = [
        (
            "v",
            "/v",
            track,
            None,
            begin_s + k * 0.2,
            "happy" if word == "unsure" else word,
            0.3 if word == "unsure" else 0.9,
        )
        for track, words in enumerate(tracks)
        for k, word in enumerate(words)
        if word != "gone"
    ]
    connection = duckdb.connect()
    names = ["video_id", "uri", "track_id", "person", "time_s", "emotion", "confidence"]
    tables = {
        "tracks": pd.DataFrame(rows[::-1], columns=names).astype({"time_s": float, "confidence": float}),
        "videos": pd.DataFrame({"video_id": ["v"], "read_s": [2.4 + begin_s], "moments": [12 + 5 * begin_s]}),
    }
    for name, table in tables.items():
        connection.register(name, table)
    wanted = []
    for track, words in enumerate(tracks):
        first = 0
        for word, run in itertools.groupby(words):
            count = len(list(run))
            if word in ("happy", "sad") and count * 0.2 >= min_s - 1e-6:
                span = round(begin_s + first * 0.2, 6), round(begin_s + (first + count) * 0.2, 6)
                wanted.append((track, word, *span, count))
            first += count
    found = connection.sql(f"FROM ({episodes_sql(0.6, min_s)}) ORDER BY track_id, start_s").df()
    columns = ["track_id", "emotion", "start_s", "end_s", "moments"]
    assert [tuple(row) for row in found[columns].round(6).itertuples(index=False)] == wanted


@pytest.mark.parametrize(
    ("read_s", "min_s", "wanted"),
    [
        (1.04, 0.0, [(0.0, 1.04)]),  # 26 frames of 25 a second, five of which a second are looked at
        (1.04, 1.1, []),
        (1.2, 1.1, [(0.0, 1.2)]),
        (1.26, 0.0, [(0.0, 1.21)]),
    ],
)
def test_no_episode_goes_on_after_what_was_read(
    read_s: float, min_s: float, wanted: list[tuple[float, float]]
) -> None:
    times = [k / 5 for k in range(6)]
    connection = duckdb.connect()
    tables = {
        "tracks": pd.DataFrame({"time_s": times, "confidence": 0.9}).assign(
            video_id="v", uri="/v", track_id=0, person=None, emotion="happy"
        ),
        "videos": pd.DataFrame({"video_id": ["v"], "read_s": [read_s], "moments": [6]}),
    }
    for name, table in tables.items():
        connection.register(name, table)
    found = connection.sql(f"SELECT start_s, end_s, duration_s FROM ({episodes_sql(0.6, min_s)})").fetchall()
    assert [(start, end) for start, end, _ in found] == [pytest.approx(span) for span in wanted]
    assert [length for *_, length in found] == [pytest.approx(end - start) for start, end in wanted]


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"emotion": "fear"}, []),
        ({"video": "shop.mp4"}, [("happy", 0.4, 0.9)]),
        (
            {"person": "Ann", "emotion": "happy", "distance_s": 0.7},
            [("happy", 0.6, 0.9), ("happy", 1.6, 0.7)],
        ),
        ({"person": "Ann", "emotion": "happy", "distance_s": 5.0}, [("happy", 0.6, 0.9)]),
        ({"person": "Ann", "threshold": 0.8}, [("happy", 0.6, 0.9)]),
    ],
    ids=["none", "equal ones", "near", "far", "threshold"],
)
def test_peaks(timeline: Timeline, options: Any, rows: list[Any]) -> None:
    assert seen(timeline.peaks(**options), "emotion", "time_s", "probability") == rows


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"video": "empty.mp4"}, []),
        ({"video": "shop.mp4"}, []),
        ({"person": "Ann", "min_s": 0.6}, [(1.0, "happy", "sad", 0.0)]),
        ({"person": "Ann", "min_s": 0.4}, [(1.0, "happy", "sad", 0.0), (1.6, "sad", "happy", 0.0)]),
        ({"person": "Ann", "min_s": 1.0}, []),
        ({"person": "Bo", "min_s": 0.5}, [(1.8, "sad", "happy", 0.2)]),
    ],
    ids=["no faces", "one emotion", "a change", "two", "too short", "over a gap and a doubt"],
)
def test_turning_points(timeline: Timeline, options: Any, rows: list[Any]) -> None:
    found = timeline.turning_points(**options)
    assert seen(found, "time_s", "before", "after", "gap_s") == rows


def test_co_occurrence(timeline: Timeline) -> None:
    by_pair = timeline.co_occurrence(by=["pair"]).df()
    assert set(by_pair["face_a"]) == {"Ann"} and set(by_pair["face_b"]) == {"Bo"}
    counted = {(r.emotion_a, r.emotion_b): r.pairs for r in by_pair.itertuples()}
    assert counted == {
        ("happy", "sad"): 4,  # of 0, 0.2, 0.4 and 0.8 s; at 0.6 s Bo was not seen
        ("sad", "sad"): 3,
        ("happy", "neutral"): 1,
        ("happy", "happy"): 1,
    }
    assert by_pair["share"].sum() == pytest.approx(1)
    sad = by_pair[(by_pair["emotion_a"] == "sad")]["lift"].item()
    assert sad == pytest.approx(3 / 9 / (3 / 9 * 7 / 9))
    together = timeline.co_occurrence(by=[]).df()
    counted = {(r.emotion_a, r.emotion_b): r.pairs for r in together.itertuples()}
    assert counted == {("happy", "sad"): 4, ("sad", "sad"): 3, ("happy", "neutral"): 1, ("happy", "happy"): 1}
    assert together["share"].sum() == pytest.approx(1)
    lift = together[(together["emotion_a"] == "happy") & (together["emotion_b"] == "sad")]["lift"].item()
    assert lift == pytest.approx(4 / 18 / (7 / 18 * 10 / 18))  # of 18 faces in 9 pairs 7 and 10


def test_an_emotion_is_named_in_any_case(timeline: Timeline) -> None:
    assert timeline.peaks("HAPPY").fetchall() == timeline.peaks("happy").fetchall() != []
    assert timeline.episodes("Happy").fetchall() == timeline.episodes("happy").fetchall()


WRONG: dict[str, tuple[Callable[[Timeline], Any], str]] = {
    "emotion": (lambda t: t.episodes("joy"), "There is no emotion joy; this run has angry"),
    "threshold": (lambda t: t.peaks(threshold=60), "The threshold must be between 0 and 1, got 60"),
    "length": (lambda t: t.episodes(min_s=-1), "min_s must be 0 or more, got -1"),
    "no time": (
        lambda t: t.shares(start_s=3, end_s=1),
        "got start 3 s and end 1 s",
    ),
    "interval": (lambda t: t.shares(every_s=0), "every_s must be above 0, got 0"),
    "not a number": (lambda t: t.smooth(float("nan")), "must be above 0"),
    "group": (lambda t: t.shares(by=["age"]), "allowed are video, person, track"),
    "pair": (lambda t: t.shares(by=["pair"]), "Cannot group by pair"),
    "pair's person": (
        lambda t: t.co_occurrence(by="person"),
        "by person; allowed are video, pair",
    ),
    "one group": (lambda t: t.shares(by="age"), "Cannot group by age; allowed"),
    "person": (lambda t: t.shares(person="Cy"), "has no person Cy; it has Ann, Bo"),
    "video": (lambda t: t.shares(video="gone.mp4"), "has no video gone.mp4"),
    "baseline": (lambda t: t.baseline(by="video"), "by person or track, got video"),
    "grid": (lambda t: t.resample(by="face"), "by video, person or track, got face"),
}


@pytest.mark.parametrize(("question", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_asked_is_said(timeline: Timeline, question: Any, message: str) -> None:
    with pytest.raises(QueryError, match=message.replace("(", r"\(")):
        question(timeline)


OWN = ["place", "step_s", "cell", "face", "number", "n", "start_s", "before", "emotion_a", "person", "happy"]


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    out = write_run(tmp_path_factory.mktemp("owned") / "out", {})
    add_manifest_columns(out, dict.fromkeys(OWN, "string"))
    add_videos(out, {TALK: [["happy", "happy", "sad", "sad"], ["sad"] * 4]})
    assign_by_position(out, ["Ann", "Bo"])
    return open_timeline(out)


@pytest.mark.parametrize("question", ALL.values(), ids=ALL)
def test_owners_call_their_columns_as_they_like(question: Callable[..., Any], owned: Timeline) -> None:
    assert question(owned).fetchall()


def test_one_group_needs_no_list(timeline: Timeline) -> None:
    for question in (Timeline.shares, Timeline.co_occurrence):
        assert question(timeline, by="video").fetchall() == question(timeline, by=["video"]).fetchall()
    assert "face_a" in timeline.co_occurrence(by="pair").columns


def test_reads_only_the_columns_it_needs(timeline: Timeline) -> None:
    """By DuckDB's own account."""
    plan = timeline.shares(by=[], video="shop.mp4").explain()
    assert "emotion" in plan and "p_happy" in plan
    for column in ("box_x0", "frame_index", "face_px", "blur", "model_id"):
        assert column not in plan


def test_reads_only_the_parts_that_it_needs_from_a_store(store: Store, tmp_path: Path) -> None:
    grid_s = [k / 5 for k in range(2000)]
    chance = np.random.default_rng(0)
    videos = {
        f"/a/{number}.mp4": Seen(
            duration_s=400.0,
            moments_s=grid_s,
            faces=[(0, time_s, "happy", float(chance.uniform(0.5, 1)), 0.1) for time_s in grid_s],
        )
        for number in range(6)
    }
    out = write_tables(tmp_path / "out", videos)
    for path in out.rglob("*"):
        if path.is_file():
            store.put(f"results/{path.relative_to(out)}", path.read_bytes())
    there = open_timeline(f"s3://{BUCKET}/results")

    def bytes_for(asked: Callable[[], duckdb.DuckDBPyRelation]) -> int:
        before = store.answers["bytes"]
        assert asked().fetchall()
        return store.answers["bytes"] - before

    everything = bytes_for(lambda: there.sql("SELECT * FROM tracks"))
    shares_of_one = bytes_for(lambda: there.shares(video="3.mp4"))
    emotions = bytes_for(lambda: there.sql("SELECT emotion, count(*) FROM tracks GROUP BY 1"))
    assert shares_of_one < everything / 4
    assert emotions < everything / 4
    assert bytes_for(lambda: there.peaks(video="3.mp4")) < everything / 4
    local = open_timeline(out)
    for question in (Timeline.shares, Timeline.episodes, Timeline.peaks, Timeline.smooth):
        assert question(there).fetchall() == question(local).fetchall()
