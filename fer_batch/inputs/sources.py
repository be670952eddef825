"""Identity, version and size of each named file."""

import functools
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fer_batch.errors import DecodeError, InputError
from fer_batch.inputs.manifest import Entry
from fer_batch.storage import stores
from fer_batch.storage.addresses import UNPRINTABLE
from fer_batch.storage.archives import (
    MEMBER_SEPARATOR,
    ArchiveMember,
    list_members,
    open_seekable,
    split_member,
)
from fer_batch.storage.media import hash_text, read_version

BATCH_FILES = 65_536
"""Number of files whose stores are queried together."""
CACHED_INDEXES = 16
"""Number of archive indexes that stay in memory."""
MISSING_VERSION = "missing"


@dataclass(frozen=True, kw_only=True)
class VideoSource:
    """A named file. The fields are the columns of `schema.SOURCES_SCHEMA`."""

    video_id: str
    version: str
    uri: str
    size_bytes: int
    offset: int | None
    error: str | None
    duration_s: float | None
    extra: str | None
    file_version: str | None


@dataclass(frozen=True)
class FileFacts:
    """The properties of a file by its file system, store or archive."""

    size_bytes: int = 0
    version: str = MISSING_VERSION
    """A text that changes when the file does."""
    offset: int | None = None
    error: str | None = None


Candidate = tuple[Entry, FileFacts | None]
"""A named file, and its properties if they are known already."""


def describe_sources(candidates: Iterator[Candidate]) -> Iterator[VideoSource]:
    """Yield the description of each file and archive member."""
    while batch := list(itertools.islice(candidates, BATCH_FILES)):
        unknown = [
            entry.path
            for entry, facts in batch
            if facts is None
            and entry.duration_s is None
            and stores.is_remote(entry.path)
            and split_member(entry.path) is None
        ]
        found = iter(stores.find_files(unknown) if unknown else ())
        for entry, facts in batch:
            uri = entry.path
            if facts is None:
                if (parts := split_member(entry.path)) and not os.path.lexists(entry.path):
                    uri, facts = _find_member_facts(*parts)
                elif not stores.is_remote(entry.path):
                    uri, facts = _find_local_facts(entry.path)
                elif entry.duration_s is not None:
                    facts = FileFacts(version="")
                else:
                    facts = facts_of_store(next(found))
            yield _identify(entry, uri, facts)


def facts_of_store(answer: stores.StoreEntry | InputError | None) -> FileFacts:
    """Return the properties of a store's file, from the answer of `find_files`."""
    if answer is None:
        return FileFacts(error="the file does not exist")
    if isinstance(answer, InputError):
        return FileFacts(error=str(answer))
    return FileFacts(size_bytes=answer.size_bytes, version=answer.version)


def facts_of_member(member: ArchiveMember) -> FileFacts:
    """Return the properties of an archive's member."""
    return FileFacts(member.size_bytes, member.version, member.offset, member.error)


def read_members(archive: str) -> tuple[list[ArchiveMember], str | None]:
    """Return the members of an archive, and the reason if it cannot be read to its end."""
    try:
        with open_seekable(archive) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            return list_members(file, archive, size)
    except (OSError, DecodeError) as error:
        return [], getattr(error, "strerror", None) or str(error)


@functools.lru_cache(CACHED_INDEXES)
def read_index(archive: str) -> tuple[dict[str, ArchiveMember], str | None]:
    """Return `read_members` with the members by name."""
    members, error = read_members(archive)
    return {member.name: member for member in members}, error


def resolve_uri(name: str) -> str:
    """Return an address unchanged, and a path as an absolute one without links."""
    return name if stores.is_remote(name) else _stat_file(name)[0]


def clear_caches() -> None:
    """Forget links and archives, as they may have changed since the last listing."""
    _resolve_folder.cache_clear()
    read_index.cache_clear()


def _find_member_facts(archive: str, name: str) -> tuple[str, FileFacts]:
    archive = resolve_uri(archive)
    members, error = read_index(archive)
    uri = f"{archive}{MEMBER_SEPARATOR}{name}"
    if name in members:
        return uri, facts_of_member(members[name])
    return uri, FileFacts(error=f"its archive: {error}" if error else "its archive has no such file")


def _find_local_facts(path: str) -> tuple[str, FileFacts]:
    uri, status, error = _stat_file(path)
    if status is None:
        return uri, FileFacts(error=error)
    error = None if stat.S_ISREG(status.st_mode) else "not a regular file"
    return uri, FileFacts(status.st_size, read_version(status), error=error)


def _identify(entry: Entry, uri: str, facts: FileFacts) -> VideoSource:
    error = facts.error
    if UNPRINTABLE.search(uri):
        if stores.is_remote(uri):
            uri, error = quote(uri, safe=":/!", errors="surrogateescape"), "its name has control characters"
        else:
            uri = Path(uri).as_uri()
    version, file_version = MISSING_VERSION, None
    if facts.version != MISSING_VERSION:
        version = hash_text(facts.version)
        if entry.version is not None:
            version, file_version = hash_text(entry.version), version
    return VideoSource(
        video_id=hash_text(uri),
        version=version,
        uri=uri,
        size_bytes=facts.size_bytes,
        offset=facts.offset,
        error=error,
        duration_s=entry.duration_s,
        extra=entry.extra,
        file_version=file_version,
    )


def _stat_file(path: str) -> tuple[str, os.stat_result | None, str | None]:
    """Return the absolute path without links, the file's status, and the reason if there is none."""
    folder, name = os.path.split(path)
    uri = os.path.join(_resolve_folder(folder), name)
    try:
        status = os.lstat(uri)
        if stat.S_ISLNK(status.st_mode) or name in ("", ".", ".."):
            status = os.stat(uri)
            uri = os.path.realpath(uri)
        return uri, status, None
    except FileNotFoundError:
        return os.path.abspath(path), None, "the file does not exist"
    except OSError as error:
        return os.path.abspath(path), None, str(error.strerror)


@functools.lru_cache(4096)
def _resolve_folder(folder: str) -> str:
    return os.path.realpath(folder)
