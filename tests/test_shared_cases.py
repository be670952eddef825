"""The small inputs in `../shared/cases`, if they exist, with the right value of each."""

import zipfile
from pathlib import Path

import pytest

from fer_batch.inputs.listing import list_videos
from fer_batch.pipeline.local import analyze_video
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
    assert abs(hdr.mean() - sdr.mean()) < 0.06
