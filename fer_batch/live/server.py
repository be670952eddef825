"""A web server of the live page, for browsers on this machine only. It stores nothing."""

import asyncio
import importlib.util
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import ConfigError, FerBatchError, InputError
from fer_batch.live.session import LiveSession
from fer_batch.timeline.viewer import loopback
from fer_batch.timeline.viewer.media import guess_media_type
from fer_batch.timeline.viewer.page import SCRIPTS, STYLES
from fer_batch.timeline.viewer.payload import describe_classes
from fer_batch.video import container
from fer_batch.video.pictures import decode_picture

MAX_STREAMS = 4
"""Streams, and also images, that are recognized at the same time."""
MAX_FRAME_BYTES, MAX_IMAGE_BYTES = 2_000_000, 50_000_000
"""Size of a frame of a stream, and of an image. The page sends frames of about 0.03 MB."""
MAX_FRAME_PX = 1920 * 1080
"""Pixels of a frame of a stream. The page sends at most 640 × 640."""
BUSY = f"the server recognizes {MAX_STREAMS} at once; close a page, or try again"
WEBSOCKETS = {"ws": "websockets-sansio", "ws_max_size": MAX_FRAME_BYTES, "ws_per_message_deflate": False}
"""Settings of uvicorn. This implementation reads the next message after the application has taken one."""
ASSETS = (*STYLES, *SCRIPTS, "boxes.js", "live.js")


def create_app(session: LiveSession, token: str, file: Path | None = None) -> Starlette:
    """Create the web application of the live page.

    All streams use the detector, the model and the settings of `session`. The page shows the video `file`
    instead of a camera. All paths begin with `/token/`, and only requests that know it are answered.
    """
    executor = ThreadPoolExecutor(1)  # the networks take one frame at a time
    streams, images = asyncio.Semaphore(MAX_STREAMS), asyncio.Semaphore(MAX_STREAMS)

    def start_session() -> LiveSession:
        return LiveSession(session.config, detector=session.detector, recognizer=session.recognizer)

    async def analyze(stream: LiveSession, content: bytes, max_px: int, time_s: float) -> dict[str, Any]:
        """Return the time and the faces of a picture, or the reason why there are none."""

        def run() -> dict[str, Any]:
            try:
                faces = stream.analyze(decode_picture(content, max_px)[0], time_s)
            except FerBatchError as error:
                return {"error": str(error)}
            return {"time_s": time_s, "faces": [face.to_dict() for face in faces]}

        return await asyncio.get_running_loop().run_in_executor(executor, run)

    async def recognize_stream(websocket: WebSocket) -> None:
        """Answer each frame. A client sends the next frame after the answer; earlier ones are not read."""
        await websocket.accept()
        if streams.locked():
            await websocket.close(1013, BUSY)
            return
        stream, start_s = start_session(), time.monotonic()
        async with streams:
            while (message := await websocket.receive())["type"] == "websocket.receive":
                content = message.get("bytes") or b""
                answer = await analyze(stream, content, MAX_FRAME_PX, time.monotonic() - start_s)
                try:
                    await websocket.send_json(answer)
                except WebSocketDisconnect:
                    return

    async def recognize_image(request: Request) -> Response:
        if images.locked():
            return JSONResponse({"error": BUSY}, HTTPStatus.SERVICE_UNAVAILABLE)
        content = bytearray()
        async with images:
            async for chunk in request.stream():
                content += chunk
                if len(content) > MAX_IMAGE_BYTES:
                    reason = f"the image has more than {MAX_IMAGE_BYTES:,} bytes"
                    return JSONResponse({"error": reason}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            answer = await analyze(start_session(), bytes(content), container.MAX_FRAME_PX, 0.0)
        return JSONResponse(answer, HTTPStatus.BAD_REQUEST if "error" in answer else HTTPStatus.OK)

    model = describe_classes(session.recognizer.card.classes) | {"file": file.name if file else None}
    routes: list[Route | WebSocketRoute] = [
        Route("/", lambda request: loopback.send_asset("live.html")),
        loopback.create_asset_route(ASSETS),
        Route("/api/model", lambda request: JSONResponse(model)),
        Route("/api/image", recognize_image, methods=["POST"]),
        WebSocketRoute("/api/stream", recognize_stream),
    ]
    if file:
        video = FileResponse(file, media_type=guess_media_type(file.name))
        routes.append(Route("/media", lambda request: video))
    return Starlette(routes=routes, middleware=loopback.list_middleware(token))


def serve(config: AnalyzeConfig, port: int, on_start: Callable[[str], None], file: Path | None = None) -> int:
    """Serve the live page to browsers on this machine until a signal comes; return 128 plus its number.

    `port` 0 is any free port. `on_start` receives the address of the page, `file` is as in `create_app`.
    Raises OutputError if the port is taken, InputError if there is no such file, ConfigError without the
    extra `live`, and CheckpointError if the model cannot be loaded.
    """
    if importlib.util.find_spec("websockets") is None:
        raise ConfigError("`fer-batch live` needs the extra `live`: pip install 'fer-batch[live]'")
    if file and not file.is_file():
        raise InputError(f"{file} is not a file on this machine; give a video, or nothing for the camera")
    torch.set_num_threads(1)  # a frame is too small for more, and the browser needs a core
    token = loopback.create_token()
    app = create_app(LiveSession(config), token, file)
    return loopback.serve_app(app, token, port, on_start, **WEBSOCKETS)
