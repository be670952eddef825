"""Videos in archives and stores give the same rows as files."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.pipeline.analyze import analyze, is_finished
from fer_batch.pipeline.guard import list_videos_guarded
from fer_batch.run.forget import forget_videos
from fer_batch.run.verify import verify_run
from fer_batch.runtime import ray_session
from fer_batch.schema import PROBED_SCHEMA
from fer_batch.storage.folder import open_folder
from tests.conftest import remux, write_video
from tests.integration.test_analyze import analyze_in_process, rows
from tests.s3 import CREDENTIALS, Store
from tests.storage import hostile
from tests.storage.test_archives import NAMES, hostile_tar, pack
from tests.web import QUERY, SECRETS, serve

SELDOM = AnalyzeConfig(min_face=0.2, fps=2.0, segment_s=2.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, sample_frames: list[np.ndarray]) -> dict[str, bytes]:
    """Two videos of four seconds by name; one has its index at the end."""
    folder = tmp_path_factory.mktemp("files")
    video = write_video(folder / "a.mp4", sample_frames[:100])
    return {"a.mp4": video.read_bytes(), "b.mkv": remux(video, folder / "b.mkv").read_bytes()}


@pytest.fixture(scope="module")
def as_files(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("as_files")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    analyze_in_process([str(folder)], folder / "out", SELDOM)
    return folder / "out"


def rows_by_name(out: Path, table: str) -> pd.DataFrame:
    """Return the rows of the readable videos, with file names instead of addresses."""
    videos = rows(out, "videos")
    names = dict(zip(videos.video_id, videos.uri.map(lambda uri: Path(uri).name), strict=True))
    frame = rows(out, table)
    frame["name"] = frame.video_id.map(names)
    frame = frame[frame.name.isin(["a.mp4", "b.mkv"])]
    frame = frame.drop(columns=["video_id", "version", "uri", "attempt"], errors="ignore")
    return frame.sort_values([c for c in ("name", "track_id", "time_s") if c in frame], ignore_index=True)


def assert_same_rows(one: Path, other: Path) -> None:
    for table in ("videos", "moments", "tracks"):
        found = rows_by_name(one, table), rows_by_name(other, table)
        pd.testing.assert_frame_equal(*found, check_exact=True, check_dtype=False)  # nulls of other videos
    assert len(rows_by_name(one, "tracks"))


@pytest.mark.parametrize("name", NAMES)
def test_archive_gives_the_rows_of_its_files(
    name: str, files: dict[str, bytes], as_files: Path, tmp_path: Path
) -> None:
    pack(tmp_path / name, files)
    analyze_in_process([str(tmp_path / name)], tmp_path / "out", SELDOM)
    assert_same_rows(tmp_path / "out", as_files)


@pytest.mark.slow
def test_unreliable_store_gives_the_rows_of_its_files(
    store: Store,
    files: dict[str, bytes],
    as_files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On Ray, with hostile and damaged archives; the run folder contains no secret."""
    store.put("films/a.mp4", files["a.mp4"])
    store.put("films/shard.tar", pack(tmp_path / "shard.tar", {"b.mkv": files["b.mkv"]}).read_bytes())
    store.put("films/hostile.tar", hostile_tar(tmp_path / "hostile.tar").read_bytes())
    store.put("films/none.zip", b"no archive at all")
    out = tmp_path / "out"
    monkeypatch.setenv("RAY_worker_niceness", "0")
    store.fail, store.every = "500", 4
    with ray_session(num_cpus=2):
        summary = analyze(["s3://archive/films"], out, SELDOM)
    store.fail = ""
    assert summary.videos == {"ok": 2, "failed": 8}
    assert_same_rows(out, as_files)
    assert verify_run(out) == []
    secret = CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode()
    assert not [path for path in out.rglob("*") if path.is_file() and secret in path.read_bytes()]


@pytest.mark.slow
def test_query_of_an_address_is_in_no_file(
    files: dict[str, bytes], as_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the run folder nor in those of Ray; a second start takes it from the manifest again."""
    temporary = Path(tempfile.mkdtemp(prefix="fer"))  # the paths of Ray's sockets are short
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.setenv(name, str(temporary))
    monkeypatch.setenv("RAY_worker_niceness", "0")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    out, scanned = tmp_path / "out", [0]

    def find_secrets() -> list[Path]:
        found = [
            p for folder in (out, temporary) for p in folder.rglob("*") if p.is_file() and not p.is_socket()
        ]
        scanned[0] = max(scanned[0], len(found))
        return [path for path in found if any(secret in path.read_bytes() for secret in SECRETS)]

    try:
        with serve(tmp_path) as url, ray_session(num_cpus=2):
            (tmp_path / "list.txt").write_text(f"{url}/a.mp4{QUERY}\n{url}/wrong.mp4?jwt=S3cr3t")
            first = analyze([str(tmp_path / "list.txt")], out, SELDOM, allow_query=True)
            (tmp_path / "list.txt").write_text(f"{url}/b.mkv{QUERY}\n")
            second = analyze([str(tmp_path / "list.txt")], out, SELDOM, allow_query=True)
            assert find_secrets() == []
        assert find_secrets() == []
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    assert scanned[0] > 30, "Ray's folder was not searched"
    assert first.videos == {"ok": 1, "failed": 1}
    assert second.videos == {"ok": 2, "failed": 1}
    assert_same_rows(out, as_files)


@pytest.mark.slow
@pytest.mark.parametrize("fail", ["cut", "500"])
def test_video_in_a_failing_store_fails(
    fail: str, store: Store, files: dict[str, bytes], tmp_path: Path
) -> None:
    """The manifest has its length, so it is not opened before it is analyzed."""
    store.put("films/a.mp4", files["a.mp4"])
    (tmp_path / "list.csv").write_text("path,duration_s\ns3://archive/films/a.mp4,4\n")
    store.fail = fail
    analyze_in_process([str(tmp_path / "list.csv")], tmp_path / "out", SELDOM)
    (video,) = rows(tmp_path / "out", "videos").to_dict("records")
    assert video["status"] == "failed"
    assert "cannot read the store" in video["error"]


def test_failed_archives_are_planned_once_and_can_be_forgotten(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(files["a.mp4"])
    for number, attack in enumerate(("negative size", "pax header of digits", "600 long names")):
        path = hostile.hostile_tar(tmp_path / "in" / f"{number}.tar", attack)
        path.write_bytes(path.read_bytes()[len(hostile.GOOD_TAR) :])
    hostile.hostile_zip(tmp_path / "in" / "3.zip", "size of 2**63")
    (tmp_path / "list.txt").write_text("in/0.tar!/x.mp4\n")
    out, inputs = tmp_path / "out", [str(tmp_path / "in"), str(tmp_path / "list.txt")]
    analyze_in_process(inputs, out, SELDOM)
    videos = rows(out, "videos")
    failed = videos[videos.status == "failed"]
    assert (len(videos), len(failed)) == (6, 5)
    assert failed.error.str.contains("cannot read the archive after 0 files").all()
    listing = list_videos_guarded(inputs, Limits())
    assert is_finished(open_folder(out), listing, PROBED_SCHEMA.empty_table())
    assert verify_run(out) == []
    forget_videos(out, [f"{tmp_path}/in/3.zip"])
    assert len(rows(out, "videos")) == 5
    assert verify_run(out) == []
