"""What the user names (files, folders, globs, manifests) to the videos that are meant, each once."""

import csv
import glob
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fer_batch.errors import InputError

_NAMES = """3g2 3gp asf avi divx f4v flv gif h264 h265 hevc ivf m2ts m2v m4v mjpeg mkv mov mp4 mpeg mpg mts
    mxf ogm ogv qt rm rmvb ts vob webm wmv y4m"""
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
MANIFEST_SUFFIXES = frozenset([".txt", ".csv"])
NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, which would break a line or command a terminal, and bytes that are not UTF-8."""
MANIFEST_COLUMNS = ("path", "uri", "video", "file")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One input video, before anything of it is read."""

    video_id: str
    """16 hex digits, a hash of the uri: the same file has the same id in every run."""
    version: str
    """16 hex digits, a hash of size and modification time."""
    uri: str
    """Absolute path, links resolved. A path that is not UTF-8 or has control characters (line breaks) in it
    is a `file://` address, with those and all else but plain letters and digits as %XX."""
    size_bytes: int
    error: str | None = None
    """Why it can't be read, where that shows already."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The videos that inputs stand for."""

    sources: tuple[Source, ...]
    """In order of their uri."""
    skipped: int
    """Files in folders and globs that are not videos by their name."""
    repeated: int
    """Times that a file was named again."""


def list_videos(inputs: Sequence[str]) -> Listing:
    """Files, folders (recursive), globs and manifests to videos.

    A manifest is a `.txt` file (a path a line, `#` begins a comment) or a `.csv` with a column `path`,
    `uri`, `video` or `file`; relative paths in it are relative to it, and a missing file in it becomes a
    failed video, not an error. In folders and globs only names with a video's suffix count. Raises
    InputError where a named input does not exist, a folder can't be read, or no video is left.
    """
    if not inputs:
        raise InputError("no videos named; give files, folders, globs or manifests (.txt, .csv)")
    counts = {"skipped": 0, "named": 0}
    found: dict[str, Source] = {}
    for path in _named(inputs, counts):
        counts["named"] += 1
        source = _source(path)
        found.setdefault(source.uri, source)
    if not found:
        named = ", ".join(inputs)
        hint = f" ({counts['skipped']} other files skipped)" if counts["skipped"] else ""
        raise InputError(f"no videos found in {named}{hint}; looked for names like {_examples()}")
    sources = tuple(found[uri] for uri in sorted(found))
    return Listing(sources=sources, skipped=counts["skipped"], repeated=counts["named"] - len(sources))


def _named(inputs: Sequence[str], counts: dict[str, int]) -> Iterator[str]:
    for given in inputs:
        if os.path.isdir(given):
            yield from _folder(given, counts)
        elif os.path.lexists(given):
            suffix = Path(given).suffix.lower()
            if suffix in MANIFEST_SUFFIXES:
                yield from _manifest(Path(given))
            else:
                yield given
        elif glob.has_magic(given):
            matches = _matches(given)
            if not matches:
                raise InputError(f"nothing matches {given}")
            for match in matches:
                if os.path.isdir(match):
                    yield from _folder(match, counts)
                elif Path(match).suffix.lower() in VIDEO_SUFFIXES:
                    yield match
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


def _folder(folder: str, counts: dict[str, int]) -> Iterator[str]:
    def unreadable(error: OSError) -> None:
        raise InputError(f"the folder {error.filename} can't be read: {error.strerror}")

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in VIDEO_SUFFIXES:
                yield os.path.join(parent, name)
            else:
                counts["skipped"] += 1


def _manifest(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise InputError(f"the manifest {path} is not a regular file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the manifest {path} can't be read as UTF-8 text: {error}") from error
    if "\0" in text:
        raise InputError(f"the manifest {path} can't be read as UTF-8 text: it holds zero bytes")
    if path.suffix.lower() == ".csv":
        rows = csv.DictReader(text.splitlines())
        column = next((c for c in rows.fieldnames or () if c.strip().lower() in MANIFEST_COLUMNS), None)
        if column is None:
            raise InputError(
                f"the manifest {path} has no column named {', '.join(MANIFEST_COLUMNS[:-1])} or file"
            )
        names = [row[column] or "" for row in rows]
    else:
        names = ["" if line.lstrip().startswith("#") else line for line in text.splitlines()]
    for name in names:
        if name.strip():
            yield os.path.join(path.parent, name.strip())


def _source(path: str) -> Source:
    uri = os.path.realpath(path) if os.path.exists(path) else os.path.abspath(path)
    size, version, error = 0, "missing", None
    try:
        status = os.stat(uri)
        size, version = status.st_size, _hash(f"{status.st_size} {status.st_mtime_ns}")
        if not os.path.isfile(uri):
            error = "not a regular file"
    except OSError as problem:
        error = "the file does not exist" if isinstance(problem, FileNotFoundError) else str(problem.strerror)
    if NO_TEXT.search(uri):
        uri = Path(uri).as_uri()
    return Source(video_id=_hash(uri), version=version, uri=uri, size_bytes=size, error=error)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _examples() -> str:
    return ", ".join(s for s in (".mp4", ".mkv", ".mov", ".avi", ".webm", ".ts")) + " …"
