"""A session with the packaged model, and the server of the live page."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_batch.live.server import WEBSOCKETS, create_app
from fer_batch.live.session import LiveSession
from tests.web import serve_app

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
        with serve_app(create_app(live, TOKEN, file), **WEBSOCKETS) as address:
            yield f"{address}/{TOKEN}"

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
