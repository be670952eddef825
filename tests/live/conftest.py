"""A session with the packaged model, and the server of the live page."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image

from fer_batch.live.server import WEBSOCKETS, create_app
from fer_batch.live.session import LiveSession

TOKEN = "token-of-the-tests"
Serving = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="session")
def live() -> LiveSession:
    """A session whose detector and recognizer the tests share."""
    return LiveSession()


@pytest.fixture
def new_session(live: LiveSession) -> Callable[[], LiveSession]:
    return lambda: LiveSession(live.config, detector=live.detector, recognizer=live.recognizer)


@pytest.fixture(scope="session")
def one_face(sample_frames: list[np.ndarray]) -> list[np.ndarray]:
    """The frames of the left half of the sample, `(360, 320, 3) uint8`."""
    return [np.ascontiguousarray(frame[:, :320]) for frame in sample_frames]


@pytest.fixture(scope="session")
def serving(live: LiveSession) -> Serving:
    @contextmanager
    def serve(file: Path | None = None) -> Iterator[str]:
        """Serve the live page; the value is its address, without a slash at the end."""
        app = create_app(live, TOKEN, file)
        config = uvicorn.Config(
            app, port=0, lifespan="off", log_level="error", timeout_graceful_shutdown=1, **WEBSOCKETS
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/{TOKEN}"
        finally:
            server.should_exit = True
            thread.join()

    return serve


@pytest.fixture(scope="module")
def url(serving: Serving) -> Iterator[str]:
    with serving() as address:
        yield address


def encode(frame: np.ndarray, kind: str = "JPEG") -> bytes:
    """Return an image as the bytes of a file."""
    file = BytesIO()
    Image.fromarray(frame).save(file, kind)
    return file.getvalue()
