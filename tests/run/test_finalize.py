"""The tables contain each planned and analyzed video once, after kills, damage, changes and additions."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import OutputError
from fer_batch.model.card import parse_card
from fer_batch.run.finalize import finalize
from fer_batch.run.plan import add_planning_round, read_planned_videos, select_sources_to_plan
from fer_batch.run.record import add_manifest_columns, load_matching_run, read_run
from fer_batch.run.results import write_bundle
from fer_batch.run.snapshot import (
    TABLES,
    UNCLEAN_MARKER,
    list_table_files,
    open_tables,
    read_snapshot,
    write_snapshot,
)
from fer_batch.run.summary import failed_videos, summarize_run
from fer_batch.run.verify import find_differences
from fer_batch.schema import (
    EMOTIONS,
    PLAN_SCHEMA,
    PROBED_SCHEMA,
    RESULTS_SCHEMA,
    SCHEMA_VERSION,
    SOURCES_SCHEMA,
    pack_bundle,
    probability_column,
)
from fer_batch.timeline.store import open_timeline
from fer_batch.vision.quality import NOSE_DEPTH
from tests.runs import (
    Tracks,
    add_videos,
    are_tables_equal,
    flip_bits,
    kill_at,
    plan_videos,
    read_all_rows,
    read_write_times,
    temporary_path,
    video_id,
    write_run,
    write_video_results,
)

FIRST: dict[str, Tracks | None] = {
    "/talks/two.mp4": [["happy", "happy", "sad"], ["neutral", "neutral"]],
    "/talks/one.mp4": [["angry"]],
    "/talks/empty.mp4": [],
    "/talks/broken.mp4": None,
}
LATER: dict[str, Tracks | None] = {"/talks/new.mp4": [["fear"] * 5], "/talks/one.mp4": [["sad"] * 4]}
"""A video that was added, and one that has changed."""
IN_BUCKET = 2


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose next finalize replaces rows: LATER is planned and analyzed."""
    out = write_run(tmp_path_factory.mktemp("old") / "out", FIRST, IN_BUCKET)
    write_video_results(out, plan_videos(out, LATER, version="2"), LATER)
    return out


@pytest.fixture(scope="module")
def new(old: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run after that finalize, without faults."""
    out = Path(shutil.copytree(old, tmp_path_factory.mktemp("new") / "out"))
    finalize(out)
    return out


@pytest.fixture
def out(old: Path, tmp_path: Path) -> Path:
    """A copy of `old`."""
    return Path(shutil.copytree(old, tmp_path / "out"))


@pytest.fixture
def done(new: Path, tmp_path: Path) -> Path:
    """A copy of `new`."""
    return Path(shutil.copytree(new, tmp_path / "done"))


def table_files(out: Path) -> set[Path]:
    return {path.relative_to(out) for name in TABLES for path in (out / name).glob("bucket=*/*")}


def buckets(out: Path, videos: Iterable[str]) -> set[int]:
    return {row["bucket"] for row in read_planned_videos(out).to_pylist() if row["uri"] in videos}


def visible_files(out: Path) -> set[Path]:
    tables = open_tables(out)
    return {Path(file) for name in TABLES for file in list_table_files(name, tables[name])}


def test_next_finalize_replaces_rows_of_changed_videos(old: Path, new: Path) -> None:
    before, after = read_all_rows(old), read_all_rows(new)
    assert [len(before[name]) for name in TABLES] == [15, 6, 4]
    assert [len(after[name]) for name in TABLES] == [20, 14, 5]
    assert (buckets(old, FIRST), buckets(old, LATER)) == ({0, 1}, {0, 2})
    changed = [rows["tracks"].query("uri == '/talks/one.mp4'")["emotion"] for rows in (before, after)]
    assert [emotions.tolist() for emotions in changed] == [["angry"], ["sad"] * 4]
    kept = [rows["tracks"].query("uri == '/talks/two.mp4'")["emotion"] for rows in (before, after)]
    assert kept[0].tolist() == kept[1].tolist()
    assert after["videos"].query("uri == '/talks/one.mp4'")["version"].tolist() == ["2"]


BEFORE_THE_SNAPSHOT = [
    "finalize.stale_files",
    *[f"finalize.bucket:{time}" for time in (1, 2)],
    *[f"finalize.{name}" for name in TABLES],
    "summary.temporary",
    "snapshot.temporary",
]
AFTER_THE_SNAPSHOT = ["finalize.snapshot", "success.temporary", "finalize.success"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", BEFORE_THE_SNAPSHOT + AFTER_THE_SNAPSHOT)
def test_readers_see_one_state_after_a_kill(out: Path, old: Path, new: Path, fault: str) -> None:
    if fault == "finalize.stale_files":  # files of a killed start, which the next one removes
        kill_at("finalize.bucket", finalize, out)
    for rewrite_all in (False, True):
        kill_at(fault, finalize, out, rewrite_all)
        expected = old if fault in BEFORE_THE_SNAPSHOT else new
        assert are_tables_equal(read_all_rows(out), read_all_rows(expected))
        assert rewrite_all or (out / "_SUCCESS.json").exists() == (fault == "finalize.success")
    finalize(out)
    assert are_tables_equal(read_all_rows(out), read_all_rows(new))
    assert find_differences(out) == []
    assert (out / "_SUCCESS.json").read_text() == (new / "_SUCCESS.json").read_text()
    finalize(out)
    assert table_files(out) == visible_files(out)
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize("fault", BEFORE_THE_SNAPSHOT[1:] + AFTER_THE_SNAPSHOT)
def test_first_finalize_killed_shows_nothing_until_complete(
    old: Path, new: Path, tmp_path: Path, fault: str
) -> None:
    hidden = shutil.ignore_patterns(*TABLES, "snapshot.json", "_SUCCESS.json")
    out = Path(shutil.copytree(old, tmp_path / "out", ignore=hidden))
    kill_at(fault, finalize, out)
    if fault in BEFORE_THE_SNAPSHOT:
        with pytest.raises(OutputError, match="not finished"):
            open_timeline(out)
        assert find_differences(out)
    else:
        assert are_tables_equal(read_all_rows(out), read_all_rows(new))
    finalize(out)
    assert are_tables_equal(read_all_rows(out), read_all_rows(new))
    assert table_files(out) == visible_files(out)


@pytest.mark.parametrize("tracks", [[], [["happy"] * 5]], ids=["no faces", "one face"])
def test_video_without_stated_duration_is_as_long_as_what_was_read(tmp_path: Path, tracks: Tracks) -> None:
    out, videos = write_run(tmp_path / "out", {}), {"/talks/raw.h264": tracks}
    write_video_results(out, plan_videos(out, videos, duration_s=None), videos)
    finalize(out)
    assert read_all_rows(out)["videos"]["duration_s"].tolist() == [1.0]


def test_leftovers_of_killed_processes_are_removed(done: Path) -> None:
    left = [
        temporary_path(done / "snapshot.json"),
        temporary_path(done / "results" / "0123456789abcdef.parquet"),
        temporary_path(done / "plan" / "000003.parquet"),
        next((done / "tracks").glob("bucket=*")) / "part-00000-never-committed.snappy.parquet",
        done / "tracks" / "_delta_log" / "_commit_never.json.tmp",
        done / UNCLEAN_MARKER,
    ]
    for path in left:
        path.write_bytes(b"half")
    finalize(done)
    assert not [path for path in left if path.exists()]
    assert find_differences(done) == []


def test_second_finalize_writes_nothing(done: Path, new: Path) -> None:
    finalize(done)
    before = read_write_times(done)
    finalize(done)
    after = read_write_times(done)
    assert after == before | {done / "_SUCCESS.json": after[done / "_SUCCESS.json"]}
    assert table_files(done) == visible_files(done)


def test_only_buckets_of_changed_videos_are_replaced(old: Path, new: Path) -> None:
    before, after = visible_files(old), visible_files(new)
    touched = {f"bucket={bucket}" for bucket in buckets(old, LATER)}
    for name in TABLES:
        assert {path.parent.name for path in after - before if path.parts[0] == name} == touched
        assert {path.parent.name for path in before - after if path.parts[0] == name} <= touched
    untouched = {f"bucket={bucket}" for bucket in buckets(old, FIRST)} - touched
    assert {path.parent.name for path in before & after} == untouched


def test_changed_manifest_columns_reach_the_tables(tmp_path: Path) -> None:
    """A round of them names the earlier round that has the segments of its videos."""
    out = write_run(
        tmp_path / "run", {uri: [["happy"]] for uri in ("/talks/a.mp4", "/talks/b.mp4")}, in_bucket=1
    )
    add_manifest_columns(out, {"who": "string"})
    for who in ("Ada", "Bo"):
        videos = read_planned_videos(out).to_pylist()
        described = [row | {"extra": json.dumps({"who": who})} for row in videos if "a.mp4" in row["uri"]]
        rows = pa.Table.from_pylist(described, schema=PROBED_SCHEMA)
        add_planning_round(out, rows, PLAN_SCHEMA.empty_table())
        finalize(out)
        assert read_all_rows(out)["videos"].set_index("uri")["who"].dropna().to_dict() == {
            "/talks/a.mp4": who
        }
    assert find_differences(out) == []


def test_all_buckets_of_a_table_are_in_one_commit(out: Path, done: Path) -> None:
    versions = {name: DeltaTable(str(out / name)).version() for name in TABLES}
    assert len(buckets(out, LATER)) == IN_BUCKET
    finalize(out)
    assert {name: table.version() - 1 for name, table in open_tables(out).items()} == versions


def test_log_has_bounds_of_times_and_probabilities(done: Path) -> None:
    tables = open_tables(done)
    for name, columns in {
        "moments": {"time_s", "faces"},
        "tracks": {"time_s", "confidence", *map(probability_column, EMOTIONS)},
        "videos": set[str](),
    }.items():
        actions = pa.table(tables[name].get_add_actions(flatten=True))
        bounded = {column.removeprefix("max.") for column in actions.column_names if column[:4] == "max."}
        assert bounded == columns
        for action in actions.to_pylist():
            rows = pq.ParquetFile(done / name / action["path"]).read()
            assert action["num_records"] == len(rows)
            for column in columns:
                bounds = pc.min_max(rows[column]).as_py()
                assert bounds == {end: action[f"{end}.{column}"] for end in ("min", "max")}
    assert not pa.table(tables["tracks"].to_pyarrow_table(filters=[("time_s", ">", 1e6)]))


def test_floats_are_split_into_streams_and_compressed(done: Path) -> None:
    path = done / list_table_files("tracks", open_tables(done)["tracks"])[0]
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    for column in columns:
        is_float = column.physical_type in ("FLOAT", "DOUBLE")
        assert ("BYTE_STREAM_SPLIT" in column.encodings) == is_float, column.path_in_schema


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"PAR1"), None])
def test_summary_counts_tables_without_valid_totals(
    done: Path, damage: Callable[[Path], object] | None
) -> None:
    expected, path = summarize_run(done), done / "buckets.parquet"
    assert (expected.videos, expected.moments, expected.faces) == (
        {"ok": 3, "no_faces": 1, "failed": 1},
        20,
        14,
    )
    if damage:
        damage(path)
    else:  # totals of another version of the tables
        pq.write_table(pq.read_table(path).slice(1).replace_schema_metadata({"tables": "{}"}), path)
    assert summarize_run(done) == expected == summarize_run(done, recount=True)
    assert finalize(done) == expected


def test_retry_replaces_rows_of_the_previous_attempt(done: Path) -> None:
    broken = "/talks/broken.mp4"
    key = {"video_id": video_id(broken), "version": "1"}
    assert failed_videos(done).to_pylist() == [key | {"attempt": 0}]
    add_videos(done, {broken: None}, attempt=1)
    assert failed_videos(done).to_pylist() == [key | {"attempt": 1}]
    found: dict[str, Tracks | None] = {broken: [["surprise"] * 2]}
    plan = plan_videos(done, found, attempt=2)
    assert plan.column("segment_id").to_pylist() == [f"{video_id(broken)}/1/00000.2"]
    # Planned again, but without results: a start in between must not plan a third time.
    listed = SOURCES_SCHEMA.empty_table()
    assert len(select_sources_to_plan(listed, read_planned_videos(done), failed_videos(done))) == 0
    write_video_results(done, plan, found)
    finalize(done)
    row = read_all_rows(done)["videos"].query("uri == @broken").iloc[0]
    assert (row["status"], row["attempt"], row["tracks"]) == ("ok", 2, 1)
    assert failed_videos(done).num_rows == 0
    assert find_differences(done) == []


def test_delta_logs_contain_no_video_names(done: Path) -> None:
    for name in TABLES:
        DeltaTable(str(done / name)).create_checkpoint()
    logs = [path for path in done.glob("*/_delta_log/*") if path.is_file()]
    assert len(logs) > 9
    names = [uri.encode() for uri in FIRST | LATER] + [video_id(uri).encode() for uri in FIRST | LATER]
    for path in logs:
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content = str(pq.read_table(path).to_pylist()).encode()
        assert not [name for name in names if name in content], path


def test_inconsistent_tables_are_not_shown(out: Path, old: Path, new: Path) -> None:
    paths = sorted((out / "results").iterdir())
    path = next(p for p in paths if pq.read_table(p).column("version")[0].as_py() == "2")
    rows = pq.read_table(path).to_pylist()
    good = path.read_bytes()
    rows[0]["moments"][0]["faces"] += 1
    write_bundle(out / "results", pack_bundle(path.stem, pa.Table.from_pylist(rows, schema=RESULTS_SCHEMA)))
    with pytest.raises(OutputError, match=r"are inconsistent: .*rows in tracks, expected"):
        finalize(out)
    assert are_tables_equal(read_all_rows(out), read_all_rows(old))
    assert not (out / "_SUCCESS.json").exists()
    path.write_bytes(good)
    finalize(out)
    assert are_tables_equal(read_all_rows(out), read_all_rows(new))


def truncate_result(out: Path) -> None:
    path = next((out / "results").iterdir())
    path.write_bytes(path.read_bytes()[:-100])


def flip_bits_of_result(out: Path) -> None:
    flip_bits(next((out / "results").iterdir()), 200, 255)


def drop_row_of_result(out: Path) -> None:
    path = max((out / "results").iterdir(), key=lambda p: pq.read_metadata(p).num_rows)
    pq.write_table(pq.read_table(path).slice(1), path)


def delete_rows(table: str, where: str) -> Callable[[Path], None]:
    def damage(out: Path) -> None:
        tables = open_tables(out)
        assert tables[table].delete(where)["num_deleted_rows"]
        snapshot = read_snapshot(out)
        assert snapshot
        write_snapshot(out, tables, snapshot.round)

    return damage


def repeat_row(table: str) -> Callable[[Path], None]:
    def damage(out: Path) -> None:
        tables = open_tables(out)
        rows = tables[table].to_pyarrow_table().slice(0, 1)
        write_deltalake(tables[table], rows, mode="append")
        write_snapshot(out, tables, "")

    return damage


def remove_table_file(out: Path) -> None:
    (out / list_table_files("tracks", open_tables(out)["tracks"])[0]).unlink()


def remove_video_from_plan(out: Path) -> None:
    path = out / "plan" / "000001.videos.parquet"
    rows = pq.read_table(path)
    pq.write_table(rows.filter(pq.read_table(path).column("status").to_numpy() != "failed"), path)


def remove_segment_from_plan(out: Path) -> None:
    path = out / "plan" / "000002.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)


def truncate_snapshot(out: Path) -> None:
    (out / "snapshot.json").write_text('{"tables": {"moments"')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: None, None),
        (lambda out: next((out / "results").iterdir()).unlink(), "segments are not done"),
        (truncate_result, "is damaged"),
        (flip_bits_of_result, "is damaged"),
        (drop_row_of_result, "results for"),
        (delete_rows("videos", "uri = '/talks/empty.mp4'"), "empty.mp4: 0 rows in videos"),
        (delete_rows("videos", "uri = '/talks/one.mp4'"), "none in videos"),
        (delete_rows("moments", "time_s > 0.7"), "4 rows in moments, expected 5"),
        (delete_rows("tracks", "track_id = 1"), "1 tracks, expected 2"),
        (delete_rows("tracks", "track_id = 1"), "3 rows in tracks, expected 5"),
        (repeat_row("videos"), "2 rows in videos"),
        (repeat_row("moments"), "1 repeated rows in moments, expected 0"),
        (repeat_row("tracks"), "1 repeated rows in tracks, expected 0"),
        (remove_table_file, "cannot read bucket"),
        (remove_video_from_plan, "broken.mp4: a row in videos, but not in the plan"),
        (remove_segment_from_plan, "0 of its segments planned"),
        (truncate_snapshot, "not finished"),
    ],
)
def test_inconsistency_is_described(done: Path, damage: Callable[[Path], None], message: str | None) -> None:
    damage(done)
    found = find_differences(done)
    assert bool(found) == bool(message)
    assert any(message in line for line in found) if message else True
    assert not any("\n" in line for line in found)


@pytest.mark.parametrize(
    "damage",
    [
        truncate_snapshot,
        remove_video_from_plan,
        delete_rows("videos", "uri = '/talks/empty.mp4'"),
        *[lambda out, name=name: shutil.rmtree(out / name) for name in TABLES],
        lambda out: (out / "tracks" / "_delta_log" / "00000000000000000000.json").write_bytes(b""),
        lambda out: (out / "snapshot.json").write_text(
            '{"tables": {"moments": 99, "tracks": 99, "videos": 99}}'
        ),
    ],
)
def test_finalize_repairs_damaged_tables(done: Path, new: Path, damage: Callable[[Path], None]) -> None:
    damage(done)
    finalize(done)
    assert find_differences(done) == []
    rows = read_all_rows(done)
    if damage is not remove_video_from_plan:
        assert are_tables_equal(rows, read_all_rows(new))
    else:
        assert len(rows["videos"]) == 4


@pytest.mark.parametrize("table", ["tracks", "videos"])
def test_unreadable_file_of_a_table_is_written_again(done: Path, new: Path, table: str) -> None:
    (done / list_table_files(table, open_tables(done)[table])[0]).write_bytes(b"PAR1")
    (done / "buckets.parquet").unlink()
    finalize(done, rewrite_all=True)
    assert find_differences(done) == []
    assert are_tables_equal(read_all_rows(done), read_all_rows(new))


def test_readers_keep_older_tables_until_all_results_exist(out: Path, old: Path) -> None:
    result = next((out / "results").iterdir())
    content = result.read_bytes()
    result.unlink()
    add_manifest_columns(out, {"who": "string"})  # the tables have to be written again
    with pytest.raises(OutputError, match="are not done"):
        finalize(out)
    assert are_tables_equal(read_all_rows(out), read_all_rows(old))
    result.write_bytes(content)
    finalize(out)
    assert "who" in read_all_rows(out)["videos"]


@pytest.mark.parametrize("damage", [truncate_result, flip_bits_of_result])
def test_damaged_results_are_processed_again(done: Path, damage: Callable[[Path], None]) -> None:
    before = set((done / "results").iterdir())
    damage(done)
    with pytest.raises(OutputError, match=r"was damaged and has been removed: run `fer-batch analyze` again"):
        finalize(done, rewrite_all=True)
    assert len(before - set((done / "results").iterdir())) == 1
    with pytest.raises(OutputError, match="are not done: run `fer-batch analyze` on it again"):
        finalize(done, rewrite_all=True)


FIXTURES = Path(__file__).parent.parent / "fixtures"


def without_steps(rows: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Leave out columns that older tables do not have, or that are computed from them."""
    new = ["step_s", "start_s", "attempt", "precision", "detected_on"]
    return {name: table.drop(columns=new, errors="ignore") for name, table in rows.items()}


def read_stored_rows(out: Path, name: str) -> pd.DataFrame:
    """Read the rows of a table as they are stored."""
    return DeltaTable(str(out / name)).to_pandas()


@pytest.mark.parametrize("schema", [f"schema_{number}" for number in range(1, SCHEMA_VERSION)])
def test_run_of_older_schema_opens_and_continues(tmp_path: Path, schema: str) -> None:
    out = Path(shutil.copytree(FIXTURES / schema, tmp_path / schema))
    before = read_all_rows(out)
    yaw = read_stored_rows(out, "tracks").sort_values(["track_id", "time_s"])["yaw"].to_numpy(np.float64)
    yaw_deg = before["tracks"]["yaw_deg"].to_numpy()
    assert np.abs(yaw).max() > 0.1
    assert NOSE_DEPTH * np.tan(np.radians(yaw_deg)) == pytest.approx(yaw, abs=1e-5)
    assert before["tracks"]["pitch_deg"].isna().all()
    assert "yaw" not in before["tracks"]
    assert [len(before[name]) for name in TABLES] == [50, 89, 2]
    assert before["videos"][["precision", "detected_on"]].isna().all(axis=None)
    assert failed_videos(out).column("attempt").to_pylist() == [0]
    assert find_differences(out) == []
    config = AnalyzeConfig(min_face=0.15, segment_s=4.0, bundle_s=8.0)
    card = parse_card((FIXTURES / "first_card.json").read_text())
    assert load_matching_run(out, config, card) == read_run(out)
    finalize(out, rewrite_all=True)
    after = read_all_rows(out)
    assert after["videos"]["attempt"].tolist() == [0, 0]
    assert after["videos"][["precision", "detected_on"]].isna().all(axis=None)
    steps = [pd.concat([rows["tracks"]["step_s"], rows["moments"]["step_s"]]) for rows in (before, after)]
    assert steps[0].to_numpy() == pytest.approx(steps[1].to_numpy(), abs=0.05)
    assert after["moments"]["step_s"].sum() == pytest.approx(after["videos"]["read_s"].sum())
    assert are_tables_equal(without_steps(before), without_steps(after))
    assert find_differences(out) == []
    add_manifest_columns(out, {"who": "string"})
    add_videos(out, {"/talks/new.mp4": [["fear"] * 5]})
    assert len(read_all_rows(out)["videos"]) == 3
    assert read_all_rows(out)["tracks"]["who"].isna().all()
    assert read_run(out).schema_version == SCHEMA_VERSION
    assert find_differences(out) == []


@pytest.mark.parametrize(
    "fault", ["run.json.temporary", "finalize.moments", "finalize.videos", "finalize.snapshot"]
)
def test_upgrade_killed_shows_no_partial_tables(tmp_path: Path, fault: str) -> None:
    out = Path(shutil.copytree(FIXTURES / "schema_1", tmp_path / "schema_1"))
    before = read_all_rows(out)
    kill_at(fault, finalize, out)
    if fault == "run.json.temporary":
        assert are_tables_equal(read_all_rows(out), before)
    elif fault != "finalize.snapshot":
        with pytest.raises(OutputError, match="not finished"):
            open_timeline(out)
    finalize(out)
    after = read_all_rows(out)
    assert are_tables_equal(without_steps(after), without_steps(before))


def test_run_of_newer_schema_is_refused(done: Path) -> None:
    run = json.loads((done / "run.json").read_text())
    (done / "run.json").write_text(json.dumps(run | {"schema_version": 99}))
    for go_on in (read_run, finalize, find_differences):
        with pytest.raises(OutputError, match=r"by a newer fer-batch .*upgrade"):
            go_on(done)
