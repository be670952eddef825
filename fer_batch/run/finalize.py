"""From results to the tables that people query. Reads no pixels, can run again at will.

Until `snapshot.json` is replaced, readers see the tables as they were; what a killed run has written beyond
it is undone at the next start.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, PostCommitHookProperties, write_deltalake
from deltalake.exceptions import DeltaError

from fer_batch.errors import OutputError
from fer_batch.faults import fault_point
from fer_batch.inputs.manifest import COLUMN_TYPES, manifest_values
from fer_batch.run.plan import (
    own_columns,
    read_planned_segments,
    read_planned_videos,
    read_run,
    remove_leftovers,
)
from fer_batch.run.results import list_done_bundles, read_results
from fer_batch.run.snapshot import (
    TABLES,
    list_table_files,
    lock_if_unread,
    open_tables,
    read_snapshot,
    write_snapshot,
)
from fer_batch.run.stitch import stitch_segments
from fer_batch.schema import (
    CONTAINER_COLUMNS,
    MOMENTS_SCHEMA,
    PLAN_SCHEMA,
    SCHEMA_VERSION,
    VIDEOS_SCHEMA,
    conform_table,
    tracks_schema,
)
from fer_batch.storage.atomic import remove_tree, source, sync_to_disk, write_json
from fer_batch.storage.folder import delta_options

PROPERTIES = {"delta.dataSkippingNumIndexedCols": "0"}
"""The log holds no statistics, which would be names of videos that stay when their rows have gone."""
KEEP_LOG_FILES = PostCommitHookProperties(cleanup_expired_logs=False)
"""While tables are written readers open the versions of before, however old they are."""
KEY = ("video_id", "version", "attempt")
"""What tells an answer to a video from one to what it was before."""
BUCKETS_AT_ONCE = 64
"""Whose planned segments are held in memory."""
EXTRAS = 65_536
"""What manifests say of so many videos is taken apart at a time."""
NAMED = 20
"""Differences that an error message names."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """How a run ended, all of it, also what earlier starts did."""

    videos: dict[str, int]
    """How many ended with each status."""
    trouble: list[tuple[str, str, str]]
    """(uri, status, error) of each that did not end well."""
    seconds: float
    """Of video that could be read."""
    moments: int
    faces: int
    tracks: int


def finalize(out: Path, anew: bool = False) -> RunSummary:
    """Stitch what is not yet in the tables, and replace the buckets it falls into; `_SUCCESS.json` comes
    last.

    `anew` writes every bucket, as is done where a table has gone or is of an older schema. Raises OutputError
    where a planned segment is neither done nor failed, `out` holds no run, or what was written does not add
    up.
    """
    run = read_run(out)
    remove_leftovers(out)
    videos = read_planned_videos(out)
    done = pa.array(sorted(list_done_bundles(out / "results")), pa.string())
    count = left = 0
    for segments in read_planned_segments(out, videos, ["bundle_id"]):
        count += len(segments)
        left += pc.sum(pc.invert(pc.is_in(segments.column("bundle_id"), done))).as_py() or 0
    if left:
        raise OutputError(
            f"{left} of {count} segments in {out} are not done: run `fer-batch analyze` on it again"
        )
    classes, columns = tuple(run["classes"]), own_columns(run)
    schemas = table_schemas(classes, columns)
    tables = open_current_tables(out, schemas) or _new_tables(out, schemas, run)
    before = {name: (table.version(), set(table.file_uris())) for name, table in tables.items()}
    planned = planned_keys(videos, columns)
    touched = _touched(planned, _stored(tables["videos"], columns), anew)
    if touched:
        (out / "_SUCCESS.json").unlink(missing_ok=True)
    for bucket, members, segments in _by_bucket(out, videos, touched):
        rows = _bucket(out, members, segments, classes, columns, bucket)
        for name in TABLES:
            write_deltalake(
                tables[name],
                rows[name].cast(schemas[name]),
                mode="overwrite",
                predicate=f"bucket = {bucket}",
                post_commithook_properties=KEEP_LOG_FILES,
            )
            fault_point(f"finalize.{name}")
    wrong = list(check_tables(out, tables, planned, columns, touched))
    if wrong:
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise OutputError(f"the tables in {out} don't add up: {'; '.join(wrong[:NAMED])}{more}")
    if read_snapshot(out) != {name: table.version() for name, table in tables.items()}:
        for name, table in tables.items():
            _sync(out / name, table, *before[name])
        write_snapshot(out, tables)
    fault_point("finalize.snapshot")
    with lock_if_unread(out) as free:  # who reads the files by their folder would see what was replaced too
        if free:
            remove_stale_files(out)
    for table in tables.values():
        table.cleanup_metadata()
    summary = summarize_run(out)
    totals = {"videos": summary.videos, "moments": summary.moments, "faces": summary.faces}
    write_json(out / "_SUCCESS.json", totals, "success")
    fault_point("finalize.success")
    return summary


def summarize_run(out: Path) -> RunSummary:
    """The totals of a finished run, from its tables."""
    tables = open_tables(out)
    videos = _rows(tables["videos"], VIDEOS_SCHEMA).sort_by("uri")
    ends = videos.column("status").value_counts().to_pylist()
    trouble = videos.filter(pc.invert(pc.is_in(videos.column("status"), pa.array(["ok", "no_faces"]))))
    return RunSummary(
        videos={end["values"]: end["counts"] for end in ends},
        trouble=[
            (v["uri"], v["status"], v["error"])
            for v in trouble.select(["uri", "status", "error"]).to_pylist()
        ],
        seconds=pc.sum(videos.column("read_s")).as_py() or 0.0,
        moments=pc.sum(videos.column("moments")).as_py() or 0,
        faces=sum(
            pq.read_metadata(source(path)).num_rows
            for path in list_table_files(out / "tracks", tables["tracks"])
        ),
        tracks=pc.sum(videos.column("tracks")).as_py() or 0,
    )


def failed_videos(out: Path) -> pa.Table:
    """`video_id`, `version` and `attempt` of the videos that the tables have as failed or partial; none where
    there are no tables yet.
    """
    key = pa.schema([VIDEOS_SCHEMA.field(name) for name in KEY])
    if read_snapshot(out) is None and not (out / "_SUCCESS.json").exists():
        return key.empty_table()
    rows = _rows(open_tables(out)["videos"], VIDEOS_SCHEMA)
    failed = rows.filter(pc.is_in(rows.column("status"), pa.array(["failed", "partial"])))
    return _filled(failed).select(list(KEY))


def remove_stale_files(out: Path) -> None:
    """Remove every file of the tables that the state which readers see does not need."""
    for name, table in open_tables(out).items():
        live = set(list_table_files(out / name, table))
        stale = {path for path in (out / name).glob("bucket=*/*") if path not in live}
        # Names that the Delta library gives to what it has not committed.
        stale |= {path for mark in ("*.tmp", "*#*") for path in (out / name / "_delta_log").glob(mark)}
        for path in stale:
            path.unlink()
    fault_point("finalize.remove_stale_files")


def table_schemas(classes: tuple[str, ...], columns: Mapping[str, str]) -> dict[str, pa.Schema]:
    """The columns of each table, for a model of these classes and the owner's columns of `videos`."""
    own = [pa.field(name, COLUMN_TYPES[kind]) for name, kind in columns.items()]
    return {
        "moments": MOMENTS_SCHEMA,
        "tracks": tracks_schema(classes),
        "videos": pa.schema([*VIDEOS_SCHEMA, *own]),
    }


def open_current_tables(out: Path, schemas: dict[str, pa.Schema]) -> dict[str, DeltaTable] | None:
    """The tables as readers see them, at their latest version, with nothing else in their folders; None where
    there are none, or of other columns.
    """
    if read_snapshot(out) is None:
        return None
    try:
        seen = open_tables(out)
        tables = {name: DeltaTable(str(out / name), storage_options=delta_options(out)) for name in TABLES}
    except (OutputError, DeltaError):
        return None
    if any(pa.schema(seen[name].schema().to_arrow()) != schemas[name] for name in TABLES):
        return None
    if not all(path.exists() for name in TABLES for path in list_table_files(out / name, seen[name])):
        return None
    for name in TABLES:
        if set(tables[name].file_uris()) != set(seen[name].file_uris()):
            tables[name].restore(seen[name].version(), post_commithook_properties=KEEP_LOG_FILES)
    remove_stale_files(out)
    return tables


def _new_tables(out: Path, schemas: dict[str, pa.Schema], run: dict[str, Any]) -> dict[str, DeltaTable]:
    """Empty tables, in place of whatever stands there."""
    for name in ("_SUCCESS.json", "snapshot.json"):
        (out / name).unlink(missing_ok=True)
    if run["schema_version"] != SCHEMA_VERSION:  # from here on no snapshot means no tables
        write_json(out / "run.json", run | {"schema_version": SCHEMA_VERSION}, "run.json")
    for name in TABLES:
        if (out / name).exists():
            remove_tree(out / name)
    return {
        name: DeltaTable.create(
            str(out / name),
            schemas[name],
            partition_by=["bucket"],
            configuration=PROPERTIES,
            storage_options=delta_options(out),
        )
        for name in TABLES
    }


def _sync(folder: Path, table: DeltaTable, version: int, files: set[str]) -> None:
    """See to it that what was added to a table since then outlives a power failure."""
    old = {path.rsplit("/", 1)[-1] for path in files}
    new = [path for path in list_table_files(folder, table) if path.name not in old]
    log = folder / "_delta_log"
    commits = [log / f"{number:020d}.json" for number in range(version, table.version() + 1)]
    for path in (*new, *commits, *{path.parent for path in new}, log, folder, folder.parent):
        sync_to_disk(path)


def _rows(table: DeltaTable, schema: pa.Schema) -> pa.Table:
    """`videos` in these columns, also where it is of an older schema."""
    known = {f.name for f in table.schema().fields}
    columns = [name for name in schema.names if name in known]
    return conform_table(pa.table(table.to_pyarrow_table(columns=columns)), schema)


def _filled(videos: pa.Table) -> pa.Table:
    """With 0 for an `attempt` that is null."""
    column = videos.schema.get_field_index("attempt")
    return videos.set_column(column, videos.field(column), videos.column(column).fill_null(0))


def planned_keys(videos: pa.Table, columns: Mapping[str, str]) -> pa.Table:
    """What tells the rows of `videos` that there should be, as planned, from others: KEY, the bucket, and the
    owner's columns; with their `uri`.
    """
    own = pa.schema([pa.field(name, COLUMN_TYPES[kind]) for name, kind in columns.items()])
    parts = [own.empty_table()]
    for first in range(0, len(videos) if columns else 0, EXTRAS):
        said = videos.column("extra").slice(first, EXTRAS).to_pylist()
        parts.append(pa.Table.from_pylist([manifest_values(extra, columns) for extra in said], schema=own))
    planned = videos.select(["uri", *KEY, "bucket"])
    for field, column in zip(own, pa.concat_tables(parts).columns, strict=True):
        planned = planned.append_column(field, column)
    return planned


def _stored(table: DeltaTable, columns: Mapping[str, str], more: Iterable[str] = ()) -> pa.Table:
    """The same of the rows that there are, and some columns more."""
    fields = table_schemas((), columns)["videos"]
    return _filled(_rows(table, pa.schema([fields.field(n) for n in (*KEY, "bucket", *columns, *more)])))


def _touched(planned: pa.Table, stored: pa.Table, anew: bool) -> list[int]:
    """The buckets with rows that there should not be, or are not there; `anew`, all."""
    pairs = ((planned, stored), (stored, planned))
    found = [(one if anew else one.filter(_missing(one, other))).column("bucket") for one, other in pairs]
    return sorted({bucket for column in found for bucket in pc.unique(column).to_pylist()})


def _missing(rows: pa.Table, among: pa.Table) -> pa.ChunkedArray:
    """Which of these `planned_keys` are not among those."""
    among = among.combine_chunks()
    place = pc.index_in(rows.column("video_id"), among.column("video_id").combine_chunks())
    same = place.is_valid()
    for name in rows.column_names:
        if name != "uri" and name in among.column_names:
            mine, its = rows.column(name), among.column(name).take(place)
            both_null = pc.and_(mine.is_null(), its.is_null())
            same = pc.and_(same, pc.or_(pc.equal(mine, its).fill_null(False), both_null))
    return pc.invert(same)


def check_tables(
    out: Path,
    tables: dict[str, DeltaTable],
    planned: pa.Table,
    columns: Mapping[str, str],
    checked: Iterable[int] | None = None,
) -> Iterator[str]:
    """What is wrong with the tables: all of `videos` against the `planned_keys` of those that are planned,
    and with it the rows of the others in the buckets that are to be checked, all by default.
    """
    more = ("uri", "moments", "moments_with_face", "tracks")
    stored = _stored(tables["videos"], columns, more).sort_by("bucket")
    counts = stored.group_by("video_id").aggregate([([], "count_all")]).combine_chunks()
    place = pc.index_in(planned.column("video_id"), counts.column("video_id").combine_chunks())
    rows = counts.column("count_all").take(place).fill_null(0)
    off = pc.not_equal(rows, 1)
    for uri, count in zip(
        planned.column("uri").filter(off).to_pylist(), rows.filter(off).to_pylist(), strict=True
    ):
        yield f"{uri}: {count} rows in videos"
    known = pc.is_in(stored.column("video_id"), planned.column("video_id").combine_chunks())
    for uri in stored.column("uri").filter(pc.invert(known)).to_pylist():
        yield f"{uri}: a row in videos, though it was not planned"
    other = stored.column("video_id").filter(pc.and_(known, _missing(stored, planned)))
    behind = pc.count_distinct(other).as_py()
    if behind:
        yield (
            f"{behind} video{'s are' if behind > 1 else ' is'} in the tables as before: "
            "run the same `fer-batch analyze` again"
        )
    files = {name: _files_by_bucket(out / name, tables[name]) for name in ("moments", "tracks")}
    numbers = stored.column("bucket").to_numpy()
    for bucket in sorted({*numbers.tolist()}.union(*files.values())) if checked is None else checked:
        try:
            moments = _counted(files["moments"].get(bucket, []), ["time_s"], ["faces"])
            tracks = _counted(files["tracks"].get(bucket, []), ["track_id", "time_s"], [])
        except (pa.ArrowException, OSError) as error:
            yield f"bucket {bucket} can't be read, `fer-batch finalize {out}` writes it anew: {error}"
            continue
        first, end = (int(np.searchsorted(numbers, bucket, side)) for side in ("left", "right"))
        said = stored.select(["video_id", *more]).slice(first, end - first).to_pylist()
        yield from _wrong_counts({row["video_id"]: row for row in said}, moments, tracks)


def _wrong_counts(
    said: dict[str, dict[str, Any]],
    moments: dict[str, dict[str, int]],
    tracks: dict[str, dict[str, int]],
) -> Iterator[str]:
    """Where the rows of one bucket differ from what its videos say, by video_id."""
    for video_id in sorted(moments.keys() | tracks.keys() | said.keys()):
        seen, faces = moments.get(video_id, NOTHING), tracks.get(video_id, NOTHING)
        row = said.get(video_id)
        if row is None:
            yield f"{video_id}: {seen['rows']} rows in moments and {faces['rows']} in tracks, none in videos"
            continue
        for what, found, wanted in (
            ("moments", seen["rows"], row["moments"]),
            ("moments with a face", seen["with_face"], row["moments_with_face"]),
            ("tracks", faces["tracks"], row["tracks"]),
            ("faces, by moments", faces["rows"], seen["faces"]),
            ("moments twice", seen["rows"] - seen["distinct"], 0),
            ("faces twice", faces["rows"] - faces["distinct"], 0),
        ):
            if found != wanted:
                yield f"{row['uri']}: {found} {what}, not {wanted}"


NOTHING = {"rows": 0, "distinct": 0, "tracks": 0, "faces": 0, "with_face": 0}


def _counted(paths: list[Path], key: list[str], more: list[str]) -> dict[str, dict[str, int]]:
    """For each video in these files: its rows, how many differ in `key`, and its tracks or faces."""
    if not paths:
        return {}
    columns = ["video_id", *key, *more]
    table = pa.concat_tables(pq.ParquetFile(source(path)).read(columns=columns) for path in paths)
    rows = table.group_by("video_id").aggregate([([], "count_all")])
    distinct = table.group_by(["video_id", *key]).aggregate([]).group_by("video_id")
    counted = {
        video_id: NOTHING | {"rows": count}
        for video_id, count in zip(
            rows.column("video_id").to_pylist(), rows.column("count_all").to_pylist(), strict=True
        )
    }
    for row in distinct.aggregate([([], "count_all")]).to_pylist():
        counted[row["video_id"]]["distinct"] = row["count_all"]
    if "track_id" in key:
        for row in table.group_by("video_id").aggregate([("track_id", "count_distinct")]).to_pylist():
            counted[row["video_id"]]["tracks"] = row["track_id_count_distinct"]
    if "faces" in more:
        table = table.append_column("with_face", pc.greater(table.column("faces"), 0).cast(pa.int64()))
        sums = table.group_by("video_id").aggregate([("faces", "sum"), ("with_face", "sum")])
        for row in sums.to_pylist():
            counted[row["video_id"]] |= {"faces": row["faces_sum"], "with_face": row["with_face_sum"]}
    return counted


def _files_by_bucket(folder: Path, table: DeltaTable) -> dict[int, list[Path]]:
    """The files of a table, by bucket."""
    files: dict[int, list[Path]] = {}
    for path in list_table_files(folder, table):
        files.setdefault(int(path.parent.name.removeprefix("bucket=")), []).append(path)
    return files


def _by_bucket(out: Path, videos: pa.Table, touched: list[int]) -> Iterator[tuple[int, pa.Table, pa.Table]]:
    """Each of these buckets, with its videos and their planned segments; the plan is read for many at a
    time.
    """
    for first in range(0, len(touched), BUCKETS_AT_ONCE):
        group = touched[first : first + BUCKETS_AT_ONCE]
        mine = videos.filter(pc.is_in(videos.column("bucket"), pa.array(group, pa.int32()))).combine_chunks()
        segments = pa.concat_tables([PLAN_SCHEMA.empty_table(), *read_planned_segments(out, mine)])
        place = pc.index_in(segments.column("video_id"), mine.column("video_id").combine_chunks())
        owners = mine.column("bucket").take(place)
        for bucket in group:
            yield (
                bucket,
                mine.filter(pc.equal(mine.column("bucket"), bucket)),
                segments.filter(pc.equal(owners, bucket)),
            )


def _bucket(
    out: Path,
    videos: pa.Table,
    plan: pa.Table,
    classes: tuple[str, ...],
    own: Mapping[str, str],
    bucket: int,
) -> dict[str, pa.Table]:
    """The rows of all three tables for the videos of one bucket, and their planned segments."""
    schemas = table_schemas(classes, own)
    videos = videos.sort_by("video_id").combine_chunks()
    ids = videos.column("video_id").combine_chunks()
    results = read_results(out / "results", plan)
    timelines = stitch_segments(results, classes)
    answers = results.select(ANSWERED).combine_chunks()
    answers = answers.sort_by([("video_id", "ascending"), ("index", "ascending")])
    edges = np.searchsorted(pc.index_in(answers.column("video_id"), ids).to_numpy(), np.arange(len(ids) + 1))
    columns = {name: answers.column(name).to_pylist() for name in ANSWERED}
    models = [columns["model_id"][a] if a < b else None for a, b in itertools.pairwise(edges.tolist())]
    same = {"uri": videos.column("uri"), "model_id": pa.array(models, pa.string())}
    tables = {}
    places = {}
    for name, rows in (("moments", timelines.moments), ("tracks", timelines.tracks)):
        place = pc.index_in(rows.column("video_id"), ids)
        places[name] = place.to_numpy()
        of_it = {column: values.take(place) for column, values in same.items()}
        of_it["bucket"] = pa.repeat(pa.scalar(bucket, pa.int32()), len(rows))
        schema = schemas[name]
        tables[name] = pa.table(
            [rows.column(n) if n in rows.column_names else of_it[n] for n in schema.names], schema=schema
        )
    faces = tables["moments"].column("faces").to_numpy()
    moments = np.bincount(places["moments"], minlength=len(ids)).tolist()
    with_face = np.bincount(places["moments"][faces > 0], minlength=len(ids)).tolist()
    tracks = np.zeros(len(ids), np.int64)
    np.maximum.at(tracks, places["tracks"], tables["tracks"].column("track_id").to_numpy() + 1)
    rows = [
        {
            **{k: video[k] for k in VIDEOS_SCHEMA.names if k in video},
            **manifest_values(video["extra"], own),
            **_outcome(video, {k: v[edges[n] : edges[n + 1]] for k, v in columns.items()}, with_face[n] > 0),
            "moments": moments[n],
            "moments_with_face": with_face[n],
            "tracks": int(tracks[n]),
        }
        for n, video in enumerate(videos.to_pylist())
    ]
    return {"videos": pa.Table.from_pylist(rows, schema=schemas["videos"]), **tables}


TIMINGS = ("decode_s", "detect_s", "crop_s", "recognize_s")
ANSWERED = ["video_id", "index", "status", "error", "read_s", "model_id", *CONTAINER_COLUMNS, *TIMINGS]
"""What of the answers to a video's segments says how it ended."""


def _outcome(video: dict[str, Any], segments: dict[str, list[Any]], has_faces: bool) -> dict[str, Any]:
    """How a video ended, from how its probe and its segments did, which are in order."""
    status, error = video["status"], video["error"]
    if status == "ok":
        states = set(segments["status"])
        error = "; ".join(dict.fromkeys(e for e in segments["error"] if e)) or None
        if states <= {"failed"} or states == {"no_video"}:
            status = states.pop() if states else "failed"
        elif states != {"ok"}:
            status = "partial"
        else:
            status = "ok" if has_faces else "no_faces"
    opened: dict[str, Any] = {}
    if video["fps"] is None:  # not asked before: what was told is of less worth
        for name in CONTAINER_COLUMNS:
            seen = (value for value in segments[name] if value is not None)
            opened[name] = next(seen, video[name])
    return {
        **opened,
        "status": status,
        "error": error,
        "read_s": max(segments["read_s"], default=0.0),
        "analyze_s": sum(sum(segments[name]) for name in TIMINGS),
    }
