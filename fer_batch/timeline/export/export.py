"""Timelines to files of other programs: rows as CSV and JSON lines, episodes as captions and as tiers to
annotate on, a workbook.
"""

import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.csv as pa_csv

from fer_batch.errors import ConfigError, OutputError, QueryError
from fer_batch.storage.atomic import replace_file
from fer_batch.storage.folder import check_outside_run
from fer_batch.storage.media import uri_to_path
from fer_batch.storage.paths import parse_file_path
from fer_batch.timeline.database import Database
from fer_batch.timeline.export.annotations import (
    Annotated,
    Episode,
    length_ms,
    plain,
    tiers,
    write_eaf,
    write_textgrid,
    write_vtt,
)
from fer_batch.timeline.export.workbook import write_workbook
from fer_batch.timeline.sql import quote_name, quote_text
from fer_batch.timeline.views import episodes_sql

SUFFIXES = {
    "csv": ".csv",
    "jsonl": ".jsonl",
    "vtt": ".vtt",
    "eaf": ".eaf",
    "textgrid": ".TextGrid",
    "xlsx": ".xlsx",
}
"""The formats and how their files end."""
ANNOTATE = {"vtt": write_vtt, "eaf": write_eaf, "textgrid": write_textgrid}
"""Formats of one video a file."""
ROWS_AT_ONCE = 250_000
"""Rows of `tracks` that are in memory at once; a video's are never divided."""
LONGEST_NAME = 120
"""Bytes of a file's name, without its suffix: what is added to it has to fit in 255."""


class Video(NamedTuple):
    """A video that is to be exported."""

    video_id: str
    uri: str
    status: str
    error: str | None
    duration_s: float | None
    read_s: float | None
    rows: int
    """Of `tracks`."""


class ExportedFile(NamedTuple):
    """A file that was written."""

    path: Path
    entries: int
    """Rows, cues or annotations; of a workbook: videos."""
    trouble: str | None
    """Of a video's own file: how that ended, if it has no faces or not all of it could be read."""


def export(
    timeline: Database,
    target: str | Path,
    form: str | None = None,
    videos: Sequence[str | Path] = (),
    threshold: float = 0.0,
    min_s: float = 0.0,
) -> Iterator[ExportedFile]:
    """Write videos (by id, uri or file name; all where none is named) to a file, or to a folder with one a
    video; yields each as it is written.

    `target` is a file where it ends as one of `SUFFIXES` does, which then is the format, else a folder.
    Captions, annotations and the workbook have episodes of at least `threshold` and `min_s` seconds; CSV and
    JSON lines have the rows of `tracks`, of a video one after the other, by face and time.

    Raises ConfigError where the format isn't clear, QueryError where a name is not one video's, OutputError
    where `target` can't be written or lies in the run.
    """
    target = parse_file_path(str(target))
    form, is_file = _format(target, form)
    check_outside_run(target if is_file else target / "file", timeline.out)
    _check_episodes(form, threshold, min_s)
    chosen = _chosen(timeline, videos)
    if is_file and form in ANNOTATE and len(chosen) != 1:
        raise QueryError(
            f"{target} is a file for one video, and these are {len(chosen)}: name one of them, or a "
            f"folder, with --format {form}"
        )
    try:
        if is_file:
            trouble = _trouble(chosen[0]) if form in ANNOTATE else None
            yield ExportedFile(target, _write(timeline, target, form, chosen, threshold, min_s), trouble)
            return
        target.mkdir(parents=True, exist_ok=True)
        names = file_names(dict(timeline.sql("SELECT video_id, uri FROM videos").fetchall()))
        for video in chosen:
            path = target / (names[video.video_id] + SUFFIXES[form])
            entries = _write(timeline, path, form, [video], threshold, min_s)
            yield ExportedFile(path, entries, _trouble(video))
    except OSError as error:
        said = f"{target} can't be written: {error.strerror or error}"
        raise timeline.out.convert_error(error) or OutputError(said) from error
    except duckdb.Error as error:
        raise QueryError(str(error).strip().split("\n")[0]) from error


def file_names(videos: Mapping[str, str]) -> dict[str, str]:
    """A file's name, without suffix, for each video by its id, made of the last part of its uri.

    Those that would be one on some file system, have been shortened, or look like that have their id behind.
    """
    stems = {}
    for video_id, uri in videos.items():
        last = uri_to_path(uri).replace("!/", "/").rpartition("/")[2].encode(errors="replace").decode()
        stem = re.sub(r'[\x00-\x1f\x7f\\:*?"<>|]', "_", last.rpartition(".")[0] or last)
        stems[video_id] = re.sub(r"^[.\s-]|[.\s]$", "_", stem) or "_"
    keys = {video_id: unicodedata.normalize("NFKC", stem).casefold() for video_id, stem in stems.items()}
    count = Counter(keys.values())
    names = {}
    for video_id, stem in stems.items():
        short = stem.encode()[:LONGEST_NAME].decode(errors="ignore")
        alone = count[keys[video_id]] == 1 and short == stem and not re.search(r"-[0-9a-f]{16}$", stem)
        names[video_id] = stem if alone else f"{short}-{video_id}"
    return names


def _format(target: Path, form: str | None) -> tuple[str, bool]:
    """The format, and whether `target` is a file."""
    by_suffix = {suffix.lower(): name for name, suffix in SUFFIXES.items()}.get(target.suffix.lower())
    if target.is_dir() or by_suffix is None:
        if form is None:
            raise ConfigError(
                f"{target} doesn't say the format: name a file that ends in {', '.join(SUFFIXES.values())}, "
                f"or a folder, with --format {' or '.join(SUFFIXES)}"
            )
        return form, False
    if form not in (None, by_suffix):
        raise ConfigError(f"{target} is a file of {by_suffix}, not of {form}: name another, or a folder")
    return by_suffix, True


def _check_episodes(form: str, threshold: float, min_s: float) -> None:
    if not 0 <= threshold <= 1:
        raise ConfigError(f"--threshold is {threshold:g}; allowed is a number from 0 to 1")
    if not 0 <= min_s < math.inf:
        raise ConfigError(f"--min-s is {min_s:g}; allowed are 0 or more seconds")
    if form in ("csv", "jsonl") and (threshold or min_s):
        raise ConfigError(
            f"--threshold and --min-s are for episodes, and {form} has rows: leave them out, or "
            "take vtt, eaf, textgrid or xlsx"
        )


def _chosen(timeline: Database, names: Sequence[str | Path]) -> list[Video]:
    """The videos of these names, each once; all where none is named. By id, as the tables are."""
    where = _of(sorted(timeline.video_id(name) for name in names)) if names else "true"
    found = timeline.sql(f"""
        SELECT video_id, uri, status, error, duration_s, read_s, coalesce(n, 0)
        FROM videos LEFT JOIN (SELECT video_id, count(*) AS n FROM tracks GROUP BY 1) USING (video_id)
        WHERE {where} ORDER BY video_id""")
    return [Video(*row) for row in found.fetchall()]


def _write(
    timeline: Database, path: Path, form: str, videos: Sequence[Video], threshold: float, min_s: float
) -> int:
    """Write one file, whole or not at all; the number of its entries."""
    with replace_file(path) as temporary:
        if form == "csv":
            return _write_csv(temporary, timeline, videos)
        if form == "jsonl":
            return _write_jsonl(temporary, timeline, videos)
        if form == "xlsx":
            write_workbook(temporary, timeline, list(_parts(videos)), threshold, min_s)
            return len(videos)
        return ANNOTATE[form](temporary, _annotated(timeline, videos[0], threshold, min_s))


def _annotated(timeline: Database, video: Video, threshold: float, min_s: float) -> Annotated:
    query = episodes_sql(threshold, min_s, "video_id = $video")
    rows = timeline.sql(
        f"SELECT track_id, person, emotion, start_s, end_s FROM ({query})", {"video": video.video_id}
    ).fetchall()
    episodes = [Episode(*row) for row in rows]
    length = length_ms([video.duration_s, video.read_s], episodes)
    trouble = _trouble(video)
    notes = [
        f"Video: {video.uri}" + (f" ({trouble})" if trouble else ""),
        "Facial expressions as a model sees them, not what people feel.",
    ]
    if threshold or min_s:
        notes.append(f"Confidence at least {threshold:g} at each moment, for at least {min_s:g} s.")
    return Annotated(uri=video.uri, length_ms=length, tiers=tiers(episodes, length), notes=notes)


def _write_csv(path: Path, timeline: Database, videos: Sequence[Video]) -> int:
    """All columns of `tracks`, as RFC 4180 has it; what is no finite number is empty."""
    columns = ", ".join(f"{value} AS {name}" for name, value in _columns(timeline).items())
    tables = _rows(timeline, videos, columns)
    first = next(tables)
    options = pa_csv.WriteOptions(eol="\r\n")
    with path.open("wb") as file, pa_csv.CSVWriter(file, first.schema, write_options=options) as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)
    return sum(video.rows for video in videos)


def _write_jsonl(path: Path, timeline: Database, videos: Sequence[Video]) -> int:
    """All columns of `tracks`, an object a line; what is no finite number is null."""
    columns = ", ".join(
        f"{name} := {value}" for name, value in _columns(timeline, "::VARCHAR::DOUBLE").items()
    )
    with path.open("wb") as file:
        for table in _rows(timeline, videos, f"to_json(struct_pack({columns})) || chr(10) AS line"):
            for batch in table.to_batches(max_chunksize=10_000):
                file.writelines(batch.column(0).cast(pa.binary()).to_pylist())
    return sum(video.rows for video in videos)


def _columns(timeline: Database, digits: str = "") -> dict[str, str]:
    """The columns of `tracks`, in quotes, and what stands for each; `digits` turns a FLOAT into a number that
    is written with its own digits only.
    """
    tracks = timeline.sql("FROM tracks")
    values = {}
    for name, kind in zip(tracks.columns, map(str, tracks.types), strict=True):
        column = quote_name(name)
        finite = f"CASE WHEN isfinite({column}) THEN {column}{digits if kind == 'FLOAT' else ''} END"
        values[column] = finite if kind in ("FLOAT", "DOUBLE") else column
    return values


def _rows(timeline: Database, videos: Sequence[Video], select: str) -> Iterator[pa.Table]:
    """What is selected from `tracks`, in one table or more."""
    for where in _parts(videos):
        query = f"SELECT {select} FROM tracks WHERE {where} ORDER BY uri, track_id, time_s"
        yield timeline.sql(query).to_arrow_table()


def _parts(videos: Sequence[Video]) -> Iterator[str]:
    """Conditions for one part of the videos after the other, one at least, each for as many rows as may be in
    memory at once.

    The ids in a part are next to each other, as in the files, so that each row of those is read once.
    """
    start = 0
    while start < len(videos):
        rows, end = videos[start].rows, start + 1
        while end < len(videos) and rows + videos[end].rows <= ROWS_AT_ONCE:
            rows, end = rows + videos[end].rows, end + 1
        yield _of([video.video_id for video in videos[start:end]])
        start = end
    if not videos:
        yield "false"


def _of(ids: Sequence[str]) -> str:
    """The condition that a row is of one of these videos, which are in order."""
    texts = [quote_text(video_id) for video_id in ids]
    return f"video_id BETWEEN {texts[0]} AND {texts[-1]} AND video_id IN ({', '.join(texts)})"


def _trouble(video: Video) -> str | None:
    if video.status == "ok":
        return None
    return plain(f"{video.status}: {video.error}" if video.error else video.status)
