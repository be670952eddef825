"""A web server of a run's pages, for browsers on this machine only. Without `edit`, it writes nothing."""

import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Unpack

import duckdb
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fer_batch.errors import FerBatchError, InputError
from fer_batch.storage.folder import FolderLike
from fer_batch.timeline.names import file_name
from fer_batch.timeline.queries.selection import QualityFilter
from fer_batch.timeline.viewer.catalogue import Catalogue, ListedVideo
from fer_batch.timeline.viewer.edits import NamingHistory, create_edit_routes
from fer_batch.timeline.viewer.loopback import (
    create_asset_route,
    create_token,
    list_middleware,
    send_asset,
    serve_app,
)
from fer_batch.timeline.viewer.media import describe_error, find_trouble, send_video
from fer_batch.timeline.viewer.page import SCRIPTS, STYLES
from fer_batch.timeline.viewer.payload import describe_classes
from fer_batch.video.pictures import is_picture

ASSETS = (*STYLES, *SCRIPTS, "archive.js", "boxes.js", "naming.js", "video.js")
NOT_ANALYZED = "no frame of it was analyzed"


def create_app(
    out: FolderLike, token: str, quality: QualityFilter | None = None, *, edit: bool = False
) -> Starlette:
    """Create the web application of the run in `out`; raises OutputError if it holds no finished run.

    Its pages have only the faces that match `quality`. With `edit`, users of the pages can name faces. All
    paths begin with `/token/`, and only requests that know it are answered.
    """
    open_catalogue = _CatalogueCache(out, quality)
    history = NamingHistory(out) if edit else None

    def show_page(name: str) -> Callable[[Request], Response]:
        def respond(request: Request) -> Response:
            if "video_id" in request.path_params:
                _find_video(open_catalogue(), request)
            return send_asset(name)

        return respond

    def describe_run(request: Request) -> Response:
        catalogue = open_catalogue()
        return JSONResponse(
            {
                "out": str(catalogue.out),
                "state": catalogue.state,
                "videos": len(catalogue.videos),
                "partial": catalogue.partial,
                **describe_classes(catalogue.classes),
                "statuses": catalogue.count_statuses(),
            }
        )

    def list_persons(request: Request) -> Response:
        return JSONResponse(open_catalogue().persons)

    def list_videos(request: Request) -> Response:
        query = request.query_params
        try:
            first, count = int(query.get("first", 0)), int(query.get("count", 50))
        except ValueError:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "first and count must be whole numbers") from None
        filters = {name: query.get(name, "") for name in ("words", "status", "emotion", "person")}
        total, page = open_catalogue().list_videos(**filters, first=max(first, 0), count=max(count, 0))
        videos = [
            row | {"name": file_name(row["uri"]), "is_picture": is_picture(row["uri"])}
            for row in page.to_pylist()
        ]
        return JSONResponse({"total": total, "videos": videos})

    def draw_strips(request: Request) -> Response:
        return JSONResponse(open_catalogue().draw_strips(request.query_params.get("ids", "").split(",")))

    def send_data(request: Request) -> Response:
        catalogue = open_catalogue()
        video = _find_video(catalogue, request)
        return Response(catalogue.pack_video(video.video_id), media_type="application/octet-stream")

    def describe_media(request: Request) -> Response:
        """Tell whether a video can be played, as far as its file shows, and what can be edited."""
        catalogue = open_catalogue()
        video = _find_video(catalogue, request)
        trouble = find_trouble(catalogue.find_file(video)) if video.moments else NOT_ANALYZED
        last_change = history.describe_last(video.video_id) if history else None
        return JSONResponse(
            {"trouble": trouble, "state": catalogue.state, "edit": history is not None, "undo": last_change}
        )

    def send_media(request: Request) -> Response:
        catalogue = open_catalogue()
        video = _find_video(catalogue, request)
        if not video.moments:
            raise HTTPException(HTTPStatus.NOT_FOUND, NOT_ANALYZED)
        return send_video(catalogue.find_file(video), request)

    async def report_error(request: Request, error: Exception) -> Response:
        status = HTTPStatus.BAD_REQUEST if isinstance(error, InputError) else HTTPStatus.SERVICE_UNAVAILABLE
        return Response(describe_error(error), status, media_type="text/plain")

    def check_video(request: Request) -> str:
        return _find_video(open_catalogue(), request).video_id

    return Starlette(
        routes=[
            Route("/", show_page("archive.html")),
            Route("/video/{video_id}", show_page("video.html")),
            create_asset_route(ASSETS),
            Route("/api/run", describe_run),
            Route("/api/persons", list_persons),
            Route("/api/videos", list_videos),
            Route("/api/strips", draw_strips),
            Route("/api/videos/{video_id}/data", send_data),
            Route("/api/videos/{video_id}/state", describe_media),
            Route("/media/{video_id}", send_media),
            *(create_edit_routes(history, check_video) if history else ()),
        ],
        middleware=list_middleware(token),
        exception_handlers={FerBatchError: report_error, duckdb.Error: report_error},
    )


def serve(
    out: FolderLike,
    port: int,
    on_start: Callable[[str], None],
    *,
    edit: bool = False,
    **quality: Unpack[QualityFilter],
) -> int:
    """Serve a run to browsers on this machine until a signal comes; return 128 plus its number.

    `port` 0 is any free port. `on_start` receives the address of the pages. `edit` and `quality` are as in
    `create_app`.

    Raises OutputError if the port is taken or `out` holds no finished run.
    """
    token = create_token()
    return serve_app(create_app(out, token, quality, edit=edit), token, port, on_start)


class _CatalogueCache:
    """The catalogue of a run, opened again when its tables have changed."""

    def __init__(self, out: FolderLike, quality: QualityFilter | None) -> None:
        self._quality = quality
        self._catalogue = Catalogue(out, quality)
        self._lock = threading.Lock()

    def __call__(self) -> Catalogue:
        with self._lock:
            if self._catalogue.is_outdated():
                self._catalogue = Catalogue(self._catalogue.out, self._quality)
            return self._catalogue


def _find_video(catalogue: Catalogue, request: Request) -> ListedVideo:
    """Return the video that a request names. Only videos of the run are ever read."""
    video = catalogue.find_video(request.path_params["video_id"])
    if video is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "this run has no such video")
    return video
