"""The benchmark measures each stage, and the sum of the stages is the total."""

import math
from pathlib import Path

import numpy as np
import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import CheckpointError, InputError
from fer_batch.inputs.listing import list_videos
from fer_batch.pipeline.bench import STAGES, benchmark_videos, decode_bare
from tests.conftest import write_video
from tests.storage.test_archives import pack


@pytest.fixture(scope="module")
def two_seconds(tmp_path_factory: pytest.TempPathFactory, sample_frames: list[np.ndarray]) -> Path:
    return write_video(tmp_path_factory.mktemp("bench") / "two.mp4", sample_frames[:50])


def test_costs_of_the_stages_sum_to_the_total(two_seconds: Path) -> None:
    seen = []
    results = benchmark_videos(list_videos([str(two_seconds)]).sources, AnalyzeConfig(), 2, seen.append)
    assert seen == results
    (one,) = results
    assert one.video == str(two_seconds)
    assert one.status == "ok"
    assert one.seconds == pytest.approx(2, abs=0.1)
    assert (one.width, one.height, one.fps, one.runs) == (640, 360, 25, 2)
    assert one.moments == 10
    assert one.faces == 10 * one.faces_per_moment > 0
    stages = one.stages
    assert list(stages) == [*STAGES, "rest", "total"]
    assert all(stages[name].cpu_s > 0 and stages[name].wall_s > 0 for name in (*STAGES, "total"))
    for kind in ("cpu_s", "wall_s"):
        parts = sum(getattr(cost, kind) for name, cost in stages.items() if name != "total")
        assert parts == pytest.approx(getattr(stages["total"], kind), rel=0.2)
        total, bare = getattr(stages["total"], kind), getattr(one.bare_decoding, kind)
        assert getattr(one.ratio, kind) == pytest.approx(total / bare)
    assert one.peak_memory_bytes > 100e6


def test_member_of_an_archive_is_measured(two_seconds: Path, tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {"two.mp4": two_seconds.read_bytes()})
    (one,) = benchmark_videos(list_videos([str(path)]).sources, AnalyzeConfig(fps=2.0), 1)
    assert (one.video, one.status, one.moments) == (f"{path}!/two.mp4", "ok", 4)
    assert one.bare_decoding.cpu_s > 0


def test_bare_decoding_skips_damage(two_seconds: Path, tmp_path: Path) -> None:
    content = bytearray(two_seconds.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    timer = decode_bare(damaged)
    assert timer.wall_s.keys() == {"bare"}
    assert 0 < timer.cpu_s["bare"] < math.inf


@pytest.mark.parametrize("content", [b"", b"no video at all"])
def test_unreadable_file_is_refused_before_any_measurement(
    two_seconds: Path, tmp_path: Path, content: bytes
) -> None:
    bad = tmp_path / "z.mp4"
    bad.write_bytes(content)
    seen: list[object] = []
    with pytest.raises(InputError, match=r"^Cannot measure .*z\.mp4 \(.+\): leave it out$"):
        benchmark_videos(list_videos([str(two_seconds), str(bad)]).sources, AnalyzeConfig(), 1, seen.append)
    assert not seen


def test_missing_checkpoint_is_an_error(two_seconds: Path, tmp_path: Path) -> None:
    config = AnalyzeConfig(checkpoint=str(tmp_path / "none.safetensors"))
    with pytest.raises(CheckpointError):
        benchmark_videos(list_videos([str(two_seconds)]).sources, config, 1)
