"""From results to the tables that people query. Reads no pixels, can run again at will.

Until `snapshot.json` is replaced, readers see the tables as they were; what a killed run has written beyond
it is undone at the next start.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, PostCommitHookProperties, write_deltalake
from deltalake.exceptions import DeltaError

from fer_batch.errors import OutputError
from fer_batch.faults import point
from fer_batch.files import sync, write_json
from fer_batch.pipeline.plan_store import clean, read_plan, read_run
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
from fer_batch.schema import MOMENTS, SCHEMA_VERSION, VIDEOS, conform, tracks_schema

PROPERTIES = {"delta.dataSkippingNumIndexedCols": "0"}
"""The log holds no statistics, which would be names of videos that stay when their rows have gone."""
KEEP_LOG = PostCommitHookProperties(cleanup_expired_logs=False)
"""While tables are written readers open the versions of before, however old they are."""
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
    videos, plan = read_plan(out)
    missing = set(plan.column("bundle_id").to_pylist()) - done_bundles(out / "results")
    if missing:
        left = sum(bundle in missing for bundle in plan.column("bundle_id").to_pylist())
        raise OutputError(
            f"{left} of {plan.num_rows} segments in {out} are not done: run `fer-batch analyze` on it again"
        )
    classes = tuple(run["classes"])
    schemas = table_schemas(classes)
    tables = standing_tables(out, schemas) or _new_tables(out, schemas, run)
    before = {name: (table.version(), set(table.file_uris())) for name, table in tables.items()}
    planned = {_key(video) for video in videos}
    settled = {_key(row) for row in _rows(tables["videos"], ["video_id", "version", "attempt"])}
    touched = {
        bucket_of(video_id, run["buckets"])
        for video_id, *_ in (planned | settled if anew else planned ^ settled)
    }
    if touched:
        (out / "_SUCCESS.json").unlink(missing_ok=True)
    for bucket in sorted(touched):
        members = [video for video in videos if bucket_of(video["video_id"], run["buckets"]) == bucket]
        rows = _bucket(out, members, plan, classes, bucket)
        for name in TABLES:
            write_deltalake(
                tables[name],
                rows[name].cast(schemas[name]),
                mode="overwrite",
                predicate=f"bucket = {bucket}",
                post_commithook_properties=KEEP_LOG,
            )
            point(f"finalize.{name}")
    wrong = list(_wrong_rows(out, tables, videos, run["buckets"], touched))
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
    videos = sorted(_rows(tables["videos"], VIDEOS.names), key=lambda video: str(video["uri"]))
    return RunSummary(
        videos=dict(Counter(video["status"] for video in videos)),
        trouble=[
            (v["uri"], v["status"], v["error"]) for v in videos if v["status"] not in ("ok", "no_faces")
        ],
        seconds=sum(v["read_s"] for v in videos),
        moments=sum(v["moments"] for v in videos),
        faces=sum(pq.read_metadata(path).num_rows for path in live_files(out / "tracks", tables["tracks"])),
        tracks=sum(v["tracks"] for v in videos),
    )


def unsuccessful(out: Path) -> set[tuple[str, str, int]]:
    """(video_id, version, attempt) of the videos that the tables have as failed or partial; none where there
    are no tables yet.
    """
    if read_snapshot(out) is None and not (out / "_SUCCESS.json").exists():
        return set()
    rows = _rows(open_tables(out)["videos"], ["video_id", "version", "attempt", "status"])
    return {_key(row) for row in rows if row["status"] in ("failed", "partial")}


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
    videos, plan = read_plan(out)
    wrong = []
    left = 0
    counts = Counter(plan.column("video_id").to_pylist())
    segments = dict(
        zip(plan.column("video_id").to_pylist(), plan.column("segments").to_pylist(), strict=True)
    )
    for video in videos:
        count, whole = counts[video["video_id"]], segments.get(video["video_id"], 1)
        if video["status"] == "ok" and count != whole:
            wrong.append(f"{video['uri']}: {count} of {whole} segments planned")
    for bundle_id in sorted(set(plan.column("bundle_id").to_pylist())):
        mine = plan.filter(pc.equal(plan.column("bundle_id"), bundle_id))
        if not (out / "results" / f"{bundle_id}.parquet").exists():
            left += mine.num_rows
            continue
        try:
            read_results(out / "results", mine, keep_damaged=True)
        except OutputError as error:
            wrong.append(str(error))
    if left:  # then the tables are those of an earlier plan
        said = f"{left} of {plan.num_rows} segments are not done: run the same `fer-batch analyze` again"
        return [said, *wrong]
    try:
        tables = open_tables(out)
    except OutputError as error:
        return [*wrong, str(error)]
    return [*wrong, *_wrong_rows(out, tables, videos, run["buckets"], range(run["buckets"]))]


def bucket_of(video_id: str, buckets: int) -> int:
    """The bucket that a video's rows are kept in."""
    return int(hashlib.sha256(video_id.encode()).hexdigest()[:8], 16) % buckets


def table_schemas(classes: tuple[str, ...]) -> dict[str, pa.Schema]:
    """The columns of each table, for a model of these classes."""
    return {"moments": MOMENTS, "tracks": tracks_schema(classes), "videos": VIDEOS}


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
    if any([f.name for f in seen[name].schema().fields] != schemas[name].names for name in TABLES):
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


def _rows(table: DeltaTable, columns: list[str]) -> list[dict[str, Any]]:
    """These columns of `videos`, also where it is of an older schema."""
    fields = pa.schema([VIDEOS.field(name) for name in columns])
    known = [name for name in columns if name in {f.name for f in table.schema().fields}]
    return conform(pa.table(table.to_pyarrow_table(columns=known)), fields).to_pylist()


def _key(video: dict[str, Any]) -> tuple[str, str, int]:
    return video["video_id"], video["version"], video["attempt"] or 0


def _wrong_rows(
    out: Path,
    tables: dict[str, DeltaTable],
    videos: list[dict[str, Any]],
    buckets: int,
    checked: Iterable[int],
) -> Iterator[str]:
    """What is wrong with the tables: all of `videos` against the plan, and with it the rows of the others in
    the buckets that are to be checked.
    """
    columns = ["video_id", "version", "attempt", "uri", "moments", "moments_with_face", "tracks", "bucket"]
    stored = _rows(tables["videos"], columns)
    planned = {video["video_id"]: video for video in videos}
    counts = Counter(row["video_id"] for row in stored)
    for video_id, video in planned.items():
        if counts[video_id] != 1:
            yield f"{video['uri']}: {counts[video_id]} rows in videos"
    behind = 0
    for row in stored:
        if row["video_id"] not in planned:
            yield f"{row['uri']}: a row in videos, though it was not planned"
        else:
            behind += _key(row) != _key(planned[row["video_id"]])
    if behind:
        yield f"{behind} videos are in the tables as they were before: run the same `fer-batch analyze` again"
    said: dict[int, dict[str, dict[str, Any]]] = {}
    for row in stored:
        said.setdefault(bucket_of(row["video_id"], buckets), {})[row["video_id"]] = row
    files = {name: _by_bucket(out / name, tables[name]) for name in ("moments", "tracks")}
    for bucket in sorted(checked):
        try:
            moments = _counted(files["moments"].get(bucket, []), ["time_s"], ["faces"])
            tracks = _counted(files["tracks"].get(bucket, []), ["track_id", "time_s"], [])
        except (pa.ArrowException, OSError) as error:
            yield f"bucket {bucket} can't be read, `fer-batch finalize {out}` writes it anew: {error}"
            continue
        yield from _wrong_counts(said.get(bucket, {}), moments, tracks)


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


def _by_bucket(folder: Path, table: DeltaTable) -> dict[int, list[Path]]:
    """The files of a table, by bucket."""
    files: dict[int, list[Path]] = {}
    for path in live_files(folder, table):
        files.setdefault(int(path.parent.name.removeprefix("bucket=")), []).append(path)
    return files


def _bucket(
    out: Path, videos: list[dict[str, Any]], plan: pa.Table, classes: tuple[str, ...], bucket: int
) -> dict[str, pa.Table]:
    """The rows of all three tables for the videos of one bucket."""
    ids = {video["video_id"] for video in videos}
    mine = plan.filter(pc.is_in(plan.column("video_id"), pa.array(sorted(ids), pa.string())))
    results = read_results(out / "results", mine)
    parts: dict[str, list[pa.Table]] = {
        "moments": [MOMENTS.empty_table()],
        "tracks": [tracks_schema(classes).empty_table()],
    }
    rows = []
    for video in sorted(videos, key=lambda v: v["video_id"]):
        segments = results.filter(pc.field("video_id") == video["video_id"])
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
                **_outcome(video, segments, timeline.moments),
            }
        )
        rows[-1] |= {"tracks": timeline.track_count, "bucket": bucket}
    return {
        "videos": pa.Table.from_pylist(rows, schema=VIDEOS),
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
        if states <= {"failed"}:
            status = "failed"
        elif states != {"ok"}:
            status = "partial"
        else:
            status = "ok" if faces.any() else "no_faces"
    return {
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
