"""What the user names (files, folders, globs, manifests) to the videos that are meant, each once."""

import functools
import glob
import hashlib
import itertools
import os
import posixpath
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

import pyarrow as pa

from fer_batch.errors import DecodeError, InputError
from fer_batch.inputs.manifest import Entry, merge_column_types, read_manifest
from fer_batch.schema import SOURCES_SCHEMA
from fer_batch.storage import stores
from fer_batch.storage.archives import (
    ARCHIVE_SUFFIXES,
    MEMBER_SEPARATOR,
    ArchiveMember,
    is_archive,
    list_members,
    open_seekable,
    split_member,
)

_NAMES = """3g2 3gp asf avi divx f4v flv gif h264 h265 hevc ivf m2ts m2v m4v mjpeg mkv mov mp4 mpeg mpg mts
    mxf ogm ogv qt rm rmvb ts vob webm wmv y4m"""
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
MANIFEST_SUFFIXES = frozenset([".txt", ".csv", ".parquet", ".jsonl", ".ndjson"])
NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, which would break a line or command a terminal, and bytes that are not UTF-8."""
ROWS = 65_536
NOT_READ = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
"""Archives that would be taken for a video where they are named by themselves."""
UNTOLD = "0 "
"""What the version is of a file of which the list of a store, a web page, says nothing."""
INDEXES = 16
"""Of archives whose members are named one by one, remembered."""


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What the list of a store or an archive says of a file."""

    size_bytes: int = 0
    changes: str = "missing"
    """What changes when it does."""
    offset: int | None = None
    error: str | None = None


_Named = tuple[Entry, _Known | None]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The videos that inputs stand for."""

    sources: pa.Table
    """Rows of `schema.SOURCES_SCHEMA`, in order of their uri, each uri once."""
    columns: dict[str, str]
    """The columns of its owner's that manifests have, and which of `manifest.COLUMN_TYPES` each is."""
    skipped: int
    """Files in folders and globs that are not videos by their name."""
    duplicates: int
    """Times that a file was named again."""
    rows_without_path: int
    """Rows of manifests that name no file."""


def list_videos(inputs: Sequence[str]) -> Listing:
    """Files, folders (recursive), globs, archives and manifests, here or in stores, to videos.

    Manifests are read as `read_manifest` says; relative paths in one are relative to it, and a missing file
    in it becomes a failed video, not an error. In folders and globs only names with a video's suffix count. A
    file that is named again is as it was named first. An archive is as a folder of what it holds, and
    ARCHIVE!/MEMBER is a file of it; a store is not asked for files whose length a manifest tells. Raises
    InputError where a named input does not exist, a folder or manifest can't be read, or no video is left.
    """
    if not inputs:
        manifests = ", ".join(sorted(MANIFEST_SUFFIXES))
        raise InputError(f"no videos named; give files, folders, globs or manifests ({manifests})")
    _real.cache_clear()
    _index.cache_clear()
    counts: Counter[str] = Counter()
    columns: dict[str, str] = {}
    seen: set[str] = set()
    rows: list[dict[str, Any]] = []
    parts = [SOURCES_SCHEMA.empty_table()]
    for row in _sources(_named(inputs, counts, columns)):
        counts["named"] += 1
        if row["uri"] not in seen:
            seen.add(row["uri"])
            rows.append(row)
        if len(rows) == ROWS:  # a list of a million dicts is a gigabyte
            parts.append(pa.Table.from_pylist(rows, schema=SOURCES_SCHEMA))
            rows = []
    parts.append(pa.Table.from_pylist(rows, schema=SOURCES_SCHEMA))
    if not seen:
        named = ", ".join(inputs)
        hint = f" ({counts['skipped']} other files skipped)" if counts["skipped"] else ""
        raise InputError(f"no videos found in {named}{hint}; looked for names like {_examples()}")
    return Listing(
        sources=pa.concat_tables(parts).sort_by("uri"),
        columns=columns,
        skipped=counts["skipped"],
        duplicates=counts["named"] - len(seen),
        rows_without_path=counts["rows_without_path"],
    )


def _named(inputs: Sequence[str], counts: Counter[str], columns: dict[str, str]) -> Iterator[_Named]:
    for given in inputs:
        if stores.is_remote(given):
            yield from _named_in_store(stores.normalize_protocol(given), counts, columns)
        elif os.path.isdir(given):
            yield from _folder(given, counts)
        elif os.path.lexists(given):
            if _suffix(given) in MANIFEST_SUFFIXES:
                yield from _manifest(given, os.path.dirname(given), counts, columns)
            else:
                yield from _file(Entry(path=given), counts)
        elif split_member(given):
            yield _named_member(given)
        elif glob.has_magic(given):
            matches = _matches(given)
            if not matches:
                raise InputError(f"nothing matches {given}")
            for match in matches:
                if os.path.isdir(match):
                    yield from _folder(match, counts)
                else:
                    yield from _if_video(match, counts)
        else:
            meant = stores.correct_address(given)
            hint = f"; an address is written {meant}" if meant else ""
            raise InputError(f"there is no file or folder {given}{hint}")


def _named_member(given: str) -> _Named:
    """ARCHIVE!/MEMBER; raises InputError where there is none."""
    archive, name = split_member(given) or ("", "")
    found, trouble = _index(_uri_of(archive))
    if name not in found:
        raise InputError(f"there is no file {given}" + (f": its archive: {trouble}" if trouble else ""))
    return Entry(path=given), None


def _named_in_store(given: str, counts: Counter[str], columns: dict[str, str]) -> Iterator[_Named]:
    """As `_named`, of an address."""
    stores.check_no_secrets(given)
    if split_member(given):
        yield _named_member(given)
        return
    if _suffix(given) in MANIFEST_SUFFIXES and not stores.is_glob(given):
        yield from _manifest(given, given.rpartition("/")[0], counts, columns)
        return
    found = None
    if not stores.is_glob(given) and not given.endswith("/"):
        found = stores.find_file(given) if _is_video(given) or is_archive(given) else None
    if found is None:
        below = stores.list_files(given)
        if not below:
            found = None if stores.is_glob(given) else stores.find_file(given)
            if found is None:
                raise InputError(f"there is no file {given}, and nothing below it")
        for file in below:
            known = _answered(file)
            told = file.size_bytes or file.version != UNTOLD
            yield from _if_video(file.uri, counts, known if told else None)
    if found is not None:
        yield from _file(Entry(path=given), counts, _answered(found))


def _manifest(given: str, folder: str, counts: Counter[str], columns: dict[str, str]) -> Iterator[_Named]:
    manifest = read_manifest(given)
    counts["rows_without_path"] += manifest.rows_without_path
    for name, kind in manifest.columns.items():
        columns[name] = merge_column_types(columns.get(name, kind), kind)
    for entry in manifest.entries:
        if stores.is_remote(entry.path):
            path = stores.normalize_protocol(entry.path)
            stores.check_no_secrets(path)
        elif stores.is_remote(folder):
            path = entry.path if entry.path.startswith("/") else _below(folder, entry.path)
        else:
            path = os.path.join(folder, entry.path)
        yield from _file(replace(entry, path=path), counts)


def _below(folder: str, path: str) -> str:
    """A relative path from an address on."""
    protocol, _, rest = folder.partition("://")
    joined = f"{rest}/{path}"
    return f"{protocol}://{posixpath.normpath(joined) if '..' in path.split('/') else joined}"


def _if_video(path: str, counts: Counter[str], known: _Known | None = None) -> Iterator[_Named]:
    """A file that was not named by itself: only videos and archives are meant."""
    if _is_video(path) or is_archive(path):
        yield from _file(Entry(path=path), counts, known)
    else:
        counts["skipped"] += 1


def _file(entry: Entry, counts: Counter[str], known: _Known | None = None) -> Iterator[_Named]:
    """A file, or the videos in it where it is an archive; one that can't be read to its end stands for what
    may be missing.
    """
    if entry.path.lower().endswith(NOT_READ):
        yield entry, _Known(error=f"archives of this kind are not read; {', '.join(ARCHIVE_SUFFIXES)} are")
        return
    if not is_archive(entry.path) or (not stores.is_remote(entry.path) and not os.path.isfile(entry.path)):
        yield entry, known
        return
    archive = _uri_of(entry.path)
    found, trouble = _members(archive)
    for member in found:
        if _is_video(member.name):
            yield (
                replace(entry, path=f"{archive}{MEMBER_SEPARATOR}{member.name}", duration_s=None),
                _known(member),
            )
        else:
            counts["skipped"] += 1
    if trouble is not None:
        yield replace(entry, path=archive), _Known(error=trouble)


def _members(archive: str) -> tuple[list[ArchiveMember], str | None]:
    try:
        with open_seekable(archive) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            return list_members(file, archive, size)
    except (OSError, DecodeError) as error:
        return [], getattr(error, "strerror", None) or str(error)


@functools.lru_cache(INDEXES)
def _index(archive: str) -> tuple[dict[str, ArchiveMember], str | None]:
    found, trouble = _members(archive)
    return {member.name: member for member in found}, trouble


def _known(member: ArchiveMember) -> _Known:
    return _Known(
        size_bytes=member.size_bytes, changes=member.version, offset=member.offset, error=member.error
    )


def _suffix(name: str) -> str:
    return PurePosixPath(urlsplit(name).path if stores.is_remote(name) else name).suffix.lower()


def _is_video(name: str) -> bool:
    return _suffix(name) in VIDEO_SUFFIXES


def _matches(pattern: str) -> list[str]:
    """Paths that a glob stands for; `**` follows no links, which may lead back, and skips hidden folders."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return sorted(glob.glob(pattern))
    number = next(n for n, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:number])
    return sorted(
        str(path)
        for path in root.glob(os.path.join(*parts[number:]))
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    )


def _folder(folder: str, counts: Counter[str]) -> Iterator[_Named]:
    def unreadable(error: OSError) -> None:
        raise InputError(f"the folder {error.filename} can't be read: {error.strerror}")

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders.sort()
        for name in sorted(files):
            yield from _if_video(os.path.join(parent, name), counts)


def _sources(named: Iterator[_Named]) -> Iterator[dict[str, Any]]:
    """Rows of `schema.SOURCES_SCHEMA`."""
    while part := list(itertools.islice(named, ROWS)):
        unknown = [
            entry.path
            for entry, known in part
            if known is None
            and entry.duration_s is None
            and stores.is_remote(entry.path)
            and split_member(entry.path) is None
        ]
        answers = iter(stores.find_files(unknown) if unknown else ())
        for entry, known in part:
            if known is not None:
                yield _row(entry, entry.path, known)
            elif (parts := split_member(entry.path)) and not os.path.lexists(entry.path):
                yield _member(entry, *parts)
            elif not stores.is_remote(entry.path):
                yield _local(entry)
            elif entry.duration_s is not None:
                yield _row(entry, entry.path, _Known(changes=""))
            else:
                yield _row(entry, entry.path, _answered(next(answers)))


def _answered(answer: stores.StoreEntry | InputError | None) -> _Known:
    if answer is None:
        return _Known(error="the file does not exist")
    if isinstance(answer, InputError):
        return _Known(error=str(answer))
    return _Known(size_bytes=answer.size_bytes, changes=answer.version)


def _member(entry: Entry, archive: str, name: str) -> dict[str, Any]:
    """A member of an archive that was named by itself."""
    archive = _uri_of(archive)
    found, trouble = _index(archive)
    known = _known(found[name]) if name in found else None
    missing = _Known(error=f"its archive: {trouble}" if trouble else "its archive has no such file")
    return _row(entry, f"{archive}{MEMBER_SEPARATOR}{name}", known or missing)


def _local(entry: Entry) -> dict[str, Any]:
    uri, status, error = _found(entry.path)
    if status is None:
        return _row(entry, uri, _Known(error=error))
    return _row(
        entry,
        uri,
        _Known(
            size_bytes=status.st_size,
            changes=f"{status.st_size} {status.st_mtime_ns}",
            error=None if stat.S_ISREG(status.st_mode) else "not a regular file",
        ),
    )


def _row(entry: Entry, uri: str, known: _Known) -> dict[str, Any]:
    """A row of `schema.SOURCES_SCHEMA`."""
    error = known.error
    if NO_TEXT.search(uri):
        if stores.is_remote(uri):
            uri, error = quote(uri, safe=":/!", errors="surrogateescape"), "its name has control characters"
        else:
            uri = Path(uri).as_uri()
    missing = known.changes == "missing"
    return {
        "video_id": _hash(uri),
        "version": "missing" if missing else _hash(known.changes if entry.version is None else entry.version),
        "uri": uri,
        "size_bytes": known.size_bytes,
        "offset": known.offset,
        "error": error,
        "duration_s": entry.duration_s,
        "extra": entry.extra,
    }


def _uri_of(name: str) -> str:
    """An address as it is, a path absolute and without links."""
    return name if stores.is_remote(name) else _found(name)[0]


def _found(path: str) -> tuple[str, os.stat_result | None, str | None]:
    """Absolute path without links, what the file is, and what keeps it from being read."""
    folder, name = os.path.split(path)
    uri = os.path.join(_real(folder), name)
    try:
        status = os.lstat(uri)
        if stat.S_ISLNK(status.st_mode) or name in ("", ".", ".."):
            status = os.stat(uri)
            uri = os.path.realpath(uri)
        return uri, status, None
    except FileNotFoundError:
        return os.path.abspath(path), None, "the file does not exist"
    except OSError as problem:
        return os.path.abspath(path), None, str(problem.strerror)


@functools.lru_cache(4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _examples() -> str:
    return ", ".join(s for s in (".mp4", ".mkv", ".mov", ".avi", ".webm", ".ts")) + " …"
