"""The output folder of a run: a local folder, or a prefix in an object store.

Both kinds have the same methods. File names are relative to the folder and use "/".
"""

import contextlib
import errno
import fcntl
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeAlias

import pyarrow as pa

from fer_batch.errors import OutputError
from fer_batch.storage import atomic, stores

WRITABLE_PROTOCOLS = {"s3": "s3fs", "gs": "gcsfs"}
"""Stores that can hold a run, with the library for each. They can refuse to overwrite an existing file, which
the lease needs."""
FORBIDDEN_IN_ADDRESS = "#%*?[\\]"
"""Characters that the Delta library or the store's library interprets in an address."""
FORBIDDEN_IN_PATH = "[]*?\\%"
"""Characters that the Delta and SQL libraries interpret in a path."""
STORE_LIBRARIES = {"_internal", "aiobotocore", "aiohttp", "botocore", "deltalake", "fsspec", "gcsfs", "s3fs"}
"""Top-level modules of the errors that a failing store raises; `_internal` belongs to the Delta library."""


class OutputFolder(ABC):
    """A folder that a run is written to."""

    path: Path | None
    """The folder on this machine; None for a folder in a store."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part of the path or address."""

    @abstractmethod
    def subfolder(self, name: str) -> "OutputFolder":
        """Return a folder in this one, whether or not it exists."""

    @abstractmethod
    def absolute(self) -> "OutputFolder":
        """Return the folder by its absolute path, which stays valid in other processes."""

    @abstractmethod
    def check_usable(self) -> None:
        """Raise OutputError if the tables cannot be kept under this name or the store does not answer."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raise OutputError if this is known to be a file or a folder without write permission."""

    @abstractmethod
    def create(self) -> None:
        """Create the folder if it is missing; a store needs none."""

    @abstractmethod
    def exists(self, name: str = "") -> bool:
        """Return whether a file or folder exists; by default this folder."""

    @abstractmethod
    def list_names(self) -> list[str]:
        """List the names of all files and folders in this folder; empty if it does not exist."""

    @abstractmethod
    def find_names(self, pattern: str) -> list[str]:
        """List the names that match a glob pattern, relative to this folder."""

    @abstractmethod
    def read_bytes(self, name: str) -> bytes:
        """Read a whole file, consistently even while it is being replaced."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Open a file for reading parts of it."""

    @abstractmethod
    def arrow_source(self, name: str) -> Any:
        """Return a source of the file for the functions of pyarrow."""

    @abstractmethod
    def read_change_mark(self, name: str) -> object:
        """Return a value that changes when the file does; None if the file does not exist."""

    @abstractmethod
    def write_bytes(self, name: str, content: bytes, step: str = "file") -> None:
        """Write a file whole or not at all; `step` names the fault point for tests."""

    @abstractmethod
    def rename_file(self, old: str, new: str) -> None:
        """Rename a file."""

    @abstractmethod
    def remove_file(self, name: str) -> None:
        """Remove a file if it exists."""

    @abstractmethod
    def remove_folder(self, name: str) -> None:
        """Remove a folder in this one with its content, if it exists."""

    @abstractmethod
    def remove_temporary_files(self) -> None:
        """Remove the temporary files in this folder whose writers have ended."""

    @abstractmethod
    def sync(self, *names: str) -> None:
        """Flush files and folders so that they survive a power failure; "" is this folder."""

    @abstractmethod
    def contains(self, file: Path) -> bool:
        """Return whether a local file lies below this folder."""

    @abstractmethod
    def convert_error(self, error: BaseException) -> OutputError | None:
        """Convert an error of the store into one with advice for the user; None for any other error."""

    @abstractmethod
    def share_lock(self, name: str) -> IO[bytes] | None:
        """Lock a file together with other readers until the returned file is closed.

        Returns None if locks are not available.
        """

    @abstractmethod
    def try_lock(self, name: str) -> contextlib.AbstractContextManager[bool]:
        """Exclude the readers that `share_lock` admits; gives False if there are some or it cannot know."""

    def delta_options(self) -> dict[str, str] | None:
        """Return the storage options for the Delta library."""
        return None

    def write_json(self, name: str, content: Any, step: str = "file") -> None:
        """Write a JSON file whole or not at all."""
        self.write_bytes(name, atomic.encode_json(content), step)

    def write_parquet(
        self, name: str, table: pa.Table, metadata: Mapping[str, str] | None = None, step: str = "file"
    ) -> None:
        """Write a Parquet file whole or not at all, with `metadata` added to the schema's."""
        self.write_bytes(name, atomic.encode_parquet(table, metadata), step)


FolderLike: TypeAlias = OutputFolder | Path | str
"""An output folder, or the path or address of one."""


def open_folder(out: FolderLike) -> OutputFolder:
    """Return the output folder at a path or address; nothing is created or read.

    Raises InputError for an address that contains a secret, and OutputError for an address that cannot be
    written to.
    """
    if isinstance(out, OutputFolder):
        return out
    if isinstance(out, Path):
        return LocalFolder(out)
    corrected = stores.correct_address(out)
    if corrected is not None:
        raise OutputError(f"{out} is not an address: give {corrected}, or ./{out} for a local folder")
    return StoreFolder(_check_address(out)) if stores.is_remote(out) else LocalFolder(Path(out))


def check_outside_run(file: Path, run: FolderLike) -> None:
    """Raise OutputError for a file to write that lies in the folder of a run."""
    folder = open_folder(run)
    if folder.contains(file):
        raise OutputError(f"{file} lies in the folder of the run: give a file outside {folder}")


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


@dataclass(frozen=True)
class StoreFolder(OutputFolder):
    """A prefix in an object store, see `WRITABLE_PROTOCOLS`."""

    path = None
    address: str

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2]

    def subfolder(self, name: str) -> "StoreFolder":
        return StoreFolder(f"{self.address}/{name}")

    def absolute(self) -> "StoreFolder":
        return self

    def check_usable(self) -> None:
        try:
            with stores.warn_if_slow(self.address):
                self.exists()
        except Exception as error:  # each store's library has errors of its own
            raise OutputError(
                f"Cannot reach {self}: {error}; check the address, the store's endpoint (AWS_ENDPOINT_URL) "
                "and the credentials"
            ) from error

    def check_writable(self) -> None:
        pass

    def create(self) -> None:
        pass

    def exists(self, name: str = "") -> bool:
        filesystem, path = self._locate(name)
        return bool(filesystem.exists(path))

    def list_names(self) -> list[str]:
        filesystem, path = self._locate()
        try:
            names = filesystem.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return [name.rstrip("/").rpartition("/")[2] for name in names]

    def find_names(self, pattern: str) -> list[str]:
        filesystem, path = self._locate()
        return [name.removeprefix(f"{path}/") for name in filesystem.glob(f"{path}/{pattern}")]

    def read_bytes(self, name: str) -> bytes:
        filesystem, path = self._locate(name)
        content: bytes = filesystem.cat_file(path)
        return content

    def open(self, name: str) -> BinaryIO:
        filesystem, path = self._locate(name)
        file: BinaryIO = filesystem.open(path, "rb")
        return file

    def arrow_source(self, name: str) -> pa.BufferReader:
        return pa.BufferReader(self.read_bytes(name))

    def read_change_mark(self, name: str) -> object:
        entry = stores.find_file(f"{self.address}/{name}")
        return None if entry is None else entry.version

    def write_bytes(self, name: str, content: bytes, step: str = "file") -> None:
        atomic.fault_point(f"{step}.temporary")
        filesystem, path = self._locate(name)
        try:
            filesystem.pipe_file(path, content)
        except Exception as error:  # each store's library has errors of its own
            raise OutputError(f"Cannot write {self}/{name}: {error}; run the same command again") from error

    def create_file(self, name: str, content: bytes) -> None:
        """Write a file that must not exist; the store raises FileExistsError if it does."""
        filesystem, path = self._locate(name)
        filesystem.pipe_file(path, content, mode="create")

    def rename_file(self, old: str, new: str) -> None:
        self.write_bytes(new, self.read_bytes(old))
        self.remove_file(old)

    def remove_file(self, name: str) -> None:
        filesystem, path = self._locate(name)
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm(path)

    def remove_folder(self, name: str) -> None:
        filesystem, path = self._locate(name)
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm(path, recursive=True)

    def remove_temporary_files(self) -> None:
        pass

    def sync(self, *names: str) -> None:
        pass

    def contains(self, file: Path) -> bool:
        return False

    def convert_error(self, error: BaseException) -> OutputError | None:
        if isinstance(error, OSError):  # an error of a local file has its name, or is about a full disk
            of_store = error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT)
        else:
            of_store = type(error).__module__.partition(".")[0] in STORE_LIBRARIES
        reason = stores.format_reason(error)
        message = f"The store of {self} fails: {reason}; run the same command again when it answers"
        return OutputError(message) if of_store else None

    def share_lock(self, name: str) -> None:
        return None

    @contextlib.contextmanager
    def try_lock(self, name: str) -> Iterator[bool]:
        yield False

    def delta_options(self) -> dict[str, str] | None:
        # The Delta library reads all other settings from the environment by itself.
        insecure = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        return {"AWS_ALLOW_HTTP": "true"} if insecure else None

    def _locate(self, name: str = "") -> tuple[Any, str]:
        """Return the file system and the path in it of a file in this folder."""
        return stores.open_filesystem(f"{self.address}/{name}" if name else self.address)


def _check_address(address: str) -> str:
    """Return an address in its normal form; raise InputError or OutputError if no run can be kept there."""
    address = stores.normalize_protocol(address)
    stores.check_no_secrets(address)
    stores.check_bucket(address)
    protocol, _, rest = address.partition("://")
    if protocol not in WRITABLE_PROTOCOLS:
        allowed = " and ".join(f"{name}://" for name in WRITABLE_PROTOCOLS)
        raise OutputError(f"Cannot write to {address}: allowed are folders, and addresses with {allowed}")
    if find_spec(WRITABLE_PROTOCOLS[protocol]) is None:
        raise OutputError(
            f"Cannot reach {address}: install fer-batch[{stores.EXTRAS[protocol]}] on each machine"
        )
    rest = rest.rstrip("/")
    forbidden = sorted(mark for mark in FORBIDDEN_IN_ADDRESS if mark in rest)
    if forbidden or not rest.isprintable():
        raise OutputError(
            f"{address} contains {' '.join(forbidden) or 'control characters'}, which the tables cannot use: "
            "give another folder"
        )
    if not {"", ".", ".."}.isdisjoint(rest.split("/")):
        raise OutputError(
            f"{address} has an empty part, . or .. in its path, which stores do not know: remove it"
        )
    return f"{protocol}://{rest}"
