"""Videos for whole runs."""

from pathlib import Path

import pytest

from tests.conftest import SAMPLE, remux


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two videos, a file that is not a video, and a file to skip."""
    folder = tmp_path_factory.mktemp("videos")
    remux(SAMPLE, folder / "a.mp4")
    (folder / "sub").mkdir()
    remux(SAMPLE, folder / "sub" / "b.mkv")
    (folder / "c.mp4").write_bytes(b"no video at all")
    (folder / "notes.md").write_text("skipped")
    return folder
