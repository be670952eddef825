"""A bundle is done if its whole file exists; every other bundle is processed again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import OutputError
from fer_batch.run.record import create_run, remove_leftovers
from fer_batch.run.results import (
    list_done_bundles,
    process_bundles,
    read_bundle,
    read_face_count,
    read_results,
    remove_damaged_bundles,
    write_bundle,
)
from fer_batch.schema import PLAN_SCHEMA, RESULTS_SCHEMA, bundle_schema, pack_bundle, unpack_bundles
from tests.runs import (
    CARD,
    Tracks,
    flip_bit_of_column,
    kill_at,
    make_segment_result,
    plan_videos,
    write_video_results,
)

VIDEOS: dict[str, Tracks | None] = {"/a.mp4": [["happy"] * 5, ["sad"]], "/b.mp4": []}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run without planned videos."""
    create_run(tmp_path, AnalyzeConfig(), CARD)
    (tmp_path / "results").mkdir()
    return tmp_path


@pytest.fixture
def plan(out: Path) -> pa.Table:
    """The planned segments of VIDEOS, with their results in one file."""
    plan = plan_videos(out, VIDEOS)
    write_video_results(out, plan, VIDEOS)
    return plan


def make_bundle(plan: pa.Table) -> pa.Table:
    answers = [make_segment_result(row, VIDEOS[row["uri"]] or []) for row in plan.to_pylist()]
    name = plan.column("bundle_id")[0].as_py()
    return pack_bundle(name, pa.Table.from_pylist(answers, schema=RESULTS_SCHEMA))


def test_empty_plan_has_no_results(out: Path) -> None:
    plan = plan_videos(out, {})
    assert list_done_bundles(out / "results") == set()
    assert read_results(out / "results", plan).equals(RESULTS_SCHEMA.empty_table())
    remove_damaged_bundles(out / "results", [])


def test_results_have_one_row_per_segment(out: Path, plan: pa.Table) -> None:
    (bundle,) = list_done_bundles(out / "results")
    assert read_face_count(out / "results", bundle) == 6
    assert read_results(out / "results", plan).num_rows == 2
    one = read_results(out / "results", plan.slice(1))
    assert one.column("segment_id").to_pylist() == plan.slice(1).column("segment_id").to_pylist()


def test_results_of_an_earlier_plan_do_not_count(out: Path) -> None:
    write_video_results(out, plan_videos(out, VIDEOS), VIDEOS)
    later: dict[str, Tracks | None] = {"/a.mp4": [["fear"]]}
    plan = plan_videos(out, later, attempt=1)
    with pytest.raises(OutputError, match="does not exist"):
        read_results(out / "results", plan)
    write_video_results(out, plan, later)
    assert len(list_done_bundles(out / "results")) == 2
    assert [len(faces) for faces in read_results(out / "results", plan).column("faces")] == [1]


@pytest.mark.parametrize(("fault", "is_done"), [("results.temporary", False), ("results.renamed", True)])
def test_kill_while_writing_leaves_whole_file_or_none(out: Path, fault: str, is_done: bool) -> None:
    plan = plan_videos(out, VIDEOS)
    bundle = make_bundle(plan)
    name = bundle.column("bundle_id")[0].as_py()
    kill_at(fault, write_bundle, out / "results", bundle)
    assert list_done_bundles(out / "results") == ({name} if is_done else set())
    remove_leftovers(out)
    assert {p.name for p in (out / "results").iterdir()} == ({f"{name}.parquet"} if is_done else set())
    write_bundle(out / "results", bundle)
    before = (out / "results" / f"{name}.parquet").read_bytes()
    kill_at(fault, write_bundle, out / "results", bundle)
    assert (out / "results" / f"{name}.parquet").read_bytes() == before
    assert read_results(out / "results", plan).num_rows == 2


def test_finished_bundle_is_skipped(out: Path) -> None:
    plan = plan_videos(out, VIDEOS)
    answers = unpack_bundles(make_bundle(plan), RESULTS_SCHEMA)
    none = bundle_schema(PLAN_SCHEMA).empty_table()
    one, other = pack_bundle("one", plan), pack_bundle("other", plan)
    seen = []

    def work(bundles: pa.Table) -> pa.Table:
        names = bundles.column("bundle_id").to_pylist()
        seen.append(names)
        return pa.concat_tables(
            [bundle_schema(RESULTS_SCHEMA).empty_table(), *(pack_bundle(name, answers) for name in names)]
        )

    def finished(bundles: pa.Table) -> list[str]:
        return process_bundles(out / "results", bundles, work).column("bundle_id").to_pylist()

    assert finished(none) == []
    assert finished(one) == ["one"]
    before = (out / "results" / "one.parquet").stat()
    assert finished(pa.concat_tables([one, other])) == ["one", "other"]
    assert finished(one) == ["one"]
    assert seen == [[], ["one"], ["other"], []]
    assert list_done_bundles(out / "results") == {"one", "other"}
    assert (out / "results" / "one.parquet").stat() == before


def cut(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return damage


def zero_the_end(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-512] + bytes(512))


def other(path: Path) -> None:
    path.write_bytes(b"not Parquet" * 100)


@pytest.mark.parametrize(
    ("damage", "is_done"),
    [
        (lambda path: None, True),
        (cut(0), False),
        (cut(0.001), False),
        (cut(0.5), False),
        (cut(0.999), False),
        (zero_the_end, False),
        (other, False),
    ],
)
def test_truncated_file_is_removed(
    out: Path, plan: pa.Table, damage: Callable[[Path], None], is_done: bool
) -> None:
    (name,) = list_done_bundles(out / "results")
    path = out / "results" / f"{name}.parquet"
    damage(path)
    stranger = out / "results" / "fedcba9876543210.parquet"
    stranger.write_bytes(b"not of this plan")
    remove_damaged_bundles(out / "results", [name, "0000000000000000"])
    assert path.exists() == is_done
    assert stranger.exists()


@pytest.mark.parametrize("column", ["segment_id", "moments.list.element.time_s", "read_s"])
@pytest.mark.parametrize("keep", [False, True])
def test_damage_inside_a_file_is_found_by_reading(out: Path, plan: pa.Table, column: str, keep: bool) -> None:
    (path,) = (out / "results").iterdir()
    flip_bit_of_column(path, column)
    remove_damaged_bundles(out / "results", [path.stem])
    with pytest.raises(OutputError, match=r"damaged.* run `fer-batch analyze` again"):
        read_bundle(out / "results", path.stem, keep_damaged=keep)
    assert path.exists() == keep


def test_unreadable_file_does_not_count_as_damaged(
    out: Path, plan: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = (out / "results").iterdir()
    path.rename(out / "kept")
    path.mkdir()
    for look in (
        lambda: remove_damaged_bundles(out / "results", [path.stem]),
        lambda: read_results(out / "results", plan),
    ):
        with pytest.raises(OutputError, match="Cannot read"):
            look()
    assert path.is_dir()
    shutil.rmtree(path)
    (out / "kept").rename(path)

    def refuses(*_: object) -> None:
        raise PermissionError("Access Denied")  # as a store's library says it, without a number

    monkeypatch.setattr(Path, "open", refuses)
    with pytest.raises(OutputError, match=r"Cannot read .*: Access Denied"):
        remove_damaged_bundles(out / "results", [path.stem])
    assert path.exists()


def test_segment_without_result_is_named(out: Path, plan: pa.Table) -> None:
    (path,) = (out / "results").iterdir()
    pq.write_table(pq.read_table(path).slice(1), path)
    lost = plan.column("segment_id")[0].as_py()
    with pytest.raises(OutputError, match=f"1 results for 2 segments, none for {lost}"):
        read_results(out / "results", plan)
