"""From results to the tables that people query. Reads no pixels, can run again at will.

Until `snapshot.json` is replaced, readers see the tables as they were; what a killed run has written beyond
it is undone at the next start.
"""

import hashlib
import itertools
import shutil
from collections import Counter
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

from fer_batch.archive.manifest import KINDS, own_values
from fer_batch.archive.plan import bundles_of
from fer_batch.errors import OutputError
from fer_batch.faults import point
from fer_batch.files import sync, write_json
from fer_batch.pipeline.plan_store import clean, own_columns, read_run, read_segments, read_videos
from fer_batch.pipeline.results import done_bundles, read_results
from fer_batch.pipeline.snapshot import (
    TABLES,
    live_files,
    open_tables,
    read_snapshot,
    unread,
    write_snapshot,
)
from fer_batch.pipeline.stitch import stitch
from fer_batch.schema import MOMENTS, OPENED, PLAN, SCHEMA_VERSION, VIDEOS, conform, tracks_schema

PROPERTIES = {"delta.dataSkippingNumIndexedCols": "0"}
"""The log holds no statistics, which would be names of videos that stay when their rows have gone."""
KEEP_LOG = PostCommitHookProperties(cleanup_expired_logs=False)
"""While tables are written readers open the versions of before, however old they are."""
KEY = ("video_id", "version", "attempt")
"""What tells an answer to a video from one to what it was before."""
VIDEOS_AT_ONCE = 200_000
"""Whose segments are held in memory."""
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
    clean(out)
    videos = read_videos(out)
    done = pa.array(sorted(done_bundles(out / "results")), pa.string())
    count = left = 0
    for segments in read_segments(out, videos):
        count += len(segments)
        left += segments.filter(pc.invert(pc.is_in(segments.column("bundle_id"), done))).num_rows
    if left:
        raise OutputError(
            f"{left} of {count} segments in {out} are not done: run `fer-batch analyze` on it again"
        )
    classes, columns = tuple(run["classes"]), own_columns(run)
    schemas = table_schemas(classes, columns)
    tables = standing_tables(out, schemas) or _new_tables(out, schemas, run)
    before = {name: (table.version(), set(table.file_uris())) for name, table in tables.items()}
    planned, settled = _planned(videos, columns), _settled(tables["videos"], columns)
    changed = planned | settled if anew else planned ^ settled
    touched = sorted({bucket_of(video_id, run["buckets"]) for video_id, *_ in changed})
    if touched:
        (out / "_SUCCESS.json").unlink(missing_ok=True)
    for bucket, members, segments in _by_bucket(out, videos, run["buckets"], touched):
        rows = _bucket(out, members, segments, classes, columns, bucket)
        for name in TABLES:
            write_deltalake(
                tables[name],
                rows[name].cast(schemas[name]),
                mode="overwrite",
                predicate=f"bucket = {bucket}",
                post_commithook_properties=KEEP_LOG,
            )
            point(f"finalize.{name}")
    wrong = list(_wrong_rows(out, tables, videos, run, touched))
    if wrong:
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise OutputError(f"the tables in {out} don't add up: {'; '.join(wrong[:NAMED])}{more}")
    if read_snapshot(out) != {name: table.version() for name, table in tables.items()}:
        for name, table in tables.items():
            _sync(out / name, table, *before[name])
        write_snapshot(out, tables)
    point("finalize.snapshot")
    with unread(out) as free:  # who reads the files by their folder would see what was replaced too
        if free:
            vacuum(out)
    for table in tables.values():
        table.cleanup_metadata()
    summary = summarize(out)
    totals = {"videos": summary.videos, "moments": summary.moments, "faces": summary.faces}
    write_json(out / "_SUCCESS.json", totals, "success")
    point("finalize.success")
    return summary


def summarize(out: Path) -> RunSummary:
    """The totals of a finished run, from its tables."""
    tables = open_tables(out)
    videos = _rows(tables["videos"], VIDEOS).sort_by("uri")
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
        faces=sum(pq.read_metadata(path).num_rows for path in live_files(out / "tracks", tables["tracks"])),
        tracks=pc.sum(videos.column("tracks")).as_py() or 0,
    )


def unsuccessful(out: Path) -> pa.Table:
    """`video_id`, `version` and `attempt` of the videos that the tables have as failed or partial; none where
    there are no tables yet.
    """
    key = pa.schema([VIDEOS.field(name) for name in KEY])
    if read_snapshot(out) is None and not (out / "_SUCCESS.json").exists():
        return key.empty_table()
    rows = _rows(open_tables(out)["videos"], VIDEOS)
    failed = rows.filter(pc.is_in(rows.column("status"), pa.array(["failed", "partial"])))
    return _filled(failed).select(list(KEY))


def vacuum(out: Path) -> None:
    """Remove every file of the tables that the state which readers see does not need."""
    for name, table in open_tables(out).items():
        live = set(live_files(out / name, table))
        stale = {path for path in (out / name).glob("bucket=*/*") if path not in live}
        # Names that the Delta library gives to what it has not committed.
        stale |= {path for mark in ("*.tmp", "*#*") for path in (out / name / "_delta_log").glob(mark)}
        for path in stale:
            path.unlink()
    point("finalize.vacuum")


def differences(out: Path) -> list[str]:
    """What does not add up in a run, a line each, none where all does: between what was planned, the answers,
    and the tables as readers see them.

    Raises OutputError where `out` holds no run or its plan can't be read.
    """
    run = read_run(out)
    videos = read_videos(out)
    wrong = []
    left = planned = 0
    unplanned = dict(
        videos.filter(pc.equal(videos.column("status"), "ok")).select(["video_id", "uri"]).to_pandas().values
    )
    for segments in read_segments(out, videos):
        planned += len(segments)
        wrong += list(_wrong_plan(unplanned, segments))
        for bundle_id, mine in bundles_of(segments):
            if not (out / "results" / f"{bundle_id}.parquet").exists():
                left += len(mine)
                continue
            try:
                read_results(out / "results", mine, keep_damaged=True)
            except OutputError as error:
                wrong.append(str(error))
    wrong += [f"{uri}: 0 of its segments planned" for uri in unplanned.values()]
    if left:  # then the tables are those of an earlier plan
        return [f"{left} of {planned} segments are not done: run the same `fer-batch analyze` again", *wrong]
    try:
        tables = open_tables(out)
    except OutputError as error:
        return [*wrong, str(error)]
    return [*wrong, *_wrong_rows(out, tables, videos, run, range(run["buckets"]))]


def _wrong_plan(unplanned: dict[str, str], segments: pa.Table) -> Iterator[str]:
    """Videos of a round whose segments are not all there; takes those that it has out of `unplanned`."""
    counts = segments.group_by("video_id").aggregate([([], "count_all"), ("segments", "max")])
    for row in counts.to_pylist():
        uri = unplanned.pop(row["video_id"], row["video_id"])
        if row["count_all"] != row["segments_max"]:
            yield f"{uri}: {row['count_all']} of {row['segments_max']} segments planned"


def bucket_of(video_id: str, buckets: int) -> int:
    """The bucket that a video's rows are kept in."""
    return int(hashlib.sha256(video_id.encode()).hexdigest()[:8], 16) % buckets


def table_schemas(classes: tuple[str, ...], columns: Mapping[str, str]) -> dict[str, pa.Schema]:
    """The columns of each table, for a model of these classes and the owner's columns of `videos`."""
    own = [pa.field(name, KINDS[kind]) for name, kind in columns.items()]
    return {"moments": MOMENTS, "tracks": tracks_schema(classes), "videos": pa.schema([*VIDEOS, *own])}


def standing_tables(out: Path, schemas: dict[str, pa.Schema]) -> dict[str, DeltaTable] | None:
    """The tables as readers see them, at their latest version, with nothing else in their folders; None where
    there are none, or of other columns.
    """
    if read_snapshot(out) is None:
        return None
    try:
        seen = open_tables(out)
        tables = {name: DeltaTable(str(out / name)) for name in TABLES}
    except (OutputError, DeltaError):
        return None
    if any(pa.schema(seen[name].schema().to_arrow()) != schemas[name] for name in TABLES):
        return None
    if not all(path.exists() for name in TABLES for path in live_files(out / name, seen[name])):
        return None
    for name in TABLES:
        if set(tables[name].file_uris()) != set(seen[name].file_uris()):
            tables[name].restore(seen[name].version(), post_commithook_properties=KEEP_LOG)
    vacuum(out)
    return tables


def _new_tables(out: Path, schemas: dict[str, pa.Schema], run: dict[str, Any]) -> dict[str, DeltaTable]:
    """Empty tables, in place of whatever stands there."""
    for name in ("_SUCCESS.json", "snapshot.json"):
        (out / name).unlink(missing_ok=True)
    if run["schema_version"] != SCHEMA_VERSION:  # from here on no snapshot means no tables
        write_json(out / "run.json", run | {"schema_version": SCHEMA_VERSION}, "run.json")
    for name in TABLES:
        if (out / name).exists():
            shutil.rmtree(out / name)
    return {
        name: DeltaTable.create(
            str(out / name), schemas[name], partition_by=["bucket"], configuration=PROPERTIES
        )
        for name in TABLES
    }


def _sync(folder: Path, table: DeltaTable, version: int, files: set[str]) -> None:
    """See to it that what was added to a table since then outlives a power failure."""
    old = {path.rsplit("/", 1)[-1] for path in files}
    new = [path for path in live_files(folder, table) if path.name not in old]
    log = folder / "_delta_log"
    commits = [log / f"{number:020d}.json" for number in range(version, table.version() + 1)]
    for path in (*new, *commits, *{path.parent for path in new}, log, folder, folder.parent):
        sync(path)


def _rows(table: DeltaTable, schema: pa.Schema) -> pa.Table:
    """`videos` in these columns, also where it is of an older schema."""
    known = {f.name for f in table.schema().fields}
    columns = [name for name in schema.names if name in known]
    return conform(pa.table(table.to_pyarrow_table(columns=columns)), schema)


def _filled(videos: pa.Table) -> pa.Table:
    """With 0 for an `attempt` that is null."""
    column = videos.schema.get_field_index("attempt")
    return videos.set_column(column, videos.field(column), videos.column(column).fill_null(0))


def _planned(videos: pa.Table, columns: Mapping[str, str]) -> set[tuple[Any, ...]]:
    """What tells the rows of `videos` that there should be from others: KEY, and the owner's columns."""
    keys = zip(*(videos.column(name).to_pylist() for name in (*KEY, "extra")), strict=True)
    return {(*key, *own_values(extra, columns).values()) for *key, extra in keys}


def _settled(table: DeltaTable, columns: Mapping[str, str]) -> set[tuple[Any, ...]]:
    """The same of the rows that there are."""
    fields = table_schemas((), columns)["videos"]
    rows = _filled(_rows(table, pa.schema([fields.field(name) for name in (*KEY, *columns)])))
    return set(zip(*(column.to_pylist() for column in rows.columns), strict=True))


def _wrong_rows(
    out: Path, tables: dict[str, DeltaTable], videos: pa.Table, run: dict[str, Any], checked: Iterable[int]
) -> Iterator[str]:
    """What is wrong with the tables: all of `videos` against the plan, and with it the rows of the others in
    the buckets that are to be checked.
    """
    stored = _rows(tables["videos"], VIDEOS)
    counts = Counter(stored.column("video_id").to_pylist())
    for video_id, uri in zip(
        videos.column("video_id").to_pylist(), videos.column("uri").to_pylist(), strict=True
    ):
        if counts.pop(video_id, 0) != 1:
            yield f"{uri}: {_count(stored, video_id)} rows in videos"
    strange = pc.is_in(stored.column("video_id"), pa.array(sorted(counts), pa.string()))
    for uri in stored.filter(strange).column("uri").to_pylist():
        yield f"{uri}: a row in videos, though it was not planned"
    columns = own_columns(run)
    planned = _planned(videos, columns)
    known = {video_id for video_id, *_ in planned}
    behind = {row[0] for row in _settled(tables["videos"], columns) - planned} & known
    if behind:
        more = "s are" if len(behind) > 1 else " is"
        yield f"{len(behind)} video{more} in the tables as before: run the same `fer-batch analyze` again"
    files = {name: _files_by_bucket(out / name, tables[name]) for name in ("moments", "tracks")}
    buckets = _buckets(stored, run["buckets"])
    for bucket in checked:
        try:
            moments = _counted(files["moments"].get(bucket, []), ["time_s"], ["faces"])
            tracks = _counted(files["tracks"].get(bucket, []), ["track_id", "time_s"], [])
        except (pa.ArrowException, OSError) as error:
            yield f"bucket {bucket} can't be read, `fer-batch finalize {out}` writes it anew: {error}"
            continue
        said = {row["video_id"]: row for row in stored.filter(pa.array(buckets == bucket)).to_pylist()}
        yield from _wrong_counts(said, moments, tracks)


def _count(videos: pa.Table, video_id: str) -> int:
    return int(pc.sum(pc.equal(videos.column("video_id"), video_id)).as_py() or 0)


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
    table = pa.concat_tables(pq.ParquetFile(path).read(columns=columns) for path in paths)
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
    for path in live_files(folder, table):
        files.setdefault(int(path.parent.name.removeprefix("bucket=")), []).append(path)
    return files


def _buckets(videos: pa.Table, buckets: int) -> np.ndarray:
    """The bucket of each video, `(n,) int64`."""
    return np.array([bucket_of(v, buckets) for v in videos.column("video_id").to_pylist()], np.int64)


def _by_bucket(
    out: Path, videos: pa.Table, buckets: int, touched: list[int]
) -> Iterator[tuple[int, pa.Table, pa.Table]]:
    """Each of these buckets, with its videos and their planned segments; the plan is read for many at a
    time.
    """
    numbers = _buckets(videos, buckets)
    sizes = np.bincount(numbers, minlength=buckets)
    parts = (np.cumsum(sizes[touched]) // VIDEOS_AT_ONCE).tolist()
    for _, group in itertools.groupby(zip(touched, parts, strict=True), key=lambda pair: pair[1]):
        of = [bucket for bucket, _ in group]
        mine = videos.filter(pa.array(np.isin(numbers, of)))
        segments = pa.concat_tables([PLAN.empty_table(), *read_segments(out, mine)])
        place = pc.index_in(segments.column("video_id"), mine.column("video_id").combine_chunks())
        members = _buckets(mine, buckets)
        owners = members[place.to_numpy()] if len(segments) else np.zeros(0, np.int64)
        for bucket in of:
            yield (
                bucket,
                mine.filter(pa.array(members == bucket)),
                segments.filter(pa.array(owners == bucket)),
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
    results = read_results(out / "results", plan).combine_chunks()  # of which there may be thousands
    results = results.sort_by([("video_id", "ascending"), ("index", "ascending")])
    owners = results.column("video_id").to_numpy()
    parts: dict[str, list[pa.Table]] = {name: [schemas[name].empty_table()] for name in ("moments", "tracks")}
    rows = []
    for video in videos.sort_by("video_id").to_pylist():
        first, end = (int(np.searchsorted(owners, video["video_id"], side)) for side in ("left", "right"))
        segments = results.slice(first, end - first)
        timeline = stitch(segments, classes)
        model_id = segments.column("model_id")[0].as_py() if segments.num_rows else None
        same = {"video_id": video["video_id"], "uri": video["uri"], "model_id": model_id, "bucket": bucket}
        for name, table in (("moments", timeline.moments), ("tracks", timeline.tracks)):
            schema = parts[name][0].schema
            columns = [
                table.column(f.name)
                if f.name in table.column_names
                else pa.repeat(pa.scalar(same[f.name], f.type), len(table))
                for f in schema
            ]
            parts[name].append(pa.table(columns, schema=schema))
        rows.append(
            {
                **{k: video[k] for k in VIDEOS.names if k in video},
                **own_values(video["extra"], own),
                **_outcome(video, segments, timeline.moments),
            }
        )
        rows[-1] |= {"tracks": timeline.track_count, "bucket": bucket}
    return {
        "videos": pa.Table.from_pylist(rows, schema=schemas["videos"]),
        **{name: pa.concat_tables(tables) for name, tables in parts.items()},
    }


def _outcome(video: dict[str, Any], segments: pa.Table, moments: pa.Table) -> dict[str, Any]:
    """How a video ended, from how its probe and its segments did."""
    faces = moments.column("faces").to_numpy()
    status, error = video["status"], video["error"]
    if status == "ok":
        states = set(segments.column("status").to_pylist())
        errors = [e for e in segments.sort_by("index").column("error").to_pylist() if e]
        error = "; ".join(dict.fromkeys(errors)) or None
        if states <= {"failed"} or states == {"no_video"}:
            status = states.pop() if states else "failed"
        elif states != {"ok"}:
            status = "partial"
        else:
            status = "ok" if faces.any() else "no_faces"
    opened: dict[str, Any] = {}
    if video["fps"] is None:  # not asked before: what was told is of less worth
        for name in OPENED:
            seen = (value for value in segments.column(name).to_pylist() if value is not None)
            opened[name] = next(seen, video[name])
    return {
        **opened,
        "status": status,
        "error": error,
        "read_s": max(segments.column("read_s").to_pylist(), default=0.0),
        "moments": len(faces),
        "moments_with_face": int((faces > 0).sum()),
        "analyze_s": sum(
            sum(segments.column(name).to_pylist())
            for name in ("decode_s", "detect_s", "crop_s", "recognize_s")
        ),
    }
