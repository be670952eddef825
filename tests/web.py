"""Web servers: of a folder, for those who know the query, and of an application."""

import contextlib
import functools
import re
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

QUERY = "?jwt=S3cr3t&Key-Pair-Id=K3y#t"
SECRETS = (b"S3cr3t", b"K3y")


class Ranged(SimpleHTTPRequestHandler):
    """Serves ranges, as most servers do; Python's own server does not."""

    def log_message(self, *_: object) -> None:
        pass

    def send_head(self) -> BytesIO | None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return None
        content = path.read_bytes()
        ranges = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        first, last = (
            (int(ranges[1]), int(ranges[2] or len(content) - 1)) if ranges else (0, len(content) - 1)
        )
        last = min(last, len(content) - 1)
        self.send_response(206 if ranges else 200)
        self.send_header("Accept-Ranges", "bytes")
        if ranges:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        return BytesIO(content[first : last + 1])


class Signed(Ranged):
    """Serves a file only with QUERY, and redirects `old` to an address with it."""

    def send_head(self) -> BytesIO | None:
        if self.path == "/old.mp4":
            self.send_response(302)
            self.send_header("Location", f"/gone.mp4{QUERY}")
            self.end_headers()
        elif self.path.partition("?")[2] == QUERY[1:].partition("#")[0]:
            return super().send_head()
        else:
            self.send_error(403)
        return None


@contextlib.contextmanager
def serve(folder: Path, handler: type[SimpleHTTPRequestHandler] = Signed) -> Iterator[str]:
    """Serve the files of a folder at the address that is yielded."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextlib.contextmanager
def serve_app(app: ASGIApp, **settings: Any) -> Iterator[str]:
    """Serve an application at the address that is yielded. `settings` are those of `uvicorn.Config`."""
    config = uvicorn.Config(
        app, port=0, lifespan="off", log_level="error", timeout_graceful_shutdown=1, **settings
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
