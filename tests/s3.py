"""An S3 server on the loopback interface, behind a proxy that makes the errors that stores make."""

import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fer_batch.storage import stores

BUCKET = "archive"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAFORTHETESTS",
    "AWS_SECRET_ACCESS_KEY": "a-secret-that-must-not-be-written",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass
class Store:
    """An S3 store that can be made to fail, and counts its requests."""

    url: str
    fail: str = ""
    """The failure of responses with a body: "500", "slow" or "cut"; "down" closes all connections."""
    every: int = 1
    """Fail one response out of this many."""
    answers: Counter[str] = field(default_factory=Counter)
    """Number of requests by method, and the "bytes" of all responses."""

    def put(self, key: str, content: bytes) -> str:
        """Store a file; return its address."""
        client().put_object(Bucket=BUCKET, Key=key, Body=content)
        return f"s3://{BUCKET}/{key}"


def client() -> Any:
    """Return a client of the store in the environment; the import is slow."""
    import boto3

    return boto3.client("s3")


def proxy(behind: str, port: int, store: Store) -> ThreadingHTTPServer:
    """Start a server that forwards requests and fails as configured."""
    bodies = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # with it, each response with a body waits for 40 ms

        def log_message(self, *_: object) -> None:
            pass

        def _forward(self) -> None:
            nonlocal bodies
            if store.fail == "down":
                self.close_connection = True
                return
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request(self.command, self.path, sent, dict(self.headers))
            answer = connection.getresponse()
            body = answer.read()
            store.answers[self.command] += 1
            store.answers["bytes"] += len(body)
            bodies += bool(body)
            failing = store.fail if body and bodies % store.every == 0 else ""
            if failing == "500":
                self.send_response(500)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else len(body)
            self.send_header("Content-Length", str(length or 0))
            self.end_headers()
            if failing == "cut":
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if failing == "slow":
                time.sleep(0.5)
            self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="session")
def _servers() -> Iterator[Store]:
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    _, port = moto.get_host_and_port()
    store = Store(url="")
    server = proxy("127.0.0.1", port, store)
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield store
    server.shutdown()
    moto.stop()


@pytest.fixture
def store(_servers: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty bucket, in the environment as users configure their own store."""
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": _servers.url}).items():
        monkeypatch.setenv(name, value)
    stores._create_filesystem.cache_clear()
    client().create_bucket(Bucket=BUCKET)
    _servers.fail, _servers.every = "", 1
    _servers.answers.clear()
    yield _servers
    _servers.fail = ""
    for item in client().list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client().delete_object(Bucket=BUCKET, Key=item["Key"])
    stores._create_filesystem.cache_clear()
