"""Video segments of Label Studio: its numbers of frames, and the tasks of an export with annotations.

A range of frames counts from 1 and includes its last frame: at 25 frames per second, 1 to 25 is the first
second, and the next range begins at 26. Label Studio counts frames by the time of the player and a constant
frame rate, which the tasks give as `fps`.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from fer_batch.errors import InputError
from fer_batch.storage.media import uri_to_path
from fer_batch.storage.user_files import parse_json, read_bounded

LOCAL_FILES = "/data/local-files/?d="
"""Address of a file on the machine of Label Studio, with the path from its document root, by default /."""
UPLOADED = re.compile(r"/data/upload/\d+/(?:[0-9a-f]{8}-)?(.+)")
MAX_EXPORT_BYTES = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class LabelledSegment:
    """A part of a video that an annotator has given a label."""

    video: str
    """Path, address or file name."""
    start_s: float
    end_s: float
    """Seconds since the start of the file, as players count them; the range is half-open."""
    label: str
    face: str | None
    """The face's name that the region carries as a note, such as "track 0"."""
    annotator: str | None
    """The annotator's number or address."""


def number_frames(start_s: float, end_s: float, fps: float) -> tuple[int, int]:
    """Return the first and the last frame of `[start_s, end_s)`, at least one."""
    first = round(start_s * fps) + 1
    return first, max(round(end_s * fps), first)


def time_frames(first: int, last: int, fps: float) -> tuple[float, float]:
    """Return when a range of frames starts and ends, the inverse of `number_frames`."""
    return (first - 1) / fps, last / fps


def format_address(uri: str) -> str:
    """Return the address at which Label Studio finds a video: its own one of a local file."""
    path = uri_to_path(uri)
    return LOCAL_FILES + quote(path.lstrip("/")) if path.startswith("/") else uri


def parse_address(address: str) -> str:
    """Return the path of a local file, the name of an uploaded one, or the address itself."""
    uploaded = UPLOADED.fullmatch(address)
    if uploaded:
        return unquote(uploaded[1])
    return "/" + unquote(address.removeprefix(LOCAL_FILES)) if address.startswith(LOCAL_FILES) else address


def read_segments(path: Path) -> list[LabelledSegment]:
    """Read the labelled segments of annotations from an export of Label Studio in the format JSON.

    Regions other than those of `TimelineLabels`, cancelled annotations and predictions are left out. A region
    with several labels is a segment for each.

    Raises InputError if the file cannot be read, is of another format, or a task lacks its frame rate `fps`.
    """
    try:
        tasks = parse_json(read_bounded(path, MAX_EXPORT_BYTES))
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read {path} as JSON: {str(error).splitlines()[0]}") from error
    is_export = isinstance(tasks, list) and all(isinstance(task, dict) and "data" in task for task in tasks)
    if not is_export:
        raise InputError(f"{path} is not an export of Label Studio in its format JSON, a list of tasks")
    segments = []
    for number, task in enumerate(tasks, 1):
        try:
            segments += _read_task(task)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(f"{path}: task {number} cannot be read: {error!r}") from error
        except InputError as error:
            raise InputError(f"{path}: task {number}: {error}") from error
    return segments


def _read_task(task: dict[str, Any]) -> list[LabelledSegment]:
    data, segments = task["data"], []
    for annotation in task.get("annotations") or []:
        if annotation.get("was_cancelled"):
            continue
        annotator = annotation.get("completed_by")
        if isinstance(annotator, dict):
            annotator = annotator.get("email") or annotator.get("id")
        for region in annotation["result"]:
            if region.get("type") != "timelinelabels":
                continue
            value, notes = region["value"], (region.get("meta") or {}).get("text")
            for part in value["ranges"]:
                start_s, end_s = time_frames(int(part["start"]), int(part["end"]), _read_frame_rate(data))
                segments += [
                    LabelledSegment(
                        video=str(data.get("uri") or parse_address(str(data["video"]))),
                        start_s=start_s,
                        end_s=end_s,
                        label=str(label),
                        face=(notes if isinstance(notes, str) else str(notes[0])) if notes else None,
                        annotator=None if annotator is None else str(annotator),
                    )
                    for label in value["timelinelabels"]
                ]
    return segments


def _read_frame_rate(data: dict[str, Any]) -> float:
    fps = float(data.get("fps") or 0)
    if not 0 < fps < math.inf:
        raise InputError('its data has no frame rate; add it as fps, and frameRate="$fps" to the Video tag')
    return fps
