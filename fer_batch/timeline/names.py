"""Names of videos and faces in plots, pages and files."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping

from fer_batch.storage.media import uri_to_path

MAX_FILE_NAME_BYTES = 120
"""Bytes of a file name without its suffix. File systems allow 255, with the parts that are added."""


def file_name(uri: str) -> str:
    """Return the last part of a path or address."""
    return uri.rstrip("/").rpartition("/")[2] or uri


def shorten_uris(uris: Collection[str]) -> dict[str, str]:
    """Return a short name for each path or address: its last part, with more parts if another ends in it."""
    parts = {uri: uri.rstrip("/").split("/") for uri in uris}
    names: dict[str, str] = {}
    remaining, count = set(uris), 1
    while remaining:
        candidates = {uri: "/".join(parts[uri][-count:]) or uri for uri in remaining}
        repeated = Counter(candidates.values())
        settled = {uri for uri in remaining if repeated[candidates[uri]] == 1 or count >= len(parts[uri])}
        names |= {uri: candidates[uri] for uri in settled}
        remaining, count = remaining - settled, count + 1
    return names


def natural_key(name: str) -> tuple[str, int, str]:
    """Return a sort key that puts "track 2" before "track 10"."""
    stem = name.rstrip("0123456789")
    digits = name[len(stem) :]
    return stem, int(digits) if digits else -1, name


def unique_file_names(uris: Mapping[str, str]) -> dict[str, str]:
    """Return a file name without suffix for each video by its id, from the last part of its uri.

    The id is appended to names that some file system takes for the same, that are too long, or that already
    look as if they ended in an id.
    """
    stems = {}
    for video_id, uri in uris.items():
        last = uri_to_path(uri).replace("!/", "/").rpartition("/")[2].encode(errors="replace").decode()
        stem = re.sub(r'[\x00-\x1f\x7f\\:*?"<>|]', "_", last.rpartition(".")[0] or last)
        stems[video_id] = re.sub(r"^[.\s-]|[.\s]$", "_", stem) or "_"
    keys = {video_id: unicodedata.normalize("NFKC", stem).casefold() for video_id, stem in stems.items()}
    counts = Counter(keys.values())
    names = {}
    for video_id, stem in stems.items():
        short = stem.encode()[:MAX_FILE_NAME_BYTES].decode(errors="ignore")
        is_unique = counts[keys[video_id]] == 1 and short == stem
        names[video_id] = (
            stem if is_unique and not re.search(r"-[0-9a-f]{16}$", stem) else f"{short}-{video_id}"
        )
    return names
