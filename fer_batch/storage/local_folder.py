"""An output folder on this machine or on a mounted file system."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from fer_batch.errors import OutputError
from fer_batch.storage import atomic
from fer_batch.storage.output_folder import OutputFolder

FORBIDDEN_IN_PATH = "[]*?\\%"
"""Characters that the Delta and SQL libraries interpret in a path."""


@dataclass(frozen=True)
class LocalFolder(OutputFolder):
    """A folder on this machine or on a mounted file system."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    def subfolder(self, name: str) -> "LocalFolder":
        return LocalFolder(self.path / name)

    def absolute(self) -> "LocalFolder":
        return LocalFolder(self.path.absolute())

    def check_usable(self) -> None:
        if any(part.endswith(":") for part in self.path.parts[:-1]):
            raise OutputError(f"{self} is the path of an address: pass the address as str, not as Path")
        forbidden = sorted(set(str(self.path)) & set(FORBIDDEN_IN_PATH))
        if forbidden:
            raise OutputError(
                f"The name of {self} contains {' '.join(forbidden)}, which the tables cannot use: "
                "give another folder"
            )

    def check_writable(self) -> None:
        nearest = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if nearest.is_file():
            raise OutputError(
                f"{nearest} is a file; --out needs a folder that is new, empty or holds an earlier run"
            )
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise OutputError(f"Cannot write to {nearest}: permission denied; give another --out")

    def create(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def exists(self, name: str = "") -> bool:
        return (self.path / name).exists()

    def list_names(self) -> list[str]:
        try:
            with os.scandir(self.path) as entries:  # three times as fast as Path.iterdir on a million files
                return [entry.name for entry in entries]
        except FileNotFoundError:
            return []

    def find_names(self, pattern: str) -> list[str]:
        return [path.relative_to(self.path).as_posix() for path in self.path.glob(pattern)]

    def read_bytes(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        return (self.path / name).open("rb")

    def arrow_source(self, name: str) -> Path:
        return self.path / name

    def read_change_mark(self, name: str) -> object:
        try:
            return (self.path / name).stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write_bytes(self, name: str, content: bytes, step: str = "file") -> None:
        atomic.write_bytes(self.path / name, content, step)

    def rename_file(self, old: str, new: str) -> None:
        os.replace(self.path / old, self.path / new)
        atomic.sync_to_disk(self.path)

    def remove_file(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def remove_folder(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path / name)

    def remove_temporary_files(self) -> None:
        atomic.remove_temporary_files(self.path)

    def sync(self, *names: str) -> None:
        for name in names:
            atomic.sync_to_disk(self.path / name)

    def contains(self, file: Path) -> bool:
        return self.path.resolve() in file.resolve().parents

    def convert_error(self, error: BaseException) -> None:
        return None

    def share_lock(self, name: str) -> IO[bytes] | None:
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(self.open(name))
                fcntl.flock(file, fcntl.LOCK_SH)
            except OSError:
                return None
            stack.pop_all()
            return file

    @contextlib.contextmanager
    def try_lock(self, name: str) -> Iterator[bool]:
        with (self.path / name).open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
            else:
                yield True
