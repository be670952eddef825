"""An output folder in an object store."""

import contextlib
import errno
import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, BinaryIO, ClassVar

import pyarrow as pa

from fer_batch.errors import OutputError
from fer_batch.faults import fault_point
from fer_batch.storage import atomic, stores
from fer_batch.storage.addresses import EXTRAS, normalize_address

WRITABLE_PROTOCOLS = {"s3": "s3fs", "gs": "gcsfs"}
"""Stores that can hold a run, with the library for each. They can refuse to overwrite an existing file, which
the lease needs."""
FORBIDDEN_IN_ADDRESS = "#%*?[\\]"
"""Characters that the Delta library or the store's library interprets in an address."""
STORE_LIBRARIES = {"_internal", "aiobotocore", "aiohttp", "botocore", "deltalake", "fsspec", "gcsfs", "s3fs"}
"""Top-level modules of the errors that a failing store raises; `_internal` belongs to the Delta library."""


@dataclass(frozen=True)
class StoreFolder(atomic.FileWriter):
    """A prefix in an object store, see `WRITABLE_PROTOCOLS`; `LocalFolder` documents the methods."""

    path: ClassVar[None] = None
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

    def walk_names(self, name: str) -> list[str]:
        filesystem, path = self._locate(name)
        root = path.removesuffix(f"/{name}")
        return [file.removeprefix(f"{root}/") for file in filesystem.find(path)]

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
        fault_point(f"{step}.temporary")
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

    def convert_error(self, error: BaseException) -> OutputError | None:
        if isinstance(error, OSError):  # an error of a local file has its name, or is about a full disk
            of_store = error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT)
        else:
            of_store = type(error).__module__.partition(".")[0] in STORE_LIBRARIES
        reason = stores.format_reason(error)
        message = f"The store of {self} fails: {reason}; run the same command again when it answers"
        return OutputError(message) if of_store else None

    def delta_options(self) -> dict[str, str] | None:
        # The Delta library reads all other settings from the environment by itself.
        insecure = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        return {"AWS_ALLOW_HTTP": "true"} if insecure else None

    def _locate(self, name: str = "") -> tuple[Any, str]:
        """Return the file system and the path in it of a file in this folder."""
        return stores.open_filesystem(f"{self.address}/{name}" if name else self.address)


def check_address(address: str) -> str:
    """Return an address in its normal form; raise InputError or OutputError if no run can be kept there."""
    address = normalize_address(address)
    protocol, _, rest = address.partition("://")
    if protocol not in WRITABLE_PROTOCOLS:
        allowed = " and ".join(f"{name}://" for name in WRITABLE_PROTOCOLS)
        raise OutputError(f"Cannot write to {address}: allowed are folders, and addresses with {allowed}")
    if find_spec(WRITABLE_PROTOCOLS[protocol]) is None:
        raise OutputError(f"Cannot reach {address}: install fer-batch[{EXTRAS[protocol]}] on each machine")
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
