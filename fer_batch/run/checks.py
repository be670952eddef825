"""Check that the tables of a run are consistent with its plan and with each other."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from fer_batch.run.snapshot import list_table_files
from fer_batch.run.tables import is_missing, stored_keys
from fer_batch.storage.folder import OutputFolder

COUNT_COLUMNS = ("uri", "moments", "moments_with_face", "tracks")
"""The columns of `videos` that the rows of the other tables are compared with."""


def check_tables(
    folder: OutputFolder,
    tables: Mapping[str, DeltaTable],
    planned: pa.Table,
    columns: Mapping[str, str],
    buckets: Iterable[int] | None = None,
) -> Iterator[str]:
    """Describe each inconsistency of the tables in one line.

    All rows of `videos` are compared with the expected ones (`tables.planned_keys`), and with the rows of the
    other two tables in the given buckets, by default in all. `columns` are the manifest columns.
    """
    stored = stored_keys(tables["videos"], columns, COUNT_COLUMNS).sort_by("bucket")
    yield from _check_videos(stored, planned)
    files = {name: _group_files(name, tables[name]) for name in ("moments", "tracks")}
    numbers = stored.column("bucket").to_numpy()
    if buckets is None:
        buckets = sorted({*numbers.tolist()}.union(*files.values()))
    for bucket in buckets:
        try:
            moments = _count_moments(folder, files["moments"].get(bucket, []))
            tracks = _count_tracks(folder, files["tracks"].get(bucket, []))
        except (pa.ArrowException, OSError) as error:
            yield f"cannot read bucket {bucket}; `fer-batch finalize {folder}` writes it again: {error}"
            continue
        first, end = (int(np.searchsorted(numbers, bucket, side)) for side in ("left", "right"))
        rows = stored.select(["video_id", *COUNT_COLUMNS]).slice(first, end - first).to_pylist()
        yield from _check_counts({row["video_id"]: row for row in rows}, moments, tracks)


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
    outdated = stored.column("video_id").filter(pc.and_(known, is_missing(stored, planned)))
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


def _count_moments(folder: OutputFolder, files: list[str]) -> dict[str, dict[str, int]]:
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


def _count_tracks(folder: OutputFolder, files: list[str]) -> dict[str, dict[str, int]]:
    """Count the rows of these files of `tracks` by video, those with different keys, and the tracks."""
    if not files:
        return {}
    rows = _read_columns(folder, files, ["video_id", "track_id", "frame_index"])
    counts = rows.group_by(rows.column_names).aggregate([([], "count_all")]).group_by("video_id")
    table = counts.aggregate([("count_all", "sum"), ([], "count_all"), ("track_id", "count_distinct")])
    return _index_by_video(table, ["rows", "distinct", "tracks"])


def _read_columns(folder: OutputFolder, files: list[str], columns: list[str]) -> pa.Table:
    return pa.concat_tables(
        pq.ParquetFile(folder.arrow_source(file)).read(columns=columns) for file in files
    ).select(columns)


def _index_by_video(counts: pa.Table, names: list[str]) -> dict[str, dict[str, int]]:
    rows = counts.rename_columns(["video_id", *names]).to_pylist()
    return {row.pop("video_id"): row for row in rows}


def _group_files(name: str, table: DeltaTable) -> dict[int, list[str]]:
    """Group the files of a table by bucket."""
    files: dict[int, list[str]] = {}
    for file in list_table_files(name, table):
        bucket = file.split("/")[-2].removeprefix("bucket=")
        files.setdefault(int(bucket), []).append(file)
    return files
