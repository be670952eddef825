"""Files in stores, read from a real S3 server that fails like real ones."""

import functools
import math
import os
import threading
import time
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fer_batch.errors import DecodeError, InputError
from fer_batch.storage import stores
from fer_batch.storage.addresses import remember_queries
from fer_batch.storage.media import open_media
from fer_batch.storage.stores import BLOCK_BYTES, find_file, list_files, open_filesystem
from fer_batch.video.reader import SegmentReader, read_info
from fer_batch.video.segment import Segment
from tests.s3 import CREDENTIALS, Store
from tests.web import QUERY, Ranged, serve


@pytest.mark.parametrize("protocol", ["file", "ftp", "memory", "local", "simplecache::s3", "github"])
def test_other_protocols_never_reach_a_library(protocol: str) -> None:
    with pytest.raises(InputError, match="is not allowed"):
        open_filesystem(f"{protocol}://host/a.mp4")


def test_files_are_listed_and_found(store: Store) -> None:
    for key in ("films/a.mp4", "films/b/c.mkv", "other/d.mp4"):
        store.put(key, key.encode())
    assert [f.uri for f in list_files("s3://archive/films")] == [
        "s3://archive/films/a.mp4",
        "s3://archive/films/b/c.mkv",
    ]
    assert [f.uri for f in list_files("s3://archive/*/*.mp4")] == [
        "s3://archive/films/a.mp4",
        "s3://archive/other/d.mp4",
    ]
    assert list_files("s3://archive/none") == []
    assert find_file("s3://archive/none.mp4") is None
    before = find_file("s3://archive/films/a.mp4")
    assert before is not None
    assert before.size_bytes == len("films/a.mp4")
    assert before in list_files("s3://archive/films")
    stores._create_filesystem("s3").invalidate_cache()
    store.put("films/a.mp4", b"films/b.mp4")
    after = find_file("s3://archive/films/a.mp4")
    assert after is not None
    assert after.version != before.version


@pytest.mark.parametrize("fail", ["", "500", "cut", "slow"])
def test_temporary_errors_change_no_byte(fail: str, store: Store) -> None:
    content = os.urandom(3 * BLOCK_BYTES + 17)
    uri = store.put("a.bin", content)
    store.fail, store.every = fail, 3
    medium = open_media(uri)
    assert not isinstance(medium.source, str)
    assert medium.size == len(content)
    assert medium.read_head(100) == content[:100]
    assert medium.source.read() == content
    assert medium.source.seek(-5, os.SEEK_END) == len(content) - 5
    assert medium.source.read() == content[-5:]


def test_stored_file_gives_the_same_frames(sample: Path, store: Store) -> None:
    uri = store.put("two faces.mp4", sample.read_bytes())
    assert read_info(uri) == read_info(sample)
    parts = []
    for path in (sample, uri):
        reader = SegmentReader(replace(Segment.whole(path), start_s=2.0, core_start_s=2.0), 2.0)
        parts.append(([(f.time_s, f.picture.y.tobytes()) for f in reader], reader.report))
    assert parts[0] == parts[1]


def test_failing_store_is_the_reported_reason(
    sample: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = store.put("a.mp4", sample.read_bytes())
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(DecodeError, match="the file does not exist"):
        read_info("s3://archive/none.mp4")
    store.fail = "down"
    with pytest.raises(DecodeError, match="cannot read the store") as failed:
        read_info(uri)
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in str(failed.value)


class Whole(SimpleHTTPRequestHandler):
    """Serves whole files only."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("kind", [Ranged, Whole])
def test_web_server_with_and_without_ranges(
    kind: type[SimpleHTTPRequestHandler], sample: Path, tmp_path: Path
) -> None:
    content = os.urandom(2 * BLOCK_BYTES + 17)
    (tmp_path / "a.bin").write_bytes(content)
    (tmp_path / "a.mp4").write_bytes(sample.read_bytes())
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(kind, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        medium = open_media(f"{url}/a.bin")
        assert not isinstance(medium.source, str)
        assert (medium.size, medium.source.read()) == (len(content), content)
        assert medium.source.seek(-3, os.SEEK_END) == len(content) - 3
        assert medium.source.read() == content[-3:]
        assert read_info(f"{url}/a.mp4") == read_info(sample)
        found = find_file(f"{url}/a.mp4")
        assert found is not None
        assert found.size_bytes == sample.stat().st_size
        assert find_file(f"{url}/none.mp4") is None
        server.shutdown()
    with pytest.raises(InputError, match="Cannot read"):
        find_file(f"{url}/a.mp4")
    with pytest.raises(DecodeError, match="cannot read the store"):
        read_info(f"{url}/a.mp4")


def test_errors_show_no_query(sample: Path, tmp_path: Path) -> None:
    """Neither that of the address nor that of one to which the server redirects."""
    with serve(tmp_path) as url:
        remember_queries({f"{url}/none.mp4": QUERY, f"{url}/wrong.mp4": "?jwt=S3cr3t"})
        assert find_file(f"{url}/none.mp4") is None
        for name in ("old.mp4", "wrong.mp4"):
            with pytest.raises(DecodeError) as failed:
                read_info(f"{url}/{name}")
            assert "S3cr3t" not in str(failed.value)
    with pytest.raises(InputError, match="Cannot read") as refused:
        find_file(f"{url}/wrong.mp4")
    assert "S3cr3t" not in str(refused.value)


def test_each_byte_is_requested_once(store: Store, sample: Path) -> None:
    """Only the index may be read twice: at most one block at each end."""
    empty_box = b"\0\0\0\x80free" + bytes(120)
    empty_boxes = empty_box * (4 * BLOCK_BYTES // len(empty_box))
    content = sample.read_bytes() + empty_boxes
    uri = store.put("long.mp4", content)
    store.answers.clear()
    assert sum(1 for _ in SegmentReader(Segment.whole(uri), 1.0)) > 5
    assert store.answers["GET"] <= math.ceil(len(content) / BLOCK_BYTES) + 2
    assert store.answers["bytes"] <= len(content) + 2 * BLOCK_BYTES


def test_slow_answer_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(stores, "SLOW_ANSWER_S", 0.05)
    with stores.warn_if_slow("s3://bucket/out"):
        time.sleep(0.3)
    assert caplog.messages == ["waiting for an answer from s3://bucket/out …"]
    caplog.clear()
    monkeypatch.setattr(stores, "SLOW_ANSWER_S", 0.2)
    with stores.warn_if_slow("s3://bucket/out"):
        pass
    time.sleep(0.4)
    assert caplog.messages == []
