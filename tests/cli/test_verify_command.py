"""Test `fer-batch verify`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from fer_batch.cli.main import main
from fer_batch.run.results import write_bundle
from fer_batch.run.snapshot import write_snapshot
from fer_batch.schema import pack_bundle
from fer_batch.storage.lease import hold_lease
from tests.runs import add_videos, flip_bit_of_column, kill_at, plan_videos, write_run
from tests.timeline.test_store import VIDEOS

LATER = {"/films/new.mkv": [["happy"]]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = write_run(tmp_path_factory.mktemp("verify") / "run", VIDEOS, in_bucket=2)
    add_videos(out, {"/films/old.mkv": [["sad"] * 2]})
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def verify(*words: object) -> int:
    return main(["verify", *map(str, words)])


@pytest.mark.parametrize("videos", [{}, VIDEOS], ids=["no videos", "some"])
def test_consistent_run_prints_a_table(
    videos: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = write_run(tmp_path / "run", videos)
    assert verify(out) == 0
    text = capsys.readouterr().out
    assert "OK, consistent" in text
    assert text.split("videos")[1].split()[1] == str(len(videos))


def test_json_has_the_counts(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(finished, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "ok": True,
        "differences": [],
        "videos": {"ok": 6, "no_faces": 1, "failed": 1},
        "moments": 35,
        "faces": 15,
        "tracks": 7,
    }


def lose_a_bundle(out: Path) -> None:
    max((out / "results").iterdir(), key=lambda path: path.stat().st_size).unlink()


def tear(out: Path) -> None:
    path = next((out / "results").iterdir())
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(out: Path) -> None:
    flip_bit_of_column(next((out / "results").iterdir()), "read_s")


def lose_a_segment(out: Path) -> None:
    path = max((out / "results").iterdir(), key=lambda path: path.stat().st_size)
    write_bundle(out / "results", pack_bundle(path.stem, pq.read_table(path).slice(1)))


def leave_a_strangers_answer(out: Path) -> None:
    path = max((out / "results").iterdir(), key=lambda path: path.stat().st_size)
    rows = pq.read_table(path).slice(0, 1)
    names = pa.array(["gone"])
    rows = rows.set_column(rows.schema.get_field_index("video_id"), "video_id", names)
    write_bundle(out / "results", pack_bundle("stranger", rows))


def leave_rubbish(out: Path) -> None:
    (out / "results" / "rubbish.parquet").write_bytes(b"")


def rewrite(out: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Replace the rows of a table, as a faulty program would."""
    tables = {table: DeltaTable(str(out / table)) for table in ("moments", "tracks", "videos")}
    write_deltalake(tables[name], change(pa.table(tables[name].to_pyarrow_table())), mode="overwrite")
    write_snapshot(out, tables, "")


def miscount(out: Path) -> None:
    counts = json.loads((out / "_SUCCESS.json").read_text())
    (out / "_SUCCESS.json").write_text(json.dumps(counts | {"faces": counts["faces"] + 1}))


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda out: (out / "_SUCCESS.json").unlink(), " does not exist"),
    (lambda out: (out / "_SUCCESS.json").write_text("{"), "_SUCCESS.json: "),
    (miscount, "has 16 faces, the tables have 15"),
    (lose_a_bundle, "6 of 7 segments are not done"),
    (tear, "is damaged"),
    (flip_a_bit, "is damaged"),
    (lose_a_segment, "5 results for 6 segments"),
    (leave_a_strangers_answer, "contains gone, which is not planned"),
    (leave_rubbish, "rubbish.parquet ("),
    (lambda out: rewrite(out, "tracks", lambda rows: rows.slice(1)), "rows in tracks, expected"),
    (
        lambda out: rewrite(out, "tracks", lambda rows: pa.concat_tables([rows, rows.slice(0, 1)])),
        "repeated rows in tracks",
    ),
    (lambda out: rewrite(out, "moments", lambda rows: rows.slice(1)), "rows in moments, expected"),
    (lambda out: rewrite(out, "videos", lambda rows: rows.slice(1)), "0 rows in videos"),
    (
        lambda out: rewrite(out, "videos", lambda rows: pa.concat_tables([rows, rows.slice(0, 1)])),
        "2 rows in videos",
    ),
    (
        lambda out: rewrite(out, "videos", lambda rows: rows.filter(pc.field("status") != "failed")),
        "broken.mp4: 0 rows in videos",
    ),
    (lambda out: shutil.rmtree(out / "tracks"), "writes them again"),
    (lambda out: next((out / "tracks").glob("bucket=*/*.parquet")).unlink(), "cannot read bucket"),
    (lambda out: next((out / "plan").glob("*.videos.parquet")).write_bytes(b""), "Cannot read the plan in"),
    (lambda out: plan_videos(out, LATER), "1 of 8 segments are not done: run the same"),
    (lambda out: kill_at("forget.results", main, ["forget", str(out), "old.mkv"]), "partly forgotten"),
]


@pytest.mark.parametrize(("damage", "line"), DAMAGE, ids=[line for _, line in DAMAGE])
def test_damage_is_reported_and_not_changed(
    damage: Callable[[Path], object], line: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert verify(out) == 1
    streams = capsys.readouterr()
    assert [found for found in streams.out.splitlines() if line in found], streams.out
    assert streams.err == ""
    assert verify(out, "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"ok": False, "differences": streams.out.splitlines()}
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_running_run_can_be_verified(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with hold_lease(out, "analyze"):
        assert verify(out) == 0
        plan_videos(out, LATER)
        assert verify(out) == 1
    assert verify(out) == 1
    during, before, after = capsys.readouterr().out.splitlines()[-3:]
    assert during.startswith("the run is still in progress: `fer-batch analyze` has written there since ")
    assert before == after == ("1 of 8 segments are not done: run the same `fer-batch analyze` again")
