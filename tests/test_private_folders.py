"""Temporary folders: who can access them, and when they are deleted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fer_batch.private_folders import create_private_folder, delete_private_folder, delete_private_folders

HOLD = """
import sys
from pathlib import Path
from fer_batch.private_folders import create_private_folder
print(create_private_folder("fer-", Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def test_folder_is_private_and_deleted(tmp_path: Path) -> None:
    folder, other = (create_private_folder("fer-", tmp_path / "new") for _ in range(2))
    assert folder.parent == tmp_path / "new"
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "ray").mkdir()
    (folder / "ray" / "log").touch()
    delete_private_folder(folder)
    assert not folder.exists()
    assert other.exists()
    delete_private_folder(folder)
    delete_private_folders()
    assert not other.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can own folders of others")
def test_only_old_folders_of_killed_processes_of_this_user_are_deleted(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    held = Path(process.stdout.readline().strip())
    names = ("fer-aaaaaaaa", "fer-bbbbbbbb", "fer-cccccccc", "fer-other")
    stale, young, foreign, other = (tmp_path / name for name in names)
    for folder in (stale, young, foreign, other):
        folder.mkdir()
        (folder / "file").touch()
    os.chown(foreign, 12345, 12345)
    (tmp_path / "fer-dddddddd").symlink_to(other)
    for folder in (held, stale, foreign, other):
        os.utime(folder, (1e9, 1e9))
    create_private_folder("fer-", tmp_path)
    assert not stale.exists()
    assert all(folder.exists() for folder in (held, young, foreign, other / "file"))
    process.kill()
    process.communicate()
    assert held.exists()
    create_private_folder("fer-", tmp_path)
    assert not held.exists()
    delete_private_folders()
