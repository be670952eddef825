"""A run's videos as pages for a browser on this machine: no other site reads them, and nothing is written."""

import functools
import mimetypes
import re
import signal
import socket
import threading
from collections.abc import Iterator
from http import HTTPStatus
from types import FrameType
from typing import Any, BinaryIO

import duckdb
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fer_batch.errors import FerBatchError, OutputError
from fer_batch.plotting import pick_colour, pick_text_colour
from fer_batch.storage.archives import split_member
from fer_batch.storage.folder import FolderLike
from fer_batch.storage.media import MediaFile, open_media, read_identity
from fer_batch.timeline.names import file_name
from fer_batch.timeline.viewer.catalogue import Catalogue
from fer_batch.timeline.viewer.page import SCRIPTS, STYLES, asset

HOSTS = ["127.0.0.1", "localhost"]
"""Names that a request may call this server by: a page of another name, whatever address that has, is of
somebody else (DNS rebinding)."""
FILES = {
    name: "text/css" if name.endswith(".css") else "text/javascript"
    for name in (*STYLES, *SCRIPTS, "archive.js", "video.js")
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "media-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
PIECE = 2**20
"""Bytes of a video that are read at a time."""
OPEN = 16
"""Videos that stay open: one that lies packed in an archive is unpacked once."""


def create_app(out: FolderLike) -> Starlette:
    """The pages of the run in `out`; raises OutputError where there is none that is finished."""
    current = _Current(out)

    def page(name: str) -> Any:
        def answer(request: Request) -> Response:
            if "video_id" in request.path_params:
                _found(current(), request)
            return Response(asset(name), media_type="text/html; charset=utf-8")

        return answer

    def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return Response(asset(name), media_type=FILES[name])

    def run(request: Request) -> Response:
        now = current()
        return JSONResponse(
            {
                "out": str(now.out),
                "state": now.state,
                "videos": len(now.videos),
                "classes": now.classes,
                "colours": [pick_colour(name, now.classes) for name in now.classes],
                "inks": [pick_text_colour(pick_colour(name, now.classes)) for name in now.classes],
                "statuses": now.statuses(),
            }
        )

    def persons(request: Request) -> Response:
        return JSONResponse(current().persons)

    def videos(request: Request) -> Response:
        asked = request.query_params
        try:
            first, count = int(asked.get("first", 0)), int(asked.get("count", 50))
        except ValueError:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "first and count are whole numbers") from None
        words = {name: asked.get(name, "") for name in ("words", "status", "emotion", "person")}
        return JSONResponse(current().page(**words, first=max(first, 0), count=max(count, 0)))

    def strips(request: Request) -> Response:
        return JSONResponse(current().strips(request.query_params.get("ids", "").split(",")))

    def data(request: Request) -> Response:
        now = current()
        row = _found(now, request)
        return Response(now.pack(row["video_id"]), media_type="application/octet-stream")

    def state(request: Request) -> Response:
        """Whether a video can be played, as far as its file tells."""
        now = current()
        row = _found(now, request)
        trouble = note = None
        try:
            size = _medium(now, row)[0].size
            if size != row["size_bytes"] and row["size_bytes"]:
                note = "The file is another than the one that was analyzed: it has another size now."
        except (OSError, FerBatchError) as error:
            trouble = _reason(error)
        return JSONResponse({"trouble": trouble, "note": note, "state": now.state})

    def media(request: Request) -> Response:
        now = current()
        row = _found(now, request)
        try:
            medium, lock = _medium(now, row)
        except (OSError, FerBatchError) as error:
            raise HTTPException(HTTPStatus.NOT_FOUND, _reason(error)) from error
        kind = _kind(row["uri"])
        if isinstance(medium.source, str):
            return FileResponse(medium.source, media_type=kind)
        return _part(medium.source, lock, medium.size, {"Content-Type": kind}, request)

    async def refused(request: Request, error: Exception) -> Response:
        return Response(_reason(error), HTTPStatus.SERVICE_UNAVAILABLE, media_type="text/plain")

    return Starlette(
        routes=[
            Route("/", page("archive.html")),
            Route("/video/{video_id}", page("video.html")),
            Route("/page/{name:path}", static),
            Route("/api/run", run),
            Route("/api/persons", persons),
            Route("/api/videos", videos),
            Route("/api/strips", strips),
            Route("/api/videos/{video_id}/data", data),
            Route("/api/videos/{video_id}/state", state),
            Route("/media/{video_id}", media),
        ],
        middleware=[
            Middleware(_Guarded),
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False),
        ],
        exception_handlers={FerBatchError: refused, duckdb.Error: refused},
    )


def serve(out: FolderLike, port: int) -> int:
    """Answer browsers on this machine until a signal comes; 128 and its number.

    `port` 0 is any that is free. Raises OutputError where it is not, or there is no finished run.
    """
    app = create_app(out)
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise OutputError(
            f"--port {port} can't be had: {error.strerror}; give another, or 0 for any that is free"
        ) from error
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/  (Ctrl-C ends it)", flush=True)
    config = uvicorn.Config(
        app, log_level="error", lifespan="off", server_header=False, timeout_graceful_shutdown=1
    )
    ended = signal.SIGINT

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ended
        ended = signal.Signals(number)

    # The server ends by itself, and then sends itself the signal that ended it.
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    uvicorn.Server(config).run(sockets=[listener])
    return 128 + ended


class _Current:
    """The run's tables as they were last completed, opened anew when they have been written anew."""

    def __init__(self, out: FolderLike) -> None:
        self._catalogue = Catalogue(out)
        self._lock = threading.Lock()

    def __call__(self) -> Catalogue:
        with self._lock:
            if self._catalogue.moved():
                self._catalogue = Catalogue(self._catalogue.out)
            return self._catalogue


class _Guarded:
    """Headers for every answer, and none for a request that another site's page makes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        site, mode = headers.get(b"sec-fetch-site", b"none"), headers.get(b"sec-fetch-mode", b"")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = [
                    (key, value) for key, value in message["headers"] if key != b"content-security-policy"
                ]
                more = [(name.lower().encode(), text.encode()) for name, text in HEADERS.items()]
                message = {**message, "headers": [*given, *more]}
            await send(message)

        if site not in (b"same-origin", b"none") and mode != b"navigate":
            answer = Response("not for other sites", HTTPStatus.FORBIDDEN, media_type="text/plain")
            await answer(scope, receive, guarded)
        else:
            await self.app(scope, receive, guarded)


def _found(catalogue: Catalogue, request: Request) -> dict[str, Any]:
    """The video that a request names; nothing but a run's videos is ever read."""
    row = catalogue.find(request.path_params["video_id"])
    if row is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "this run has no such video")
    return row


def _medium(catalogue: Catalogue, row: dict[str, Any]) -> tuple[MediaFile, threading.Lock]:
    """A video's file, and what whoever reads it has to hold; raises OSError or FerBatchError where there is
    none to be read.
    """
    uri = row["uri"]
    offset = catalogue.offset_of(row["video_id"]) if split_member(uri) else None
    return _opened(uri, offset, read_identity(uri))


@functools.lru_cache(OPEN)
def _opened(uri: str, offset: int | None, identity: Any) -> tuple[MediaFile, threading.Lock]:
    return open_media(uri, offset), threading.Lock()


def _part(
    file: BinaryIO, lock: threading.Lock, size: int, headers: dict[str, str], request: Request
) -> Response:
    """A file of so many bytes, or the one range of it that is asked for (RFC 9110, 14)."""
    start, end, status = 0, size, HTTPStatus.OK
    asked = RANGE.fullmatch(request.headers.get("range", ""))
    if asked and any(asked.groups()) and "if-range" not in request.headers:
        status = HTTPStatus.PARTIAL_CONTENT
        if asked[1]:
            start, end = int(asked[1]), min(int(asked[2]) + 1, size) if asked[2] else size
        else:
            start = max(size - int(asked[2]), 0)
        if start >= end:
            wrong = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            return Response(status_code=wrong, headers={"Content-Range": f"bytes */{size}"})
        headers = headers | {"Content-Range": f"bytes {start}-{end - 1}/{size}"}
    headers = headers | {"Accept-Ranges": "bytes", "Content-Length": str(end - start)}

    def pieces() -> Iterator[bytes]:
        place = start
        while place < end:
            with lock:
                file.seek(place)
                piece = file.read(min(PIECE, end - place))
            if not piece:
                return
            place += len(piece)
            yield piece

    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(pieces(), status, headers)


def _kind(uri: str) -> str:
    """What a browser is told that a file is: a video, or nothing that it would run or show by itself."""
    kind = mimetypes.guess_type(file_name(uri))[0] or ""
    return kind if kind.startswith("video/") else "application/octet-stream"


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is not there any more, or not on this machine"
    return getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
