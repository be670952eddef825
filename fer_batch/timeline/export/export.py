"""Export timelines to files of other programs: one file, or a folder with one file for each video."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from fer_batch.errors import ConfigError, OutputError, QueryError
from fer_batch.storage.atomic import replace_file
from fer_batch.storage.folder import check_outside_run, parse_file_path
from fer_batch.timeline.database import Database
from fer_batch.timeline.export.annotations import (
    Annotations,
    Episode,
    FrameGrid,
    build_tiers,
    clean_text,
    measure_length_ms,
    write_eaf,
    write_srt,
    write_textgrid,
    write_vtt,
)
from fer_batch.timeline.export.label_studio import write_tasks
from fer_batch.timeline.export.rows import (
    ExportedVideo,
    list_videos,
    partition_videos,
    write_csv,
    write_jsonl,
)
from fer_batch.timeline.export.workbook import write_workbook
from fer_batch.timeline.names import unique_file_names
from fer_batch.timeline.sql import ROW_END_S
from fer_batch.timeline.views import episodes_sql

SUFFIXES = {
    "csv": ".csv",
    "jsonl": ".jsonl",
    "vtt": ".vtt",
    "srt": ".srt",
    "eaf": ".eaf",
    "textgrid": ".TextGrid",
    "xlsx": ".xlsx",
    "label-studio": ".json",
}
"""The formats and the suffixes of their files."""
ROW_WRITERS = {"csv": write_csv, "jsonl": write_jsonl}
ANNOTATION_WRITERS = {"vtt": write_vtt, "srt": write_srt, "eaf": write_eaf, "textgrid": write_textgrid}
"""Formats that hold one video in each file."""


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written."""

    path: Path
    entries: int
    """Number of rows, captions, annotations or regions; of videos in a workbook."""
    trouble: str | None
    """For a file of one video: its status and error, unless the status is "ok"."""


def export(
    database: Database,
    target: str | Path,
    format: str | None = None,
    videos: Sequence[str | Path] = (),
    threshold: float = 0.0,
    min_s: float = 0.0,
) -> Iterator[ExportedFile]:
    """See `Timeline.export`; yields each file once it is written."""
    target = parse_file_path(str(target))
    format, is_file = _choose_format(target, format)
    check_outside_run(target if is_file else target / "file", database.out)
    _check_episodes(format, threshold, min_s)
    chosen = list_videos(database, videos)
    if is_file and format in ANNOTATION_WRITERS and len(chosen) != 1:
        raise QueryError(
            f"{target} can hold one video, got {len(chosen)}; name one of them, or a folder with "
            f"--format {format}"
        )
    try:
        if is_file:
            files = {target: chosen}
        else:
            target.mkdir(parents=True, exist_ok=True)
            names = unique_file_names(dict(database.sql("SELECT video_id, uri FROM videos").fetchall()))
            files = {target / (names[video.video_id] + SUFFIXES[format]): [video] for video in chosen}
        has_one_video = not is_file or format in ANNOTATION_WRITERS
        for path, part in files.items():
            trouble = _describe_trouble(part[0]) if has_one_video else None
            yield ExportedFile(path, _write(database, path, format, part, threshold, min_s), trouble)
    except OSError as error:
        raise database.out.convert_error(error) or OutputError(
            f"Cannot write {target}: {error.strerror or error}"
        ) from error
    except duckdb.Error as error:
        raise QueryError(str(error).strip().split("\n")[0]) from error


def _choose_format(target: Path, requested: str | None) -> tuple[str, bool]:
    """Return the format, and whether `target` is a file."""
    by_suffix = {suffix.lower(): name for name, suffix in SUFFIXES.items()}.get(target.suffix.lower())
    if target.is_dir() or by_suffix is None:
        if requested is None:
            raise ConfigError(
                f"The format of {target} is not clear: name a file that ends in "
                f"{', '.join(SUFFIXES.values())}, or a folder with --format {' or '.join(SUFFIXES)}"
            )
        return requested, False
    if requested not in (None, by_suffix):
        raise ConfigError(
            f"{target} has the suffix of {by_suffix}, not of {requested}; name another, or a folder"
        )
    return by_suffix, True


def _check_episodes(format: str, threshold: float, min_s: float) -> None:
    if not 0 <= threshold <= 1:
        raise ConfigError(f"--threshold must be between 0 and 1, got {threshold:g}")
    if not 0 <= min_s < math.inf:
        raise ConfigError(f"--min-s must be 0 or more, got {min_s:g}")
    if format in ROW_WRITERS and (threshold or min_s):
        raise ConfigError(
            f"--threshold and --min-s select episodes, and {format} has rows: leave them out, or choose vtt, "
            "srt, eaf, textgrid, xlsx or label-studio"
        )


def _write(
    database: Database,
    path: Path,
    format: str,
    videos: Sequence[ExportedVideo],
    threshold: float,
    min_s: float,
) -> int:
    """Write one file atomically; return its number of entries."""
    database = database.narrow(video.video_id for video in videos)
    with replace_file(path) as temporary:
        if format in ROW_WRITERS:
            return ROW_WRITERS[format](temporary, database, videos)
        if format == "xlsx":
            write_workbook(temporary, database, list(partition_videos(videos)), threshold, min_s)
            return len(videos)
        if format == "label-studio":
            narrowed = ((video, database.narrow([video.video_id])) for video in videos)
            tasks = ((video, _read_annotations(own, video, threshold, min_s)) for video, own in narrowed)
            return write_tasks(temporary, tasks)
        annotations = _read_annotations(database, videos[0], threshold, min_s)
        return ANNOTATION_WRITERS[format](temporary, annotations)


def _read_annotations(
    database: Database, video: ExportedVideo, threshold: float, min_s: float
) -> Annotations:
    query = episodes_sql(threshold, min_s, "video_id = $video")
    rows = database.sql(
        f"SELECT track_id, person, emotion, start_s + $start, end_s + $start FROM ({query})",
        {"video": video.video_id, "start": video.start_s},
    ).fetchall()
    episodes = [Episode(*row) for row in rows]
    frames = database.sql(
        f"SELECT time_s + $start, {ROW_END_S} + $start FROM moments WHERE video_id = $video",
        {"video": video.video_id, "start": video.start_s},
    ).fetchall()
    lengths_s = [length_s + video.start_s for length_s in (video.duration_s, video.read_s) if length_s]
    length_ms = measure_length_ms(lengths_s, episodes)
    trouble = _describe_trouble(video)
    notes = [
        f"Video: {video.uri}" + (f" ({trouble})" if trouble else ""),
        "Facial expressions as a model sees them, not feelings.",
    ]
    if threshold or min_s:
        notes.append(f"Confidence at least {threshold:g} at each moment, for at least {min_s:g} s.")
    if database.face_filter:
        notes.append(f"Only {database.face_filter}.")
    return Annotations(
        uri=video.uri,
        length_ms=length_ms,
        tiers=build_tiers(episodes, FrameGrid(frames), length_ms),
        notes=notes,
    )


def _describe_trouble(video: ExportedVideo) -> str | None:
    if video.status == "ok":
        return None
    return clean_text(f"{video.status}: {video.error}" if video.error else video.status)
