"""What the user names (files, folders, globs, manifests) to the videos that are meant, each once."""

import functools
import glob
import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from fer_batch.archive.manifest import Entry, read_manifest, widest
from fer_batch.errors import InputError
from fer_batch.schema import SOURCES

_NAMES = """3g2 3gp asf avi divx f4v flv gif h264 h265 hevc ivf m2ts m2v m4v mjpeg mkv mov mp4 mpeg mpg mts
    mxf ogm ogv qt rm rmvb ts vob webm wmv y4m"""
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
MANIFEST_SUFFIXES = frozenset([".txt", ".csv", ".parquet", ".jsonl", ".ndjson"])
NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, which would break a line or command a terminal, and bytes that are not UTF-8."""
ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The videos that inputs stand for."""

    sources: pa.Table
    """Rows of `schema.SOURCES`, in order of their uri, each uri once."""
    columns: dict[str, str]
    """The columns of its owner's that manifests have, and which of `manifest.KINDS` each is."""
    skipped: int
    """Files in folders and globs that are not videos by their name."""
    repeated: int
    """Times that a file was named again."""
    unnamed: int
    """Rows of manifests that name no file."""


def list_videos(inputs: Sequence[str]) -> Listing:
    """Files, folders (recursive), globs and manifests to videos.

    Manifests are read as `read_manifest` says; relative paths in one are relative to it, and a missing file
    in it becomes a failed video, not an error. In folders and globs only names with a video's suffix count. A
    file that is named again is as it was named first. Raises InputError where a named input does not exist, a
    folder or manifest can't be read, or no video is left.
    """
    if not inputs:
        manifests = ", ".join(sorted(MANIFEST_SUFFIXES))
        raise InputError(f"no videos named; give files, folders, globs or manifests ({manifests})")
    _real.cache_clear()
    counts: Counter[str] = Counter()
    columns: dict[str, str] = {}
    seen: set[str] = set()
    rows: list[dict[str, Any]] = []
    parts = [SOURCES.empty_table()]
    for entry in _named(inputs, counts, columns):
        counts["named"] += 1
        row = _source(entry)
        if row["uri"] not in seen:
            seen.add(row["uri"])
            rows.append(row)
        if len(rows) == ROWS:  # a list of a million dicts is a gigabyte
            parts.append(pa.Table.from_pylist(rows, schema=SOURCES))
            rows = []
    parts.append(pa.Table.from_pylist(rows, schema=SOURCES))
    if not seen:
        named = ", ".join(inputs)
        hint = f" ({counts['skipped']} other files skipped)" if counts["skipped"] else ""
        raise InputError(f"no videos found in {named}{hint}; looked for names like {_examples()}")
    return Listing(
        sources=pa.concat_tables(parts).sort_by("uri"),
        columns=columns,
        skipped=counts["skipped"],
        repeated=counts["named"] - len(seen),
        unnamed=counts["unnamed"],
    )


def _named(inputs: Sequence[str], counts: Counter[str], columns: dict[str, str]) -> Iterator[Entry]:
    for given in inputs:
        if os.path.isdir(given):
            yield from _folder(given, counts)
        elif os.path.lexists(given):
            if Path(given).suffix.lower() in MANIFEST_SUFFIXES:
                manifest = read_manifest(Path(given))
                counts["unnamed"] += manifest.unnamed
                for name, kind in manifest.columns.items():
                    columns[name] = widest(columns.get(name, kind), kind)
                folder = os.path.dirname(given)
                for entry in manifest.entries:
                    yield replace(entry, path=os.path.join(folder, entry.path))
            else:
                yield Entry(path=given)
        elif glob.has_magic(given):
            matches = _matches(given)
            if not matches:
                raise InputError(f"nothing matches {given}")
            for match in matches:
                if os.path.isdir(match):
                    yield from _folder(match, counts)
                elif Path(match).suffix.lower() in VIDEO_SUFFIXES:
                    yield Entry(path=match)
                else:
                    counts["skipped"] += 1
        else:
            raise InputError(f"there is no file or folder {given}")


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


def _folder(folder: str, counts: Counter[str]) -> Iterator[Entry]:
    def unreadable(error: OSError) -> None:
        raise InputError(f"the folder {error.filename} can't be read: {error.strerror}")

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in VIDEO_SUFFIXES:
                yield Entry(path=os.path.join(parent, name))
            else:
                counts["skipped"] += 1


def _source(entry: Entry) -> dict[str, Any]:
    """A row of `schema.SOURCES`."""
    uri, status, error = _found(entry.path)
    if status is None:
        size, version = 0, "missing"
    else:
        size, version = status.st_size, _hash(f"{status.st_size} {status.st_mtime_ns}")
        error = None if stat.S_ISREG(status.st_mode) else "not a regular file"
        version = version if entry.version is None else _hash(entry.version)
    if NO_TEXT.search(uri):
        uri = Path(uri).as_uri()
    return {
        "video_id": _hash(uri),
        "version": version,
        "uri": uri,
        "size_bytes": size,
        "error": error,
        "duration_s": entry.duration_s,
        "extra": entry.extra,
    }


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
