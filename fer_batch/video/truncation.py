"""Files whose end is missing."""

import struct
from pathlib import Path
from typing import BinaryIO

import av

from fer_batch.storage.archives import FileSection
from fer_batch.storage.media import MediaFile

MAX_BOXES = 1_000_000
"""Most boxes of an MP4 file that are searched for one that is cut."""


def is_cut_short(media: MediaFile, format_name: str, stream: av.VideoStream) -> bool:
    """Return whether a file ends inside an element, or before the last frame of an MP4 file's index.

    FFmpeg reports neither.
    """
    if format_name.startswith("mov,"):
        entries = stream.index_entries
        return media.is_trimmed or bool(len(entries) and entries[-1].pos + entries[-1].size > media.size)
    return _ends_inside_element(media, format_name)


def drop_partial_fragment(media: MediaFile) -> MediaFile:
    """Return a fragmented MP4 file without the header of a fragment that is cut by the end of the file.

    FFmpeg reads the headers of all fragments when it opens a file, and opens none if one is cut. Another file
    is returned unchanged.
    """
    if isinstance(media.source, str):
        file: BinaryIO = Path(media.source).open("rb")  # noqa: SIM115
    else:
        file = media.source
    place, fragments = 0, 0
    for _ in range(MAX_BOXES):
        file.seek(place)
        head = file.read(16)
        if len(head) < 8 or (not place and head[4:8] != b"ftyp"):
            break
        (size,), kind = struct.unpack(">I", head[:4]), head[4:8]
        if size == 1 and len(head) == 16:
            (size,) = struct.unpack(">Q", head[8:])
        if place + size > media.size or size < 8:
            break
        fragments += kind == b"moof"
        place += size
    if fragments and place < media.size:
        section: BinaryIO = FileSection(file, 0, place)  # type: ignore[assignment]
        return MediaFile(source=section, size=place, is_trimmed=True)
    if isinstance(media.source, str):
        file.close()
    return media


def _ends_inside_element(media: MediaFile, format_name: str) -> bool:
    """Return whether a file ends inside a packet of MPEG-TS or inside the segment of Matroska.

    FFmpeg does not report either. MPEG-TS states no duration, and Matroska's parts may be of unknown size.
    """
    size, head = media.size, media.read_head(8192)
    if format_name == "mpegts":
        for packet, lead in ((188, 0), (192, 4), (204, 0)):
            for first in range(lead, packet + lead):
                marks = head[first::packet]
                if len(marks) > 4 and not marks.strip(b"\x47"):
                    return (size - first + lead) % packet != 0
    if format_name.startswith("matroska"):
        # The identifier of the segment, which holds everything but a header.
        place = head.find(b"\x18\x53\x80\x67") + 4
        if 4 <= place < len(head) and head[place]:
            length = 9 - head[place].bit_length()
            number = int.from_bytes(head[place : place + length]) & ((1 << 7 * length) - 1)
            return number != (1 << 7 * length) - 1 and place + length + number > size
    return False
