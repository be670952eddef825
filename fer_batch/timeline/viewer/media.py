"""Responses with the files of videos, whole or in ranges of bytes."""

import functools
import io
import mimetypes
import re
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, BinaryIO

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from fer_batch.errors import ChangedFileError, FerBatchError
from fer_batch.run.files import AnalyzedFile
from fer_batch.storage.addresses import is_remote
from fer_batch.storage.archives import split_member
from fer_batch.storage.media import read_identity
from fer_batch.storage.stores import find_file
from fer_batch.timeline.names import file_name
from fer_batch.video.pictures import is_picture

BYTE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
CHUNK_BYTES = 2**20
MAX_OPEN_VIDEOS = 16
"""Videos that stay open: a compressed member of an archive is unpacked when it is opened."""


def send_video(file: AnalyzedFile, request: Request) -> Response:
    """Return the file of a video, or the one range of it that the request names (RFC 9110, section 14).

    Raises HTTPException with the reason if the file changed or cannot be opened.
    """
    try:
        content, size, lock = _open_cached(file, _identify_content(file.uri))
    except ChangedFileError as error:
        raise HTTPException(HTTPStatus.CONFLICT, str(error)) from error
    except (OSError, FerBatchError) as error:
        raise HTTPException(HTTPStatus.NOT_FOUND, describe_error(error)) from error
    return _send_file(content, lock, size, {"Content-Type": guess_media_type(file.uri)}, request)


def describe_error(error: Exception) -> str:
    """Return the reason of an error on one line."""
    if isinstance(error, FileNotFoundError):
        return "the file no longer exists, or is not on this machine"
    return getattr(error, "strerror", None) or str(error).strip().split("\n")[0]


def find_trouble(file: AnalyzedFile) -> str | None:
    """Return the reason why the file of a video cannot be sent, None if it can."""
    try:
        _open_cached(file, _identify_content(file.uri))
    except (OSError, FerBatchError) as error:
        return describe_error(error)
    return None


def _identify_content(uri: str) -> Any:
    """Return a value that changes when the content of a file, or of its archive, may have changed."""
    name = (split_member(uri) or (uri,))[0]
    return find_file(name) if is_remote(name) else read_identity(uri)


@functools.lru_cache(MAX_OPEN_VIDEOS)
def _open_cached(file: AnalyzedFile, identity: Any) -> tuple[BinaryIO, int, threading.Lock]:
    """Return a file object, its size in bytes, and a lock to hold while reading.

    `identity` changes when the file does, so that the changed file is opened and checked.
    """
    content = file.open()
    return content, content.seek(0, io.SEEK_END), threading.Lock()


def _send_file(
    file: BinaryIO, lock: threading.Lock, size: int, headers: dict[str, str], request: Request
) -> Response:
    start, end, status = 0, size, HTTPStatus.OK
    byte_range = BYTE_RANGE.fullmatch(request.headers.get("range", ""))
    if byte_range and any(byte_range.groups()) and "if-range" not in request.headers:
        status = HTTPStatus.PARTIAL_CONTENT
        if byte_range[1]:
            start, end = int(byte_range[1]), min(int(byte_range[2]) + 1, size) if byte_range[2] else size
        else:
            start = max(size - int(byte_range[2]), 0)
        if start >= end:
            unsatisfiable = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            return Response(status_code=unsatisfiable, headers={"Content-Range": f"bytes */{size}"})
        headers = headers | {"Content-Range": f"bytes {start}-{end - 1}/{size}"}
    headers = headers | {"Accept-Ranges": "bytes", "Content-Length": str(end - start)}

    def read_chunks() -> Iterator[bytes]:
        position = start
        while position < end:
            with lock:
                file.seek(position)
                chunk = file.read(min(CHUNK_BYTES, end - position))
            if not chunk:
                return
            position += len(chunk)
            yield chunk

    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(read_chunks(), status, headers)


def guess_media_type(uri: str) -> str:
    """Return a video's or picture's media type, or one that a browser neither runs nor shows by itself."""
    media_type = mimetypes.guess_type(file_name(uri))[0] or ""
    is_shown = media_type.startswith("video/") or is_picture(uri)
    return media_type if media_type and is_shown else "application/octet-stream"
