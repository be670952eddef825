"""Labelled segments of videos from Label Studio, and where they are in the videos."""

import dataclasses
from pathlib import Path

from fer_batch.data.folders import ClassFile
from fer_batch.errors import InputError
from fer_batch.storage.addresses import hide_secrets, is_remote
from fer_batch.storage.label_studio import read_segments
from fer_batch.video.reader import read_info
from fer_batch.video.segment import Segment


def list_segments(option: str, path: Path) -> list[ClassFile]:
    """List the labelled segments of an export of Label Studio, each once, also if several people labelled it.

    A relative name is that of a file beside the export. Raises InputError, which begins with `option`, if
    there are no segments, or if a video is not a file of this machine; and as `read_segments` does.
    """
    segments = read_segments(path)
    if not segments:
        raise InputError(f"{option}: no annotation has a segment with a label")
    for segment in segments:
        if is_remote(segment.video):
            raise InputError(f"{option}: {hide_secrets(segment.video)} is not a file of this machine")
    folder = path.absolute().parent
    files = [
        ClassFile(
            path=folder / segment.video,
            label=segment.label,
            split="",
            start_s=segment.start_s,
            end_s=segment.end_s,
        )
        for segment in segments
    ]
    return list(dict.fromkeys(files))


def locate_segment(path: Path, start_s: float | None, end_s: float | None) -> Segment:
    """Return the part of a video between two times of the file, or all of it without times.

    Raises NoVideoError or DecodeError if the video cannot be opened.
    """
    whole = Segment.whole(path)
    if start_s is None or end_s is None:
        return whole
    info = read_info(path)
    first_s, after_s = (max(time_s - info.start_s, 0.0) for time_s in (start_s, end_s))
    part = dataclasses.replace(whole, start_s=first_s, core_start_s=first_s, first_pts=info.first_pts)
    return part.end_at(after_s)
