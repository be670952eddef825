"""Files whose end is missing."""

import contextlib
from pathlib import Path
from typing import BinaryIO

import av

from fer_batch.storage.file_sections import FileSection
from fer_batch.storage.media import MediaFile

MAX_BOXES = 1_000_000
"""Most boxes of an MP4 file that are searched for one that is cut."""
MAX_OGG_PAGE_BYTES = 27 + 255 + 255 * 255
"""Longest page of Ogg: its header, the lengths of 255 parts, and the parts."""


def is_cut_short(media: MediaFile, format_name: str, stream: av.VideoStream) -> bool:
    """Return whether a file ends inside an element, or before the last frame of an MP4 file's index.

    FFmpeg reports neither.
    """
    if format_name.startswith("mov,"):
        entries = stream.index_entries
        is_incomplete = len(entries) and entries[-1].pos + entries[-1].size > media.size
        return bool(is_incomplete) or ends_inside_fragment(media)
    return _ends_inside_element(media, format_name)


def ends_inside_fragment(media: MediaFile) -> bool:
    """Return whether a file is a fragmented MP4 that ends inside a fragment. Such files state no end."""
    end, fragments = _find_last_box(media)
    return media.is_trimmed or (fragments > 0 and end < media.size)


def drop_partial_fragment(media: MediaFile) -> MediaFile | None:
    """Return a fragmented MP4 file without the fragment that is cut by the end of the file.

    FFmpeg reads the headers of all fragments when it opens a file, and opens none if one is cut. None is
    another file.
    """
    end, fragments = _find_last_box(media)
    if not fragments or end >= media.size:
        return None
    source = media.source
    file: BinaryIO = Path(source).open("rb") if isinstance(source, str) else source  # noqa: SIM115
    section: BinaryIO = FileSection(file, 0, end)  # type: ignore[assignment]
    return MediaFile(source=section, size=end, is_trimmed=True)


def _find_last_box(media: MediaFile) -> tuple[int, int]:
    """Return the end of the last complete box of an MP4 file in bytes, and the number of fragments."""
    with contextlib.ExitStack() as stack:
        source = media.source
        file = stack.enter_context(Path(source).open("rb")) if isinstance(source, str) else source
        position = file.tell()
        end, fragments = 0, 0
        for _ in range(MAX_BOXES):
            file.seek(end)
            head = file.read(16)
            if len(head) < 8 or (not end and head[4:8] != b"ftyp"):
                break
            size, kind = int.from_bytes(head[:4]), head[4:8]
            if size == 1:
                size = int.from_bytes(head[8:])
            if size < 8 or end + size > media.size:
                break
            fragments += kind == b"moof"
            end += size
        file.seek(position)
        return end, fragments


def _ends_inside_element(media: MediaFile, format_name: str) -> bool:
    """Return whether a file ends inside a packet of MPEG-TS, a page of Ogg, or the body of AVI or Matroska.

    MPEG-TS and Ogg state no duration, and Matroska's parts may be of unknown size.
    """
    size, head = media.size, media.read_head(8192)
    if format_name == "mpegts":
        for packet, lead in ((188, 0), (192, 4), (204, 0)):
            for first in range(lead, packet + lead):
                marks = head[first::packet]
                if len(marks) > 4 and not marks.strip(b"\x47"):
                    return (size - first + lead) % packet != 0
    if format_name == "ogg":
        tail = media.read_at(max(size - MAX_OGG_PAGE_BYTES, 0), MAX_OGG_PAGE_BYTES)
        page = tail.rfind(b"OggS")
        if 0 <= page < len(tail) - 26:
            lengths = tail[page + 27 : page + 27 + tail[page + 26]]
            is_whole = len(tail) >= page + 27 + tail[page + 26] + sum(lengths)
            return not is_whole or lengths[-1:] == b"\xff"  # the packet continues on another page
        return page >= 0
    if format_name == "avi":
        return head[:4] == b"RIFF" and int.from_bytes(head[4:8], "little") + 8 > size
    if format_name.startswith("matroska"):
        # The identifier of the segment, which holds everything but a header.
        place = head.find(b"\x18\x53\x80\x67") + 4
        if 4 <= place < len(head) and head[place]:
            length = 9 - head[place].bit_length()
            number = int.from_bytes(head[place : place + length]) & ((1 << 7 * length) - 1)
            return number != (1 << 7 * length) - 1 and place + length + number > size
    return False
