"""Extraction of the faces of a segment, and the status of damaged files."""

import itertools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fer_batch.config import AnalyzeConfig
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.probe import probe_videos
from fer_batch.inputs.segments import plan_segments
from fer_batch.schema import FACE_TYPE, MOMENT_TYPE, PROBED_SCHEMA
from fer_batch.video.planes import Picture
from fer_batch.video.segment import Segment
from fer_batch.vision.crop import crop_faces
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.faces import SegmentFaces, extract_faces
from tests.conftest import remux, write_video

HALF_WINDOW_S = 0.8
CROP_SCALE = 0.96
HOPPER, COLLINS = 0, 1


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector(min_face=0.2, min_score=0.9)


@pytest.fixture(scope="module")
def whole_sample(detector: FaceDetector, sample: Path) -> SegmentFaces:
    """The faces of the whole sample at 5 frames per second."""
    (whole,) = extract(sample, detector)
    return whole


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, sample_frames: list[np.ndarray]) -> Path:
    """The sample at half its size, with a key frame every second."""
    small = (np.ascontiguousarray(frame[::2, ::2]) for frame in sample_frames)
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", small, g="25")


@pytest.fixture(scope="module")
def whole_film(detector: FaceDetector, film: Path) -> SegmentFaces:
    """The faces of the whole film at 5 frames per second."""
    (whole,) = extract(film, detector)
    return whole


@pytest.fixture(scope="module")
def halves(sample_frames: list[np.ndarray]) -> list[np.ndarray]:
    """The first two seconds of the sample, `(180, 320, 3)`."""
    return [np.ascontiguousarray(frame[::2, ::2]) for frame in sample_frames[:50]]


def extract(path: Path, detector: FaceDetector, **options: float | bool) -> list[SegmentFaces]:
    return [extract_faces(s, make_config(**options), detector, CROP_SCALE) for s in plan(path, **options)]


def make_config(**options: float | bool) -> AnalyzeConfig:
    return AnalyzeConfig(**{"min_face": 0.2, **options})


def plan(path: Path, **options: float | bool) -> list[Segment]:
    row = probe_videos(list_videos([str(path)]).sources)
    return Segment.from_table(plan_segments(row, make_config(**options), HALF_WINDOW_S, "model", 1))


def extract_as_planned(path: Path, detector: FaceDetector, duration_s: float) -> list[SegmentFaces]:
    """Extract the faces of a video whose duration a manifest states."""
    source = list_videos([str(path)]).sources.to_pylist()[0] | {"status": "ok", "duration_s": duration_s}
    config = make_config(segment_s=4.0)
    videos = pa.Table.from_pylist([source], schema=PROBED_SCHEMA)
    segments = Segment.from_table(plan_segments(videos, config, HALF_WINDOW_S, "model", 1))
    return [extract_faces(segment, config, detector, CROP_SCALE) for segment in segments]


def track_times(found: SegmentFaces) -> dict[int, list[float]]:
    """Return the times of each track."""
    times: dict[int, list[float]] = {}
    for face in found.faces:
        times.setdefault(face.track, []).append(face.time_s)
    return times


def count_faces(found: SegmentFaces) -> list[int]:
    return [moment.faces for moment in found.moments]


def count_tracks(found: SegmentFaces) -> dict[int, int]:
    """Return the number of faces of each track."""
    return {track: len(times) for track, times in track_times(found).items()}


def stack_boxes(found: SegmentFaces) -> np.ndarray:
    return np.array(
        [[getattr(f, f"box_{corner}") for corner in ("x0", "y0", "x1", "y1")] for f in found.faces]
    )


# Contents of a segment


def test_black_video_has_moments_and_no_faces(tmp_path: Path, detector: FaceDetector) -> None:
    path = write_video(tmp_path / "black.mp4", [np.zeros((180, 320, 3), np.uint8)] * 50)
    (found,) = extract(path, detector)
    assert (found.status, found.error, found.frames) == ("ok", None, 50)
    assert count_faces(found) == [0] * 10
    assert found.faces == []
    assert found.crops.shape == (0, 48, 48)
    assert found.crops.dtype == np.uint8


def test_single_frame_is_a_moment(tmp_path: Path, detector: FaceDetector, halves: list[np.ndarray]) -> None:
    (found,) = extract(write_video(tmp_path / "frame.mp4", halves[:1]), detector)
    assert (found.status, found.frames, count_faces(found)) == ("ok", 1, [2])


def test_sample_has_two_people_and_one_leaves_and_returns(whole_sample: SegmentFaces) -> None:
    assert (whole_sample.status, whole_sample.error, whole_sample.frames) == ("ok", None, 250)
    assert whole_sample.read_s == pytest.approx(10.0)
    followed = track_times(whole_sample)
    assert sorted(followed) == [0, 1, 2]
    (stays,) = [times for times in followed.values() if len(times) >= 49]
    leaves, returns = (times for times in followed.values() if times is not stays)
    assert leaves[0] == 0
    assert 3.4 <= leaves[-1] <= 4.4
    assert 5.6 <= returns[0] <= 6.6
    assert returns[-1] == pytest.approx(9.8)


def test_faces_and_moments_fit_the_schema(whole_sample: SegmentFaces) -> None:
    for objects, kind in ((whole_sample.faces, FACE_TYPE), (whole_sample.moments, MOMENT_TYPE)):
        rows = [vars(item) for item in objects]
        assert list(rows[0]) == [field.name for field in kind]
        assert not any(column.null_count for column in pa.array(rows, kind).flatten())
    for seconds in (whole_sample.timer.wall_s, whole_sample.timer.cpu_s):
        assert seconds.keys() == {"decode", "detect", "track", "crop"}
        assert all(value > 0 for value in seconds.values())


def test_moments_are_on_the_grid_and_count_their_faces(whole_sample: SegmentFaces) -> None:
    assert [m.time_s for m in whole_sample.moments] == pytest.approx([n / 5 for n in range(50)])
    assert [m.frame_index for m in whole_sample.moments] == list(range(0, 250, 5))
    by_time = [f.time_s for f in whole_sample.faces]
    assert by_time == sorted(by_time)
    assert count_faces(whole_sample) == [by_time.count(m.time_s) for m in whole_sample.moments]


def test_boxes_are_shares_of_the_frame_and_measures_are_in_range(whole_sample: SegmentFaces) -> None:
    shares = stack_boxes(whole_sample)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert (shares[:, :2] < shares[:, 2:]).all()
    for face in whole_sample.faces:
        assert 0.9 <= face.face_score <= 1
        assert 60 < face.face_px < 200
        assert face.blur > 0
        assert abs(face.roll_deg) < 20
        assert abs(face.yaw_deg) < 40
        assert abs(face.pitch_deg) < 30


def test_crops_are_in_the_order_of_the_faces(
    whole_sample: SegmentFaces, sample_frames: list[np.ndarray]
) -> None:
    assert whole_sample.crops.shape == (len(whole_sample.faces), 48, 48)
    pixels = stack_boxes(whole_sample) * [640, 360, 640, 360]
    for number in (0, 1, len(whole_sample.faces) // 2, len(whole_sample.faces) - 1):
        image = sample_frames[whole_sample.faces[number].frame_index]
        expected = crop_faces(Picture.from_rgb(image), pixels[number : number + 1], CROP_SCALE)[0].astype(int)
        assert np.abs(whole_sample.crops[number] - expected).mean() < 3  # luma, not of RGB


def test_every_frame_can_be_sampled(detector: FaceDetector, film: Path) -> None:
    (row,) = plan(film, every_frame=True)
    found = extract_faces(row.end_at(1.0), make_config(every_frame=True), detector, CROP_SCALE)
    assert [m.frame_index for m in found.moments] == list(range(25))
    assert [m.time_s for m in found.moments] == pytest.approx([n / 25 for n in range(25)])
    assert sorted(track_times(found)) == [0, 1]


def test_cores_of_segments_have_the_faces_of_the_whole_video(
    detector: FaceDetector, film: Path, whole_film: SegmentFaces
) -> None:
    whole = whole_film
    rows = plan(film, segment_s=4.0)
    parts = extract(film, detector, segment_s=4.0)
    assert len(parts) == 3
    assert [m.time_s for p in parts for m in p.moments] == [m.time_s for m in whole.moments]
    assert [m.faces for p in parts for m in p.moments] == count_faces(whole)
    assert sum(p.frames for p in parts) == 250
    for row, part in zip(rows, parts, strict=True):
        assert part.status == "ok"
        start_s, end_s = row.core_start_s, row.core_end_s
        core = [n for n, f in enumerate(part.faces) if f.frame_index >= 0]
        there = [n for n, f in enumerate(whole.faces) if start_s <= f.time_s < end_s]
        assert all(start_s <= part.faces[n].time_s < end_s for n in core)
        assert np.array_equal(part.crops[core], whole.crops[there])
        assert np.array_equal(stack_boxes(part)[core], stack_boxes(whole)[there])
        pairs = {(part.faces[a].track, whole.faces[b].track) for a, b in zip(core, there, strict=True)}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@pytest.mark.parametrize("planned_s", [6.5, 10.0, 21.0])
def test_video_with_a_wrong_planned_duration_is_read_completely(
    detector: FaceDetector, film: Path, whole_film: SegmentFaces, planned_s: float
) -> None:
    """Too short a duration makes the last segment longer; too long a duration leaves segments empty."""
    parts = extract_as_planned(film, detector, planned_s)
    assert {p.status for p in parts} == {"ok"}
    assert [m.time_s for p in parts for m in p.moments] == [m.time_s for m in whole_film.moments]
    assert [m.faces for p in parts for m in p.moments] == count_faces(whole_film)
    assert sum(p.frames for p in parts) == 250
    assert {(p.info.fps, p.info.width, p.info.codec) for p in parts if p.info} == {(25, 320, "h264")}


def test_segment_has_faces_in_its_padding(detector: FaceDetector, film: Path) -> None:
    row = plan(film, segment_s=3.0)[1]
    found = extract_faces(row, make_config(segment_s=3.0), detector, CROP_SCALE)
    outside = [f.time_s for f in found.faces if f.frame_index == -1]
    assert min(outside) < row.core_start_s < row.core_end_s <= max(outside)
    assert all(not row.core_start_s <= t < row.core_end_s for t in outside)
    assert all(m.frame_index >= 0 for m in found.moments)
    assert found.frames == 75


@pytest.mark.parametrize("segment_s", [60.0, 4.0])
def test_faces_do_not_depend_on_the_container(
    tmp_path: Path, detector: FaceDetector, film: Path, segment_s: float
) -> None:
    expected = extract(film, detector, fps=2.0, segment_s=segment_s)
    for suffix in ("mkv", "ts"):
        found = extract(remux(film, tmp_path / f"film.{suffix}"), detector, fps=2.0, segment_s=segment_s)
        for one, other in zip(found, expected, strict=True):
            assert (one.status, one.error) == ("ok", None), suffix
            assert count_faces(one) == count_faces(other), suffix
            assert np.array_equal(one.crops, other.crops), suffix


# Shot cuts


def mirror(frames: list[np.ndarray]) -> list[np.ndarray]:
    return [np.ascontiguousarray(frame[:, ::-1]) for frame in frames]


def replace_background(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Keep the faces and replace the background."""
    rows, columns = np.indices(frames[0].shape[:2])
    wall = np.where((rows // 45 + columns // 40) % 2, 235, 20).astype(np.uint8)
    keep = np.zeros(wall.shape, bool)
    for x, y in ((82, 104), (238, 78)):
        keep |= ((columns - x) / 40) ** 2 + ((rows - y) / 48) ** 2 < 1
    return [np.where(keep[..., None], frame, wall[..., None]) for frame in frames]


@pytest.mark.parametrize("change", [mirror, replace_background])
def test_shot_cut_ends_every_track(
    tmp_path: Path, detector: FaceDetector, halves: list[np.ndarray], change: object
) -> None:
    path = write_video(tmp_path / "cut.mp4", halves[:25] + change(halves[:25]))
    (found,) = extract(path, detector)
    assert count_faces(found) == [2] * 10
    before = {f.track for f in found.faces if f.time_s < 0.99}
    after = {f.track for f in found.faces if f.time_s >= 0.99}
    assert (before, after) == ({0, 1}, {2, 3})


def fade(frames: list[np.ndarray]) -> list[np.ndarray]:
    shares = 0.7 + 0.3 * np.cos(np.linspace(0, 2 * np.pi, len(frames)))
    return [(frame * share).astype(np.uint8) for frame, share in zip(frames, shares, strict=True)]


def dim(frames: list[np.ndarray]) -> list[np.ndarray]:
    return [*frames[:25], *((frame * 0.6).astype(np.uint8) for frame in frames[25:])]


def flash(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Light the sampled frame at 0.6 s, and the frame after it, as by the flash of a camera."""
    lit = [np.clip(frame.astype(float) * 1.5 + 50, 0, 255).astype(np.uint8) for frame in frames[15:17]]
    return [*frames[:15], *lit, *frames[17:]]


def swap_face(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Replace the man's face by the woman's from 1 s on, on the same background."""
    other = np.array(Image.fromarray(frames[0][42:116, 208:269]).resize((74, 90)))
    columns, rows = np.meshgrid(np.linspace(-1, 1, 74), np.linspace(-1, 1, 90))
    inside = (columns**2 + rows**2 < 1)[..., None]
    changed = [frame.copy() for frame in frames]
    for number in range(25, len(frames)):
        x, y = round(46 + 11 * math.sin(0.032 * number)), round(54 + 5 * math.cos(0.044 * number))
        place = changed[number][y : y + 90, x : x + 74]
        place[:] = np.where(inside, other, place)
    return changed


@pytest.mark.parametrize("change", [list, fade, dim, flash])
def test_changed_light_ends_no_track(
    tmp_path: Path,
    detector: FaceDetector,
    halves: list[np.ndarray],
    change: Callable[[list[np.ndarray]], list[np.ndarray]],
) -> None:
    (found,) = extract(write_video(tmp_path / "film.mp4", change(halves)), detector)
    # In the flash a face may be missed, and something else may look like one.
    assert [count >= 9 for count in count_tracks(found).values() if count > 1] == [True, True]


def test_other_face_in_the_same_place_starts_a_track(
    tmp_path: Path, detector: FaceDetector, halves: list[np.ndarray]
) -> None:
    """The picture around the face stays as it is, and so does the face beside it."""
    (found,) = extract(write_video(tmp_path / "film.mp4", swap_face(halves)), detector)
    assert count_faces(found) == [2] * 10
    assert sorted(count_tracks(found).values()) == [5, 5, 10]


# Frame shapes


def write_film(folder: Path, images: list[Image.Image], configure: Callable[[Any], None]) -> Path:
    with av.open(str(folder / "film.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = images[0].size
        stream.options = {"crf": "12", "preset": "ultrafast"}
        configure(stream)
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return folder / "film.mp4"


def test_anamorphic_video_has_the_faces_of_the_displayed_video(
    tmp_path: Path, detector: FaceDetector, sample_frames: list[np.ndarray], whole_sample: SegmentFaces
) -> None:
    images = [Image.fromarray(frame).resize((320, 360), Image.Resampling.BOX) for frame in sample_frames[:50]]
    path = write_film(
        tmp_path, images, lambda stream: setattr(stream.codec_context, "sample_aspect_ratio", 2)
    )
    (found,) = extract(path, detector)
    assert count_faces(found) == count_faces(whole_sample)[:10]
    assert sorted(track_times(found)) == [0, 1]
    assert stack_boxes(found) == pytest.approx(stack_boxes(whole_sample)[:20], abs=0.03)
    for one, other in zip(found.faces, whole_sample.faces, strict=False):
        assert one.roll_deg == pytest.approx(other.roll_deg, abs=5)
        assert one.yaw_deg == pytest.approx(other.yaw_deg, abs=12)
        assert one.pitch_deg == pytest.approx(other.pitch_deg, abs=12)
    assert np.abs(found.crops.astype(int) - whole_sample.crops[:20]).mean() < 16


@pytest.mark.skipif(
    not hasattr(av.VideoStream, "set_display_rotation"), reason="this PyAV writes no display matrix"
)
@pytest.mark.parametrize("degrees", [90, 270])
def test_rotated_video_has_the_faces_of_the_upright_one(
    tmp_path: Path,
    detector: FaceDetector,
    sample_frames: list[np.ndarray],
    whole_sample: SegmentFaces,
    degrees: int,
) -> None:
    images = [Image.fromarray(np.rot90(image, -degrees // 90)) for image in sample_frames[:25]]
    path = write_film(tmp_path, images, lambda stream: stream.set_display_rotation(degrees))
    (found,) = extract(path, detector)
    assert count_faces(found) == [2] * 5
    assert stack_boxes(found) == pytest.approx(stack_boxes(whole_sample)[:10], abs=0.03)


# Damaged files


def test_missing_file_is_failed(tmp_path: Path, detector: FaceDetector, film: Path) -> None:
    path = remux(film, tmp_path / "gone.mp4")
    (row,) = plan(path)
    path.unlink()
    found = extract_faces(row, make_config(), detector, CROP_SCALE)
    assert (found.status, found.error) == ("failed", "the file does not exist")
    assert (found.frames, found.moments, found.faces, found.crops.shape) == (0, [], [], (0, 48, 48))


@pytest.fixture
def third_of_film(tmp_path: Path, film: Path) -> Path:
    path = remux(film, tmp_path / "film.mkv")
    os.truncate(path, path.stat().st_size // 3)
    return path


def test_truncated_file_is_partial(detector: FaceDetector, third_of_film: Path) -> None:
    (found,) = extract(third_of_film, detector)
    assert found.status == "partial"
    assert "the file ends before its container says" in str(found.error)
    assert len(found.moments) == math.ceil(found.read_s * 5 - 1e-6)
    assert count_faces(found)[:10] == [2] * 10


def test_segment_after_the_end_of_a_truncated_file_is_failed(
    detector: FaceDetector, third_of_film: Path
) -> None:
    first, *_, last = extract(third_of_film, detector, segment_s=2.0, fps=1.0)
    assert (first.status, first.error, len(first.moments)) == ("ok", None, 2)
    assert (last.status, last.frames, last.moments) == ("failed", 0, [])
    assert last.error


def test_truncation_is_reported_with_a_planned_duration(
    detector: FaceDetector, film: Path, tmp_path: Path
) -> None:
    path = remux(film, tmp_path / "film.mkv")
    os.truncate(path, path.stat().st_size // 2)
    first, *_, last = extract_as_planned(path, detector, 10.0)
    assert (first.status, last.status) == ("ok", "failed")


def test_raw_stream_without_a_duration_is_read_to_its_end(
    tmp_path: Path, detector: FaceDetector, halves: list[np.ndarray]
) -> None:
    path = write_video(tmp_path / "film.h264", halves)
    (row,) = plan(path)
    assert row.core_end_s == 0
    (found,) = extract(path, detector)
    assert (found.status, found.frames, count_faces(found)) == ("ok", 50, [2] * 10)


# Media that are not part of the repository


@pytest.mark.parametrize(
    ("name", "status", "moments"),
    [
        ("anamorphic_sar.mp4", "ok", 2),
        ("av1.mp4", "ok", 6),
        ("bitflips_mdat.mp4", "partial", 6),
        ("black_no_face.mp4", "ok", 3),
        ("fps60.mp4", "ok", 3),
        ("fragmented.mp4", "ok", 6),
        ("h264.flv", "ok", 6),
        ("h264.ts", "ok", 6),
        ("hevc.mp4", "ok", 6),
        ("name with spaces & ünïcode 漢字.mp4", "ok", 6),
        ("odd_size.mp4", "ok", 2),
        ("one_frame.mp4", "ok", 1),
        ("rot90.mp4", "ok", 3),
        ("truncated_half_faststart.mp4", "partial", 3),
        ("vfr.mp4", "ok", 6),
    ],
)
def test_unusual_files_have_the_expected_status(
    shared: Path, detector: FaceDetector, name: str, status: str, moments: int
) -> None:
    (found,) = extract(shared / "media" / "tricky" / name, detector, fps=1.0)
    assert found.status == status
    assert bool(found.error) == (status != "ok")
    assert len(found.moments) == moments
    if name == "black_no_face.mp4":
        assert sum(count_faces(found)) == 0
    elif status == "ok" and name != "rot90.mp4":
        assert sum(count_faces(found)) >= len(count_faces(found)) / 2


def test_video_of_one_woman_has_one_face_per_frame(shared: Path) -> None:
    path = shared / "media" / "clean" / "woman_pexels.mp4"
    (found,) = extract(path, FaceDetector(min_face=0.05, min_score=0.9), min_face=0.05)
    assert found.status == "ok"
    assert len(found.moments) == 99
    assert np.mean(np.array(count_faces(found)) == 1) >= 0.98
    assert len(track_times(found)) <= 3


def test_video_of_bottles_has_no_faces(shared: Path) -> None:
    path = shared / "media" / "clean" / "no_face_bottles.mp4"
    (found,) = extract(path, FaceDetector(min_face=0.05, min_score=0.9), min_face=0.05, fps=0.5)
    assert (found.status, len(found.moments), sum(count_faces(found))) == ("ok", 20, 0)


def test_max_faces_keeps_the_largest(
    detector: FaceDetector, sample: Path, whole_sample: SegmentFaces
) -> None:
    """The faces that are kept do not change, and moments count only them."""
    (one,) = extract(sample, detector, max_faces=1)
    assert [m.time_s for m in one.moments] == [m.time_s for m in whole_sample.moments]
    assert {m.faces for m in one.moments} == {1}
    area = [(f.box_x1 - f.box_x0) * (f.box_y1 - f.box_y0) for f in whole_sample.faces]
    numbers = itertools.groupby(range(len(area)), lambda number: whole_sample.faces[number].time_s)
    chosen = [max(group, key=area.__getitem__) for _, group in numbers]
    assert one.faces == [whole_sample.faces[number] for number in chosen]
    assert np.array_equal(one.crops, whole_sample.crops[chosen])
    (many,) = extract(sample, detector, max_faces=5)
    assert many.faces == whole_sample.faces
