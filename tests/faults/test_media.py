"""Hostile and damaged files end with a status and a reason, within limits, and open no other file."""

import http.server
import os
import re
import struct
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.errors import DecodeError
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.probe import probe_videos
from fer_batch.inputs.segments import plan_segments
from fer_batch.pipeline.analyze import analyze
from fer_batch.run.verify import verify_run
from fer_batch.runtime import ray_session
from fer_batch.video.container import MAX_STREAMS
from fer_batch.video.reader import read_info
from fer_batch.video.segment import Segment
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.faces import extract_faces
from tests.conftest import SAMPLE, write_video
from tests.faults.damage import make_corpus
from tests.faults.outcome import CONFIG, analyze_file, analyze_in_child
from tests.integration.test_analyze import rows

DAMAGED = 540
TIMEOUT_S = 20.0
SELDOM = AnalyzeConfig(min_face=0.2, fps=2.0)
NARROW = Limits(timeout_s=TIMEOUT_S, memory_gb=0.5)


def pictures(count: int, width: int = 160, height: int = 90) -> list[np.ndarray]:
    """Return grey pictures that differ, `(height, width, 3) uint8`."""
    ramp = np.linspace(0, 200, width)[None, :, None] + np.arange(count)[:, None, None, None]
    return list(np.broadcast_to(ramp, (count, height, width, 3)).astype(np.uint8))


# Damage


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_damaged_files_end_with_a_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The narrow limits of the whole pipeline reveal processes that crash or hang."""
    paths = make_corpus(tmp_path / "damaged", DAMAGED, seed=1)
    with ray_session(num_cpus=2):
        analyze([str(tmp_path / "damaged")], tmp_path / "out", SELDOM, limits=NARROW)
    assert verify_run(tmp_path / "out") == []
    ended = rows(tmp_path / "out", "videos").fillna({"error": "", "read_s": 0.0})
    ended["name"] = ended.uri.map(lambda uri: Path(uri).name)
    assert sorted(ended.name) == sorted(path.name for path in paths)
    assert len(ended) == DAMAGED >= 500
    with capsys.disabled():
        kinds = [ended.name.str.extract(r"\.(.+)")[0], ended.name.str.extract(r"_(.+)\.")[0]]
        print("\n" + pd.crosstab(kinds, ended.status, rownames=["", ""]).to_string())
    whole = ended.status.isin(["ok", "no_faces"])
    assert set(ended.status[~whole]) == {"partial", "failed", "no_video"}
    assert list(ended[(ended.error == "") != whole].name) == []
    assert list(ended[ended.error.str.contains("worker process|no progress|memory")].error) == []
    short = ended[whole & (ended.read_s < 1.9)]
    assert len(short) < 0.02 * DAMAGED, short
    assert list(short[short.name.str.contains("truncation")].name) == []


@pytest.mark.faults
def test_streams_invented_by_damage(tmp_path: Path) -> None:
    """PyAV raised IndexError at the end of this file."""
    path = make_corpus(tmp_path, 285, seed=2)[284]
    assert analyze_in_child(path, TIMEOUT_S, False).status == "partial"


@pytest.mark.faults
def test_equal_seeds_give_equal_damage(tmp_path: Path) -> None:
    one, again, other = (make_corpus(tmp_path / f"{n}", 40, seed) for n, seed in enumerate((7, 7, 8)))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in again]
    assert [p.name for p in one] == [p.name for p in other]
    assert sum(a.read_bytes() != b.read_bytes() for a, b in zip(one, other, strict=True)) > 35


@pytest.mark.faults
def test_crash_and_hang_are_recognized(tmp_path: Path) -> None:
    """Otherwise the tests above could not fail."""
    assert analyze_in_child(tmp_path / "nothing.mp4", TIMEOUT_S, False).status == "crash"
    assert analyze_in_child(SAMPLE, 0.0, True).status == "hang"


TRICKY = {
    "anamorphic_sar.mp4": "ok",
    "audio_only.mp4": "no_video",
    "av1.mp4": "ok",
    "bitflips_mdat.mp4": "partial",
    "black_no_face.mp4": "ok",
    "fps60.mp4": "ok",
    "fragmented.mp4": "ok",
    "h264.flv": "ok",
    "h264.ts": "ok",
    "hevc.mp4": "ok",
    "name with spaces & ünïcode 漢字.mp4": "ok",
    "odd_size.mp4": "ok",
    "one_frame.mp4": "ok",
    "rot90.mp4": "ok",
    "text.mp4": "failed",
    "truncated_half_faststart.mp4": "partial",
    "truncated_no_moov.mp4": "failed",
    "vfr.mp4": "ok",
    "zero_bytes.mp4": "failed",
}


@pytest.mark.faults
@pytest.mark.parametrize("name", TRICKY)
def test_unusual_media_end_with_the_expected_status(shared: Path, name: str) -> None:
    found = analyze_in_child(shared / "media" / "tricky" / name, 60.0, True)
    assert found.status == TRICKY[name]
    assert bool(found.error) == (found.status != "ok")


def test_unusual_media_are_complete(shared: Path) -> None:
    assert {p.name for p in (shared / "media" / "tricky").iterdir()} == set(TRICKY)


# Odd files


def still(kind: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        Image.fromarray(pictures(1)[0]).save(folder / "film.mp4", format=kind)
        return folder / "film.mp4"

    return make


def text(content: str | bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "film.mp4"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def film(name: str, count: int = 50, fps: int = 25, **options: object) -> Callable[[Path], Path]:
    return lambda folder: write_video(folder / name, pictures(count), fps=fps, **options)  # type: ignore[arg-type]


def sized(width: int, height: int, codec: str = "ffv1") -> Callable[[Path], Path]:
    return lambda folder: write_video(folder / "film.mkv", pictures(3, width, height), codec=codec)


def shifted(seconds: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        original = write_video(folder / "before.mkv", pictures(50))
        path = folder / "film.mov"
        with av.open(str(path), "w", options={"use_editlist": "0"}) as output, av.open(str(original)) as film:
            stream = output.add_stream_from_template(film.streams.video[0])
            for packet in film.demux(video=0):
                if packet.dts is not None:
                    shift = round(seconds / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    output.mux(packet)
        return folder / "film.mov"

    return make


def write_parts(path: Path, *parts: list[np.ndarray]) -> Path:
    """Write a film whose parts of one second differ in size."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mjpeg", rate=25)
        (stream.height, stream.width), stream.pix_fmt = parts[0][0].shape[:2], "yuvj420p"
        for number, part in enumerate(parts):
            encoder = av.CodecContext.create("mjpeg", "w")
            (encoder.height, encoder.width), encoder.pix_fmt = part[0].shape[:2], "yuvj420p"
            encoder.time_base = Fraction(1, 25)
            for step, image in enumerate(part):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuvj420p")
                frame.pts, frame.time_base = number * 25 + step, Fraction(1, 25)
                for packet in encoder.encode(frame):
                    packet.stream, packet.time_base = stream, Fraction(1, 25)
                    output.mux(packet)
    return path


def sizes(*given: tuple[int, int]) -> Callable[[Path], Path]:
    return lambda folder: write_parts(folder / "film.mkv", *(pictures(25, *size) for size in given))


def two_videos(folder: Path) -> Path:
    with av.open(str(folder / "film.mkv"), "w") as output:
        streams = []
        for width, height in ((96, 64), (320, 180)):
            stream = output.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        for stream in streams:
            for image in pictures(25, stream.width, stream.height):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            output.mux(stream.encode())
    return folder / "film.mkv"


def atom(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + kind + content


def many_tracks(count: int) -> Callable[[Path], Path]:
    """Write an mp4 whose index lists its only track many times."""

    def make(folder: Path) -> Path:
        content = write_video(folder / "one.mp4", pictures(3)).read_bytes()
        place = content.index(b"moov") - 4
        moov = content[place:]
        start = moov.index(b"trak") - 4
        track = moov[start : start + struct.unpack(">I", moov[start : start + 4])[0]]
        path = folder / "film.mp4"
        path.write_bytes(content[:place] + atom(b"moov", moov[8:start] + track * count))
        return path

    return make


def unknown_codec(folder: Path) -> Path:
    content = write_video(folder / "one.mp4", pictures(3)).read_bytes()
    (folder / "film.mp4").write_bytes(content.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    return folder / "film.mp4"


def years(folder: Path) -> Path:
    """Write a Matroska film of two seconds with a duration of 95 years, and 100 hours for its stream."""
    content = write_video(folder / "one.mkv", pictures(50)).read_bytes()
    place = content.index(b"\x44\x89\x88") + 3
    content = content[:place] + struct.pack(">d", 3e12) + content[place + 8 :]
    assert content.count(b"00:00:02.000000000") == 1
    (folder / "film.mkv").write_bytes(content.replace(b"00:00:02.000000000", b"99:59:59.000000000"))
    return folder / "film.mkv"


def huge_header(folder: Path) -> Path:
    """Write raw pictures of 16 × 16 with a header of 20000 × 20000."""
    content = bytearray(write_video(folder / "one.avi", pictures(3, 16, 16), codec="rawvideo").read_bytes())
    place = content.index(b"strf") + 12
    content[place : place + 8] = struct.pack("<ii", 20000, 20000)
    (folder / "film.avi").write_bytes(content)
    return folder / "film.avi"


ODD: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "nothing": (text(""), "failed", "the file is empty"),
    "zeros": (text(bytes(9999)), "failed", "not a video"),
    "PNG": (still("PNG"), "failed", "the format png_pipe is not a supported video"),
    "JPEG": (still("JPEG"), "failed", "is not a supported video"),
    "WebP": (still("WEBP"), "failed", "is not a supported video"),
    "TIFF": (still("TIFF"), "failed", "is not a supported video"),
    "GIF": (still("GIF"), "ok", ""),
    "one frame": (film("film.mp4", 1), "ok", ""),
    "240 a second": (film("film.mp4", 50, 240), "ok", ""),
    "a million a second": (film("film.mkv", 50, 1_000_000), "ok", ""),
    "raw, without times": (film("film.h264"), "ok", ""),
    "before zero": (shifted(-10.0), "ok", ""),
    "long after zero": (shifted(1e5), "ok", ""),
    "1 × 1": (sized(1, 1), "ok", ""),
    "32 × 1": (sized(32, 1), "ok", ""),
    "16384 × 512": (sized(16384, 512, "libx264"), "ok", ""),
    "16384 × 2": (sized(16384, 2), "failed", "16384 × 2 pixels"),
    "2 × 66": (sized(2, 66, "libx264"), "failed", "2 × 66 pixels"),
    "a header of 20000 × 20000": (huge_header, "failed", "20000 × 20000 pixels"),
    "a frame of 600 MB that is not there": (text("YUV4MPEG2 W20000 H20000 F25:1\nFRAME\n"), "failed", "."),
    "a header of 65535 × 65535": (text(b"GIF89a" + b"\xff" * 7 + bytes(99)), "failed", "."),
    "0 frames a second": (text("YUV4MPEG2 W16 H16 F0:1\nFRAME\n" + "0" * 384), "ok", ""),
    "another size in mid-stream": (sizes((160, 90), (320, 180), (90, 160)), "ok", ""),
    "another shape in mid-stream": (sizes((160, 90), (2000, 30)), "partial", "2000 × 30 pixels"),
    "two videos": (two_videos, "ok", ""),
    "1000 tracks": (many_tracks(MAX_STREAMS), "ok", ""),
    "1001 tracks": (many_tracks(MAX_STREAMS + 1), "failed", "more than 1,000 streams"),
    "2000 tracks": (many_tracks(2000), "failed", "more than 1,000 streams"),
    "an unknown codec": (unknown_codec, "failed", "no decoder"),
    "years": (years, "partial", "read 2.0 of"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_odd_files_end_with_status_and_reason(tmp_path: Path, name: str) -> None:
    make, status, reason = ODD[name]
    found = analyze_file(make(tmp_path), True)
    assert (found["status"], bool(found["error"])) == (status, status != "ok"), found["error"]
    assert re.search(reason, found["error"] or "")
    assert (found.get("moments", 0) > 0) == (status in ("ok", "partial"))


def test_boxes_survive_changes_of_the_frame_size(tmp_path: Path, sample_frames: list[np.ndarray]) -> None:
    large = sample_frames[:75]
    parts = [
        [np.ascontiguousarray(frame[::step, ::step]) for frame in large[25 * n : 25 * n + 25]]
        for n, step in enumerate((1, 2, 1))
    ]
    changing = detect_boxes(write_parts(tmp_path / "changing.mkv", *parts))
    constant = detect_boxes(write_parts(tmp_path / "constant.mkv", large[:25], large[25:50], large[50:]))
    assert len(changing) == len(constant) == 30
    assert np.abs(changing - constant).max() < 0.05


def detect_boxes(path: Path) -> np.ndarray:
    """Return time and relative box of each face, `(n, 5)`, by time and from left to right."""
    video = probe_videos(list_videos([str(path)]).sources)
    (segment,) = Segment.from_table(plan_segments(video, CONFIG, 1.0, "model", 1))
    found = extract_faces(segment, CONFIG, FaceDetector(CONFIG.min_face, CONFIG.min_score), 0.96)
    assert found.status == "ok"
    columns = ("time_s", "box_x0", "box_y0", "box_x1", "box_y1")
    return np.array(sorted([getattr(face, name) for name in columns] for face in found.faces))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file_fails(tmp_path: Path) -> None:
    path = film("film.mp4", 3)(tmp_path)
    path.chmod(0)
    assert analyze_file(path, False)["error"] == "the file can't be read (permission denied)"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_pipe_or_device_is_not_opened(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "film.mp4")
    with pytest.raises(DecodeError, match="not a regular file"):
        read_info(tmp_path / "film.mp4")


@pytest.mark.parametrize(
    "name", [b"line\nbreak.mp4", b"caf\xe9.mp4", b"%41.mp4", b"film%03d.mp4", b"concat:a|b.mp4", b"-.mp4"]
)
def test_film_with_unusual_name_is_read(tmp_path: Path, name: bytes) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    try:
        film("film.mp4", 25)(tmp_path).rename(path)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert (analyze_file(path, True)["status"], analyze_file(path, False)["moments"]) == ("ok", 5)


# Other files and addresses


class Requests(http.server.BaseHTTPRequestHandler):
    """Serves a film and records the requested paths."""

    requested: list[str]
    film: bytes

    def do_GET(self) -> None:
        self.requested.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.film)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Keep the request log out of the test output."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    path = write_video(tmp_path_factory.mktemp("served") / "film.ts", pictures(25))
    handler = type("Handler", (Requests,), {"requested": [], "film": path.read_bytes()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}/film.ts", handler.requested
        serving.shutdown()
        thread.join()


PLAYLISTS = {
    "HLS": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{there}\n#EXT-X-ENDLIST\n",
    "HLS with a key": (
        '#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=AES-128,URI="{there}"\n'
        "#EXTINF:1,\n{there}\n#EXT-X-ENDLIST\n"
    ),
    "ffconcat": "ffconcat version 1.0\nfile '{there}'\n",
    "DASH": (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1000"><BaseURL>{there}'
        "</BaseURL></Representation></AdaptationSet></Period></MPD>"
    ),
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "SMIL or text": "{there}\n",
    "Matroska's neighbour": "[playlist]\nFile1={there}\n",
}


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "m3u8", "ffconcat", "mpd", "sdp"])
@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("target", ["http", "file", "path", "subfile"])
def test_playlist_opens_no_other_file(
    tmp_path: Path, server: tuple[str, list[str]], kind: str, suffix: str, target: str
) -> None:
    address, requested = server
    other = tmp_path / "other.ts"
    os.mkfifo(other)  # opening it would wait for ever
    there = {
        "http": address,
        "file": f"file:{other}",
        "path": "other.ts",
        "subfile": f"subfile,,start,0,end,0,,:{other}",
    }[target]
    path = tmp_path / f"film.{suffix}"
    path.write_text(PLAYLISTS[kind].format(there=there))
    found = analyze_file(path, True)
    assert found["status"] == "failed"
    assert re.search("not a (supported )?video", found["error"])
    assert requested == []


@pytest.mark.parametrize(("kind", "called"), [("HLS", "hls"), ("ffconcat", "concat"), ("SDP", "sdp")])
def test_playlist_is_reported_as_such(tmp_path: Path, kind: str, called: str) -> None:
    path = tmp_path / ("film.m3u8" if kind == "HLS" else "film.mp4")
    path.write_text(PLAYLISTS[kind].format(there="other.ts"))
    reason = f"the format {called} is not a supported video format; playlists"
    assert analyze_file(path, True)["error"].startswith(reason)


def test_ffmpeg_follows_playlists_by_default(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    """Otherwise the tests above could not fail."""
    address, requested = server
    path = tmp_path / "film.m3u8"
    path.write_text(PLAYLISTS["HLS"].format(there=address))
    with av.open(str(path), container_options={"protocol_whitelist": "file,http,tcp,crypto"}) as container:
        assert next(container.decode(video=0)).width == 160
    assert requested
    requested.clear()


def test_external_media_data_is_not_opened(tmp_path: Path) -> None:
    other = film("other.mov")(tmp_path)
    name = os.fsencode(other)
    # An alias of QuickTime: 150 bytes of volume, file and levels, then the absolute path (type 2).
    alias = bytes(150) + struct.pack(">HH", 2, len(name)) + name + bytes(len(name) % 2) + b"\xff\xff\0\0"
    new = atom(b"dref", bytes(4) + struct.pack(">I", 1) + atom(b"alis", bytes(4) + alias))
    content = other.read_bytes()
    start = content.index(b"dref") - 4
    old = content[start : start + struct.unpack(">I", content[start : start + 4])[0]]
    grown = bytearray(content.replace(old, new))
    for kind in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        place = grown.index(kind) - 4
        size = struct.unpack(">I", grown[place : place + 4])[0]
        grown[place : place + 4] = struct.pack(">I", size + len(new) - len(old))
    path = tmp_path / "film.mov"
    path.write_bytes(grown)
    followed = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(path), container_options=followed) as container:
        assert next(container.decode(video=0)).width == 160
    assert analyze_file(path, False)["status"] == "failed"
