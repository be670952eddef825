"""Probing of files: one row for each, readable or not."""

import os
from pathlib import Path

import av
import numpy as np
import pytest

from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.probe import probe_videos
from tests.conftest import SAMPLE, remux, write_video


def probe(path: Path) -> dict:
    (row,) = probe_videos(list_videos([str(path)]).sources).to_pylist()
    return row


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "the file is empty"),
        (b"not a video at all\n" * 20, "not a video that FFmpeg can open"),
        (bytes(5000), "not a video that FFmpeg can open"),
        (SAMPLE.read_bytes()[:100_000], "not a video that FFmpeg can open"),
    ],
    ids=["empty", "text", "zeros", "without index"],
)
def test_file_that_is_not_a_video_fails_with_the_reason(tmp_path: Path, content: bytes, error: str) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(content)
    row = probe(path)
    assert row["status"] == "failed"
    assert error in row["error"]
    assert row["size_bytes"] == len(content)


def test_missing_file_fails_and_keeps_its_uri(tmp_path: Path) -> None:
    manifest = tmp_path / "list.txt"
    manifest.write_text("gone.mp4\n")
    row = probe(manifest)
    assert (row["status"], row["error"]) == ("failed", "the file does not exist")
    assert row["uri"] == os.path.realpath(tmp_path / "gone.mp4")


def test_file_removed_after_the_listing_fails(tmp_path: Path, sample: Path) -> None:
    path = remux(sample, tmp_path / "video.mp4")
    sources = list_videos([str(path)]).sources
    path.unlink()
    (row,) = probe_videos(sources).to_pylist()
    assert (row["status"], row["error"]) == ("failed", "the file does not exist")
    assert row["size_bytes"] > 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_file_without_permission_fails(tmp_path: Path, sample: Path) -> None:
    path = remux(sample, tmp_path / "video.mp4")
    path.chmod(0)
    row = probe(path)
    assert row["status"] == "failed"
    assert "permission denied" in row["error"]


def test_audio_file_has_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for number in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, number * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    row = probe(path)
    assert (row["status"], row["error"]) == ("no_video", "the file has no video stream")


def test_sample_is_described(sample: Path) -> None:
    row = probe(sample)
    assert row["status"] == "ok"
    assert row["error"] is None
    assert (row["width"], row["height"], row["codec"], row["fps"]) == (640, 360, "h264", 25.0)
    assert (row["duration_s"], row["first_pts"], row["size_bytes"]) == (10.0, 0, sample.stat().st_size)
    assert row["start_s"] == 0.0


@pytest.mark.parametrize("suffix", ["mkv", "ts", "mov", "flv"])
def test_containers_of_the_same_video_are_described_alike(tmp_path: Path, sample: Path, suffix: str) -> None:
    row = probe(remux(sample, tmp_path / f"video.{suffix}"))
    assert (row["status"], row["width"], row["height"], row["codec"]) == ("ok", 640, 360, "h264")
    assert row["duration_s"] == pytest.approx(10.0, abs=0.05)
    assert row["fps"] == pytest.approx(25.0)


def test_raw_stream_has_no_duration(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.h264", [np.full((64, 96, 3), 9 * n, np.uint8) for n in range(12)])
    row = probe(path)
    assert (row["status"], row["duration_s"]) == ("ok", None)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("zero_bytes.mp4", "failed"),
        ("text.mp4", "failed"),
        ("truncated_no_moov.mp4", "failed"),
        ("audio_only.mp4", "no_video"),
        ("truncated_half_faststart.mp4", "ok"),
        ("bitflips_mdat.mp4", "ok"),
        ("av1.mp4", "ok"),
        ("rot90.mp4", "ok"),
        ("vfr.mp4", "ok"),
        ("one_frame.mp4", "ok"),
        ("name with spaces & ünïcode 漢字.mp4", "ok"),
    ],
)
def test_unusual_files_are_opened_or_fail_with_a_reason(shared: Path, name: str, status: str) -> None:
    row = probe(shared / "media" / "tricky" / name)
    assert row["status"] == status
    assert bool(row["error"]) == (status != "ok")
