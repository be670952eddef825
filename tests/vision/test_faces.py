"""A segment of a video to its faces: decoded, found, followed and cut out, or a status that says why not."""

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fer_batch.config import AnalyzeConfig
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.probe import probe_videos
from fer_batch.inputs.segments import plan_segments
from fer_batch.schema import FACE_TYPE, MOMENT_TYPE, PLAN_SCHEMA, PROBED_SCHEMA
from fer_batch.video.planes import Picture
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
def seen(detector: FaceDetector, sample: Path) -> SegmentFaces:
    """The whole sample at 5 moments a second."""
    (whole,) = look(sample, detector)
    return whole


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, sample_frames: list[np.ndarray]) -> Path:
    """The sample at half its size, with a key frame each second."""
    small = (np.ascontiguousarray(frame[::2, ::2]) for frame in sample_frames)
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", small, g="25")


@pytest.fixture(scope="module")
def halves(sample_frames: list[np.ndarray]) -> list[np.ndarray]:
    """The first two seconds of the sample, `(180, 320, 3)`."""
    return [np.ascontiguousarray(frame[::2, ::2]) for frame in sample_frames[:50]]


def look(path: Path, detector: FaceDetector, **options: float | bool) -> list[SegmentFaces]:
    return [extract_faces(s, config(**options), detector, CROP_SCALE) for s in segments(path, **options)]


def config(**options: float | bool) -> AnalyzeConfig:
    return AnalyzeConfig(**{"min_face": 0.2, **options})


def segments(path: Path, **options: float | bool) -> list[dict]:
    row = probe_videos(list_videos([str(path)]).sources)
    return plan_segments(row, config(**options), HALF_WINDOW_S, "model", 1).to_pylist()


def tracks(found: SegmentFaces) -> dict[int, list[float]]:
    """The times of each track."""
    times: dict[int, list[float]] = {}
    for face in found.faces:
        times.setdefault(face["track"], []).append(face["time_s"])
    return times


def counts(found: SegmentFaces) -> list[int]:
    return [moment["faces"] for moment in found.moments]


def boxes(found: SegmentFaces) -> np.ndarray:
    return np.array([[f[f"box_{corner}"] for corner in ("x0", "y0", "x1", "y1")] for f in found.faces])


# What a segment's faces are


def test_a_black_video_has_moments_and_no_faces(tmp_path: Path, detector: FaceDetector) -> None:
    path = write_video(tmp_path / "black.mp4", [np.zeros((180, 320, 3), np.uint8)] * 50)
    (found,) = look(path, detector)
    assert (found.status, found.error, found.frames) == ("ok", None, 50)
    assert counts(found) == [0] * 10
    assert found.faces == []
    assert found.crops.shape == (0, 48, 48)
    assert found.crops.dtype == np.uint8


def test_a_single_frame_is_a_moment(tmp_path: Path, detector: FaceDetector, halves: list[np.ndarray]) -> None:
    (found,) = look(write_video(tmp_path / "frame.mp4", halves[:1]), detector)
    assert (found.status, found.frames, counts(found)) == ("ok", 1, [2])


def test_the_sample_has_two_people_of_whom_one_leaves_and_returns(seen: SegmentFaces) -> None:
    assert (seen.status, seen.error, seen.frames) == ("ok", None, 250)
    assert seen.read_s == pytest.approx(10.0)
    followed = tracks(seen)
    assert sorted(followed) == [0, 1, 2]
    (stays,) = [times for times in followed.values() if len(times) >= 49]
    leaves, returns = (times for times in followed.values() if times is not stays)
    assert leaves[0] == 0
    assert 3.4 <= leaves[-1] <= 4.4
    assert 5.6 <= returns[0] <= 6.6
    assert returns[-1] == pytest.approx(9.8)


def test_faces_and_moments_fit_the_schema(seen: SegmentFaces) -> None:
    faces, moments = pa.array(seen.faces, FACE_TYPE), pa.array(seen.moments, MOMENT_TYPE)
    assert faces.to_pylist()[0].keys() == seen.faces[0].keys()
    assert not any(column.null_count for column in (*faces.flatten(), *moments.flatten()))
    for seconds in (seen.timer.wall_s, seen.timer.cpu_s):
        assert seconds.keys() == {"decode", "detect", "track", "crop"}
        assert all(value > 0 for value in seconds.values())


def test_moments_are_on_the_grid_and_count_their_faces(seen: SegmentFaces) -> None:
    assert [m["time_s"] for m in seen.moments] == pytest.approx([n / 5 for n in range(50)])
    assert [m["frame_index"] for m in seen.moments] == list(range(0, 250, 5))
    by_time = [f["time_s"] for f in seen.faces]
    assert by_time == sorted(by_time)
    assert counts(seen) == [by_time.count(m["time_s"]) for m in seen.moments]


def test_boxes_are_shares_of_the_frame_and_measures_are_in_range(seen: SegmentFaces) -> None:
    shares = boxes(seen)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert (shares[:, :2] < shares[:, 2:]).all()
    for face in seen.faces:
        assert 0.9 <= face["face_score"] <= 1
        assert 60 < face["face_px"] < 200
        assert face["blur"] > 0
        assert abs(face["roll_deg"]) < 20
        assert abs(face["yaw"]) < 1


def test_crops_are_those_of_the_faces_in_their_order(
    seen: SegmentFaces, sample_frames: list[np.ndarray]
) -> None:
    assert seen.crops.shape == (len(seen.faces), 48, 48)
    pixels = boxes(seen) * [640, 360, 640, 360]
    for number in (0, 1, len(seen.faces) // 2, len(seen.faces) - 1):
        image = sample_frames[seen.faces[number]["frame_index"]]
        expected = crop_faces(Picture.from_rgb(image), pixels[number : number + 1], CROP_SCALE)[0].astype(int)
        assert np.abs(seen.crops[number] - expected).mean() < 3  # luma, not of RGB


def test_every_frame_can_be_looked_at(detector: FaceDetector, film: Path) -> None:
    (row,) = segments(film, every_frame=True)
    two = {"segments": 2, "index": 0, "end_s": 1.0, "core_end_s": 1.0}
    found = extract_faces(row | two, config(every_frame=True), detector, CROP_SCALE)
    assert [m["frame_index"] for m in found.moments] == list(range(25))
    assert [m["time_s"] for m in found.moments] == pytest.approx([n / 25 for n in range(25)])
    assert sorted(tracks(found)) == [0, 1]


def test_segments_find_in_their_cores_what_the_whole_has_there(detector: FaceDetector, film: Path) -> None:
    (whole,) = look(film, detector)
    rows = segments(film, segment_s=4.0)
    parts = look(film, detector, segment_s=4.0)
    assert len(parts) == 3
    assert [m["time_s"] for p in parts for m in p.moments] == [m["time_s"] for m in whole.moments]
    assert [m["faces"] for p in parts for m in p.moments] == counts(whole)
    assert sum(p.frames for p in parts) == 250
    for row, part in zip(rows, parts, strict=True):
        assert part.status == "ok"
        start_s, end_s = row["core_start_s"], row["core_end_s"]
        core = [n for n, f in enumerate(part.faces) if f["frame_index"] >= 0]
        there = [n for n, f in enumerate(whole.faces) if start_s <= f["time_s"] < end_s]
        assert all(start_s <= part.faces[n]["time_s"] < end_s for n in core)
        assert np.array_equal(part.crops[core], whole.crops[there])
        assert np.array_equal(boxes(part)[core], boxes(whole)[there])
        pairs = {(part.faces[a]["track"], whole.faces[b]["track"]) for a, b in zip(core, there, strict=True)}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@pytest.mark.parametrize("told_s", [6.5, 10.0, 21.0])
def test_a_video_of_a_told_length_is_opened_when_it_is_looked_at(
    detector: FaceDetector, film: Path, told_s: float
) -> None:
    """Told too short, its last part is longer; told too long, its parts beyond the end are empty."""
    (whole,) = look(film, detector)
    source = list_videos([str(film)]).sources.to_pylist()[0] | {"status": "ok", "duration_s": told_s}
    told = config(segment_s=4.0)
    rows = plan_segments(
        pa.Table.from_pylist([source], schema=PROBED_SCHEMA), told, HALF_WINDOW_S, "model", 1
    )
    parts = [extract_faces(row, told, detector, CROP_SCALE) for row in rows.to_pylist()]
    assert {p.status for p in parts} == {"ok"}
    assert [m["time_s"] for p in parts for m in p.moments] == [m["time_s"] for m in whole.moments]
    assert [m["faces"] for p in parts for m in p.moments] == counts(whole)
    assert sum(p.frames for p in parts) == 250
    assert {(p.info.fps, p.info.width, p.info.codec) for p in parts if p.info} == {(25, 320, "h264")}


def test_a_told_length_hides_no_truncation(detector: FaceDetector, film: Path, tmp_path: Path) -> None:
    path = remux(film, tmp_path / "film.mkv")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = list_videos([str(path)]).sources.to_pylist()[0] | {"status": "ok", "duration_s": 10.0}
    told = config(segment_s=4.0)
    rows = plan_segments(
        pa.Table.from_pylist([source], schema=PROBED_SCHEMA), told, HALF_WINDOW_S, "model", 1
    )
    states = [extract_faces(row, told, detector, CROP_SCALE).status for row in rows.to_pylist()]
    assert states[0] == "ok"
    assert states[-1] == "failed"


def test_a_segment_has_faces_before_and_after_its_core(detector: FaceDetector, film: Path) -> None:
    row = segments(film, segment_s=3.0)[1]
    found = extract_faces(row, config(segment_s=3.0), detector, CROP_SCALE)
    outside = [f["time_s"] for f in found.faces if f["frame_index"] == -1]
    assert min(outside) < row["core_start_s"] < row["core_end_s"] <= max(outside)
    assert all(not row["core_start_s"] <= t < row["core_end_s"] for t in outside)
    assert all(m["frame_index"] >= 0 for m in found.moments)
    assert found.frames == 75


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
@pytest.mark.parametrize("segment_s", [60.0, 4.0])
def test_another_container_has_the_same_faces(
    tmp_path: Path, detector: FaceDetector, film: Path, suffix: str, segment_s: float
) -> None:
    expected = look(film, detector, fps=2.0, segment_s=segment_s)
    found = look(remux(film, tmp_path / f"film.{suffix}"), detector, fps=2.0, segment_s=segment_s)
    for one, other in zip(found, expected, strict=True):
        assert (one.status, one.error) == ("ok", None)
        assert counts(one) == counts(other)
        assert np.array_equal(one.crops, other.crops)


# Cuts and what is none


def half_turned(frames: list[np.ndarray]) -> list[np.ndarray]:
    return [np.ascontiguousarray(frame[:, ::-1]) for frame in frames]


def in_another_place(frames: list[np.ndarray]) -> list[np.ndarray]:
    """The same faces in the same places before quite another background."""
    rows, columns = np.indices(frames[0].shape[:2])
    wall = np.where((rows // 45 + columns // 40) % 2, 235, 20).astype(np.uint8)
    keep = np.zeros(wall.shape, bool)
    for x, y in ((82, 104), (238, 78)):
        keep |= ((columns - x) / 40) ** 2 + ((rows - y) / 48) ** 2 < 1
    return [np.where(keep[..., None], frame, wall[..., None]) for frame in frames]


@pytest.mark.parametrize("change", [half_turned, in_another_place])
def test_a_hard_cut_ends_every_track(
    tmp_path: Path, detector: FaceDetector, halves: list[np.ndarray], change: object
) -> None:
    path = write_video(tmp_path / "cut.mp4", halves[:25] + change(halves[:25]))
    (found,) = look(path, detector)
    assert counts(found) == [2] * 10
    before = {f["track"] for f in found.faces if f["time_s"] < 0.99}
    after = {f["track"] for f in found.faces if f["time_s"] >= 0.99}
    assert (before, after) == ({0, 1}, {2, 3})


def fading(frames: list[np.ndarray]) -> list[np.ndarray]:
    shares = 0.7 + 0.3 * np.cos(np.linspace(0, 2 * np.pi, len(frames)))
    return [(frame * share).astype(np.uint8) for frame, share in zip(frames, shares, strict=True)]


def dimmed_at_once(frames: list[np.ndarray]) -> list[np.ndarray]:
    return [*frames[:25], *((frame * 0.6).astype(np.uint8) for frame in frames[25:])]


def swapped_in_place(frames: list[np.ndarray]) -> list[np.ndarray]:
    """From the second second on, the man's face is the woman's, on the same background."""
    other = np.array(Image.fromarray(frames[0][42:116, 208:269]).resize((74, 90)))
    columns, rows = np.meshgrid(np.linspace(-1, 1, 74), np.linspace(-1, 1, 90))
    inside = (columns**2 + rows**2 < 1)[..., None]
    changed = [frame.copy() for frame in frames]
    for number in range(25, len(frames)):
        x, y = round(46 + 11 * math.sin(0.032 * number)), round(54 + 5 * math.cos(0.044 * number))
        place = changed[number][y : y + 90, x : x + 74]
        place[:] = np.where(inside, other, place)
    return changed


@pytest.mark.parametrize("change", [list, fading, dimmed_at_once, swapped_in_place])
def test_light_that_changes_and_a_face_that_changes_are_no_cuts(
    tmp_path: Path, detector: FaceDetector, halves: list[np.ndarray], change: object
) -> None:
    (found,) = look(write_video(tmp_path / "film.mp4", change(halves)), detector)
    assert counts(found) == [2] * 10
    assert {track: len(times) for track, times in tracks(found).items()} == {0: 10, 1: 10}


# Frames of any shape


def test_pixels_that_are_not_square_change_nothing_that_is_seen(
    tmp_path: Path, detector: FaceDetector, sample_frames: list[np.ndarray], seen: SegmentFaces
) -> None:
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 360, 320, "yuv420p"
        stream.options = {"crf": "12", "preset": "ultrafast"}
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for image in sample_frames[:50]:
            squeezed = Image.fromarray(image).resize((320, 360), Image.Resampling.BOX)
            container.mux(stream.encode(av.VideoFrame.from_image(squeezed)))
        container.mux(stream.encode())
    (found,) = look(path, detector)
    assert counts(found) == counts(seen)[:10]
    assert sorted(tracks(found)) == [0, 1]
    assert boxes(found) == pytest.approx(boxes(seen)[:20], abs=0.03)
    for one, other in zip(found.faces, seen.faces, strict=False):
        assert one["roll_deg"] == pytest.approx(other["roll_deg"], abs=5)
        assert one["yaw"] == pytest.approx(other["yaw"], abs=0.25)
    assert np.abs(found.crops.astype(int) - seen.crops[:20]).mean() < 16


@pytest.mark.parametrize("degrees", [90, 270])
def test_a_turned_video_has_the_faces_of_the_upright_one(
    tmp_path: Path, detector: FaceDetector, sample_frames: list[np.ndarray], seen: SegmentFaces, degrees: int
) -> None:
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV writes no display matrix")
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 640, 360, "yuv420p"
        stream.options = {"crf": "12", "preset": "ultrafast"}
        stream.set_display_rotation(degrees)
        for image in sample_frames[:25]:
            stored = np.ascontiguousarray(np.rot90(image, -degrees // 90))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode())
    (found,) = look(path, detector)
    assert counts(found) == [2] * 5
    assert boxes(found) == pytest.approx(boxes(seen)[:10], abs=0.03)


# Trouble is a status


def test_a_file_that_went_away_is_failed(tmp_path: Path, detector: FaceDetector, film: Path) -> None:
    path = remux(film, tmp_path / "gone.mp4")
    (row,) = segments(path)
    path.unlink()
    found = extract_faces(row, config(), detector, CROP_SCALE)
    assert (found.status, found.error) == ("failed", "the file does not exist")
    assert (found.frames, found.moments, found.faces, found.crops.shape) == (0, [], [], (0, 48, 48))


def test_a_file_that_is_cut_short_is_partial_with_what_there_is(
    tmp_path: Path, detector: FaceDetector, film: Path
) -> None:
    content = remux(film, tmp_path / "whole.mkv").read_bytes()
    path = tmp_path / "film.mkv"
    path.write_bytes(content[: len(content) // 3])
    (found,) = look(path, detector)
    assert found.status == "partial"
    assert "before its container says" in str(found.error)
    assert len(found.moments) == math.ceil(found.read_s * 5 - 1e-6)
    assert counts(found)[:10] == [2] * 10


def test_a_segment_after_the_end_of_a_short_file_is_failed(
    tmp_path: Path, detector: FaceDetector, film: Path
) -> None:
    content = remux(film, tmp_path / "whole.mkv").read_bytes()
    path = tmp_path / "film.mkv"
    path.write_bytes(content[: len(content) // 3])
    first, *_, last = look(path, detector, segment_s=2.0, fps=1.0)
    assert (first.status, first.error, len(first.moments)) == ("ok", None, 2)
    assert (last.status, last.frames, last.moments) == ("failed", 0, [])
    assert last.error


def test_a_plan_of_a_raw_stream_without_a_duration_is_read_to_its_end(
    tmp_path: Path, detector: FaceDetector, halves: list[np.ndarray]
) -> None:
    path = write_video(tmp_path / "film.h264", halves)
    (row,) = segments(path)
    assert row["core_end_s"] == 0
    assert row.keys() == set(PLAN_SCHEMA.names)
    (found,) = look(path, detector)
    assert (found.status, found.frames, counts(found)) == ("ok", 50, [2] * 10)


# Media that are not part of the project


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
def test_awkward_files_end_in_the_right_status(
    shared: Path, detector: FaceDetector, name: str, status: str, moments: int
) -> None:
    (found,) = look(shared / "media" / "tricky" / name, detector, fps=1.0)
    assert found.status == status
    assert bool(found.error) == (status != "ok")
    assert len(found.moments) == moments
    if status == "ok" and name not in ("rot90.mp4", "black_no_face.mp4"):
        assert sum(counts(found)) >= len(counts(found)) / 2
    if name == "black_no_face.mp4":
        assert sum(counts(found)) == 0


def test_one_woman_is_one_face_all_along(shared: Path) -> None:
    path = shared / "media" / "clean" / "woman_pexels.mp4"
    (found,) = look(path, FaceDetector(min_face=0.05, min_score=0.9), min_face=0.05)
    assert found.status == "ok"
    assert len(found.moments) == 99
    assert np.mean(np.array(counts(found)) == 1) >= 0.98
    assert len(tracks(found)) <= 3


def test_bottles_have_no_faces(shared: Path) -> None:
    path = shared / "media" / "clean" / "no_face_bottles.mp4"
    (found,) = look(path, FaceDetector(min_face=0.05, min_score=0.9), min_face=0.05, fps=0.5)
    assert (found.status, len(found.moments), sum(counts(found))) == ("ok", 20, 0)


def test_only_the_largest_faces_are_kept(detector: FaceDetector, sample: Path, seen: SegmentFaces) -> None:
    """The tracks, boxes and crops of those that stay are the same; moments count them alone."""
    (one,) = look(sample, detector, max_faces=1)
    assert [m["time_s"] for m in one.moments] == [m["time_s"] for m in seen.moments]
    assert {m["faces"] for m in one.moments} == {1}
    largest: dict[float, int] = {}
    area = [(f["box_x1"] - f["box_x0"]) * (f["box_y1"] - f["box_y0"]) for f in seen.faces]
    for number, face in enumerate(seen.faces):
        best = largest.setdefault(face["time_s"], number)
        if area[number] > area[best]:
            largest[face["time_s"]] = number
    chosen = sorted(largest.values())
    assert one.faces == [seen.faces[number] for number in chosen]
    assert np.array_equal(one.crops, seen.crops[chosen])
    (many,) = look(sample, detector, max_faces=5)
    assert many.faces == seen.faces
