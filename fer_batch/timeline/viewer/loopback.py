"""Serve a web application to browsers on this machine only."""

import secrets
import signal
import socket
from collections.abc import Callable, Collection
from http import HTTPStatus
from types import FrameType
from typing import Any

import uvicorn
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fer_batch.errors import OutputError
from fer_batch.timeline.viewer.page import read_asset

ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
"""Host names of requests. Another name that resolves to this machine is an attack (DNS rebinding)."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
MEDIA_TYPES = {"html": "text/html; charset=utf-8", "css": "text/css", "js": "text/javascript"}
TOKEN_BYTES = 16
"""Random bytes in the address of the pages, as other users of this machine can reach the server."""
WRONG_TOKEN = "open the address that the command has printed"


def create_token() -> str:
    """Return a new random part of the address of pages."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def list_middleware(token: str) -> list[Middleware]:
    """Return the checks of every request: its site, its host, and the token at the start of its path."""
    return [
        Middleware(SameSiteOnly),
        Middleware(TrustedHostMiddleware, allowed_hosts=ALLOWED_HOSTS, www_redirect=False),
        Middleware(TokenOnly, token=token),
    ]


def create_asset_route(names: Collection[str]) -> Route:
    """Return the route `/page/NAME` of these files in `assets/`."""

    def respond(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in names:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return send_asset(name)

    return Route("/page/{name:path}", respond)


def send_asset(name: str) -> Response:
    """Return a file in `assets/`: a page, a style sheet or a script."""
    return Response(read_asset(name), media_type=MEDIA_TYPES[name.rpartition(".")[2]])


def serve_app(app: ASGIApp, token: str, port: int, on_start: Callable[[str], None], **settings: Any) -> int:
    """Serve an application on the loopback interface until a signal comes; return 128 plus its number.

    `port` 0 is any free port. `on_start` receives the address of the pages. `settings` are those of
    `uvicorn.Config`. Raises OutputError if the port is taken.
    """
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise OutputError(
            f"Cannot use --port {port}: {error.strerror}; give another, or 0 for any free port"
        ) from error
    on_start(f"http://127.0.0.1:{listener.getsockname()[1]}/{token}/")
    config = uvicorn.Config(
        app, log_level="error", lifespan="off", server_header=False, timeout_graceful_shutdown=1, **settings
    )
    received = signal.SIGINT

    def remember_signal(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = signal.Signals(number)

    # The server shuts down on the signal, and then sends the signal to itself again.
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, remember_signal)
    uvicorn.Server(config).run(sockets=[listener])
    return 128 + received


class SameSiteOnly:
    """Add security headers to every response, and reject requests that another site's page makes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        site, mode = headers.get(b"sec-fetch-site", b"none"), headers.get(b"sec-fetch-mode", b"")
        # Browsers name the origin of each WebSocket and POST, also where they omit the headers above.
        own_origin = b"http://" + headers.get(b"host", b"")
        is_read = scope.get("method") in ("GET", "HEAD")
        is_foreign = not is_read and headers.get(b"origin", own_origin) != own_origin

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [item for item in message["headers"] if item[0] != b"content-security-policy"]
                added = [(name.lower().encode(), text.encode()) for name, text in HEADERS.items()]
                message = {**message, "headers": [*kept, *added]}
            await send(message)

        if is_foreign or (site not in (b"same-origin", b"none") and mode != b"navigate"):
            refusal = Response("not for other sites", HTTPStatus.FORBIDDEN, media_type="text/plain")
            await refusal(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)


class TokenOnly:
    """Reject requests whose path does not begin with the token, and hide the token from the routes.

    The token is not in a cookie: a browser sends the cookies of one port to the servers of all other ports of
    the machine, which may belong to other users.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = scope["path"].removeprefix("/").partition("/")[0]  # the path of a request may be "*"
        if secrets.compare_digest(given.encode(errors="replace"), self.token.encode()):
            await self.app({**scope, "root_path": f"/{given}"}, receive, send)
        else:
            refusal = Response(WRONG_TOKEN, HTTPStatus.FORBIDDEN, media_type="text/plain")
            await refusal(scope, receive, send)
