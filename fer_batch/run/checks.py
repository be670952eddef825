"""Check that the tables of a run are consistent with its plan and with each other."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_batch.inputs.manifest import COLUMN_TYPES, manifest_values
from fer_batch.run.tables import VIDEO_KEY, fill_attempts, table_schemas
from fer_batch.schema import conform_table
from fer_batch.storage.folder import OutputFolder

COUNT_COLUMNS = ("uri", "moments", "moments_with_face", "tracks")
"""The columns of `videos` that the rows of the other tables are compared with."""
MANIFEST_ROWS_PER_CHUNK = 65_536
"""Videos whose manifest columns are decoded at a time."""


def check_bucket(
    folder: OutputFolder,
    bucket: int,
    files: Mapping[str, Sequence[str]],
    planned: pa.Table,
    columns: Mapping[str, str],
) -> Iterator[str]:
    """Describe each inconsistency of the rows of one bucket in one line.

    `files` has the files of each table in this bucket. The rows of `videos` are compared with the expected
    ones (`planned_keys`), and with the rows of the other two tables. `columns` are the manifest columns.
    """
    try:
        stored = _read_keys(folder, files.get("videos", ()), columns)
        moments = _count_moments(folder, files.get("moments", ()))
        tracks = _count_tracks(folder, files.get("tracks", ()))
    except (pa.ArrowException, OSError) as error:
        yield f"cannot read bucket {bucket}; `fer-batch finalize {folder}` writes it again: {error}"
        return
    yield from _check_videos(stored, planned)
    rows = stored.select(["video_id", *COUNT_COLUMNS]).to_pylist()
    yield from _check_counts({row["video_id"]: row for row in rows}, moments, tracks)


def planned_keys(videos: pa.Table, columns: Mapping[str, str]) -> pa.Table:
    """Return what identifies the expected rows of the table `videos`.

    The columns are `uri`, VIDEO_KEY, and the manifest columns with their values.
    """
    schema = pa.schema([pa.field(name, COLUMN_TYPES[kind]) for name, kind in columns.items()])
    chunks = [schema.empty_table()]
    for first in range(0, len(videos) if columns else 0, MANIFEST_ROWS_PER_CHUNK):
        extras = videos.column("extra").slice(first, MANIFEST_ROWS_PER_CHUNK).to_pylist()
        rows = [manifest_values(extra, columns) for extra in extras]
        chunks.append(pa.Table.from_pylist(rows, schema=schema))
    keys = videos.select(["uri", *VIDEO_KEY])
    for field, column in zip(schema, pa.concat_tables(chunks).columns, strict=True):
        keys = keys.append_column(field, column)
    return keys


def _check_videos(stored: pa.Table, planned: pa.Table) -> Iterator[str]:
    """Describe missing, repeated, unplanned and outdated rows of `videos`."""
    counts = stored.group_by("video_id").aggregate([([], "count_all")]).combine_chunks()
    position = pc.index_in(planned.column("video_id"), counts.column("video_id").combine_chunks())
    rows = counts.column("count_all").take(position).fill_null(0)
    wrong = pc.not_equal(rows, 1)
    uris = planned.column("uri").filter(wrong).to_pylist()
    for uri, count in zip(uris, rows.filter(wrong).to_pylist(), strict=True):
        yield f"{uri}: {count} rows in videos, expected 1"
    known = pc.is_in(stored.column("video_id"), planned.column("video_id").combine_chunks())
    for uri in stored.column("uri").filter(pc.invert(known)).to_pylist():
        yield f"{uri}: a row in videos, but not in the plan"
    outdated = stored.column("video_id").filter(pc.and_(known, _is_missing(stored, planned)))
    count = pc.count_distinct(outdated).as_py()
    if count:
        yield (
            f"the tables have an earlier analysis of {count} video{'s' * (count > 1)}: "
            "run the same `fer-batch analyze` again"
        )


def _check_counts(
    videos: Mapping[str, Mapping[str, Any]],
    moments: Mapping[str, Mapping[str, int]],
    tracks: Mapping[str, Mapping[str, int]],
) -> Iterator[str]:
    """Describe the differences between the rows of `videos` in a bucket and the counted rows, by video_id."""
    for video_id in sorted(moments.keys() | tracks.keys() | videos.keys()):
        frames, faces = Counter(moments.get(video_id)), Counter(tracks.get(video_id))
        row = videos.get(video_id)
        if row is None:
            counts = f"{frames['rows']} rows in moments and {faces['rows']} in tracks"
            yield f"{video_id}: {counts}, but none in videos"
            continue
        for label, count, expected in (
            ("rows in moments", frames["rows"], row["moments"]),
            ("moments with a face", frames["with_face"], row["moments_with_face"]),
            ("tracks", faces["tracks"], row["tracks"]),
            ("rows in tracks", faces["rows"], frames["faces"]),
            ("repeated rows in moments", frames["rows"] - frames["distinct"], 0),
            ("repeated rows in tracks", faces["rows"] - faces["distinct"], 0),
        ):
            if count != expected:
                yield f"{row['uri']}: {count} {label}, expected {expected}"


def _is_missing(keys: pa.Table, other: pa.Table) -> pa.ChunkedArray:
    """Return for each row of `keys` whether `other` has no row with the same video and equal values."""
    other = other.combine_chunks()
    position = pc.index_in(keys.column("video_id"), other.column("video_id").combine_chunks())
    same = position.is_valid()
    for name in keys.column_names:
        if name != "uri" and name in other.column_names:
            left, right = keys.column(name), other.column(name).take(position)
            both_null = pc.and_(left.is_null(), right.is_null())
            same = pc.and_(same, pc.or_(pc.equal(left, right).fill_null(False), both_null))
    return pc.invert(same)


def _read_keys(folder: OutputFolder, files: Sequence[str], columns: Mapping[str, str]) -> pa.Table:
    """Read VIDEO_KEY, the manifest columns and COUNT_COLUMNS of these files of `videos`."""
    all_columns = table_schemas((), columns)["videos"]
    schema = pa.schema([all_columns.field(name) for name in (*VIDEO_KEY, *columns, *COUNT_COLUMNS)])
    tables = [schema.empty_table()]
    for name in files:
        with pq.ParquetFile(folder.arrow_source(name)) as file:
            known = [column for column in schema.names if column in file.schema_arrow.names]
            tables.append(conform_table(file.read(known), schema))
    return fill_attempts(pa.concat_tables(tables))


def _count_moments(folder: OutputFolder, files: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count the rows of these files of `moments` by video, different frames, and their faces."""
    if not files:
        return {}
    rows = _read_columns(folder, files, ["video_id", "frame_index", "faces"])
    rows = rows.append_column("with_face", pc.greater(rows.column("faces"), 0).cast(pa.int64()))
    sums = [([], "count_all"), ("faces", "sum"), ("with_face", "sum")]
    counts = rows.group_by(["video_id", "frame_index"]).aggregate(sums).group_by("video_id")
    table = counts.aggregate(
        [("count_all", "sum"), ([], "count_all"), ("faces_sum", "sum"), ("with_face_sum", "sum")]
    )
    return _index_by_video(table, ["rows", "distinct", "faces", "with_face"])


def _count_tracks(folder: OutputFolder, files: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count the rows of these files of `tracks` by video, those with different keys, and the tracks."""
    if not files:
        return {}
    rows = _read_columns(folder, files, ["video_id", "track_id", "frame_index"])
    counts = rows.group_by(rows.column_names).aggregate([([], "count_all")]).group_by("video_id")
    table = counts.aggregate([("count_all", "sum"), ([], "count_all"), ("track_id", "count_distinct")])
    return _index_by_video(table, ["rows", "distinct", "tracks"])


def _read_columns(folder: OutputFolder, files: Sequence[str], columns: list[str]) -> pa.Table:
    return pa.concat_tables(
        pq.ParquetFile(folder.arrow_source(file)).read(columns=columns) for file in files
    ).select(columns)


def _index_by_video(counts: pa.Table, names: list[str]) -> dict[str, dict[str, int]]:
    rows = counts.rename_columns(["video_id", *names]).to_pylist()
    return {row.pop("video_id"): row for row in rows}
