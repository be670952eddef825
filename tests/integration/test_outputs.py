"""A run folder in a store, compared with a local one."""

from pathlib import Path

import pandas as pd
import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.run.finalize import finalize
from fer_batch.run.forget import forget_videos
from fer_batch.run.verify import verify_run
from fer_batch.storage.folder import open_folder
from fer_batch.timeline.store import open_timeline
from tests.conftest import SAMPLE, remux
from tests.integration.test_analyze import analyze_in_process, assert_same_run, rows
from tests.s3 import Store, client

pytestmark = pytest.mark.slow

SELDOM = AnalyzeConfig(min_face=0.2, fps=2.0, segment_s=5.0)
OUT = "s3://archive/results/of talks"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    remux(SAMPLE, folder / "a.mp4")
    remux(SAMPLE, folder / "b.mkv")
    (folder / "c.mp4").write_bytes(b"no video at all")
    return folder


@pytest.fixture(scope="module")
def in_a_folder(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("folder") / "out"
    analyze_in_process([str(videos)], out, SELDOM)
    return out


@pytest.fixture
def in_a_store(videos: Path, in_a_folder: Path, store: Store) -> Path:
    out = open_folder(OUT)
    analyze_in_process([str(videos)], out, SELDOM)
    return out


def test_run_in_a_store_equals_a_local_run(in_a_store: Path, in_a_folder: Path) -> None:
    assert_same_run(in_a_store, in_a_folder)
    assert verify_run(in_a_store) == []
    here = open_timeline(in_a_folder).to_pandas(video="a.mp4")
    pd.testing.assert_frame_equal(open_timeline(OUT).to_pandas(video="a.mp4"), here)
    pd.testing.assert_frame_equal(open_timeline(OUT).videos(), open_timeline(in_a_folder).videos())
    assert finalize(in_a_store, rewrite_all=True) == finalize(in_a_folder, rewrite_all=True)
    assert_same_run(in_a_store, in_a_folder)


def test_forget_removes_all_traces_from_a_store(in_a_store: Path) -> None:
    (video,) = [row for row in rows(in_a_store, "videos").to_dict("records") if row["uri"].endswith("a.mp4")]
    assert forget_videos(in_a_store, ["a.mp4"]) == [video["uri"]]
    assert verify_run(in_a_store) == []
    assert set(rows(in_a_store, "videos").uri.map(lambda uri: Path(uri).name)) == {"b.mkv", "c.mp4"}
    listing = client().list_objects_v2(Bucket="archive").get("Contents", [])
    contents = [client().get_object(Bucket="archive", Key=item["Key"])["Body"].read() for item in listing]
    assert contents
    assert not [text for text in contents if video["video_id"].encode() in text]
