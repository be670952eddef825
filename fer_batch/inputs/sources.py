"""Identity, version and size of each named file."""

import contextlib
import functools
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.errors import InputError
from fer_batch.inputs.manifest import Entry
from fer_batch.inputs.members import ArchiveReader, damaged_archive, decode_name, encode_name, read_damage
from fer_batch.storage import stores
from fer_batch.storage.addresses import UNPRINTABLE, is_remote
from fer_batch.storage.archives import MEMBER_SEPARATOR, split_member
from fer_batch.storage.media import hash_text, read_version

BATCH_FILES = 65_536
"""Number of files whose stores are queried together."""
MISSING_VERSION = "missing"
# fmt: off
SYSTEM_FILE_SYSTEMS = frozenset([
    "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs", "fusectl",
    "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs", "tracefs",
])
# fmt: on
"""Types of file systems whose files are created by the kernel when they are read."""


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


def describe_sources(candidates: Iterator[Candidate], read_archive: ArchiveReader) -> Iterator[VideoSource]:
    """Yield the description of each file and archive member."""
    while batch := list(itertools.islice(candidates, BATCH_FILES)):
        unknown = [entry for entry, facts in batch if facts is None]
        named = [entry.path for entry in unknown if _is_member(entry.path)]
        members = _find_members(named, read_archive)
        stored = [
            entry.path
            for entry in unknown
            if is_remote(entry.path) and entry.duration_s is None and entry.path not in members
        ]
        found = iter(stores.find_files(stored) if stored else ())
        for entry, facts in batch:
            uri = entry.path
            if facts is None:
                if uri in members:
                    uri, facts = members[uri]
                elif not is_remote(uri):
                    uri, facts = _find_local_facts(uri)
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


def iterate_members(members: pa.Table) -> Iterator[tuple[str, FileFacts]]:
    """Yield the name and the properties of each member of an archive, from rows of `MEMBERS_SCHEMA`."""
    for batch in members.to_batches(BATCH_FILES):
        for row in batch.to_pylist():
            facts = FileFacts(row["size_bytes"], row["version"], row["offset"], row["error"])
            yield decode_name(row["name"]), facts


def read_members(archive: str, read_archive: ArchiveReader) -> tuple[str, pa.Table]:
    """Return the address of an archive, for a path without links, and the table of `read_archive`."""
    if is_remote(archive):
        return archive, read_archive(archive)
    uri, _, error = _stat_file(archive)
    return uri, damaged_archive(error) if error else read_archive(uri)


def clear_caches() -> None:
    """Forget links and mounts, as they may have changed since the last listing."""
    _resolve_folder.cache_clear()
    _read_system_devices.cache_clear()


def _is_member(path: str) -> bool:
    return split_member(path) is not None and not os.path.lexists(path)


def _find_members(paths: list[str], read_archive: ArchiveReader) -> dict[str, tuple[str, FileFacts]]:
    """Return the address and the properties of each ARCHIVE!/MEMBER; each archive is listed once."""
    names_by_archive: dict[str, dict[str, str]] = {}
    for path in paths:
        archive, name = split_member(path) or ("", "")
        names_by_archive.setdefault(archive, {})[path] = name
    found = {}
    for given, names in names_by_archive.items():
        archive, members = read_members(given, read_archive)
        damage = read_damage(members)
        error = f"its archive: {damage}" if damage else "its archive has no such file"
        wanted = pa.array({encode_name(name) for name in names.values()}, pa.binary())
        facts = dict(iterate_members(members.filter(pc.is_in(members.column("name"), wanted))))
        for path, name in names.items():
            found[path] = f"{archive}{MEMBER_SEPARATOR}{name}", facts.get(name, FileFacts(error=error))
    return found


def _find_local_facts(path: str) -> tuple[str, FileFacts]:
    uri, status, error = _stat_file(path)
    if status is None:
        return uri, FileFacts(error=error)
    return uri, FileFacts(status.st_size, read_version(status))


def _identify(entry: Entry, uri: str, facts: FileFacts) -> VideoSource:
    error = facts.error
    if UNPRINTABLE.search(uri):
        if is_remote(uri):
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
    """Return the absolute path without links, the file's status, and the reason if there is none.

    The path of a file that is not read keeps its links: those in /proc change with each process.
    """
    folder, name = os.path.split(path)
    uri = os.path.join(_resolve_folder(folder), name)
    try:
        status = os.lstat(uri)
        if stat.S_ISLNK(status.st_mode) or name in ("", ".", ".."):
            status = os.stat(uri)
            uri = os.path.realpath(uri)
        if not stat.S_ISREG(status.st_mode):
            return os.path.abspath(path), None, "not a regular file"
        if file_system := _read_system_devices().get(status.st_dev):
            return os.path.abspath(path), None, f"not a stored file, but one of the file system {file_system}"
        return uri, status, None
    except FileNotFoundError:
        return os.path.abspath(path), None, "the file does not exist"
    except OSError as error:
        return os.path.abspath(path), None, str(error.strerror)


@functools.lru_cache(4096)
def _resolve_folder(folder: str) -> str:
    return os.path.realpath(folder)


@functools.cache
def _read_system_devices() -> dict[int, str]:
    """Return the type of each mounted file system of the kernel by its device number."""
    devices = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            mount, _, file_system = line.partition(" - ")
            major, minor = mount.split()[2].split(":")
            kind = file_system.split()[0]
            if kind in SYSTEM_FILE_SYSTEMS:
                devices[os.makedev(int(major), int(minor))] = kind
    return devices
