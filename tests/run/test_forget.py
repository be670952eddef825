"""A forgotten video leaves no trace and other videos keep their rows, whenever the command is killed."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from fer_batch.errors import InputError, OutputError
from fer_batch.run.finalize import finalize
from fer_batch.run.forget import complete_forget, forget_videos, read_forget_marker
from fer_batch.run.record import remove_run
from fer_batch.run.summary import summarize_run
from fer_batch.run.verify import verify_run
from fer_batch.storage.folder import FolderLike, open_folder
from fer_batch.storage.lease import hold_lease
from tests.runs import (
    add_videos,
    flip_bit_of_column,
    kill_at,
    read_all_rows,
    read_plan,
    read_write_times,
    temporary_path,
    video_id,
    write_run,
)
from tests.s3 import Store
from tests.timeline.test_store import VIDEOS

ITS = "/talks/it's.mp4"
LATER = {"/films/long film.mkv": [["happy", "sad"], ["neutral"]], "/films/talk.mkv": [["fear"] * 3]}
ALL = VIDEOS | LATER


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two planning rounds and several buckets."""
    out = write_run(tmp_path_factory.mktemp("forget") / "run", VIDEOS, in_bucket=2)
    add_videos(out, LATER)
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def read_texts(path: Path) -> Iterator[str]:
    """Yield the content of a file as text, raw and decoded."""
    yield path.read_bytes().decode("latin-1")
    yield path.read_bytes().decode("utf-8", "replace")
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        yield json.dumps(file.read().to_pylist(), default=str, ensure_ascii=False)
        yield str(file.metadata.metadata)
        yield str(file.schema_arrow.metadata)
        for group in range(file.num_row_groups):
            yield from (
                str(file.metadata.row_group(group).column(c)) for c in range(file.metadata.num_columns)
            )
    elif path.suffix == ".json":
        yield path.read_text().replace("\\", "")


def find_traces(out: Path, uri: str) -> list[str]:
    """List the files that contain a video's id, uri or file name."""
    names = (video_id(uri), uri, uri.rsplit("/", 1)[-1])
    return [
        path.relative_to(out).as_posix()
        for path in sorted(out.rglob("*"))
        if any(name in path.name for name in names)
        or (path.is_file() and any(name in text for text in read_texts(path) for name in names))
    ]


def assert_rows_equal(out: FolderLike, finished: Path, without: str = "") -> None:
    """Check that `out` has the rows of `finished`, except those of the video `without`."""
    actual = read_all_rows(out)
    for name, frame in read_all_rows(finished).items():
        expected = frame[frame.video_id != video_id(without)].reset_index(drop=True)
        pd.testing.assert_frame_equal(actual[name], expected, check_exact=True, check_dtype=not without)


def assert_forgotten(out: Path, uri: str, finished: Path) -> None:
    """Check that a video has no trace and that the others have all their rows."""
    assert not find_traces(out, uri)
    assert not read_forget_marker(out)
    assert verify_run(out) == []
    assert_rows_equal(out, finished, without=uri)
    for path in out.glob("*/_delta_log/*.json"):
        actions = map(json.loads, path.read_text().splitlines())
        added = [action["add"]["path"] for action in actions if "add" in action]
        assert all((path.parent.parent / file).exists() for file in added), path


def test_nothing_to_forget_changes_nothing(out: Path) -> None:
    before = read_write_times(out)
    complete_forget(out)
    assert forget_videos(out, []) == []
    assert read_write_times(out) == before


def test_traces_are_found_in_all_parts_of_a_run(out: Path) -> None:
    found = {path.split("/")[0] for path in find_traces(out, ITS)}
    assert found == {"plan", "results", "moments", "tracks", "videos"}


@pytest.mark.parametrize("uri", ALL)
def test_forgotten_video_leaves_no_trace(uri: str, out: Path, finished: Path) -> None:
    assert forget_videos(out, [uri]) == [uri]
    # Two videos are called wow!.mp4: the other's name stays.
    twin = [other for other in ALL if other != uri and other.endswith(uri.rsplit("/", 1)[-1])]
    if not twin:
        assert_forgotten(out, uri, finished)
    assert not {video_id(uri), uri} & {v[k] for v in read_plan(out)[0] for k in ("video_id", "uri")}
    assert verify_run(out) == []
    assert (out / "_SUCCESS.json").exists()


@pytest.mark.parametrize("name", [ITS, "it's.mp4", "talks/it's.mp4", video_id(ITS)])
def test_video_is_given_by_uri_file_name_or_id(name: str, out: Path, finished: Path) -> None:
    assert forget_videos(out, [name]) == [ITS]
    assert_forgotten(out, ITS, finished)
    assert (out / "buckets.parquet").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([""], "has no video"),
        (["nothing.mp4"], "has no video nothing.mp4"),
        (["t's.mp4"], "has no video"),
        (["%.mp4"], "has no video"),
        (["wow!.mp4"], "/talks/old/wow!.mp4, /talks/wow!.mp4; give the whole path of one"),
        (["it's.mp4", "nothing.mp4"], "has no video nothing.mp4"),
    ],
)
def test_unknown_or_ambiguous_name_changes_nothing(names: list[str], message: str, out: Path) -> None:
    before = read_write_times(out)
    with pytest.raises(InputError, match=message) as refused:
        forget_videos(out, names)
    assert "\n" not in str(refused.value)
    assert read_write_times(out) == before


@pytest.mark.parametrize("names", [[ITS], list(ALL)], ids=["one", "all"])
def test_forgotten_videos_can_be_added_again(names: list[str], out: Path, finished: Path) -> None:
    assert forget_videos(out, names) == sorted(names)
    assert not [uri for uri in names if find_traces(out, uri)]
    assert len(read_all_rows(out)["videos"]) == len(ALL) - len(names)
    assert bool(list((out / "results").iterdir())) == (len(names) < len(ALL))
    assert verify_run(out) == []
    for videos in (VIDEOS, LATER):
        add_videos(out, {uri: tracks for uri, tracks in videos.items() if uri in names})
    assert verify_run(out) == []
    assert_rows_equal(out, finished)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None])
def test_folder_without_run_is_not_changed(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="no run"):
        forget_videos(tmp_path / "out", ["a.mp4"])
    assert sorted(tmp_path.rglob("*")) == before


def test_run_in_use_is_not_changed(out: Path) -> None:
    with hold_lease(out, "analyze"), pytest.raises(OutputError, match="in use"):
        forget_videos(out, [ITS])
    assert verify_run(out) == []
    assert find_traces(out, ITS)


def shared_bundle(out: Path) -> Path:
    """Return the results file of ITS, which contains other videos too."""
    plan = read_plan(out)[1]
    bundle_id = next(row["bundle_id"] for row in plan if row["uri"] == ITS)
    assert len({row["uri"] for row in plan if row["bundle_id"] == bundle_id}) > 2
    return out / "results" / f"{bundle_id}.parquet"


def test_shared_bundle_stays_done_and_updates_its_face_count(out: Path) -> None:
    path = shared_bundle(out)
    faces = int(pq.read_metadata(path).metadata[b"faces"])
    forget_videos(out, [ITS])
    assert int(pq.read_metadata(path).metadata[b"faces"]) == faces - 1


def test_unfinished_run_keeps_its_previous_tables(out: Path, finished: Path) -> None:
    other = next(path for path in (out / "results").iterdir() if path != shared_bundle(out))
    kept = other.read_bytes()
    other.unlink()
    forget_videos(out, [ITS])
    assert not find_traces(out, ITS)
    assert not (out / "_SUCCESS.json").exists()
    assert [line for line in verify_run(out) if "are not done" in line]
    assert set(read_all_rows(out)["videos"].uri) == ALL.keys() - {ITS}
    other.write_bytes(kept)
    finalize(out)
    assert_forgotten(out, ITS, finished)


def test_truncated_bundle_is_removed(out: Path) -> None:
    path = shared_bundle(out)
    path.write_bytes(path.read_bytes()[:-8])
    forget_videos(out, [ITS])
    assert not find_traces(out, ITS)
    assert not path.exists()
    assert [line for line in verify_run(out) if "are not done" in line]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"PAR1")])
def test_video_is_forgotten_though_a_table_is_damaged(
    damage: Callable[[Path], object], out: Path, finished: Path
) -> None:
    damage(next((out / "tracks").glob("bucket=*/*.parquet")))
    forget_videos(out, [ITS])
    assert_forgotten(out, ITS, finished)
    assert (out / "buckets.parquet").exists()


def test_damage_of_another_video_keeps_no_trace(out: Path) -> None:
    """Tables that are written again need each result, and one result is damaged inside."""
    path = next(path for path in (out / "results").iterdir() if path != shared_bundle(out))
    flip_bit_of_column(path, "recognize_s")
    shutil.rmtree(out / "tracks")
    with pytest.raises(OutputError, match="run `fer-batch analyze` again"):
        forget_videos(out, [ITS])
    assert not find_traces(out, ITS)


def test_tables_with_statistics_in_their_log_are_written_again(out: Path, finished: Path) -> None:
    """Tables of schema 1 have statistics of all columns, and no snapshot."""
    for name in ("moments", "tracks", "videos"):
        table = DeltaTable(str(out / name)).to_pyarrow_table()
        shutil.rmtree(out / name)
        write_deltalake(str(out / name), table, partition_by=["bucket"])
    (out / "snapshot.json").unlink()
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(run | {"schema_version": 1}))
    assert any("_delta_log" in path for path in find_traces(out, ITS))
    forget_videos(out, [ITS])
    assert_forgotten(out, ITS, finished)


def test_leftovers_of_killed_runs_are_removed(out: Path, finished: Path) -> None:
    """A round without its second file, files never renamed, data never committed."""
    shutil.copy(out / "plan" / "000001.parquet", out / "plan" / "000003.parquet")
    shutil.copy(shared_bundle(out), temporary_path(shared_bundle(out), "elsewhere"))
    shutil.copy(out / "plan" / "000001.parquet", temporary_path(out / "plan" / "000004.parquet", "elsewhere"))
    for data in (out / "tracks").glob("bucket=*/*.parquet"):
        shutil.copy(data, data.with_name(f"uncommitted-{data.name}"))
    forget_videos(out, [ITS])
    assert_forgotten(out, ITS, finished)


def test_killed_finalize_keeps_the_previous_tables(out: Path, finished: Path) -> None:
    new = {"/films/new.mkv": [["happy"]]}
    kill_at("finalize.tracks", add_videos, out, new)
    plan = read_plan(out)[1]
    lost = next(row["bundle_id"] for row in plan if row["uri"] in new)
    (out / "results" / f"{lost}.parquet").unlink()
    forget_videos(out, [ITS])
    assert not find_traces(out, ITS)
    assert_rows_equal(out, finished, without=ITS)


STEPS = [
    "file.temporary",
    "forget.marker",
    "results.temporary",
    "results.renamed",
    "forget.results",
    "file.temporary:2",
    "file.temporary:3",
    "forget.plan",
    "forget.moments",
    "forget.tracks",
    "forget.videos",
    "snapshot.temporary",
    "forget.snapshot",
    "finalize.stale_files",
    "forget.tables",
    "finalize.success",
    "forget.finalized",
]


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_killed_command_is_completed(step: str, out: Path, finished: Path, tmp_path: Path) -> None:
    """The same command completes it, and so does the next run, unless the kill came before the first step."""
    kill_at(step, forget_videos, out, [ITS])
    began = step != "file.temporary"
    assert read_forget_marker(out) == ({video_id(ITS): ITS} if began else {})
    assert bool(verify_run(out)) == began
    assert len(read_all_rows(out)["videos"]) in (len(ALL), len(ALL) - 1)
    if began:
        next_run = Path(shutil.copytree(out, tmp_path / "next"))
        with hold_lease(next_run, "finalize"):
            complete_forget(next_run)
        assert_forgotten(next_run, ITS, finished)
    assert forget_videos(out, ["it's.mp4"]) == [ITS]
    assert_forgotten(out, ITS, finished)


@pytest.mark.slow
def test_video_is_forgotten_in_a_store(store: Store, finished: Path) -> None:
    out = write_run(open_folder("s3://archive/run"), VIDEOS, in_bucket=2)
    add_videos(out, LATER)
    assert forget_videos(out, [ITS]) == [ITS]
    assert verify_run(out) == []
    assert finalize(out, rewrite_all=True).videos == summarize_run(out).videos
    assert_rows_equal(out, finished, without=ITS)
    remove_run(out)
    assert out.list_names() == []
