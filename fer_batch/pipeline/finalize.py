"""From results to the tables that people query. Reads no pixels, can run again at will."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake

from fer_batch.errors import OutputError
from fer_batch.files import write_json
from fer_batch.pipeline.plan_store import read_plan, read_run
from fer_batch.pipeline.results import done_bundles, read_results
from fer_batch.pipeline.stitch import stitch
from fer_batch.schema import MOMENTS, VIDEOS, tracks_schema


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

    `anew` writes every bucket, as is done where a table has gone. Raises OutputError where a planned
    segment is neither done nor failed, or `out` holds no run.
    """
    run = read_run(out)
    videos, plan = read_plan(out)
    missing = set(plan.column("bundle_id").to_pylist()) - done_bundles(out / "results")
    if missing:
        left = sum(bundle in missing for bundle in plan.column("bundle_id").to_pylist())
        raise OutputError(
            f"{left} of {plan.num_rows} segments in {out} are not done: run `fer-batch analyze` on it again"
        )
    classes = tuple(run["classes"])
    schemas = {"moments": MOMENTS, "tracks": tracks_schema(classes), "videos": VIDEOS}
    anew = anew or not all(DeltaTable.is_deltatable(str(out / name)) for name in schemas)
    tables = {
        name: DeltaTable.create(str(out / name), schema, mode="ignore", partition_by=["bucket"])
        for name, schema in schemas.items()
    }
    stored = pa.table(tables["videos"].to_pyarrow_table(columns=["video_id", "version"])).to_pylist()
    settled = {(row["video_id"], row["version"]) for row in stored}
    touched = {
        bucket_of(video["video_id"], run["buckets"])
        for video in videos
        if anew or (video["video_id"], video["version"]) not in settled
    }
    for bucket in sorted(touched):
        members = [video for video in videos if bucket_of(video["video_id"], run["buckets"]) == bucket]
        rows = _bucket(out, members, plan, classes, bucket)
        for name, schema in schemas.items():  # videos last: what is in it is in all three
            write_deltalake(
                tables[name], rows[name].cast(schema), mode="overwrite", predicate=f"bucket = {bucket}"
            )
    for table in tables.values():
        table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    summary = summarize(out)
    write_json(
        out / "_SUCCESS.json", {"videos": summary.videos, "moments": summary.moments, "faces": summary.faces}
    )
    return summary


def summarize(out: Path) -> RunSummary:
    """The totals of a finished run, from its tables."""
    videos = pa.table(DeltaTable(str(out / "videos")).to_pyarrow_table()).sort_by("uri").to_pylist()
    counts: dict[str, int] = {}
    for video in videos:
        counts[video["status"]] = counts.get(video["status"], 0) + 1
    return RunSummary(
        videos=counts,
        trouble=[
            (v["uri"], v["status"], v["error"]) for v in videos if v["status"] not in ("ok", "no_faces")
        ],
        seconds=sum(v["read_s"] for v in videos),
        moments=sum(v["moments"] for v in videos),
        faces=DeltaTable(str(out / "tracks")).to_pyarrow_dataset().count_rows(),
        tracks=sum(v["tracks"] for v in videos),
    )


def bucket_of(video_id: str, buckets: int) -> int:
    """The bucket that a video's rows are kept in."""
    return int(hashlib.sha256(video_id.encode()).hexdigest()[:8], 16) % buckets


def _bucket(
    out: Path, videos: list[dict[str, Any]], plan: pa.Table, classes: tuple[str, ...], bucket: int
) -> dict[str, pa.Table]:
    """The rows of all three tables for the videos of one bucket."""
    ids = {video["video_id"] for video in videos}
    mine = plan.filter(pc.is_in(plan.column("video_id"), pa.array(sorted(ids), pa.string())))
    results = read_results(out / "results", set(mine.column("bundle_id").to_pylist()), ids)
    parts: dict[str, list[pa.Table]] = {
        "moments": [MOMENTS.empty_table()],
        "tracks": [tracks_schema(classes).empty_table()],
    }
    rows = []
    for video in sorted(videos, key=lambda v: v["video_id"]):
        segments = results.filter(
            (pc.field("video_id") == video["video_id"]) & (pc.field("version") == video["version"])
        )
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
