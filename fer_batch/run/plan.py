"""The run's record on disk: `run.json`, and `plan/`, which grows by a round each time videos are added.

A round is two files: the segments, and then the probed videos, whose arrival makes the round count.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_batch.config import AnalyzeConfig, difference
from fer_batch.errors import ConfigError, OutputError
from fer_batch.faults import fault_point
from fer_batch.inputs.manifest import COLUMN_TYPES, merge_column_types
from fer_batch.inputs.segments import planned_durations_s
from fer_batch.run.snapshot import TABLES
from fer_batch.schema import PLAN_SCHEMA, PROBED_SCHEMA, SCHEMA_VERSION, conform_table
from fer_batch.storage.atomic import (
    check_path,
    content,
    is_in_store,
    remove_temporary_files,
    remove_tree,
    source,
    sync_to_disk,
    write_json,
    write_parquet,
)

if TYPE_CHECKING:
    from fer_batch.model.weights import Card

BUCKET_S = 20 * 3600.0
"""Seconds of video in a bucket of the tables, which is what `finalize` holds in memory and writes at a
time."""
MIN_BUCKET_SHARE_S = 10.0
"""What a video counts for there at least, so that a bucket has no more than some thousands."""
FILLED = b"bucket_s"
"""In the metadata of a round: seconds of video in all buckets since there are such."""
PARTS = ("run.json", "_SUCCESS.json", "snapshot.json", "people.parquet", "plan", "results", *TABLES)
"""All that a run keeps in its folder, but for hidden files."""
REMOVAL_MARKER = ".removed.json"
"""What `run.json` is called as long as the run is being removed."""


def load_matching_run(
    out: Path, config: AnalyzeConfig, card: "Card", overwrite: bool = False
) -> dict[str, Any] | None:
    """The run that stands in `out`, None where there is none yet or it is to be overwritten.

    Raises ConfigError, with the difference, where it was made with another configuration or model;
    OutputError where the folder holds something else, or what `remove_run` has left when it was killed.
    """
    check_path(out)
    standing = out if is_in_store(out) else next(f for f in (out, *out.parents) if f.exists())
    if standing.is_file():
        raise OutputError(f"{standing} is a file; --out needs a folder: new, empty, or of an earlier run")
    if not is_in_store(out) and not os.access(standing, os.W_OK | os.X_OK):
        raise OutputError(f"{standing} may not be written to; name another --out")
    half_removed = (out / REMOVAL_MARKER).exists()
    if overwrite and (half_removed or (out / "run.json").exists()):
        if not half_removed:
            read_run(out)
        foreign = sorted(p.name for p in out.iterdir() if p.name not in PARTS and p.name[0] != ".")
        if foreign:
            raise OutputError(
                f"{out} holds more than a run: {', '.join(foreign)}; move that away, or name another --out"
            )
        return None
    if half_removed:
        raise OutputError(
            f"{out} holds what is left of a run that was being overwritten: "
            "give --overwrite again, or name another --out"
        )
    if not (out / "run.json").exists():
        if out.exists() and any(not p.name.startswith(".") for p in out.iterdir()):
            raise OutputError(
                f"{out} holds something else than a run of fer-batch; name a new or empty folder"
            )
        return None
    run = read_run(out)
    # What a run doesn't name was not there to be chosen yet: no face was mirrored or left out then.
    changed = difference({"flip": False, "max_faces": None} | run["settings"], _settings(config, card))
    if changed:
        raise ConfigError(
            f"{out} holds a run of another configuration: {changed}. "
            "Give the same options to go on with it, name another --out, or start anew with --overwrite"
        )
    return run


def remove_run(out: Path) -> None:
    """Remove the run in `out`, if there is one, or what is left of it; the folder stays.

    From the first moment on there is no run any more, and until the last a file says that some of it is left.
    """
    if (out / "run.json").exists():
        if is_in_store(out):
            (out / REMOVAL_MARKER).write_bytes(content(out / "run.json"))
            (out / "run.json").unlink()
        else:
            os.replace(out / "run.json", out / REMOVAL_MARKER)
            sync_to_disk(out)
    if not (out / REMOVAL_MARKER).exists():
        return
    fault_point("overwrite.begun")
    try:
        for part in map(out.joinpath, PARTS):
            if part.is_dir():
                remove_tree(part)
            else:
                part.unlink(missing_ok=True)
            fault_point("overwrite.removed")
        (out / REMOVAL_MARKER).unlink()
    except OSError as error:
        raise OutputError(f"the run in {out} can't be removed: {error}") from error


def remove_leftovers(out: Path) -> None:
    """Remove the temporary files that killed processes have left in a run's folder."""
    for folder in (out, out / "plan", out / "results"):
        remove_temporary_files(folder)


def read_run(out: Path) -> dict[str, Any]:
    """`run.json` of an output folder; raises OutputError where there is none that this version knows."""
    try:
        run = json.loads(content(out / "run.json"))
        if not (isinstance(run, dict) and run.keys() >= {"schema_version", "settings", "classes"}):
            raise ValueError("it is not a run of fer-batch")
        if run["schema_version"] > SCHEMA_VERSION:
            raise OutputError(
                f"the run in {out} is of a newer fer-batch (schema {run['schema_version']}, this one knows "
                f"{SCHEMA_VERSION}): install that one, or name another folder"
            )
        return run
    except FileNotFoundError:
        raise OutputError(f"{out} holds no run of fer-batch (there is no {out / 'run.json'})") from None
    except (OSError, ValueError) as error:
        raise OutputError(f"{out / 'run.json'} can't be read: {error}") from error


def create_run(out: Path, config: AnalyzeConfig, card: "Card", bucket_s: float = BUCKET_S) -> dict[str, Any]:
    """Write `run.json` of a new run."""
    run = {
        "schema_version": SCHEMA_VERSION,
        "settings": _settings(config, card),
        "fingerprint": config.fingerprint(card.model_id),
        "classes": list(card.classes),
        "columns": {},
        "bucket_s": bucket_s,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()}
        | {
            name: version(name)
            for name in ("fer-batch", "ray", "torch", "av", "facenet-pytorch", "deltalake")
        },
    }
    write_json(out / "run.json", run, "run.json")
    fault_point("run.json")
    return run


def add_manifest_columns(out: Path, columns: Mapping[str, str]) -> None:
    """Let the run's `videos` have these columns of its owner's, and its plan those of this schema; `columns`
    says which of `manifest.COLUMN_TYPES` each is, and one that is there already becomes what holds both.
    """
    run = read_run(out)
    known = own_columns(run)
    wider = known | {name: merge_column_types(known.get(name, kind), kind) for name, kind in columns.items()}
    # The first schema had no snapshots: its number tells so until the tables are written anew.
    now = run | {"columns": wider, "schema_version": SCHEMA_VERSION if run["schema_version"] > 1 else 1}
    if now != run:
        write_json(out / "run.json", now, "run.json")


def own_columns(run: Mapping[str, Any]) -> dict[str, str]:
    """The owner's columns of a run, `run.json` as read, and which of `manifest.COLUMN_TYPES` each is."""
    return {str(name): kind for name, kind in run.get("columns", {}).items() if kind in COLUMN_TYPES}


def select_sources_to_plan(sources: pa.Table, known: pa.Table, failed: pa.Table) -> pa.Table:
    """Those of the listed files, rows of `schema.SOURCES_SCHEMA`, that are to be planned, with `attempt`:
    which attempt at their version that is, and the `bucket` that they are in already.

    `known` are the videos that are planned already, `failed` the `video_id`, `version` and `attempt` of those
    that are to be tried again. A file that is gone is not planned again: it keeps the answers that it gave
    while it was there.
    """

    def of_it(table: pa.Table, name: str) -> pa.ChunkedArray:
        place = pc.index_in(sources.column("video_id"), table.column("video_id").combine_chunks())
        return table.column(name).take(place)

    readable = sources.column("error").is_null()
    version, attempt = of_it(known, "version"), of_it(known, "attempt")
    changed = pc.and_(readable, pc.not_equal(version, sources.column("version")))
    same = pc.and_(pc.equal(of_it(failed, "version"), version), pc.equal(of_it(failed, "attempt"), attempt))
    retried = pc.and_not(pc.and_(readable, same), changed).fill_null(False)
    number = pc.if_else(retried, pc.add(attempt, 1), 0).fill_null(0).cast(pa.int32())
    planned = pc.or_(pc.or_(version.is_null(), changed.fill_null(False)), retried)
    sources = sources.append_column("bucket", of_it(known, "bucket"))
    return sources.append_column("attempt", number).filter(planned)


def changed_metadata(sources: pa.Table, known: pa.Table) -> pa.Table:
    """Those of the planned videos, rows of `schema.PROBED_SCHEMA`, that a manifest now says something else
    of.
    """
    place = pc.index_in(known.column("video_id"), sources.column("video_id").combine_chunks())
    said = sources.column("extra").take(place)
    other = pc.and_(said.is_valid(), pc.not_equal(said, known.column("extra").fill_null("")))
    column = known.schema.get_field_index("extra")
    return known.set_column(column, PROBED_SCHEMA.field("extra"), said).filter(other.fill_null(False))


def add_planning_round(out: Path, videos: pa.Table, segments: pa.Table) -> None:
    """Add probed videos and their segments to the plan; a crash in between leaves the plan as it was."""
    (out / "_SUCCESS.json").unlink(missing_ok=True)
    folder = out / "plan"
    folder.mkdir(exist_ok=True)
    earlier = sorted(folder.glob("*.videos.parquet"))
    videos, filled_s = _in_buckets(videos, read_run(out), earlier[-1] if earlier else None)
    name = f"{int(earlier[-1].name[:6]) + 1 if earlier else 1:06d}"
    write_parquet(folder / f"{name}.parquet", segments, step="plan")
    fault_point("plan.segments")
    write_parquet(folder / f"{name}.videos.parquet", videos, {FILLED.decode(): f"{filled_s:.3f}"}, "plan")
    fault_point("plan.videos")


def _in_buckets(videos: pa.Table, run: Mapping[str, Any], last: Path | None) -> tuple[pa.Table, float]:
    """Videos with a bucket each, and the seconds in all buckets then; `last` is the round before.

    A bucket is filled with what is planned one after the other: so the videos of a bundle are in one or two,
    and what is added later leaves the others as they are.
    """
    metadata = (pq.read_schema(source(last)).metadata or {}) if last else {}
    filled_s = float(metadata.get(FILLED, 0))
    new = videos.column("bucket").is_null().to_numpy()
    lengths_s = np.where(new, np.maximum(np.nan_to_num(planned_durations_s(videos)), MIN_BUCKET_SHARE_S), 0)
    begin_s = filled_s + np.cumsum(lengths_s) - lengths_s
    numbers = run.get("buckets", 0) + (begin_s // run.get("bucket_s", BUCKET_S)).astype(np.int32)
    buckets = pc.if_else(pa.array(new), pa.array(numbers, pa.int32()), videos.column("bucket"))
    place = videos.schema.get_field_index("bucket")
    return videos.set_column(place, PROBED_SCHEMA.field("bucket"), buckets), filled_s + float(lengths_s.sum())


def read_planned_videos(out: Path) -> pa.Table:
    """All probed videos, rows of `schema.PROBED_SCHEMA`, each as in the last round that has it; none lacks
    `round` or `bucket`.

    Raises OutputError where a round, or `run.json`, can't be read.
    """
    buckets = read_run(out).get("buckets", 0)
    parts = [PROBED_SCHEMA.empty_table()]
    for path in sorted((out / "plan").glob("*.videos.parquet")):
        part = _read_round(path, PROBED_SCHEMA)
        if part.column("bucket").null_count:
            part = _filled(part, "bucket", pa.array(_hashed(part.column("video_id"), buckets), pa.int32()))
        part = _filled(part, "attempt", pa.scalar(0, pa.int32()))
        parts.append(_filled(part, "round", pa.scalar(path.name[:6])))
    videos = pa.concat_tables(parts)
    later = videos.column("video_id").to_pandas().duplicated(keep="last").to_numpy()
    return videos.filter(pa.array(~later)) if later.any() else videos


def _filled(videos: pa.Table, name: str, values: pa.Array | pa.Scalar) -> pa.Table:
    """Without nulls in one column."""
    filled = pc.coalesce(videos.column(name), values)
    return videos.set_column(videos.schema.get_field_index(name), PROBED_SCHEMA.field(name), filled)


def _hashed(video_ids: pa.ChunkedArray, buckets: int) -> list[int]:
    """The buckets of videos that were planned by an earlier version: a hash of their ids."""
    digests = (hashlib.sha256(video_id.encode()).hexdigest() for video_id in video_ids.to_pylist())
    return [int(digest[:8], 16) % buckets for digest in digests]


def read_planned_segments(
    out: Path, videos: pa.Table, columns: list[str] | None = None
) -> Iterator[pa.Table]:
    """The planned segments, rows of `schema.PLAN_SCHEMA`, of the videos that `read_planned_videos` has,
    round by round; with `columns`, these alone.

    Raises OutputError where a round can't be read.
    """
    schema = (
        PLAN_SCHEMA
        if columns is None
        else pa.schema([f for f in PLAN_SCHEMA if f.name in ("video_id", *columns)])
    )
    rounds = videos.select(["round", "video_id"]).sort_by("round")
    counts = rounds.column("round").value_counts().to_pylist()
    first = 0
    for name, count in ((part["values"], part["counts"]) for part in counts):
        mine = rounds.column("video_id").slice(first, count).combine_chunks()
        first += count
        segments = _read_round(out / "plan" / f"{name}.parquet", schema)
        segments = segments.filter(pc.is_in(segments.column("video_id"), mine))
        yield segments if columns is None else segments.select(columns)


def _read_round(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        with pq.ParquetFile(source(path)) as file:
            known = [name for name in schema.names if name in file.schema_arrow.names]
            return conform_table(file.read(known), schema)
    except (pa.ArrowException, OSError) as error:
        raise OutputError(
            f"the plan in {path.parent} can't be read: {error}; "
            "start anew with `fer-batch analyze --overwrite`"
        ) from error


def _settings(config: AnalyzeConfig, card: "Card") -> dict[str, Any]:
    """What the answers depend on: a model is told by its weights, wherever its file lies."""
    return asdict(config) | {"checkpoint": card.model_id}
