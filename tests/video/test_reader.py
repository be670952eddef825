"""Videos to frames with their times, whatever the container, the damage, and what is left undecoded."""

import functools
import itertools
import math
import re
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.errors import DecodeError, NoVideoError
from fer_batch.video import container, sampling, source
from fer_batch.video.planes import Frame, Picture
from fer_batch.video.reader import SegmentReader, read_info
from fer_batch.video.report import ReadReport
from fer_batch.video.sampling import FrameSkipper
from fer_batch.video.segment import Segment
from fer_batch.video.timestamps import TIME_TOLERANCE_S
from tests.conftest import SAMPLE, remux, write_video


def segment_of(
    path: Path, start_s: float = 0.0, end_s: float = math.inf, core: tuple[float, float] | None = None
) -> Segment:
    core_start_s, core_end_s = core or (start_s, end_s)
    return Segment(
        uri=str(path),
        start_s=start_s,
        end_s=end_s,
        core_start_s=core_start_s,
        core_end_s=core_end_s,
        index=1,
        segments=2 if math.isinf(end_s) else 3,
        first_pts=read_info(path).first_pts if start_s > 0 else None,
    )


def read(
    path: Path,
    start_s: float = 0.0,
    end_s: float = math.inf,
    fps: float | None = 5.0,
    core: tuple[float, float] | None = None,
    fast: str | None = None,
    prefetch: int = 0,
) -> tuple[list[Frame], ReadReport]:
    reader = SegmentReader(segment_of(path, start_s, end_s, core), fps, fast=fast, prefetch=prefetch)
    return list(reader), reader.report


def times(frames: list[Frame]) -> list[float]:
    return [frame.time_s for frame in frames]


def same(ours: list[Frame], others: list[Frame]) -> bool:
    return times(ours) == times(others) and same_pictures(ours, others)


def same_pictures(ours: list[Frame], others: list[Frame]) -> bool:
    return all(np.array_equal(planes(a), planes(b)) for a, b in zip(ours, others, strict=True))


def planes(frame: Frame) -> np.ndarray:
    """Every value of a frame, `(n,) uint8`."""
    picture = frame.picture
    return np.concatenate([np.asarray(plane).ravel() for plane in (picture.y, picture.u, picture.v)])


def rgb(frame: Frame) -> np.ndarray:
    return frame.picture.to_rgb().astype(int)


def first_of_cells(all_times: list[float], fps: float) -> list[float]:
    cells = itertools.groupby(all_times, key=lambda t: math.floor((t + TIME_TOLERANCE_S) * fps))
    return [next(group) for _, group in cells]


@functools.cache
def sample_moments(fps: float | None) -> list[Frame]:
    return read(SAMPLE, fps=fps)[0]


@pytest.fixture(scope="module")
def small_frames(sample_frames: list[np.ndarray]) -> list[np.ndarray]:
    """The sample at a quarter of its size, `(90, 160, 3)`."""
    return [np.ascontiguousarray(frame[::4, ::4]) for frame in sample_frames]


@pytest.fixture(scope="module")
def faststart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with its index before its pictures."""
    path = tmp_path_factory.mktemp("faststart") / "film.mp4"
    copy_packets(SAMPLE, path, movflags="faststart")
    assert path.read_bytes().find(b"moov") < path.read_bytes().find(b"mdat")
    return path


@pytest.fixture(scope="module")
def small_films(tmp_path_factory: pytest.TempPathFactory, small_frames: list[np.ndarray]) -> dict[str, Path]:
    """Four seconds of 160×90 in three containers, a key frame each second."""
    folder = tmp_path_factory.mktemp("small")
    written = write_video(folder / "written.mp4", small_frames[:100], preset="medium", g="25")
    films = {suffix: folder / f"film.{suffix}" for suffix in ("mp4", "mkv", "ts")}
    for suffix, path in films.items():
        copy_packets(written, path, **({"movflags": "faststart"} if suffix == "mp4" else {}))
    return films


def copy_packets(source: Path, target: Path, **options: str) -> None:
    with av.open(str(target), "w", options=options) as output, av.open(str(source)) as container:
        original = container.streams.video[0]
        stream = output.add_stream_from_template(original)
        for packet in container.demux(original):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)


def cut_off(source: Path, target: Path, share: float) -> Path:
    content = source.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    return target


def zero(source: Path, target: Path, share: float, count: int) -> Path:
    """A copy with `count` zero bytes from `share` of its pictures on."""
    content = bytearray(source.read_bytes())
    start = content.find(b"mdat") + 8 if b"mdat" in content else len(content) // 50
    place = start + int((len(content) - start) * share)
    content[place : place + count] = bytes(count)
    target.write_bytes(content)
    return target


# What a container says


def test_the_sample_says_what_it_is(sample: Path) -> None:
    info = read_info(sample)
    assert (info.duration_s, info.fps, info.width, info.height) == (10.0, 25.0, 640, 360)
    assert (info.codec, info.first_pts, info.rotation, info.pixel_aspect) == ("h264", 0, 0, 1.0)
    assert isinstance(info.time_base, Fraction)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"0\n", "not a video that FFmpeg can open"),
        (b"dear diary\n" * 99, "not a video that FFmpeg can open"),
        (None, "the file does not exist"),
    ],
)
@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts"])
def test_what_is_no_video_is_refused_with_the_reason(
    tmp_path: Path, content: bytes | None, reason: str, name: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DecodeError, match=reason):
        read_info(path)
    reader = SegmentReader(Segment.whole(path), 5.0)
    with pytest.raises(DecodeError, match=reason):
        list(reader)
    assert re.search(reason, str(reader.report.error))


def test_a_folder_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(DecodeError):
        read_info(tmp_path)


def test_a_file_cut_off_before_its_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="not a video that FFmpeg can open"):
        read_info(cut_off(SAMPLE, tmp_path / "film.mp4", 0.5))


def test_an_index_without_a_single_picture_is_refused(tmp_path: Path, faststart: Path) -> None:
    content = faststart.read_bytes()
    path = tmp_path / "film.mp4"
    path.write_bytes(content[: content.find(b"mdat") + 8])
    with pytest.raises(DecodeError, match="no frame can be decoded"):
        read_info(path)


def add_silence(container: av.container.OutputContainer, seconds: float) -> Callable[[], None]:
    stream = container.add_stream("aac", rate=48000)

    def write() -> None:
        for number in range(round(seconds * 48000 / 1024)):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, number * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())

    return write


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        add_silence(container, 0.5)()
    with pytest.raises(NoVideoError, match="no video stream"):
        read_info(path)


def test_the_cover_of_a_song_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        write = add_silence(container, 0.5)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        write()
        picture = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 90, np.uint8), format="rgb24")
        container.mux(cover.encode(picture.reformat(format="yuvj420p")))
        container.mux(cover.encode())
    with av.open(str(path)) as container:
        if not any(s.disposition & av.stream.Disposition.attached_pic for s in container.streams.video):
            pytest.skip("this PyAV writes no cover pictures")
    with pytest.raises(NoVideoError, match="no video stream"):
        read_info(path)


# One reader


def test_frames_are_those_that_were_encoded(sample: Path) -> None:
    frames, reading = read(sample, fps=None)
    assert times(frames) == pytest.approx([n / 25 for n in range(250)])
    with av.open(str(sample)) as container:
        for frame, decoded in zip(frames, container.decode(video=0), strict=True):
            assert np.array_equal(planes(frame), decoded.to_ndarray().ravel())
    assert (reading.frames, reading.read_s, reading.error) == (250, pytest.approx(10.0), None)


def test_all_frames_can_be_held_while_the_decoder_goes_on(sample: Path) -> None:
    seen = [(f, planes(f).copy()) for f in SegmentReader(Segment.whole(sample), None)]
    assert all(np.array_equal(planes(frame), then) for frame, then in seen)


@pytest.mark.parametrize("suffix", ["mkv", "mov", "flv", "ts", "m2ts"])
def test_another_container_gives_every_frame_of_the_original(tmp_path: Path, suffix: str) -> None:
    path = remux(SAMPLE, tmp_path / f"film.{suffix}")
    frames, reading = read(path, fps=None)
    original = sample_moments(None)
    assert times(frames) == pytest.approx(times(original))
    wrong = [
        a.time_s for a, b in zip(frames, original, strict=True) if not np.array_equal(planes(a), planes(b))
    ]
    assert not wrong
    assert (reading.frames, reading.error) == (250, None)


@pytest.mark.parametrize("offset_s", [1, 1000, 90_000])
@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_times_count_from_the_first_frame_wherever_the_clock_starts(
    tmp_path: Path, suffix: str, offset_s: int
) -> None:
    path = tmp_path / f"film.{suffix}"
    with av.open(str(path), "w") as output, av.open(str(SAMPLE)) as container:
        original = container.streams.video[0]
        stream = output.add_stream_from_template(original)
        for packet in container.demux(original):
            if packet.dts is not None:
                shift = round(offset_s / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                output.mux(packet)
    frames, reading = read(path)
    assert same(frames, sample_moments(5.0))
    assert reading.error is None


@pytest.mark.parametrize(
    ("codec", "name", "pixels"),
    [
        ("mjpeg", "film.avi", "yuvj420p"),
        ("libvpx", "film.webm", "yuv420p"),
        ("mpeg2video", "film.mpg", "yuv420p"),
        ("libx264", "film.avi", "yuv420p"),
        ("libx264", "film.mp4", "yuv444p"),
        ("libx264", "film.h264", "yuv420p"),
        ("ffv1", "film.mkv", "yuv444p"),
    ],
)
def test_other_codecs_give_each_frame_at_its_time(
    tmp_path: Path, small_frames: list[np.ndarray], codec: str, name: str, pixels: str
) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 90, 160, pixels
        stream.options = {"g": "10", "bf": "0"}
        stream.bit_rate = 4_000_000
        for image in small_frames[:100]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    frames, reading = read(path)
    assert times(frames) == pytest.approx([n / 5 for n in range(20)])
    assert reading.error is None
    for frame, image in zip(frames, small_frames[:100:5], strict=True):
        assert np.abs(rgb(frame) - image).mean() < 6


def test_a_container_that_stores_no_presentation_times_still_gives_frames_in_order(
    tmp_path: Path, small_frames: list[np.ndarray]
) -> None:
    path = write_video(tmp_path / "film.avi", small_frames[:50], preset="medium", g="25", bf="3")
    frames, reading = read(path, fps=None)
    assert times(frames) == pytest.approx([n / 25 for n in range(50)], abs=0.05)
    assert times(frames) == sorted(set(times(frames)))
    assert reading.error is None


# Parts of a video


@pytest.mark.parametrize(("start_s", "end_s"), [(0, 2), (2, 4), (1.96, 4.04), (3.3, 7.1), (8, 10)])
@pytest.mark.parametrize("fps", [5.0, None])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_part_has_the_frames_that_the_whole_has_there(
    tmp_path: Path, suffix: str, start_s: float, end_s: float, fps: float | None
) -> None:
    path = SAMPLE if suffix == "mp4" else remux(SAMPLE, tmp_path / f"film.{suffix}")
    frames, reading = read(path, start_s, end_s, fps)
    assert same(frames, [f for f in sample_moments(fps) if start_s <= f.time_s < end_s])
    assert reading.frames == sum(start_s <= n / 25 < end_s for n in range(250))
    assert reading.error is None


@settings(deadline=None, max_examples=12)
@given(
    edges=st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True),
    fps=st.sampled_from([None, 1.0, 5.0, 7.0, 25.0, 60.0]),
)
def test_parts_that_tile_a_video_give_each_moment_once(
    small_films: dict[str, Path], edges: list[int], fps: float | None
) -> None:
    cuts = [0.0, *(n / 25 for n in sorted(edges)), math.inf]
    parts = [read(small_films["mp4"], start, end, fps) for start, end in itertools.pairwise(cuts)]
    whole = times(read(small_films["mp4"], fps=fps)[0])
    cells_cut = {math.floor((c + TIME_TOLERANCE_S) * fps) for c in cuts[1:-1]} if fps else set()
    seen = [f.time_s for frames, _ in parts for f in frames]
    assert seen == sorted(set(seen))
    assert set(seen) <= set(whole)
    assert all(math.floor((t + TIME_TOLERANCE_S) * fps) in cells_cut for t in set(whole) - set(seen))
    assert sum(reading.frames for _, reading in parts) == 100


def test_a_part_counts_its_frames_from_the_start_of_its_core(sample: Path) -> None:
    frames, reading = read(sample, 1.4, 4.8, None, core=(2.0, 4.0))
    assert [f.index for f in frames] == [-1] * 15 + list(range(50)) + [-1] * 20
    assert reading.frames == 50
    assert reading.read_s == pytest.approx(4.8)


def test_a_moment_knows_its_place_among_all_frames(sample: Path) -> None:
    frames, _ = read(sample, 1.4, 4.8, 5.0, core=(2.0, 4.0))
    assert [f.index for f in frames if f.index >= 0] == list(range(0, 50, 5))


@pytest.mark.parametrize(("start_s", "end_s"), [(4.0, 4.0), (4.01, 4.03), (10.0, 20.0), (3600.0, 3660.0)])
def test_a_part_without_frames_is_empty(sample: Path, start_s: float, end_s: float) -> None:
    frames, reading = read(sample, start_s, end_s, None)
    assert (frames, reading.frames) == ([], 0)


def test_a_part_of_a_long_film_is_that_part(long_video: Callable[[int], Path]) -> None:
    frames, reading = read(long_video(4), 22.0, 24.0, None)
    original = [f for f in sample_moments(None) if 2 <= f.time_s < 4]
    assert times(frames) == pytest.approx([f.time_s + 20 for f in original])
    assert all(np.array_equal(planes(a), planes(b)) for a, b in zip(frames, original, strict=True))
    assert reading.error is None


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "flv", "ts", "m2ts"])
@pytest.mark.parametrize("end_s", [6.0, math.inf])
def test_a_part_may_begin_long_after_the_last_key_frame(
    tmp_path: Path, small_frames: list[np.ndarray], suffix: str, end_s: float
) -> None:
    path = write_video(tmp_path / f"film.{suffix}", small_frames[:160], g="250")
    whole, _ = read(path, fps=None)
    frames, reading = read(path, 4.0, end_s, None)
    assert len(whole) == 160
    assert times(frames) == [
        t for t in times(whole) if 4.0 - TIME_TOLERANCE_S <= t < end_s - TIME_TOLERANCE_S
    ]
    assert same(frames, whole[100 : 100 + len(frames)])
    assert reading.error is None


def test_a_part_of_a_raw_stream_without_an_index_is_that_part(
    tmp_path: Path, small_frames: list[np.ndarray]
) -> None:
    path = write_video(tmp_path / "film.h264", small_frames[:100], g="25")
    whole, _ = read(path, fps=None)
    frames, _ = read(path, 1.5, 3.0, None)
    assert len(whole) == 100
    assert same(frames, [f for f in whole if 1.5 - TIME_TOLERANCE_S <= f.time_s < 3.0 - TIME_TOLERANCE_S])


# The grid of moments


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (25, [0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2]),
        (12, [0, 3 / 12, 5 / 12, 8 / 12, 10 / 12, 1.0, 15 / 12]),
        (Fraction(24000, 1001), [n * 1001 / 24000 for n in (0, 5, 10, 15, 20, 24, 29)]),
        (60, [0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2]),
        (3, [0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2]),
    ],
)
def test_moments_are_the_first_frames_of_each_fifth_of_a_second(
    tmp_path: Path, small_frames: list[np.ndarray], rate: int | Fraction, expected: list[float]
) -> None:
    path = write_video(tmp_path / "film.mp4", small_frames[:100], fps=rate)
    every, _ = read(path, fps=None)
    moments, reading = read(path)
    assert len(every) == reading.frames == 100
    assert times(moments)[:7] == pytest.approx(expected, abs=1e-6)
    assert times(moments) == first_of_cells(times(every), 5.0)
    assert [f.index for f in moments] == [times(every).index(t) for t in times(moments)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_variable_rate_keeps_the_times_of_its_frames(
    tmp_path: Path, small_frames: list[np.ndarray], suffix: str, seed: int
) -> None:
    steps = np.random.default_rng(seed).choice([0.017, 0.033, 0.05, 0.31, 0.7], 79)
    given_s = [0.0, *np.round(np.cumsum(steps), 3).tolist()]
    path = write_video(tmp_path / f"film.{suffix}", small_frames[:80], times_s=given_s)
    every, _ = read(path, fps=None)
    assert times(every) == pytest.approx(given_s, abs=1e-3)
    moments, reading = read(path)
    assert times(moments) == first_of_cells(times(every), 5.0)
    assert reading.error is None


def test_parts_of_a_variable_rate_begin_anywhere(tmp_path: Path, small_frames: list[np.ndarray]) -> None:
    given_s = np.round(np.cumsum([0.0, *[0.02, 0.7, 0.033, 0.31] * 20])[:80], 3).tolist()
    path = write_video(tmp_path / "film.mkv", small_frames[:80], times_s=given_s, g="30")
    every, _ = read(path, fps=None)
    for start_s in (0.0, 4.6, 9.9, 17.0):
        frames, _ = read(path, start_s, start_s + 4.0, None)
        wanted = [
            f for f in every if start_s - TIME_TOLERANCE_S <= f.time_s < start_s + 4.0 - TIME_TOLERANCE_S
        ]
        assert same(frames, wanted)


# Upright, with pixels of any shape


def turned_video(path: Path, images: list[np.ndarray], degrees: int, hflip: bool = False) -> Path:
    """A film whose pictures become `images` once its own display matrix is applied."""
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV writes no display matrix")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "4", "preset": "ultrafast"}
        for number, image in enumerate(images):
            stored = image[:, ::-1] if hflip else image
            stored = np.ascontiguousarray(np.rot90(stored, -degrees // 90))
            if number == 0:
                stream.height, stream.width = stored.shape[:2]
                stream.set_display_rotation(degrees, hflip=hflip)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_turned_video_is_read_upright(tmp_path: Path, small_frames: list[np.ndarray], degrees: int) -> None:
    path = turned_video(tmp_path / "film.mp4", small_frames[:25], degrees)
    info = read_info(path)
    assert (info.width, info.height, info.rotation) == (160, 90, degrees)
    frames, reading = read(path)
    assert [f.picture.y.size for f in frames] == [(160, 90)] * 5
    for frame, image in zip(frames, small_frames[:25:5], strict=True):
        assert np.abs(rgb(frame) - image).mean() < 6
    assert reading.error is None


def test_a_mirrored_video_is_not_read_upside_down(tmp_path: Path, small_frames: list[np.ndarray]) -> None:
    frames, _ = read(turned_video(tmp_path / "film.mp4", small_frames[:5], 0, hflip=True), fps=None)
    upright = small_frames[0].astype(int)
    distance = {
        "upright": np.abs(rgb(frames[0]) - upright).mean(),
        "mirrored": np.abs(rgb(frames[0]) - upright[:, ::-1]).mean(),
        "upside down": np.abs(rgb(frames[0]) - upright[::-1]).mean(),
        "turned around": np.abs(rgb(frames[0]) - upright[::-1, ::-1]).mean(),
    }
    assert min(distance, key=distance.__getitem__) in ("upright", "mirrored")


def test_turned_media_of_another_maker_is_upright(shared: Path) -> None:
    path = shared / "media" / "tricky" / "rot90.mp4"
    frames, _ = read(path)
    assert {f.picture.y.size for f in frames} == {(360, 640)}
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray()[:360]
    assert np.array_equal(frames[0].picture.y, np.rot90(stored))


@pytest.mark.parametrize(("degrees", "expected"), [(0, 2.0), (90, 0.5), (180, 2.0), (270, 0.5)])
def test_the_shape_of_pixels_is_that_of_the_upright_frame(
    tmp_path: Path, small_frames: list[np.ndarray], degrees: int, expected: float
) -> None:
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV writes no display matrix")
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 90, 160, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        stream.set_display_rotation(degrees)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(small_frames[0], format="rgb24")))
        container.mux(stream.encode())
    assert read_info(path).pixel_aspect == expected


# What is left undecoded


FILMS = {
    "plain.mp4": {"codec": "libx264", "preset": "medium", "g": "50"},
    "pyramid.mkv": {
        "codec": "libx264",
        "preset": "medium",
        "g": "40",
        "x264-params": "b-pyramid=normal:open-gop=1:b-adapt=0:bframes=8",
    },
    "strict.ts": {
        "codec": "libx264",
        "preset": "slow",
        "g": "30",
        "x264-params": "b-pyramid=strict:bframes=5",
    },
    "many.flv": {
        "codec": "libx264",
        "preset": "medium",
        "x264-params": "b-pyramid=none:bframes=16:b-adapt=0",
    },
    "variable.mp4": {"codec": "libx264", "preset": "medium", "g": "30"},
    "hevc.mp4": {"codec": "libx265", "x265-params": "log-level=none:keyint=30:open-gop=1"},
    "hevc.ts": {"codec": "libx265", "x265-params": "log-level=none:keyint=40"},
}
"""Films with frames that nothing refers to, in every order that encoders store them."""


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, small_frames: list[np.ndarray]) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("films")
    steps = np.random.default_rng(3).choice([0.017, 0.033, 0.05, 0.05, 0.31], 119)
    uneven = [0.0, *np.round(np.cumsum(steps), 3).tolist()]
    return {
        name: write_video(
            folder / name, small_frames[:120], times_s=uneven if name == "variable.mp4" else None, **options
        )
        for name, options in FILMS.items()
    }


PARTS = [(0.0, math.inf), (1.36, 3.0), (2.5, math.inf), (3.0, 3.5)]


@pytest.mark.parametrize("fps", [1.0, 5.0, 12.5, None])
@pytest.mark.parametrize("name", FILMS)
def test_frames_that_are_left_undecoded_change_nothing(
    monkeypatch: pytest.MonkeyPatch, films: dict[str, Path], name: str, fps: float | None
) -> None:
    tested: list[bool] = []
    may_skip = FrameSkipper._may_skip

    def noted(*given: Any) -> bool:
        tested.append(may_skip(*given))
        return tested[-1]

    monkeypatch.setattr(FrameSkipper, "_may_skip", noted)
    sparing = [read(films[name], *part, fps) for part in PARTS]
    monkeypatch.setattr(FrameSkipper, "_may_skip", lambda *_: False)
    for part, (frames, reading) in zip(PARTS, sparing, strict=True):
        others, other_reading = read(films[name], *part, fps)
        assert same(frames, others)
        assert [f.index for f in frames] == [f.index for f in others]
        assert reading == other_reading
    assert sum(tested) > 20


@pytest.mark.parametrize("fast", ["nonref", "keyframes"])
@pytest.mark.parametrize("name", FILMS)
def test_a_survey_shows_frames_of_the_film_wherever_it_begins(
    films: dict[str, Path], name: str, fast: str
) -> None:
    every, _ = read(films[name], fps=None)
    by_time = {frame.time_s: frame for frame in every}
    moments, reading = read(films[name], fast=fast)
    assert reading.frames == 120
    assert 0 < len(moments) < 120
    assert all(f.index == by_time[f.time_s].index for f in moments)
    assert same_pictures(moments, [by_time[f.time_s] for f in moments])
    for start_s, end_s in PARTS[1:]:
        frames, part = read(films[name], start_s, end_s, fast=fast)
        cut = math.floor((start_s - TIME_TOLERANCE_S) * 5)
        wanted = [
            f for f in moments if math.floor((f.time_s + TIME_TOLERANCE_S) * 5) > cut and f.time_s < end_s
        ]
        assert same(frames, wanted)
        assert part.frames == sum(
            start_s - TIME_TOLERANCE_S <= t < end_s - TIME_TOLERANCE_S for t in times(every)
        )


@pytest.mark.parametrize("name", ["plain.mp4", "pyramid.mkv", "hevc.mp4"])
def test_a_survey_by_key_frames_shows_these(films: dict[str, Path], name: str) -> None:
    with av.open(str(films[name])) as container:
        packets = [p for p in container.demux(video=0) if p.is_keyframe]
        first = packets[0].pts
        expected = [float((p.pts - first) * p.time_base) for p in packets]
    assert times(read(films[name], fps=None, fast="keyframes")[0]) == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 2])
def test_a_survey_sees_the_only_key_frame(tmp_path: Path, small_frames: list[np.ndarray], count: int) -> None:
    path = write_video(tmp_path / "film.mp4", small_frames[:count])
    frames, reading = read(path, fast="keyframes")
    assert times(frames) == [0.0]
    assert (reading.frames, reading.error) == (count, None)


@pytest.mark.parametrize("fast", [None, "nonref", "keyframes"])
@pytest.mark.parametrize("name", ["film.avi", "film.h264"])
def test_packets_without_timestamps_are_all_decoded(
    tmp_path: Path, small_frames: list[np.ndarray], name: str, fast: str | None
) -> None:
    path = write_video(tmp_path / name, small_frames[:50], preset="medium", g="25", bf="3")
    frames, reading = read(path, fast=fast)
    assert (len(frames), reading.frames) == (10, 50)


@pytest.mark.parametrize(
    ("extradata", "expected"),
    [
        (b"", False),
        (b"\x01" + bytes(20) + b"\x0f", True),
        (b"\x01" + bytes(20) + b"\x17", False),
        (b"\x01" + bytes(20) + b"\x07", False),
        (b"\x00\x00\x00\x01\x40\x01\x0c\x01\xff\xff", True),
        (b"\x00\x00\x00\x01\x40\x01\x0c\x03\xff\xff", False),
    ],
)
def test_temporal_layers_are_seen(extradata: bytes, expected: bool) -> None:
    assert sampling.has_one_layer(extradata) == expected


# One opening, one thread more


@pytest.mark.parametrize("tail_bytes", [0, source.MAX_REMEMBERED_BYTES], ids=["by seeking", "from memory"])
def test_the_segments_of_a_film_are_read_in_one_go(
    monkeypatch: pytest.MonkeyPatch, films: dict[str, Path], tail_bytes: int
) -> None:
    monkeypatch.setattr(source, "MAX_REMEMBERED_BYTES", tail_bytes)
    opened = []
    av_open = av.open
    parts = [(0.0, 2.2), (1.0, 3.2), (2.0, 4.2), (3.0, math.inf)]
    alone = [read(films["plain.mp4"], *part) for part in parts]
    source._last_source.clear()
    monkeypatch.setattr(av, "open", lambda *given, **more: opened.append(given) or av_open(*given, **more))
    for part, (frames, reading) in zip(parts, alone, strict=True):
        segment = Segment(
            uri=str(films["plain.mp4"]), start_s=part[0], end_s=part[1], core_start_s=part[0],
            core_end_s=part[1], first_pts=0, index=1, segments=2 if math.isinf(part[1]) else 3,
        )  # fmt: skip
        reader = SegmentReader(segment, 5.0)
        info = reader.open()
        assert same(list(reader), frames)
        assert reader.report == reading
        assert (info.fps, info.width, info.height) == (25.0, 160, 90)
    assert len(opened) == 1
    assert not source._last_source


def test_a_file_that_was_replaced_is_opened_anew(tmp_path: Path, films: dict[str, Path]) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(films["plain.mp4"].read_bytes())
    read(path, 0.0, 2.0)
    path.unlink()
    path.write_bytes(films["hevc.mp4"].read_bytes())
    frames, _ = read(path, 1.0, 2.0)
    assert same_pictures(frames, read(films["hevc.mp4"], 1.0, 2.0)[0])


@pytest.mark.parametrize("ahead", [1, 4, 100])
def test_decoding_ahead_gives_the_same(sample: Path, ahead: int) -> None:
    frames, reading = read(sample, 1.0, 4.0, prefetch=ahead)
    others, other_reading = read(sample, 1.0, 4.0)
    assert same(frames, others)
    assert reading == other_reading


def test_the_thread_ends_with_its_reader(sample: Path) -> None:
    before = threading.active_count()
    frames = iter(SegmentReader(Segment.whole(sample), 5.0, prefetch=3))
    next(frames)
    assert threading.active_count() == before + 1
    frames.close()
    assert threading.active_count() == before


def test_an_error_in_the_thread_reaches_the_reader(monkeypatch: pytest.MonkeyPatch, sample: Path) -> None:
    def broken(decoded: av.VideoFrame, mirrored: bool) -> Picture:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(Picture, "from_decoded", broken)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="a mistake"):
        read(sample, prefetch=2)
    assert threading.active_count() == before


# Planes


@pytest.mark.parametrize(
    "pixels",
    ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "nv12", "rgb24", "gbrp", "gray", "yuva420p"],
)
def test_every_kind_of_pixels_has_the_colours_of_ffmpeg(small_frames: list[np.ndarray], pixels: str) -> None:
    frame = av.VideoFrame.from_ndarray(small_frames[0], format="rgb24").reformat(format=pixels)
    for frame.colorspace, frame.color_range in itertools.product((1, 2, 5, 7), (0, 1, 2)):
        expected = frame.to_ndarray(format="rgb24").astype(int)
        ours = Picture.from_decoded(frame, mirrored=False).to_rgb().astype(int)
        assert np.abs(ours - expected).mean() < 4
        assert np.abs((ours - expected).mean(axis=(0, 1))).max() < 3


@pytest.mark.parametrize("degrees", [0, 90])
def test_a_picture_has_at_most_1080_lines(
    tmp_path: Path, small_frames: list[np.ndarray], degrees: int
) -> None:
    high = np.ascontiguousarray(np.tile(small_frames[0], (16, 1, 1)))
    frame = read(turned_video(tmp_path / "film.mp4", [high], degrees))[0][0]
    assert (frame.picture.width, frame.picture.height) == (120, 1080)
    assert frame.picture.shrink == pytest.approx(1440 / 1080)
    assert abs(rgb(frame).mean() - high.mean()) < 2


# Broken files


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_file_that_is_cut_short_gives_what_is_there_and_says_so(
    tmp_path: Path, faststart: Path, suffix: str, share: float
) -> None:
    source = faststart if suffix == "mp4" else remux(SAMPLE, tmp_path / "whole.mkv")
    path = cut_off(source, tmp_path / f"film.{suffix}", share)
    frames, reading = read(path, fps=None)
    assert 25 <= len(frames) < 230
    assert same(frames, sample_moments(None)[: len(frames)])
    assert reading.missing_s == pytest.approx(10 - len(frames) / 25, abs=0.05)
    assert reading.read_s == pytest.approx(len(frames) / 25)
    assert reading.error is not None
    assert f"read {len(frames) / 25:.1f} of 10.0 s, the file ends before its container says" in reading.error


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_part_after_the_end_of_a_short_file_says_how_much_is_missing(
    tmp_path: Path, faststart: Path, suffix: str
) -> None:
    source = faststart if suffix == "mp4" else remux(SAMPLE, tmp_path / "whole.mkv")
    path = cut_off(source, tmp_path / f"film.{suffix}", 0.5)
    _, whole = read(path)
    frames, reading = read(path, 8.0)
    assert (frames, reading.frames) == ([], 0)
    assert whole.missing_s == pytest.approx(6.0, abs=0.1)
    assert reading.missing_s == pytest.approx(whole.missing_s, abs=0.1)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_part_before_the_end_of_a_short_file_is_complete(
    tmp_path: Path, faststart: Path, suffix: str
) -> None:
    source = faststart if suffix == "mp4" else remux(SAMPLE, tmp_path / "whole.mkv")
    path = cut_off(source, tmp_path / f"film.{suffix}", 0.5)
    frames, reading = read(path, 1.0, 3.0, None)
    assert same(frames, [f for f in sample_moments(None) if 1 <= f.time_s < 3])
    assert reading.error is None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_zeroed_bytes_are_read_past_and_told(tmp_path: Path, faststart: Path, share: float) -> None:
    path = zero(faststart, tmp_path / "film.mp4", share, 3000)
    frames, reading = read(path, fps=None)
    assert 200 < len(frames) < 250
    assert times(frames) == sorted(set(times(frames)))
    assert times(frames)[-1] == pytest.approx(9.96)
    assert reading.damaged_packets > 0
    assert "damaged packets" in str(reading.error)
    intact = {f.time_s: planes(f) for f in sample_moments(None)}
    assert np.array_equal(planes(frames[0]), intact[0.0])
    assert all(t in intact for t in times(frames))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_damage_that_a_decoder_paints_over_is_told(tmp_path: Path, faststart: Path, share: float) -> None:
    path = zero(faststart, tmp_path / "film.mp4", share, 400)
    frames, reading = read(path, fps=None)
    assert not same(frames, sample_moments(None))
    assert reading.damaged_packets + reading.damaged_frames > 0


def test_damage_of_a_container_is_read_past_and_told(tmp_path: Path) -> None:
    path = zero(remux(SAMPLE, tmp_path / "whole.mkv"), tmp_path / "film.mkv", 0.5, 3000)
    frames, reading = read(path, fps=None)
    assert 150 < len(frames) < 250
    assert times(frames)[-1] == pytest.approx(9.96)
    assert reading.damaged_packets + reading.damaged_frames > 0


def test_a_ruined_beginning_does_not_shift_the_times_of_the_rest(tmp_path: Path, faststart: Path) -> None:
    path = zero(faststart, tmp_path / "film.mp4", 0.0, 3000)
    frames, _ = read(path, fps=None)
    intact = sample_moments(None)
    assert 0 < len(frames) < 250
    assert times(frames)[-1] == pytest.approx(times(intact)[-1])
    assert np.array_equal(planes(frames[-1]), planes(intact[-1]))


@pytest.mark.parametrize("fps", [5.0, None])
def test_moments_after_damage_are_on_the_same_grid(
    tmp_path: Path, faststart: Path, fps: float | None
) -> None:
    path = zero(faststart, tmp_path / "film.mp4", 0.5, 3000)
    frames, reading = read(path, fps=fps)
    every, _ = read(path, fps=None)
    assert times(frames) == (first_of_cells(times(every), fps) if fps else times(every))
    assert reading.frames == len(every)


@settings(deadline=None, max_examples=20)
@given(suffix=st.sampled_from(["mp4", "mkv", "ts"]), share=st.floats(0, 0.999), count=st.integers(1, 20_000))
def test_no_damage_to_the_pictures_raises(
    small_films: dict[str, Path], suffix: str, share: float, count: int
) -> None:
    source = small_films[suffix]
    path = zero(source, source.with_name(f"damaged.{suffix}"), share, count)
    try:
        frames, reading = read(path, fps=None)
    except DecodeError:
        assert share < 0.1
        return
    assert times(frames) == sorted(set(times(frames)))
    assert reading.frames == len(frames)


def test_a_video_whose_sound_goes_on_is_not_cut_short(tmp_path: Path, small_frames: list[np.ndarray]) -> None:
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 90, 160, "yuv420p"
        write = add_silence(container, 4.0)
        for image in small_frames[:50]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
        write()
    frames, reading = read(path, fps=None)
    assert len(frames) == 50
    assert reading.error is None


@pytest.mark.parametrize(
    ("name", "frames", "broken"),
    [
        ("h264.ts", 144, False),
        ("h264.flv", 144, False),
        ("hevc.mp4", 144, False),
        ("av1.mp4", 144, False),
        ("fragmented.mp4", 144, False),
        ("odd_size.mp4", 48, False),
        ("one_frame.mp4", 1, False),
        ("truncated_half_faststart.mp4", 59, True),
        ("bitflips_mdat.mp4", 143, True),
    ],
)
def test_awkward_files_give_the_frames_that_are_in_them(
    shared: Path, name: str, frames: int, broken: bool
) -> None:
    _, reading = read(shared / "media" / "tricky" / name)
    assert reading.frames == frames
    assert bool(reading.error) == broken


def clusters(path: Path) -> list[int]:
    """Where a Matroska film keeps the times of its clusters, of two bytes each."""
    content = path.read_bytes()
    return [m.end() for m in re.finditer(rb"\x1f\x43\xb6\x75.{5,16}?\xe7\x82", content, re.DOTALL)]


@pytest.mark.parametrize(
    ("wrong_s", "part"),
    [
        *itertools.product([60.0, 0.001], [(0.0, math.inf), (0.0, 3.6), (0.5, math.inf)]),
        *itertools.product([3.0], [(0.0, math.inf), (0.5, math.inf)]),
    ],
)
@pytest.mark.parametrize("count", [1, 25])
def test_a_damaged_timestamp_costs_its_own_frames_alone_or_is_told(
    tmp_path: Path, sample_frames: list[np.ndarray], wrong_s: float, part: tuple[float, float], count: int
) -> None:
    """A cluster of one frame, or of a second, that is said to lie elsewhere."""
    images = [np.ascontiguousarray(frame[::2, ::2]) for frame in sample_frames[:100]]
    path = write_video(tmp_path / "film.mkv", images, g="25" if count == 25 else "1", crf="10")
    places = clusters(path)
    assert len(places) == (3 if count == 25 else 93)  # from 0.256 s on times have two bytes
    content = bytearray(path.read_bytes())
    place = places[1 if count == 25 else 42]
    content[place : place + 2] = round(wrong_s * 1000).to_bytes(2)
    path.write_bytes(content)
    frames, reading = read(path, *part, None)
    expected = sum(part[0] <= n / 25 < part[1] for n in range(100))
    assert times(frames) == sorted(set(times(frames)))
    assert reading.misplaced_frames >= count - 1
    # Where the wrong place is one that could be, what is there is left out for it.
    assert len(frames) + reading.misplaced_frames == pytest.approx(expected, abs=1)
    if wrong_s != 3.0:
        assert len(frames) == pytest.approx(expected - count, abs=1)
        assert times(frames)[-1] == pytest.approx(min(part[1], 4.0), abs=0.05)


@pytest.mark.parametrize("part", [(0.0, math.inf), (10.0, 50.0), (10.0, 20.0)])
def test_long_pauses_between_frames_are_believed(
    tmp_path: Path, small_frames: list[np.ndarray], part: tuple[float, float]
) -> None:
    given_s = [0.0, 15.0, 40.0, 80.0]
    path = write_video(tmp_path / "film.mkv", small_frames[:4], times_s=given_s)
    frames, reading = read(path, *part, None)
    assert times(frames) == pytest.approx([t for t in given_s if part[0] <= t < part[1]])
    assert reading.error is None


@pytest.mark.parametrize("cut", [0, 1, 100, 187, 188])
def test_a_transport_stream_that_ends_inside_a_packet_breaks_off(
    tmp_path: Path, small_films: dict[str, Path], cut: int
) -> None:
    path = tmp_path / "film.ts"
    content = small_films["ts"].read_bytes()
    path.write_bytes(content[: len(content) // 376 * 188 + cut])
    reading = read(path)[1]
    assert ("then the file breaks off" in str(reading.error)) == (cut % 188 != 0)


@pytest.mark.parametrize("share", [0.85, 0.9, 0.95])
def test_a_matroska_file_that_lacks_a_moment_of_its_end_is_not_whole(
    tmp_path: Path, small_films: dict[str, Path], share: float
) -> None:
    path = cut_off(small_films["mkv"], tmp_path / "film.mkv", share)
    frames, reading = read(path, fps=None)
    assert 70 < len(frames) < 99
    assert "of 4.0 s, the file ends before its container says" in str(reading.error)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_hole_in_matroska_is_told_with_its_length(
    tmp_path: Path, small_films: dict[str, Path], share: float
) -> None:
    path = zero(small_films["mkv"], tmp_path / "film.mkv", share, 20_000)
    frames, reading = read(path, fps=None)
    gap = max(np.diff(times(frames)))
    assert reading.error is not None
    assert len(frames) < 95
    assert reading.lost_s == pytest.approx(gap, abs=0.1)


@pytest.mark.parametrize(
    ("aspect", "expected"),
    [
        (Fraction(4, 3), 4 / 3),
        (Fraction(10, 1), 10.0),
        (Fraction(11, 1), 1.0),
        (Fraction(1, 10), 0.1),
        (Fraction(1, 200), 1.0),
        (Fraction(32000, 1), 1.0),
    ],
)
def test_pixels_of_an_absurd_shape_are_taken_for_square(
    tmp_path: Path, small_frames: list[np.ndarray], aspect: Fraction, expected: float
) -> None:
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 90, 160, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        container.mux(stream.encode(av.VideoFrame.from_ndarray(small_frames[0], format="rgb24")))
        container.mux(stream.encode())
    assert read_info(path).pixel_aspect == pytest.approx(expected, rel=0.01)


def test_a_lack_of_memory_is_no_damage(monkeypatch: pytest.MonkeyPatch, sample: Path) -> None:
    def without_memory(*_: Any) -> None:
        raise av.error.MemoryError(12, "Cannot allocate memory")

    for owner, name in ((Picture, "from_decoded"), (sampling, "video_frames"), (container, "_open_av")):
        with monkeypatch.context() as patched, pytest.raises(MemoryError):
            patched.setattr(owner, name, without_memory)
            read(sample)


# The account of a reading


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, None),
        ({"problem": "gone"}, "gone"),
        ({"damaged_packets": 2}, "2 damaged packets"),
        ({"damaged_frames": 3}, "3 damaged frames"),
        ({"misplaced_frames": 1}, "1 frame out of order"),
        ({"damaged_packets": 2, "lost_s": 0.04}, "2 damaged packets"),
        ({"damaged_packets": 2, "lost_s": 0.16}, "2 damaged packets; 0.2 s without a frame"),
        (
            {"end_s": 8.75, "missing_s": 1.25},
            "read 8.8 of 10.0 s, the file ends before its container says",
        ),
        (
            {"problem": "gone", "damaged_packets": 1, "end_s": 7.0, "missing_s": 3.0},
            "gone; 1 damaged packet; read 7.0 of 10.0 s, the file ends before its container says",
        ),
    ],
)
def test_a_reading_says_what_is_wrong(found: dict, expected: str | None) -> None:
    assert ReadReport(core_start_s=0, core_end_s=1, **found).error == expected


def test_a_reading_counts_frames_from_the_start_of_its_core_up_to_its_end() -> None:
    reading = ReadReport(core_start_s=1.0, core_end_s=2.0)
    assert [reading.record_frame(t, 25.0) for t in (0.5, 1.0, 1.5, 2.0, 2.5)] == [-1, 0, 1, -1, -1]
    assert (reading.frames, reading.last_frame_s, reading.read_s) == (2, 2.5, pytest.approx(2.54))
