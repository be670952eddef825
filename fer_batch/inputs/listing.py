"""Listing of the videos in the given files, folders, globs, archives and manifests, each once."""

import functools
import glob
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.errors import InputError
from fer_batch.inputs.file_names import (
    PreviewFinder,
    get_suffix,
    is_list_of_videos,
    is_media,
    is_side_file,
    is_video,
)
from fer_batch.inputs.manifest import Entry, merge_column_types, read_manifest
from fer_batch.inputs.members import ArchiveReader, encode_name, list_archive, read_damage
from fer_batch.inputs.names import NameResolver
from fer_batch.inputs.sources import (
    Candidate,
    FileFacts,
    clear_caches,
    describe_sources,
    facts_of_store,
    iterate_members,
    read_members,
)
from fer_batch.schema import SOURCES_SCHEMA
from fer_batch.storage import stores
from fer_batch.storage.addresses import (
    correct_address,
    hide_secrets,
    is_remote,
    normalize_address,
    split_query,
)
from fer_batch.storage.archives import ARCHIVE_SUFFIXES, MEMBER_SEPARATOR, is_archive, split_member
from fer_batch.storage.media import uri_to_path
from fer_batch.terminal import count

MANIFEST_SUFFIXES = frozenset([".txt", ".csv", ".parquet", ".jsonl", ".ndjson"])
UNSUPPORTED_ARCHIVES = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
EXAMPLE_SUFFIXES = ".mp4, .mkv, .mov, .avi, .webm, .ts, .jpg, .png …"
CACHED_ARCHIVES = 4
"""Number of archives whose lists of members stay in memory, up to 400 MB each."""
CHUNK_ROWS = 65_536
"""Rows that are held as dicts at a time: a million of them take a gigabyte."""
UNKNOWN_VERSION = "0 "
"""Version of a file in a web page's list, which states neither sizes nor times."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The videos of the given inputs."""

    sources: pa.Table
    """Rows of `schema.SOURCES_SCHEMA`, sorted by uri, each uri once."""
    columns: dict[str, str]
    """The user's columns in the manifests and their types, keys of `manifest.COLUMN_TYPES`."""
    skipped: int
    """Number of files in folders, globs and archives that were left out: their names are not those of videos
    or pictures, or they are pictures next to videos. The log has their names."""
    duplicates: int
    """Number of files that were named before."""
    rows_without_path: int
    """Number of manifest rows that name no file."""
    manifests: tuple[str, ...]
    """The inputs that were read as manifests."""
    queries: dict[str, str] = field(repr=False)
    """Queries of web addresses by the addresses without them. They may be secret and must not be stored."""


def list_videos(
    inputs: Sequence[str], read_archive: ArchiveReader = list_archive, *, allow_query: bool = False
) -> Listing:
    """List the videos in files, folders (recursively), globs, archives and manifests, local or in stores.

    `read_manifest` describes manifests; their relative paths are relative to the manifest, and a missing file
    becomes a failed video. In folders, globs and archives only names with the suffix of a video or a picture
    count, and neither the files that macOS adds for attributes ("._NAME", "__MACOSX") nor the previews of
    file servers. A picture is listed like a video, but not where a folder, glob or archive has videos in the
    same folder, because it is probably a preview of one of them. ARCHIVE!/MEMBER is a file in an archive. A
    .txt file in which most lines name no video is not a manifest: it is skipped beside other inputs, and an
    error alone. For a file that is named twice the first one counts. Stores are not queried for files whose
    duration a manifest states. `read_archive` lists an archive, by default in this process.

    A web address with a query (`?…`, `#…` or `;…`) is an error without `allow_query`. With it, the query is
    used to read the file in this process, and the file has the address without the query.

    Raises InputError if an input does not exist, a folder or manifest cannot be read, or there is no video.
    """
    if not inputs:
        manifests = ", ".join(sorted(MANIFEST_SUFFIXES))
        raise InputError(f"no videos named; give files, folders, globs or manifests ({manifests})")
    clear_caches()
    read_archive = functools.lru_cache(CACHED_ARCHIVES)(read_archive)
    expander = _Expander(read_archive, allow_query)
    seen: set[str] = set()
    duplicates = 0
    chunks = [SOURCES_SCHEMA.empty_table()]
    rows = []
    for source in describe_sources(expander.expand(inputs), read_archive):
        if source.uri in seen:
            duplicates += 1
            continue
        seen.add(source.uri)
        rows.append(vars(source))
        if len(rows) == CHUNK_ROWS:
            chunks.append(pa.Table.from_pylist(rows, schema=SOURCES_SCHEMA))
            rows = []
    chunks.append(pa.Table.from_pylist(rows, schema=SOURCES_SCHEMA))
    if not seen:
        skipped = f" ({count(expander.skipped, 'other file')} skipped)" if expander.skipped else ""
        raise InputError(
            f"no videos found in {', '.join(inputs)}{skipped}; looked for names like {EXAMPLE_SUFFIXES}"
        )
    return Listing(
        sources=pa.concat_tables(chunks).sort_by("uri"),
        columns=expander.columns,
        skipped=expander.skipped,
        duplicates=duplicates + expander.repeated_rows,
        rows_without_path=expander.rows_without_path,
        manifests=tuple(expander.manifests),
        queries=expander.names.queries,
    )


def check_inputs_exist(inputs: Sequence[str]) -> None:
    """Raise InputError for an invalid address, and for a local file or folder that does not exist.

    Stores and globs are not read.
    """
    for given in map(uri_to_path, inputs):
        if is_remote(given):
            normalize_address(given)
        elif not (os.path.lexists(given) or split_member(given) or glob.has_magic(given)):
            correct = correct_address(given)
            hint = f"; an address is written {hide_secrets(correct)}" if correct else ""
            raise InputError(f"there is no file or folder {hide_secrets(given)}{hint}")


class _Expander:
    """Expands inputs to files and counts those that are not videos."""

    def __init__(self, read_archive: ArchiveReader, allow_query: bool) -> None:
        self.read_archive = read_archive
        self.names = NameResolver(allow_query)
        self.columns: dict[str, str] = {}
        self.manifests: list[str] = []
        self.skipped = 0
        self.rows_without_path = 0
        self.repeated_rows = 0

    def expand(self, inputs: Sequence[str]) -> Iterator[Candidate]:
        """Yield the files of all inputs."""
        self.is_only_input = len(inputs) == 1
        for given in map(uri_to_path, inputs):
            if is_remote(given):
                yield from self._expand_address(self.names.normalize_address(given))
            elif os.path.isdir(given):
                yield from self._expand_folder(given, given)
            elif os.path.lexists(given):
                if get_suffix(given) in MANIFEST_SUFFIXES:
                    yield from self._expand_manifest(given, os.path.dirname(given))
                else:
                    yield from self._expand_file(Entry(path=given))
            elif split_member(given):
                yield self._find_member(given)
            elif glob.has_magic(given):
                yield from self._expand_glob(given)
            else:
                check_inputs_exist([given])

    def _expand_address(self, given: str) -> Iterator[Candidate]:
        is_glob = stores.is_glob(given)
        if split_member(given):
            yield self._find_member(given)
            return
        if get_suffix(given) in MANIFEST_SUFFIXES and not is_glob:
            yield from self._expand_manifest(given, given.rpartition("/")[0])
            return
        if given in self.names.queries:
            yield from self._expand_file(Entry(path=given))
            return
        file = None
        if not is_glob and not given.endswith("/") and is_media(given):
            file = stores.find_file(given)
        if file is None:
            files = stores.list_files(given)
            if not files:
                file = None if is_glob else stores.find_file(given)
                if file is None:
                    raise InputError(f"there is no file {given}, and nothing below it")
            previews = PreviewFinder(lambda: (listed.uri for listed in files))
            for listed in files:
                if given.startswith("http") and split_query(listed.uri)[1]:  # a link in a web page
                    problem = "its address contains a query: name it in a manifest, with --allow-query"
                    if is_video(listed.uri):
                        yield Entry(path=hide_secrets(listed.uri)), FileFacts(error=problem)
                    continue
                is_known = listed.size_bytes or listed.version != UNKNOWN_VERSION
                facts = facts_of_store(listed) if is_known else None
                yield from self._expand_if_video(listed.uri, given, previews, facts)
        if file is not None:
            yield from self._expand_file(Entry(path=given), facts_of_store(file))

    def _expand_folder(self, folder: str, given: str) -> Iterator[Candidate]:
        def refuse(error: OSError) -> None:
            raise InputError(f"the folder {error.filename} can't be read: {error.strerror}")

        for parent, folders, files in os.walk(folder, onerror=refuse):
            folders.sort()
            paths = [os.path.join(parent, name) for name in sorted(files)]
            previews = PreviewFinder(functools.partial(iter, paths))
            for path in paths:
                yield from self._expand_if_video(path, given, previews)

    def _expand_glob(self, pattern: str) -> Iterator[Candidate]:
        matches = _match_glob(pattern)
        if not matches:
            raise InputError(f"nothing matches {pattern}")
        previews = PreviewFinder(functools.partial(iter, matches))
        for match in matches:
            if os.path.isdir(match):
                yield from self._expand_folder(match, pattern)
            else:
                yield from self._expand_if_video(match, pattern, previews)

    def _expand_manifest(self, given: str, folder: str) -> Iterator[Candidate]:
        manifest = read_manifest(given)
        if get_suffix(given) == ".txt":
            entries = list(manifest.entries)
            if not is_list_of_videos(entries, folder):
                if self.is_only_input and entries:
                    raise InputError(f"{given} is not a list of videos: most lines name no video file")
                self._skip(given)
                return
            manifest = replace(manifest, entries=iter(entries))
        self.manifests.append(given)
        self.rows_without_path += manifest.rows_without_path
        self.repeated_rows += manifest.repeated_rows
        for name, kind in manifest.columns.items():
            self.columns[name] = merge_column_types(self.columns.get(name, kind), kind)
        for entry in manifest.entries:
            path, problem = self.names.resolve_line(folder, entry.path)
            if problem is None:
                yield from self._expand_file(replace(entry, path=path))
            else:
                yield replace(entry, path=path), FileFacts(error=problem)

    def _expand_if_video(
        self, path: str, given: str, previews: PreviewFinder, facts: FileFacts | None = None
    ) -> Iterator[Candidate]:
        """Yield a file that `given` includes only if it is a video, a picture or an archive by its name."""
        is_included = previews.is_listed(path) or is_archive(path)
        if is_included and not is_side_file(path, given):
            yield from self._expand_file(Entry(path=path), facts)
        else:
            self._skip(path)

    def _skip(self, path: str) -> None:
        self.skipped += 1
        logger.info("skipped: %s", path)

    def _expand_file(self, entry: Entry, facts: FileFacts | None = None) -> Iterator[Candidate]:
        """Yield a file, or the videos in an archive. An archive with damage is a failed video of its own."""
        if entry.path.lower().endswith(UNSUPPORTED_ARCHIVES):
            reason = f"archives of this kind are not read; {', '.join(ARCHIVE_SUFFIXES)} are"
            yield entry, FileFacts(error=reason)
            return
        is_file = is_remote(entry.path) or os.path.isfile(entry.path)
        if not is_archive(entry.path) or not is_file:
            yield entry, facts
            return
        archive, members = read_members(entry.path, self.read_archive)
        previews = PreviewFinder(lambda: (name for name, _ in iterate_members(members)))
        for name, member in iterate_members(members):
            path = f"{archive}{MEMBER_SEPARATOR}{name}"
            if previews.is_listed(name) and not is_side_file(name, archive):
                yield replace(entry, path=path, duration_s=None), member
            else:
                self._skip(path)
        if (damage := read_damage(members)) is not None:
            yield replace(entry, path=archive), FileFacts(error=damage)

    def _find_member(self, given: str) -> Candidate:
        archive, name = split_member(given) or ("", "")
        _, members = read_members(archive, self.read_archive)
        if not pc.any(pc.equal(members.column("name"), encode_name(name))).as_py():
            damage = read_damage(members)
            raise InputError(f"there is no file {given}" + (f": its archive: {damage}" if damage else ""))
        return Entry(path=given), None


def _match_glob(pattern: str) -> list[str]:
    """Return the matching paths. `**` skips hidden folders and follows no links, which may form a cycle."""
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
