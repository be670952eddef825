"""Tell videos, pictures, previews and side files by their names."""

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

from fer_batch.inputs.manifest import Entry
from fer_batch.storage.addresses import is_remote, split_query
from fer_batch.storage.archives import is_archive
from fer_batch.storage.media import uri_to_path
from fer_batch.video.formats import VIDEO_SUFFIXES
from fer_batch.video.pictures import is_picture

ANIMATION_SUFFIXES = frozenset([".apng", ".gif"])
"""Suffixes of videos that are often among pictures."""
APPLE_DOUBLE_PREFIX = "._"
"""Prefix of the file in which macOS keeps the attributes of another file, under that file's suffix."""
SIDE_FOLDERS = frozenset(["__MACOSX", ".AppleDouble", "@eaDir"])
"""Folders of file servers and archives with attributes and previews, under the names of other files."""


def get_suffix(name: str) -> str:
    """Return the suffix of a path or address in lower case, with its dot."""
    return PurePosixPath(split_query(name)[0] if is_remote(name) else name).suffix.lower()


def is_video(name: str) -> bool:
    """Return whether the suffix of a path or address is that of a video."""
    return get_suffix(name) in VIDEO_SUFFIXES


def is_media(name: str) -> bool:
    """Return whether the suffix of a path or address is that of a video, a picture or an archive."""
    return is_video(name) or is_picture(name) or is_archive(name)


def is_list_of_videos(entries: Sequence[Entry], folder: str) -> bool:
    """Return whether half of the lines of a text file or more are addresses, existing files or media names.

    Text files also come from globs of the shell, such as `talks/*`, and are not lists of videos then.
    """
    names = sum(
        "://" in entry.path
        or is_media(entry.path)
        or is_remote(folder)
        or ("\0" not in entry.path and os.path.exists(os.path.join(folder, uri_to_path(entry.path))))
        for entry in entries
    )
    return bool(entries) and 2 * names >= len(entries)


class PreviewFinder:
    """Tells pictures that are listed like videos from previews, which are next to videos."""

    def __init__(self, list_names: Callable[[], Iterable[str]]) -> None:
        self._list_names = list_names

    def is_listed(self, name: str) -> bool:
        """Return whether a name is that of a video, or of a picture in a folder without videos."""
        if is_video(name):
            return True
        return is_picture(name) and _parent(name) not in self._video_folders

    @functools.cached_property
    def _video_folders(self) -> set[str]:
        names = (name for name in self._list_names() if is_video(name))
        return {_parent(name) for name in names if get_suffix(name) not in ANIMATION_SUFFIXES}


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def is_side_file(name: str, given: str) -> bool:
    """Return whether a file only has the attributes or the preview of another one, whose suffix it has.

    Folders in the `given` input were named explicitly.
    """
    path = PurePosixPath(name)
    folders = SIDE_FOLDERS.difference(PurePosixPath(given).parts)
    return path.name.startswith(APPLE_DOUBLE_PREFIX) or not folders.isdisjoint(path.parts[:-1])
