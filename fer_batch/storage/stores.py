"""Files that are not on this machine: s3://, gs://, hf://, http:// and whatever else fsspec reads.

Credentials are those that each store's library finds in its standard places; none is ever part of a name.
"""

import functools
import io
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fer_batch.errors import DecodeError, InputError
from fer_batch.storage.atomic import warn_if_slow

BLOCK_BYTES = 2 * 2**20
"""Bytes of a request: some seconds of video. A file's index, at its end or not, costs two more; with requests
twice as long a minute from the middle of a film read twice as much that nobody wanted."""
BLOCKS = 16
"""Held of a file that is being read; the next one is fetched while this one is decoded."""
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "hf": "hf", "http": "http", "https": "http"}
"""What fer-batch has to be installed with, by the address's protocol."""
ASKED_AT_ONCE = 32
SECRETS = re.compile(
    r"(?i)(^|&)(x-amz-(signature|credential|security-token)|x-goog-signature|signature|sig|access_token|token"
    r"|api_?key|password)="
)
"""What an address's query holds when whoever knows the address may read the file."""
CHANGES = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "last_modified", "Last-Modified", "mtime")
"""What stores call that which changes when a file does."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StoreEntry:
    """A file of a store."""

    uri: str
    size_bytes: int
    """0 where the store does not say."""
    version: str
    """What changes when the file does."""


def normalize_protocol(uri: str) -> str:
    """An address with its protocol as stores know it."""
    protocol, mark, rest = uri.partition("://")
    return f"{protocol.lower()}{mark}{rest}"


def is_remote(name: str) -> bool:
    """Whether a name is an address of a store."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name) is not None and not name.startswith("file://")


def correct_address(name: str) -> str | None:
    """The address that is meant by one with a slash too few, `s3:/bucket`; None of any other name."""
    found = re.fullmatch(rf"({'|'.join(EXTRAS)}):/?(?!/)(.+)", name, re.IGNORECASE)
    return f"{found[1].lower()}://{found[2]}" if found else None


def check_no_secrets(uri: str) -> None:
    """Raise InputError for an address that holds a secret, which would be written with the results."""
    parts = urlsplit(uri)
    if "@" in parts.netloc or SECRETS.search(parts.query):
        raise InputError(
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path} is given with a password or "
            "signature in its address, which would be written with the results: leave it out, and put the "
            "store's credentials in their standard places"
        )


def check_bucket(uri: str) -> None:
    """Raise InputError for an address that names nothing."""
    protocol, _, rest = uri.partition("://")
    if not rest.partition("/")[0]:
        raise InputError(f"{uri} names no bucket or host: give {protocol}://NAME/…")


def find_file(uri: str) -> StoreEntry | None:
    """A file of a store, None where there is none; raises InputError where the store can't be asked."""
    with warn_if_slow(uri):
        return _look_up(uri)


def _look_up(uri: str) -> StoreEntry | None:
    system, path = _system_of(uri)
    return _asked(uri, lambda: _found(uri, system.info(path)))


def find_files(uris: Sequence[str]) -> Iterator[StoreEntry | InputError | None]:
    """`find_file` of many, some at once, in their order; errors are answers."""

    def one(uri: str) -> StoreEntry | InputError | None:
        try:
            return _look_up(uri)
        except InputError as error:
            return error

    what = f"{uris[0]} and {len(uris) - 1} more" if len(uris) > 1 else "".join(uris)
    with warn_if_slow(what), ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
        yield from threads.map(one, uris)


def list_files(uri: str) -> list[StoreEntry]:
    """All files below an address, or that a glob of a store stands for, in order of their names.

    Empty where there is none. Raises InputError where the store can't be asked.
    """
    system, path = _system_of(uri)

    def ask() -> list[StoreEntry]:
        look = system.glob if is_glob(uri) else system.find
        entries = look(path, detail=True).values()
        files = [_found(None, info, system) for info in entries if info.get("type") == "file"]
        return sorted(files, key=lambda found: found.uri)

    with warn_if_slow(uri):
        return _asked(uri, ask) or []


def is_glob(uri: str) -> bool:
    """Whether an address is a glob; the query of a web address is none."""
    return any(mark in uri for mark in "*[") or ("?" in uri and not uri.startswith("http"))


def read_file(uri: str) -> bytes:
    """All of a small file, a manifest. Raises InputError where it can't be read."""
    system, path = _system_of(uri)
    with warn_if_slow(uri):
        read = _asked(uri, lambda: bytes(system.cat_file(path)))
    if read is None:
        raise InputError(f"there is no file {uri}")
    return read


class StoreFile(io.RawIOBase):
    """A file of a store to read from, a block at a time, the next one while this one is used.

    `size` is None where the store does not say, or reads from the beginning only; then it can't be sought
    in. Trouble is a DecodeError with a reason, whatever the store's library raises.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            system, path = _system_of(uri)
        except InputError as error:
            raise DecodeError(str(error)) from error
        self.file = self._told(
            lambda: system.open(
                path,
                "rb",
                block_size=BLOCK_BYTES,
                cache_type="background",
                cache_options={"maxblocks": BLOCKS},
            )
        )
        if uri.startswith("http") and self.file.seekable() and not self.file.details.get("partial"):
            self.file.close()  # the server does not say that it answers for parts of a file
            self.file = self._told(lambda: system.open(path, "rb", block_size=0))
        self.size: int | None = self.file.size if self.file.seekable() else None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.size is not None

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        return int(self._told(lambda: self.file.seek(place, whence)))

    def tell(self) -> int:
        return int(self.file.tell())

    def readinto(self, buffer: Any) -> int:
        read = self._told(lambda: self.file.read(len(buffer)))
        buffer[: len(read)] = read
        return len(read)

    def close(self) -> None:
        if not self.closed and hasattr(self, "file"):
            self.file.close()
        super().close()

    def _told(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except FileNotFoundError as error:
            if _missing(self.uri, error):
                raise DecodeError("the file does not exist") from None
            raise DecodeError(
                f"the store can't be read: {format_reason(error.__cause__ or error)}"
            ) from error
        except MemoryError:
            raise
        except Exception as error:  # each store's library has errors of its own
            raise DecodeError(f"the store can't be read: {format_reason(error)}") from error


@functools.cache
def _system(protocol: str) -> Any:
    import fsspec

    # What a store held a while ago is no answer.
    return fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True)


def _system_of(uri: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it; raises InputError where nothing reads such ones."""
    check_bucket(uri)
    protocol = uri.partition("://")[0].lower()
    try:
        system = _system(protocol)
    except (ImportError, ValueError) as error:
        extra = EXTRAS.get(protocol)
        known = ", ".join(f"{name}://" for name in EXTRAS)
        hint = f"install fer-batch[{extra}] on each machine" if extra else f"allowed are {known}"
        raise InputError(f"{uri} can't be read: nothing here reads {protocol}://; {hint}") from error
    return system, system._strip_protocol(uri)


def _found(uri: str | None, info: dict[str, Any], system: Any = None) -> StoreEntry:
    changes = next((info[name] for name in CHANGES if info.get(name)), "")
    size = int(info.get("size") or 0)
    return StoreEntry(
        uri=uri or system.unstrip_protocol(info["name"]), size_bytes=size, version=f"{size} {changes}"
    )


def _missing(uri: str, error: FileNotFoundError) -> bool:
    """Whether it says that there is no such file; on the web it says so of servers that are down too."""
    status = getattr(error.__cause__, "status", None)
    return not uri.startswith("http") or error.__cause__ is None or status in (404, 410)


def _asked(uri: str, question: Callable[[], T]) -> T | None:
    try:
        return question()
    except FileNotFoundError as error:
        if _missing(uri, error):
            return None
        raise InputError(f"{uri} can't be read: {format_reason(error.__cause__ or error)}") from error
    except InputError:
        raise
    except Exception as error:  # each store's library has errors of its own
        raise InputError(f"{uri} can't be read: {format_reason(error)}") from error


def format_reason(error: BaseException) -> str:
    """What an error says, on one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
