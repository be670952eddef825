"""The small inputs in `../shared/cases`, if they exist, with the right value of each."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.probe import probe_videos
from fer_batch.inputs.segments import plan_segments
from fer_batch.pipeline.local import analyze_video
from fer_batch.timeline.store import open_timeline
from fer_batch.video.reader import SegmentReader, read_info
from fer_batch.video.segment import Segment
from tests.integration.test_analyze import analyze_in_process
from tests.video.helpers import read_segment


@pytest.fixture
def cases(shared: Path) -> Path:
    return shared / "cases"


@pytest.mark.parametrize(
    ("name", "frames", "samples", "width"),
    [
        ("thumbnail-is-stream-0/thumb_first.mp4", 144, 30, 640),
        ("more-than-64-streams/tracks70.mkv", 144, 30, 640),
        ("recorders-formats-not-a-video/tv.wtv", 75, 15, 720),
    ],
)
def test_film_of_an_unusual_file_is_read(
    cases: Path, name: str, frames: int, samples: int, width: int
) -> None:
    sampled, report = read_segment(cases / name)
    assert (report.frames, len(sampled), report.error) == (frames, samples, None)
    assert sampled[0].picture.width == width


@pytest.mark.parametrize(
    ("name", "frames", "read_s", "error"),
    [
        ("picture-begins-after-sound/late_video.mkv", 144, 6.006, None),
        ("picture-begins-after-sound/late_video.mp4", 144, 6.006, None),
        ("cut-short-hidden-by-timecode/plain_cut_after_video.mp4", 75, 3.128, "read 3.1 of 6.0 s"),
        ("cut-short-hidden-by-timecode/tmcd_cut_after_video.mp4", 75, 3.128, "read 3.1 of 6.0 s"),
        ("clock-starts-again/twice.ts", 288, 12.012, None),
        ("clock-starts-again/back_an_hour.ts", 288, 12.012, None),
        ("raw-stream-rate/raw30.h264", 150, 5.0, None),
        ("empty-packets-are-damage/theora.ogv", 147, 6.0, None),
        ("frames-of-one-timestamp/pairs.mkv", 96, 3.959, None),
        ("fragment-cut-in-its-header/cut_in_moof.mp4", 96, 4.004, "the file is truncated"),
    ],
)
def test_times_and_frames_of_a_file_are_right(
    cases: Path, name: str, frames: int, read_s: float, error: str | None
) -> None:
    sampled, report = read_segment(cases / name, fps=None)
    assert len(sampled) == report.frames == frames
    assert [frame.index for frame in sampled] == list(range(frames))
    assert report.read_s == pytest.approx(read_s, abs=0.002)
    assert report.error is None if error is None else error in str(report.error)
    info = read_info(cases / name)
    if name.startswith("picture-begins"):
        assert info.start_s == pytest.approx(2.0, abs=0.03)
        assert info.duration_s == pytest.approx(6.006)
    if name.startswith("clock"):
        assert info.duration_s is None


@pytest.mark.parametrize(
    ("folder", "videos", "skipped"),
    [("suffixes-skipped-in-folders/folder", 6, 0), ("appledouble-files-in-folders/stick", 1, 1)],
)
def test_videos_of_a_folder_are_listed(
    cases: Path, tmp_path: Path, folder: str, videos: int, skipped: int
) -> None:
    listing = list_videos([str(cases / folder)])
    assert (len(listing.sources), listing.skipped) == (videos, skipped)
    with zipfile.ZipFile(tmp_path / "folder.zip", "w") as archive:
        for file in (cases / folder).iterdir():
            archive.write(file, file.name)
    listing = list_videos([str(tmp_path / "folder.zip")])
    assert (len(listing.sources), listing.skipped) == (videos, skipped)


def test_hdr_is_recognized_as_well_as_sdr(cases: Path) -> None:
    hdr, sdr = (
        analyze_video(cases / "hdr-pq-less-sure" / name)["confidence"]
        for name in ("hdr_smpte2084.mp4", "sdr.mp4")
    )
    assert len(hdr) == len(sdr) == 20
    assert abs(hdr.mean() - sdr.mean()) < 0.1


@pytest.mark.slow
def test_film_with_one_key_frame_is_read_in_one_pass(cases: Path, tmp_path: Path) -> None:
    folder = cases / "one-key-frame-times-out"
    samples = {}
    for name, segments in (("longgop.py", 1), ("keyed.py", 3)):
        path = tmp_path / f"{name}.mkv"
        arguments = [sys.executable, name, "320", "180", "180", "30", str(path)]
        subprocess.run(arguments, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        config = AnalyzeConfig(fps=1.0)
        plan = plan_segments(probe_videos(list_videos([str(path)]).sources), config, 0.8, "model", 2)
        assert len(plan) == segments
        packets = 0

        def count_packet() -> None:
            nonlocal packets
            packets += 1

        readers = [SegmentReader(s, 1.0, on_packet=count_packet) for s in Segment.from_table(plan)]
        samples[name] = [frame.time_s for reader in readers for frame in reader if frame.index >= 0]
        assert packets < 1.25 * 180 * 30
    assert len(samples["longgop.py"]) == 180
    assert samples["longgop.py"] == samples["keyed.py"]


def test_seconds_and_times_in_the_file_are_right(cases: Path, tmp_path: Path) -> None:
    late = cases / "picture-begins-after-sound"
    out = tmp_path / "out"
    analyze_in_process(
        [str(cases / "mean-step-wrong-seconds" / "pause_of_a_minute.mp4"), str(late / "late_video.mp4")], out,
        AnalyzeConfig(),
    )  # fmt: skip
    timeline = open_timeline(out)
    first, second = timeline.episodes(video="pause_of_a_minute.mp4", threshold=0).df()["end_s"]
    assert (first, second) == (pytest.approx(3.003, abs=0.01), pytest.approx(66.006, abs=0.01))
    assert timeline.shares(video="pause_of_a_minute.mp4").df()["seconds"].sum() == pytest.approx(
        6.006, abs=0.01
    )
    (event,) = timeline.join_events(late / "late.srt", video="late_video.mp4").df().itertuples()
    assert (event.faces, event.emotion, event.p_sad) == (5, "sad", pytest.approx(0.61, abs=0.01))
    timeline.export(tmp_path / "late.vtt", videos=["late_video.mp4"])
    assert "00:00:02.000 --> " in (tmp_path / "late.vtt").read_text()
