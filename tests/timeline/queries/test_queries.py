"""Behaviour that all queries share: filters, groups, empty runs, result types, messages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from fer_batch.errors import QueryError
from fer_batch.run.record import add_manifest_columns
from fer_batch.timeline.assign import assign_by_position
from fer_batch.timeline.store import Timeline, open_timeline
from tests.runs import VideoContent, add_videos, write_run, write_tables
from tests.s3 import BUCKET, Store
from tests.timeline.videos import TALK

QUERIES: dict[str, Callable[[Timeline], duckdb.DuckDBPyRelation]] = {
    "shares": Timeline.shares,
    "weighted shares": lambda t: t.shares(weigh="probability", unsure=True),
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


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_empty_run_gives_no_rows(query: Callable[..., Any], empty_timeline: Timeline) -> None:
    assert query(empty_timeline).fetchall() == []


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_results_convert_to_pandas_polars_and_arrow(query: Callable[..., Any], timeline: Timeline) -> None:
    answer = query(timeline)
    rows = len(answer.fetchall())
    assert rows > 0
    assert answer.df().columns.tolist() == answer.pl().columns == answer.to_arrow_table().column_names
    assert len(answer.df()) == len(answer.pl()) == len(answer.to_arrow_table()) == rows


def test_emotion_name_ignores_case(timeline: Timeline) -> None:
    assert timeline.peaks("HAPPY").fetchall() == timeline.peaks("happy").fetchall() != []
    assert timeline.episodes("Happy").fetchall() == timeline.episodes("happy").fetchall()


INVALID: dict[str, tuple[Callable[[Timeline], Any], str]] = {
    "emotion": (lambda t: t.episodes("love"), "There is no emotion love; this run has angry"),
    "threshold": (lambda t: t.peaks(threshold=60), "The threshold must be between 0 and 1, got 60"),
    "length": (lambda t: t.episodes(min_s=-1), "min_s must be 0 or more, got -1"),
    "no time": (lambda t: t.shares(start_s=3, end_s=1), "got start 3 s and end 1 s"),
    "interval": (lambda t: t.shares(every_s=0), "every_s must be above 0, got 0"),
    "not a number": (lambda t: t.smooth(float("nan")), "must be above 0"),
    "group": (lambda t: t.shares(by=["age"]), "allowed are video, person, track"),
    "pair": (lambda t: t.shares(by=["pair"]), "Cannot group by pair"),
    "pair's person": (lambda t: t.co_occurrence(by="person"), "by person; allowed are video, pair"),
    "one group": (lambda t: t.shares(by="age"), "Cannot group by age; allowed"),
    "person": (lambda t: t.shares(person="Cy"), "has no person Cy; it has Ann, Bo"),
    "video": (lambda t: t.shares(video="gone.mp4"), "has no video gone.mp4"),
    "baseline": (lambda t: t.baseline(by="video"), "by person or track, got video"),
    "grid": (lambda t: t.resample(by="face"), "by video, person or track, got face"),
    "confidence": (
        lambda t: t.shares(min_confidence=50),
        "min_confidence must be at least 0 and at most 1",
    ),
    "face size": (lambda t: t.episodes(min_face_px=-1), "min_face_px must be at least 0, got -1"),
    "sharpness": (lambda t: t.peaks(min_sharpness=float("inf")), "min_sharpness must be at least 0, got inf"),
    "yaw": (lambda t: t.smooth(max_yaw_deg=90), "max_yaw_deg must be at least 0 and below 90, got 90"),
    "weight": (lambda t: t.shares(weigh="mean"), "weighed by count or probability, got mean"),
    "text": (lambda t: t.to_pandas(max_yaw_deg="30"), "max_yaw_deg must be a number, got 30"),
}


@pytest.mark.parametrize(("query", "message"), INVALID.values(), ids=INVALID)
def test_invalid_argument_raises_query_error(timeline: Timeline, query: Any, message: str) -> None:
    with pytest.raises(QueryError, match=message.replace("(", r"\(")):
        query(timeline)


MANIFEST_COLUMNS = [
    "place",
    "step_s",
    "cell",
    "face",
    "number",
    "n",
    "start_s",
    "before",
    "emotion_a",
    "person",
    "happy",
]


@pytest.fixture(scope="module")
def manifest_timeline(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    out = write_run(tmp_path_factory.mktemp("manifest_timeline") / "out", {})
    add_manifest_columns(out, dict.fromkeys(MANIFEST_COLUMNS, "string"))
    add_videos(out, {TALK: [["happy", "happy", "sad", "sad"], ["sad"] * 4]})
    assign_by_position(out, ["Ann", "Bo"])
    return open_timeline(out)


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_manifest_columns_may_have_any_name(query: Callable[..., Any], manifest_timeline: Timeline) -> None:
    assert query(manifest_timeline).fetchall()


def test_single_group_may_be_a_string(timeline: Timeline) -> None:
    for query in (Timeline.shares, Timeline.co_occurrence):
        assert query(timeline, by="video").fetchall() == query(timeline, by=["video"]).fetchall()
    assert "face_a" in timeline.co_occurrence(by="pair").columns


def test_query_reads_only_needed_columns(timeline: Timeline) -> None:
    """The plan that DuckDB explains names all columns that it reads."""
    plan = timeline.shares(by=[], video="shop.mp4").explain()
    assert "emotion" in plan and "p_happy" in plan
    for column in ("box_x0", "frame_index", "face_px", "blur", "model_id"):
        assert column not in plan


def test_query_reads_only_needed_parts_of_a_store(store: Store, tmp_path: Path) -> None:
    grid_s = [k / 5 for k in range(2000)]
    chance = np.random.default_rng(0)
    videos = {
        f"/a/{number}.mp4": VideoContent(
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
    remote = open_timeline(f"s3://{BUCKET}/results")

    def bytes_for(run_query: Callable[[], duckdb.DuckDBPyRelation]) -> int:
        before = store.answers["bytes"]
        assert run_query().fetchall()
        return store.answers["bytes"] - before

    everything = bytes_for(lambda: remote.sql("SELECT * FROM tracks"))
    shares_of_one = bytes_for(lambda: remote.shares(video="3.mp4"))
    emotions = bytes_for(lambda: remote.sql("SELECT emotion, count(*) FROM tracks GROUP BY 1"))
    assert shares_of_one < everything / 4
    assert emotions < everything / 4
    assert bytes_for(lambda: remote.peaks(video="3.mp4")) < everything / 4
    local = open_timeline(out)
    for query in (Timeline.shares, Timeline.episodes, Timeline.peaks, Timeline.smooth):
        assert query(remote).fetchall() == query(local).fetchall()


def test_result_can_be_read_again_and_filtered(random_timeline: Timeline) -> None:
    answer = random_timeline.smooth()
    rows = answer.fetchall()
    assert answer.fetchall() == rows
    assert answer.limit(3).fetchall() == rows[:3]
    assert answer.filter("track_id = 1 AND uri = '/b.mp4'").fetchall() == [
        row for row in rows if row[1:3] == ("/b.mp4", 1)
    ]
