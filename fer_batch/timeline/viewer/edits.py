"""Routes that change the persons of a run, for `view --edit` only."""

import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fer_batch.errors import InputError
from fer_batch.storage.folder import FolderLike
from fer_batch.timeline.naming import FaceNaming, name_face, undo_naming

MAX_BODY_BYTES = 10_000
MAX_CHANGES = 100
"""Changes of each video that can be undone, the last ones."""


class NamingHistory:
    """Names faces of a run, and remembers the changes until the server ends. It is safe for threads."""

    def __init__(self, out: FolderLike) -> None:
        self._out = out
        self._lock = threading.Lock()
        """Held while a change is written, so that requests wait for each other. The lease lets none wait."""
        self._changes: dict[str, deque[FaceNaming]] = defaultdict(lambda: deque(maxlen=MAX_CHANGES))
        """The changes that users made on the page of each video."""

    def name_face(self, video_id: str, track_id: int, name: str, shown: str | None) -> None:
        """See `fer_batch.timeline.naming.name_face`."""
        with self._lock:
            naming = name_face(self._out, video_id, track_id, name, shown)
            if naming.before != naming.after:
                self._changes[video_id].append(naming)

    def undo(self, video_id: str) -> None:
        """Undo the last change on the page of a video.

        Raises InputError if there is none, or if the persons have changed since. Such a change is dropped.
        """
        with self._lock:
            changes = self._changes[video_id]
            if not changes:
                raise InputError("There is no change to undo")
            try:
                undo_naming(self._out, changes[-1])
            except InputError:
                changes.pop()
                raise
            changes.pop()

    def describe_last(self, video_id: str) -> str | None:
        """Describe the change that `undo` undoes; return None if there is none."""
        changes = self._changes.get(video_id)
        return str(changes[-1]) if changes else None


def create_edit_routes(history: NamingHistory, check_video: Callable[[Request], str]) -> list[Route]:
    """Create the routes. `check_video` returns the id of the video that a request names."""

    async def name(request: Request) -> Response:
        values = await _read_json(request)
        track_id, person, shown = (values.get(key) for key in ("track_id", "name", "shown"))
        if type(track_id) is not int or type(person) is not str or type(shown) not in (str, type(None)):
            raise HTTPException(HTTPStatus.BAD_REQUEST, "track_id, name and shown are needed")
        return await run_in_threadpool(
            change, request, lambda video_id: history.name_face(video_id, track_id, person, shown)
        )

    async def undo(request: Request) -> Response:
        await _read_json(request)
        return await run_in_threadpool(change, request, history.undo)

    def change(request: Request, act: Callable[[str], None]) -> Response:
        act(check_video(request))
        return Response(status_code=HTTPStatus.NO_CONTENT)

    return [
        Route("/api/videos/{video_id}/name", name, methods=["POST"]),
        Route("/api/videos/{video_id}/undo", undo, methods=["POST"]),
    ]


async def _read_json(request: Request) -> dict[str, Any]:
    """Return the JSON object that a page of this server sends; raise HTTPException for any other request.

    Browsers send the origin of the page with each POST. Pages of other sites cannot change it, and may not
    send JSON without permission of this server.
    """
    if request.headers.get("origin") != f"http://{request.headers.get('host')}":
        raise HTTPException(HTTPStatus.FORBIDDEN, "not for other sites")
    if request.headers.get("content-type") != "application/json":
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "only application/json is read")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BODY_BYTES} bytes are read"
            )
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "a JSON object is needed")
    return values
