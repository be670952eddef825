"""The interface of an output folder, which a local folder and a folder in a store have in common."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import pyarrow as pa

from fer_batch.errors import OutputError
from fer_batch.storage import atomic


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
