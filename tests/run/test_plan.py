"""The record and the plan of a run: continued with equal settings only, and whole after any kill."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import ConfigError, OutputError
from fer_batch.run.people import write_people, write_person_groups
from fer_batch.run.plan import (
    MIN_BUCKET_SHARE_S,
    add_planning_round,
    changed_metadata,
    read_planned_videos,
    select_sources_to_plan,
)
from fer_batch.run.record import (
    BUCKET_S,
    RUN_FILES,
    RUN_FOLDERS,
    RunRecord,
    create_run,
    load_matching_run,
    read_run,
    record_precision,
    remove_leftovers,
    remove_run,
)
from fer_batch.run.verify import find_differences
from fer_batch.schema import (
    PEOPLE_SCHEMA,
    PERSON_GROUPS_SCHEMA,
    PLAN_SCHEMA,
    PROBED_SCHEMA,
    SOURCES_SCHEMA,
)
from fer_batch.timeline.store import open_timeline
from tests.runs import (
    CARD,
    Tracks,
    add_videos,
    kill_at,
    plan_videos,
    read_plan,
    temporary_path,
    video_id,
    write_run,
)

VIDEOS: dict[str, Tracks | None] = {"/a.mp4": [["happy"]], "/b.mp4": [], "/broken.mp4": None}
OTHER = AnalyzeConfig(fps=7.0)


@pytest.mark.parametrize("missing", [[], ["flip"]])
def test_record_without_flip_means_no_flip(tmp_path: Path, missing: list[str]) -> None:
    create_run(tmp_path, AnalyzeConfig(flip=False), CARD)
    record = tmp_path / "run.json"
    run = json.loads(record.read_text())
    for name in missing:
        del run["settings"][name]
    record.write_text(json.dumps(run))
    assert load_matching_run(tmp_path, AnalyzeConfig(flip=False), CARD) == RunRecord.from_dict(run)
    with pytest.raises(ConfigError, match="flip was False, is True"):
        load_matching_run(tmp_path, AnalyzeConfig(), CARD)


def test_run_exists_once_its_record_is_written(tmp_path: Path) -> None:
    kill_at("run.json.temporary", create_run, tmp_path, AnalyzeConfig(), CARD)
    assert load_matching_run(tmp_path, OTHER, CARD) is None
    kill_at("run.json", create_run, tmp_path, AnalyzeConfig(), CARD)
    assert load_matching_run(tmp_path, AnalyzeConfig(), CARD) == read_run(tmp_path)
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("fault", ["plan.temporary:1", "plan.segments", "plan.temporary:2", "plan.videos"])
def test_planning_round_is_added_whole_or_not_at_all(tmp_path: Path, fault: str) -> None:
    counts = fault == "plan.videos"
    out = write_run(tmp_path / "out", VIDEOS)
    videos, plan = read_plan(out)
    kill_at(fault, plan_videos, out, {"/c.mp4": [], "/a.mp4": []}, "2")
    assert not (out / "_SUCCESS.json").exists()
    again, segments = read_plan(out)
    assert len(again) == 3 + counts
    assert {v["uri"]: v["version"] for v in again}["/a.mp4"] == ("2" if counts else "1")
    assert len(segments) == 2 + counts
    if not counts:
        assert (again, segments) == (videos, plan)
    add_videos(out, {"/c.mp4": [], "/a.mp4": []}, version="2")
    remove_leftovers(out)
    assert find_differences(out) == []
    assert not list(out.rglob("*.tmp"))


def test_last_round_of_a_video_counts(tmp_path: Path) -> None:
    create_run(tmp_path, AnalyzeConfig(), CARD)
    assert read_plan(tmp_path) == ([], [])
    plan_videos(tmp_path, VIDEOS)
    plan_videos(tmp_path, {"/a.mp4": []}, attempt=1)
    plan_videos(tmp_path, {"/b.mp4": []}, version="2")
    plan_videos(tmp_path, {"/b.mp4": None}, version="1")
    videos, segments = read_plan(tmp_path)
    assert {v["uri"]: (v["version"], v["attempt"], v["status"]) for v in videos} == {
        "/a.mp4": ("1", 1, "ok"),
        "/b.mp4": ("1", 0, "failed"),
        "/broken.mp4": ("1", 0, "failed"),
    }
    assert [s["segment_id"] for s in segments] == [f"{video_id('/a.mp4')}/1/00000.1"]


@pytest.mark.parametrize("name", ["000001.parquet", "000001.videos.parquet"])
def test_truncated_plan_is_reported_with_advice(tmp_path: Path, name: str) -> None:
    create_run(tmp_path, AnalyzeConfig(), CARD)
    plan_videos(tmp_path, VIDEOS)
    path = tmp_path / "plan" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(OutputError, match=r"Cannot read.*--overwrite"):
        read_plan(tmp_path)


@pytest.mark.parametrize(
    ("version", "error", "known", "failed", "attempt"),
    [
        ("1", None, None, False, 0),
        ("1", "is not there", None, False, 0),
        ("1", None, ("1", 0), False, None),
        ("1", None, ("1", 3), False, None),
        ("2", None, ("1", 0), False, 0),
        ("2", None, ("1", 3), True, 0),
        ("2", "is not there", ("1", 0), False, None),
        ("1", None, ("1", 0), True, 1),
        ("1", None, ("1", 1), True, 2),
        ("1", "is not there", ("1", 0), True, None),
        ("2", "is not there", ("1", 0), True, None),
    ],
)
def test_new_changed_and_retried_files_are_planned(
    version: str, error: str | None, known: tuple[str, int] | None, failed: bool, attempt: int | None
) -> None:
    source = {"video_id": "v", "version": version, "uri": "/v.mp4", "size_bytes": 1, "error": error}
    sources = pa.Table.from_pylist([source], schema=SOURCES_SCHEMA)
    videos = pa.Table.from_pylist([planned(*known)] if known else [], schema=PROBED_SCHEMA)
    again = videos if failed else videos.slice(0, 0)
    selected = select_sources_to_plan(sources, videos, again)
    assert selected.column("attempt").to_pylist() == ([] if attempt is None else [attempt])
    assert select_sources_to_plan(sources.slice(0, 0), videos, again).num_rows == 0


def planned(version: str, attempt: int, extra: str | None = None) -> dict[str, Any]:
    return {"video_id": "v", "version": version, "attempt": attempt, "extra": extra}


@pytest.mark.parametrize(
    ("before", "now", "is_selected"),
    [
        (None, None, False),
        ('{"a": 1}', None, False),
        ('{"a": 1}', '{"a": 1}', False),
        (None, '{"a": 1}', True),
        ('{"a": 1}', '{"a": 2}', True),
    ],
)
def test_changed_manifest_columns_are_selected(
    before: str | None, now: str | None, is_selected: bool
) -> None:
    source = {"video_id": "v", "version": "1", "uri": "/v.mp4", "size_bytes": 1, "extra": now}
    videos = pa.Table.from_pylist([planned("1", 2, before)], schema=PROBED_SCHEMA)
    sources = pa.Table.from_pylist([source], schema=SOURCES_SCHEMA)
    rows = changed_metadata(sources, videos).to_pylist()
    assert [(row["version"], row["attempt"], row["extra"]) for row in rows] == [("1", 2, now)] * is_selected
    assert changed_metadata(sources.slice(0, 0), videos).num_rows == 0


def write_file(name: str, content: str) -> Callable[[Path], None]:
    def make(out: Path) -> None:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(content)

    return make


def write_run_and_note(out: Path) -> None:
    shutil.rmtree(out)
    write_run(out, VIDEOS)
    (out / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (write_file("notes.txt", "mine"), "other files than a run"),
        (write_file("tracks/mine.parquet", "mine"), "other files than a run"),
        (write_file("run.json", '{"epochs": 3}'), "Cannot read .*: it is not the record of a fer-batch run"),
        (write_file("run.json", '{"settings"'), "Cannot read .*run.json"),
        (write_run_and_note, "other files than the run: notes.txt"),
    ],
)
def test_overwrite_refuses_folders_with_other_files(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=reason):
        load_matching_run(tmp_path, AnalyzeConfig(), CARD, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("exists", [True, False])
def test_overwrite_accepts_empty_or_missing_folder(tmp_path: Path, exists: bool) -> None:
    out = tmp_path / "out"
    if exists:
        out.mkdir()
    assert load_matching_run(out, AnalyzeConfig(), CARD, overwrite=True) is None
    remove_run(out)
    assert not out.exists() or not list(out.iterdir())


def test_overwrite_replaces_run_with_other_settings(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", VIDEOS)
    write_people(out, PEOPLE_SCHEMA.empty_table(), [])
    write_person_groups(out, PERSON_GROUPS_SCHEMA.empty_table())
    (out / ".lease").write_text("held")
    temporary_path(out / "run.json").write_bytes(b"half")
    with pytest.raises(ConfigError, match="fps was"):
        load_matching_run(out, OTHER, CARD)
    assert load_matching_run(out, OTHER, CARD, overwrite=True) is None
    assert {*RUN_FILES, *RUN_FOLDERS} == {path.name for path in out.iterdir() if path.name[0] != "."}
    remove_run(out)
    assert not [path for path in out.iterdir() if path.name[0] != "."]
    assert (out / ".lease").read_text() == "held"
    create_run(out, OTHER, CARD)
    add_videos(out, {"/c.mp4": [["sad"]]})
    assert open_timeline(out).to_pandas()["uri"].tolist() == ["/c.mp4"]


@pytest.mark.parametrize(
    "fault", ["overwrite.begun", *[f"overwrite.removed:{n + 1}" for n in range(len(RUN_FILES + RUN_FOLDERS))]]
)
def test_interrupted_removal_is_never_mixed_with_another_run(tmp_path: Path, fault: str) -> None:
    out = write_run(tmp_path / "out", VIDEOS)
    write_people(out, PEOPLE_SCHEMA.empty_table(), [])
    kill_at(fault, remove_run, out)
    for overwritten in (AnalyzeConfig(), OTHER):
        with pytest.raises(OutputError, match="give --overwrite again"):
            load_matching_run(out, overwritten, CARD)
        assert load_matching_run(out, overwritten, CARD, overwrite=True) is None
    with pytest.raises(OutputError, match="contains no run"):
        read_run(out)
    remove_run(out)
    assert not list(out.iterdir())
    assert load_matching_run(out, OTHER, CARD) is None


def buckets(out: Path) -> dict[str, int]:
    return {row["uri"]: row["bucket"] for row in read_planned_videos(out).to_pylist()}


def test_run_keeps_its_precision(tmp_path: Path) -> None:
    run = create_run(tmp_path, AnalyzeConfig(precision="bf16"), CARD)
    for same in ("auto", "bf16"):
        assert load_matching_run(tmp_path, AnalyzeConfig(precision=same), CARD) == run
    with pytest.raises(ConfigError, match="precision was bf16, is fp32"):
        load_matching_run(tmp_path, AnalyzeConfig(precision="fp32"), CARD)
    older = run.to_dict() | {"settings": {k: v for k, v in run.settings.items() if k != "precision"}}
    (tmp_path / "run.json").write_text(json.dumps(older))
    for any_precision in ("auto", "fp32"):
        assert load_matching_run(tmp_path, AnalyzeConfig(precision=any_precision), CARD) == read_run(tmp_path)
    record_precision(tmp_path, "bf16")
    assert read_run(tmp_path) == run


def test_buckets_are_filled_in_order_and_kept(tmp_path: Path) -> None:
    create_run(tmp_path, AnalyzeConfig(), CARD, bucket_s=2 * MIN_BUCKET_SHARE_S)
    plan_videos(tmp_path, {})
    assert buckets(tmp_path) == {}
    plan_videos(tmp_path, {"/a.mp4": [], "/b.mp4": None, "/c.mp4": []})
    assert buckets(tmp_path) == {"/a.mp4": 0, "/b.mp4": 0, "/c.mp4": 1}
    plan_videos(tmp_path, {"/a.mp4": []}, version="2")
    plan_videos(tmp_path, {"/d.mp4": [], "/c.mp4": [], "/e.mp4": []}, attempt=1)
    assert buckets(tmp_path) == {"/a.mp4": 0, "/b.mp4": 0, "/c.mp4": 1, "/d.mp4": 1, "/e.mp4": 2}


def test_long_video_fills_its_bucket(tmp_path: Path) -> None:
    create_run(tmp_path, AnalyzeConfig(), CARD)
    row = {"version": "1", "size_bytes": 10**10, "status": "ok", "fps": 25.0, "first_pts": 0}
    lengths_s = {"a": BUCKET_S - 1, "b": 2 * BUCKET_S, "c": 60.0, "d": BUCKET_S}
    rows = [row | {"video_id": uri, "uri": uri, "duration_s": s} for uri, s in lengths_s.items()]
    add_planning_round(tmp_path, pa.Table.from_pylist(rows, schema=PROBED_SCHEMA), PLAN_SCHEMA.empty_table())
    assert buckets(tmp_path) == {"a": 0, "b": 0, "c": 2, "d": 3}


def test_hashed_buckets_are_kept(tmp_path: Path) -> None:
    first = {f"/{number}.mp4": None for number in range(20)}
    run = create_run(tmp_path, AnalyzeConfig(), CARD).to_dict()
    (tmp_path / "run.json").write_text(json.dumps(run | {"schema_version": 3, "buckets": 4}))
    plan_videos(tmp_path, first)
    (path,) = (tmp_path / "plan").glob("*.videos.parquet")
    pq.write_table(pq.read_table(path).drop_columns("bucket").replace_schema_metadata(None), path)
    before = buckets(tmp_path)
    assert set(before.values()) == {0, 1, 2, 3}
    assert before["/0.mp4"] == int(hashlib.sha256(video_id("/0.mp4").encode()).hexdigest()[:8], 16) % 4
    plan_videos(tmp_path, {"/new.mp4": [], "/0.mp4": []}, version="2")
    assert buckets(tmp_path) == before | {"/new.mp4": 4}


def test_record_needs_its_main_fields(tmp_path: Path) -> None:
    run = create_run(tmp_path, AnalyzeConfig(), CARD).to_dict()
    for name in ("schema_version", "settings", "classes"):
        (tmp_path / "run.json").write_text(json.dumps({k: v for k, v in run.items() if k != name}))
        with pytest.raises(OutputError, match="not the record of a fer-batch run"):
            read_run(tmp_path)
