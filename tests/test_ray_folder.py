"""The temporary folder of a local Ray: who can access it, and when it is deleted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fer_batch import ray_folder
from fer_batch.ray_folder import make_private_folder

HOLD = """
import sys
from fer_batch.ray_folder import make_private_folder
with make_private_folder() as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the folders be in a new folder, whatever the length of its path."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "new"))
    monkeypatch.setattr(ray_folder, "MAX_SOCKET_PATH_BYTES", 4096)
    return tmp_path / "new"


def test_folder_is_private_and_deleted_at_the_end(parent: Path) -> None:
    with make_private_folder() as folder:
        assert folder.parent == parent
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "ray").mkdir()
        (folder / "ray" / "log").touch()
    assert not folder.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can own folders of others")
def test_only_old_folders_of_killed_runs_of_this_user_are_deleted(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_folder, "SHORT_FOLDER", parent)
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOLD.replace("with", "import fer_batch.ray_folder as r; r.MAX_SOCKET_PATH_BYTES = 4096\nwith", 1),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    held = Path(process.stdout.readline().strip())
    names = ("fer-aaaaaaaa", "fer-bbbbbbbb", "fer-cccccccc", "fer-other")
    stale, young, foreign, other = (parent / name for name in names)
    for folder in (stale, young, foreign, other):
        folder.mkdir()
        (folder / "file").touch()
    os.chown(foreign, 12345, 12345)
    (parent / "fer-dddddddd").symlink_to(other)
    for folder in (held, stale, foreign, other):
        os.utime(folder, (1e9, 1e9))
    with make_private_folder():
        assert not stale.exists()
        assert all(folder.exists() for folder in (held, young, foreign, other / "file"))
    process.kill()
    process.communicate()
    assert held.exists()
    with make_private_folder():
        assert not held.exists()
