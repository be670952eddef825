"""Timelines: rows by SQL and as pandas, names of videos, and access to nothing else."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import fer_batch
from fer_batch.config import AnalyzeConfig
from fer_batch.errors import OutputError, QueryError
from fer_batch.run.finalize import finalize
from fer_batch.run.plan import read_planned_videos
from fer_batch.run.record import create_run, load_matching_run
from fer_batch.run.snapshot import TABLES
from fer_batch.schema import EMOTIONS, tracks_schema
from fer_batch.timeline.store import Timeline, open_timeline
from tests.runs import CARD, Tracks, add_videos, are_tables_equal, read_all_rows, video_id, write_run

VIDEOS: dict[str, Tracks | None] = {
    "/talks/50%_off.mp4": [["happy", "happy", "sad"], ["neutral", "neutral"]],
    "/talks/50 per cent off.mp4": [["angry"]],
    "/talks/wow!.mp4": [["surprise"] * 4],
    "/talks/it's.mp4": [["fear"]],
    "/talks/old/wow!.mp4": [["sad"] * 2],
    "/talks/empty.mp4": [],
    "/talks/broken.mp4": None,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("timeline") / "run", VIDEOS)


@pytest.fixture(scope="module")
def timeline(finished: Path) -> Timeline:
    return open_timeline(finished)


@pytest.mark.parametrize("videos", [{}, {"/a.mp4": None}, {"/a.mp4": []}], ids=["none", "failed", "no faces"])
def test_run_without_faces_has_all_tables(tmp_path: Path, videos: dict[str, Any]) -> None:
    timeline = open_timeline(write_run(tmp_path / "run", videos))
    assert timeline.classes == EMOTIONS
    assert len(timeline.to_pandas()) == 0
    assert timeline.sql("SELECT count(*) FROM tracks").fetchall() == [(0,)]
    assert timeline.sql("SELECT count(*) FROM videos").fetchall() == [(len(videos),)]
    assert timeline.videos()["faces"].tolist() == [0] * len(videos)
    wanted = [*(name for name in tracks_schema(EMOTIONS).names if name != "bucket"), "person"]
    assert timeline.to_pandas().columns.tolist() == wanted
    assert timeline.sql("SELECT * FROM tracks").columns == wanted


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT * FROM tracks WHERE false", []),
        ("SELECT count(*) FROM tracks", [(13,)]),
        ("SELECT count(*), sum(faces) FROM moments", [(30, 13)]),
        (
            "SELECT status, count(*) FROM videos GROUP BY 1 ORDER BY 2, 1 LIMIT 2",
            [("failed", 1), ("no_faces", 1)],
        ),
        ("SELECT error FROM videos WHERE error IS NOT NULL", [("no index",)]),
        ("SELECT emotion, count(*) AS n FROM tracks GROUP BY 1 HAVING n > 3 ORDER BY 1", [("surprise", 4)]),
        ("WITH x AS (SELECT max(time_s) AS last FROM tracks) SELECT round(last, 3) FROM x;", [(0.6,)]),
        ("FROM tracks SELECT DISTINCT model_id", [(CARD.model_id,)]),
        ("VALUES (1)", [(1,)]),
        ("SELECT tracks FROM videos JOIN tracks USING (video_id) WHERE emotion = 'fear'", [(1,)]),
    ],
)
def test_sql_returns_rows(timeline: Timeline, query: str, rows: list[tuple[Any, ...]]) -> None:
    assert timeline.sql(query).fetchall() == rows


@pytest.mark.parametrize("table", TABLES)
def test_describe_lists_columns(timeline: Timeline, table: str) -> None:
    columns = [row[0] for row in timeline.sql(f"DESCRIBE {table}").fetchall()]
    assert "video_id" in columns
    assert "bucket" not in columns


def test_rows_equal_the_files_of_the_table(timeline: Timeline, finished: Path) -> None:
    plain = pd.read_parquet(finished / "tracks").drop(columns="bucket")
    order = ["uri", "track_id", "time_s"]
    ours = timeline.to_pandas().drop(columns="person")
    pd.testing.assert_frame_equal(plain.sort_values(order).reset_index(drop=True), ours, check_dtype=False)


OFF, WOW, OLD = "/talks/50%_off.mp4", "/talks/wow!.mp4", "/talks/old/wow!.mp4"


@pytest.mark.parametrize(
    ("filters", "rows"),
    [
        ({"video": "/talks/empty.mp4"}, 0),
        ({}, 13),
        ({"video": video_id(OFF)}, 5),
        ({"video": OFF}, 5),
        ({"video": "50%_off.mp4"}, 5),
        ({"video": WOW}, 4),
        ({"video": "old/wow!.mp4"}, 2),
        ({"video": "it's.mp4"}, 1),
        ({"video": Path("it's.mp4")}, 1),
        ({"video": OFF, "track": 0}, 3),
        ({"video": OFF, "track": 1}, 2),
        ({"track": 7}, 0),
        ({"start_s": 0.2}, 7),
        ({"end_s": 0.2}, 6),
        ({"start_s": 0.2, "end_s": 0.4}, 4),
        ({"start_s": 0.2, "end_s": 0.2}, 0),
        ({"video": OFF, "track": 0, "start_s": 0.1, "end_s": 9}, 2),
    ],
)
def test_to_pandas_filters_rows(timeline: Timeline, filters: dict[str, Any], rows: int) -> None:
    frame = timeline.to_pandas(**filters)
    assert len(frame) == rows
    assert frame.equals(frame.sort_values(["uri", "track_id", "time_s"]))
    assert set(frame["emotion"]) <= set(EMOTIONS)


@pytest.mark.parametrize("kind", [int, np.int32, np.int64])
def test_track_may_be_any_integer_type(timeline: Timeline, kind: type) -> None:
    assert len(timeline.to_pandas(video=OFF, track=kind(1))) == 2


def test_repr_counts_videos_frames_and_tracks(timeline: Timeline, finished: Path) -> None:
    assert repr(timeline) == f"<Timeline of {finished}: 7 videos, 30 sampled frames, 6 tracks>"


def test_methods_take_file_names_and_write_files(timeline: Timeline, tmp_path: Path) -> None:
    assert timeline.episodes("fear", video="it's.mp4", min_s=0).df()["uri"].tolist() == ["/talks/it's.mp4"]
    for figure in (
        timeline.plot_ribbons("it's.mp4"),
        timeline.plot_shares("it's.mp4"),
        timeline.plot_strip(),
    ):
        assert figure._repr_png_().startswith(b"\x89PNG")
    (file,) = timeline.export(tmp_path / "rows.csv", videos=["it's.mp4"])
    assert file.entries == 1
    assert (
        timeline.write_report("it's.mp4", tmp_path / "page.html") == (tmp_path / "page.html").stat().st_size
    )


def test_videos_returns_mean_probabilities(timeline: Timeline) -> None:
    summary = timeline.videos().set_index("uri")
    assert summary.index.tolist() == sorted(VIDEOS)
    assert summary.loc["/talks/broken.mp4", ["status", "error", "faces"]].tolist() == [
        "failed",
        "no index",
        0,
    ]
    assert summary.loc["/talks/empty.mp4", ["status", "moments", "faces"]].tolist() == ["no_faces", 5, 0]
    seen = summary.loc[OFF]
    assert seen[["status", "moments", "moments_with_face", "tracks", "faces"]].tolist() == ["ok", 5, 3, 2, 5]
    assert seen["happy"] == pytest.approx((2 * 0.9 + 3 * 0.1 / 6) / 5)
    assert seen[list(EMOTIONS)].sum() == pytest.approx(1)
    assert summary.loc["/talks/empty.mp4", list(EMOTIONS)].isna().all()


WRITES = "; it writes"
NOT_ONE_STATEMENT = "must be one SELECT statement"
NO_FILES = "disabled by configuration|is not allowed after FROM"


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", NOT_ONE_STATEMENT),
        (" ; ", NOT_ONE_STATEMENT),
        ("-- SELECT 1", NOT_ONE_STATEMENT),
        ("SELECT 1; SELECT 2", "has 2 statements"),
        ("SELECT 1; DROP VIEW tracks", "has 2 statements"),
        ("COPY tracks TO 'copy.csv'", WRITES),
        ("COPY (SELECT 1) TO 'copy.parquet' (FORMAT parquet)", WRITES),
        ("EXPORT DATABASE 'everything'", WRITES),
        ("ATTACH 'other.db'", WRITES),
        ("CREATE TABLE t (a INT)", WRITES),
        ("CREATE TEMP TABLE t AS SELECT * FROM tracks", WRITES),
        ("CREATE OR REPLACE VIEW tracks AS SELECT 1", WRITES),
        ("CREATE SECRET s (TYPE s3)", WRITES),
        ("INSERT INTO tracks SELECT * FROM tracks", WRITES),
        ("WITH x AS (SELECT * FROM tracks) INSERT INTO tracks SELECT * FROM x", WRITES),
        ("UPDATE tracks SET emotion = 'happy'", WRITES),
        ("DELETE FROM tracks", WRITES),
        ("DROP VIEW tracks", WRITES),
        ("ALTER VIEW tracks RENAME TO t", WRITES),
        ("SET enable_external_access = true", WRITES),
        ("SET VARIABLE a = 1", WRITES),
        ("RESET lock_configuration", WRITES),
        ("PRAGMA database_list", WRITES),
        ("PRAGMA enable_profiling", WRITES),
        ("CALL pragma_version()", WRITES),
        ("INSTALL httpfs", WRITES),
        ("LOAD httpfs", WRITES),
        ("BEGIN", WRITES),
        ("CHECKPOINT", WRITES),
        ("PREPARE p AS SELECT 1", WRITES),
        ("EXPLAIN ANALYZE COPY tracks TO 'copy.csv'", WRITES),
        ("SELECT * FROM read_csv('/etc/passwd')", NO_FILES),
        ("SELECT * FROM read_text('/etc/passwd')", NO_FILES),
        ("SELECT * FROM read_blob('/etc/passwd')", NO_FILES),
        ("SELECT * FROM read_json('https://example.com/x.json')", NO_FILES),
        ("SELECT * FROM parquet_metadata('/etc/passwd')", NO_FILES),
        ("SELECT * FROM glob('/*')", NO_FILES),
        ("SELECT * FROM glob('*')", NO_FILES),
        ("SELECT * FROM 'near.csv'", NO_FILES),
        ("SELECT * FROM '/etc/passwd'", "does not exist"),
        ("SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')", NO_FILES),
        ("SELECT (SELECT content FROM read_text('/etc/passwd'))", NO_FILES),
        ("SELECT * FROM secret_frame", "does not exist"),
        ("SELECT * FROM enable_profiling()", NO_FILES),
        ("SELECT getenv('HOME')", "does not exist"),
        ("SELEC 1", "syntax error"),
        ("SELECT FROM WHERE", "Parser Error|Binder Error"),
        ("SELECT nothing FROM tracks", '"nothing" not found'),
        ("SELECT emotoin FROM tracks", 'Candidate bindings: .*"emotion"'),
        ("SELECT * FROM track", 'Did you mean "tracks'),
        ("SELECT * FROM nothing", "nothing does not exist"),
    ],
)
def test_sql_rejects_all_but_reading_the_tables(
    timeline: Timeline,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    query: str,
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "near.csv").write_text("a\n1\n")
    secret_frame = pd.DataFrame({"secret": [42]})
    before = listed(finished)
    with pytest.raises(QueryError, match=reason) as caught:
        timeline.sql(query)
    assert "\n" not in str(caught.value)
    assert len(secret_frame) == 1
    assert listed(tmp_path).keys() == {"near.csv"}
    assert listed(finished) == before
    assert timeline.sql("SELECT count(*) FROM tracks").fetchall() == [(13,)]


def listed(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    "query", ["SELECT * FROM sniff_csv('/etc/passwd')", "SELECT * FROM duckdb_secrets()"]
)
def test_functions_that_fail_late_read_no_files(timeline: Timeline, query: str) -> None:
    with pytest.raises((QueryError, duckdb.Error)):
        timeline.sql(query).fetchall()


def test_sql_cannot_read_other_files_of_the_run(timeline: Timeline, finished: Path) -> None:
    result = next((finished / "results").glob("*.parquet"))
    for query in (f"SELECT * FROM read_parquet('{result}')", f"SELECT * FROM '{finished}/tracks/**'"):
        with pytest.raises(QueryError):
            timeline.sql(query)


def missing(folder: Path) -> Path:
    return folder / "nowhere"


def empty(folder: Path) -> Path:
    return folder


def of_something_else(folder: Path) -> Path:
    (folder / "tracks").mkdir()
    (folder / "tracks" / "notes.txt").write_text("hello")
    return folder


def a_file(folder: Path) -> Path:
    path = folder / "run"
    path.write_text("hello")
    return path


@pytest.mark.parametrize("make", [empty, missing, of_something_else, a_file])
def test_folder_without_a_run_raises_output_error(tmp_path: Path, make: Any) -> None:
    out = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError) as caught:
        open_timeline(out)
    assert str(out) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_unfinished_run_raises_output_error(tmp_path: Path) -> None:
    create_run(tmp_path, AnalyzeConfig(), CARD)
    with pytest.raises(OutputError, match="not finished: run `fer-batch analyze` on it again"):
        open_timeline(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "tracks",
        "with space",
        "it's",
        'a "quote"',
        "ünï 漢字",
        "semi;colon",
        "a#b&c=d",
        "really?",
        "st*r",
        "a\\b",
        "x[1]",
        "100%25",
    ],
)
def test_run_folder_may_have_any_allowed_name(tmp_path: Path, name: str) -> None:
    try:
        load_matching_run(tmp_path / name, AnalyzeConfig(), CARD)
    except OutputError:
        return
    timeline = open_timeline(write_run(tmp_path / name, {OFF: VIDEOS[OFF], "/broken.mp4": None}))
    assert "bucket" not in timeline.to_pandas().columns
    assert len(timeline.to_pandas(video="50%_off.mp4")) == 5
    assert timeline.sql("SELECT count(*) FROM videos").fetchall() == [(2,)]
    with pytest.raises(QueryError, match=NO_FILES):
        timeline.sql("SELECT * FROM glob('/*')")


def test_later_timeline_has_added_videos(tmp_path: Path) -> None:
    out = write_run(tmp_path / "run", {OFF: VIDEOS[OFF]})
    assert len(open_timeline(out).to_pandas()) == 5
    add_videos(out, {WOW: VIDEOS[WOW]})
    assert len(open_timeline(out).to_pandas()) == 9
    assert sorted(open_timeline(out).videos()["uri"]) == [OFF, WOW]


def test_relative_path_survives_change_of_folder(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.parent)
    timeline = fer_batch.open_timeline(finished.name)
    monkeypatch.chdir(tmp_path)
    assert len(timeline.to_pandas()) == 13
    assert timeline.sql("SELECT count(*) FROM moments").fetchall() == [(30,)]


def test_opening_does_not_write(finished: Path) -> None:
    before = listed(finished)
    opened = open_timeline(os.fspath(finished))
    assert isinstance(opened, fer_batch.Timeline)
    opened.videos()
    assert listed(finished) == before


def test_open_timeline_keeps_its_state_during_finalize(tmp_path: Path) -> None:
    out = write_run(tmp_path / "run", {OFF: VIDEOS[OFF]})
    before, reader = read_all_rows(out), open_timeline(out)
    add_videos(out, {WOW: VIDEOS[WOW], OLD: VIDEOS[OLD]})
    finalized = read_all_rows(out)
    for name in TABLES:
        columns = ", ".join(before[name].columns)
        again = reader.sql(f"SELECT {columns} FROM {name} ORDER BY ALL").df()
        assert again.equals(before[name].sort_values(list(before[name].columns)).reset_index(drop=True))
    finalize(out, rewrite_all=True)
    assert are_tables_equal(read_all_rows(out), finalized)


def test_replaced_files_stay_while_a_reader_is_open(tmp_path: Path) -> None:
    """Programs that read a table's folder without its log see replaced files."""
    out = write_run(tmp_path / "run", {OFF: VIDEOS[OFF]})
    reader = open_timeline(out)
    finalize(out, rewrite_all=True)
    count = len(reader.to_pandas())
    assert len(pd.read_parquet(out / "tracks")) == 2 * count
    del reader
    finalize(out, rewrite_all=True)
    assert len(pd.read_parquet(out / "tracks")) == count > 0


@pytest.mark.parametrize(
    "video", ["", "nothing.mp4", "50%", "%", "______.mp4", "ff.mp4", "' OR true --", "wow!.mp4"]
)
def test_name_without_exactly_one_video_raises_query_error(timeline: Timeline, video: str) -> None:
    message = (
        "wow!.mp4 matches 2 videos: .*whole path"
        if video == "wow!.mp4"
        else "has no video .*; the table videos"
    )
    with pytest.raises(QueryError, match=message):
        timeline.to_pandas(video=video)


def test_missing_table_file_raises_output_error(tmp_path: Path) -> None:
    out = write_run(tmp_path / "run", {OFF: VIDEOS[OFF]})
    for path in (out / "tracks").rglob("bucket=*/*.parquet"):
        path.unlink()
    with pytest.raises(OutputError, match=r"`fer-batch finalize .*` writes them again"):
        open_timeline(out)
    finalize(out, rewrite_all=True)
    assert len(open_timeline(out).to_pandas()) == 5


def test_calls_about_one_video_read_only_its_bucket(tmp_path: Path) -> None:
    out = write_run(tmp_path / "run", VIDEOS, in_bucket=1)
    events = pa.table({"start_s": [0.0], "end_s": [1.0]})
    target = tmp_path / "faces.csv"
    calls: list[Callable[[Timeline], Any]] = [
        *[
            lambda timeline, query=query: query(timeline, video="50%_off.mp4").fetchall()
            for query in (
                Timeline.shares,
                Timeline.episodes,
                Timeline.peaks,
                Timeline.turning_points,
                Timeline.co_occurrence,
                Timeline.baseline,
                Timeline.smooth,
                Timeline.resample,
            )
        ],
        lambda timeline: timeline.to_pandas(video="50%_off.mp4", track=0).to_dict("records"),
        lambda timeline: timeline.join_events(events, video="50%_off.mp4").fetchall(),
        lambda timeline: [file.entries for file in timeline.export(target, videos=["50%_off.mp4"])],
        lambda timeline: timeline.write_report("50%_off.mp4", tmp_path / "page.html"),
        lambda timeline: len(timeline.plot_ribbons("50%_off.mp4").axes),
        lambda timeline: len(timeline.plot_shares("50%_off.mp4").axes),
    ]
    timeline = open_timeline(out)
    expected = [call(timeline) for call in calls]
    own = next(row["bucket"] for row in read_planned_videos(out).to_pylist() if "50%_off.mp4" in row["uri"])
    for path in out.glob("*/bucket=*/*"):
        if path.parent.name != f"bucket={own}":
            path.unlink()
    with pytest.raises(QueryError):
        timeline.shares()
    assert [call(timeline) for call in calls] == expected


def test_guide_reads_the_rows_of_one_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = write_run(tmp_path / "OUT", VIDEOS | {"/talks/talk.mp4": [["happy", "sad"]]}, in_bucket=2)
    monkeypatch.chdir(tmp_path)
    guide = Path(fer_batch.__path__[0], "docs", "guide", "querying.md").read_text()
    found: dict[str, Any] = {}
    exec(next(block for block in guide.split("```") if "by_pandas" in block).removeprefix("python"), found)
    expected = open_timeline(out).to_pandas(video="talk.mp4")["time_s"].tolist()
    assert len(expected) == 2
    for name in ("by_pandas", "by_polars", "by_duckdb"):
        assert found[name]["time_s"].to_list() == expected
