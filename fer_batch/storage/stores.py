"""Files in object stores and on web servers, read with fsspec.

Each store's library finds the credentials in its standard places; they are never part of an address.
"""

import contextlib
import functools
import io
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from fer_batch.errors import DecodeError, InputError
from fer_batch.storage.addresses import EXTRAS, add_query, hide_queries

BLOCK_BYTES = 2 * 2**20
"""Size of a read request: some seconds of video. A file's index costs two more requests. Requests of twice
the size read twice as much unused data for one minute from the middle of a film."""
CACHED_BLOCKS = 16
"""Blocks kept of an open file; the next block is fetched while the current one is decoded."""
MAX_PARALLEL_REQUESTS = 32
SLOW_ANSWER_S = 5.0
"""Time after which `warn_if_slow` logs that a store has not answered."""
CHANGE_KEYS = (
    "ETag",
    "etag",
    "md5Hash",
    "blob_id",
    "LastModified",
    "last_modified",
    "Last-Modified",
    "mtime",
)
"""Keys under which stores return a value that changes when a file does."""

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StoreEntry:
    """A file that a store lists."""

    uri: str
    size_bytes: int
    """0 if the store does not know the size."""
    version: str
    """Changes when the file does."""


def is_glob(uri: str) -> bool:
    """Return whether an address is a glob pattern; the query of a web address is none."""
    return any(mark in uri for mark in "*[") or ("?" in uri and not uri.startswith("http"))


def find_file(uri: str) -> StoreEntry | None:
    """Return a store's entry for a file, or None if there is none.

    Raises InputError if the store cannot be read.
    """
    with warn_if_slow(uri):
        return _find_file(uri)


def _find_file(uri: str) -> StoreEntry | None:
    filesystem, path = open_filesystem(uri)
    return _request(uri, lambda: _create_entry(filesystem.info(path), uri))


def find_files(uris: Sequence[str]) -> Iterator[StoreEntry | InputError | None]:
    """Call `find_file` for many addresses in parallel; yield the results or errors in the given order."""

    def find(uri: str) -> StoreEntry | InputError | None:
        try:
            return _find_file(uri)
        except InputError as error:
            return error

    label = f"{uris[0]} and {len(uris) - 1} more" if len(uris) > 1 else "".join(uris)
    with warn_if_slow(label), ThreadPoolExecutor(MAX_PARALLEL_REQUESTS) as threads:
        yield from threads.map(find, uris)


def list_files(uri: str) -> list[StoreEntry]:
    """List all files below an address, or that match a glob pattern, in order of their addresses.

    Raises InputError if the store cannot be read.
    """
    filesystem, path = open_filesystem(uri)

    def request() -> list[StoreEntry]:
        find = filesystem.glob if is_glob(uri) else filesystem.find
        infos = [info for info in find(path, detail=True).values() if info.get("type") == "file"]
        entries = [_create_entry(info, filesystem.unstrip_protocol(info["name"])) for info in infos]
        return sorted(entries, key=lambda entry: entry.uri)

    with warn_if_slow(uri):
        return _request(uri, request) or []


def read_file(uri: str) -> bytes:
    """Read a small file, such as a manifest. Raises InputError if it cannot be read."""
    filesystem, path = open_filesystem(uri)
    with warn_if_slow(uri):
        content = _request(uri, lambda: bytes(filesystem.cat_file(path)))
    if content is None:
        raise InputError(f"There is no file {uri}")
    return content


class StoreFile(io.RawIOBase):
    """A file in a store, read in blocks of `BLOCK_BYTES`; the next block is fetched in the background.

    `size` is None, and the file is not seekable, if the store does not give the size or serves no ranges.
    Every error of the store's library becomes a DecodeError with the reason.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            filesystem, path = open_filesystem(uri)
        except InputError as error:
            raise DecodeError(str(error)) from error
        cache = {"cache_type": "background", "cache_options": {"maxblocks": CACHED_BLOCKS}}
        self.file = self._convert_errors(lambda: filesystem.open(path, "rb", block_size=BLOCK_BYTES, **cache))
        if uri.startswith("http") and self.file.seekable() and not self.file.details.get("partial"):
            self.file.close()  # the server does not promise to serve ranges
            self.file = self._convert_errors(lambda: filesystem.open(path, "rb", block_size=0))
        self.size: int | None = self.file.size if self.file.seekable() else None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.size is not None

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        return int(self._convert_errors(lambda: self.file.seek(position, whence)))

    def tell(self) -> int:
        return int(self.file.tell())

    def readinto(self, buffer: Any) -> int:
        data = self._convert_errors(lambda: self.file.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed and hasattr(self, "file"):
            self.file.close()
        super().close()

    def _convert_errors(self, request: Callable[[], T]) -> T:
        try:
            return request()
        except FileNotFoundError as error:
            if _is_missing(self.uri, error):
                raise DecodeError("the file does not exist") from None
            raise DecodeError(f"cannot read the store: {format_reason(error.__cause__ or error)}") from error
        except MemoryError:
            raise
        except Exception as error:  # each store's library has errors of its own
            raise DecodeError(f"cannot read the store: {format_reason(error)}") from error


def open_filesystem(uri: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address and the path in it.

    Raises InputError if the protocol is not allowed, its library is not installed, or the library refuses the
    address.
    """
    protocol = uri.partition("://")[0].lower()
    if protocol not in EXTRAS:
        raise InputError(f"Cannot read {uri}: {protocol}:// is not allowed")
    try:
        filesystem = _create_filesystem(protocol)
    except ImportError as error:
        hint = f"install fer-batch[{EXTRAS[protocol]}] on each machine"
        raise InputError(f"Cannot read {uri}: no library for {protocol}://; {hint}") from error
    try:
        return filesystem, filesystem._strip_protocol(add_query(uri))
    except Exception as error:  # each store's library has errors of its own
        raise InputError(f"Cannot read {uri}: {format_reason(error)}") from error


@contextlib.contextmanager
def warn_if_slow(name: object) -> Iterator[None]:
    """Log a warning if the body takes longer than `SLOW_ANSWER_S`.

    The libraries of stores retry for minutes without a message.
    """
    timer = threading.Timer(SLOW_ANSWER_S, logger.warning, ("waiting for an answer from %s …", name))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def format_reason(error: BaseException) -> str:
    """Return an error's message on one line without queries of addresses, or its type if it has none."""
    return hide_queries(" ".join(str(error).split())) or type(error).__name__


@functools.cache
def _create_filesystem(protocol: str) -> Any:
    import fsspec

    # Cached listings would hide later changes.
    return fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True)


def _create_entry(info: dict[str, Any], uri: str) -> StoreEntry:
    change = next((info[key] for key in CHANGE_KEYS if info.get(key)), "")
    size = int(info.get("size") or 0)
    return StoreEntry(uri=uri, size_bytes=size, version=f"{size} {change}")


def _is_missing(uri: str, error: FileNotFoundError) -> bool:
    """Return whether the file does not exist; fsspec raises the same error for web servers that are down."""
    status = getattr(error.__cause__, "status", None)
    return not uri.startswith("http") or error.__cause__ is None or status in (404, 410)


def _request(uri: str, request: Callable[[], T]) -> T | None:
    """Call `request`; return None for a missing file and raise InputError for every other failure."""
    try:
        return request()
    except FileNotFoundError as error:
        if _is_missing(uri, error):
            return None
        raise InputError(f"Cannot read {uri}: {format_reason(error.__cause__ or error)}") from error
    except InputError:
        raise
    except Exception as error:  # each store's library has errors of its own
        raise InputError(f"Cannot read {uri}: {format_reason(error)}") from error
