"""The run's record on disk: `run.json`, and `plan/`, which grows by a round each time videos are added.

A round is two files: the segments, and then the probed videos, whose arrival makes the round count.
"""

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_batch.archive.manifest import KINDS, widest
from fer_batch.config import AnalyzeConfig, difference
from fer_batch.errors import ConfigError, OutputError
from fer_batch.faults import point
from fer_batch.files import check_path, remove_leftovers, sync, write_json, write_parquet
from fer_batch.model.weights import Card
from fer_batch.pipeline.snapshot import TABLES
from fer_batch.schema import PLAN, PROBED, SCHEMA_VERSION, conform

BUCKET_HOURS = 20
PARTS = ("run.json", "_SUCCESS.json", "snapshot.json", "plan", "results", *TABLES)
"""All that a run keeps in its folder, but for hidden files."""
REMOVED = ".removed.json"
"""What `run.json` is called as long as the run is being removed."""


def check_output(
    out: Path, config: AnalyzeConfig, card: Card, overwrite: bool = False
) -> dict[str, Any] | None:
    """The run that stands in `out`, None where there is none yet or it is to be overwritten.

    Raises ConfigError, with the difference, where it was made with another configuration or model;
    OutputError where the folder holds something else, or what `remove_run` has left when it was killed.
    """
    check_path(out)
    standing = next(folder for folder in (out, *out.parents) if folder.exists())
    if not standing.is_dir():
        raise OutputError(f"{standing} is a file; --out needs a folder: new, empty, or of an earlier run")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise OutputError(f"{standing} may not be written to; name another --out")
    half_removed = (out / REMOVED).exists()
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
    # What a run doesn't name was not there to be chosen yet: no face was mirrored then.
    changed = difference({"flip": False} | run["settings"], _settings(config, card))
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
        os.replace(out / "run.json", out / REMOVED)
        sync(out)
    if not (out / REMOVED).exists():
        return
    point("overwrite.begun")
    try:
        for part in map(out.joinpath, PARTS):
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)
            point("overwrite.removed")
        (out / REMOVED).unlink()
    except OSError as error:
        raise OutputError(f"the run in {out} can't be removed: {error}") from error


def clean(out: Path) -> None:
    """Remove the temporary files that killed processes have left in a run's folder."""
    for folder in (out, out / "plan", out / "results"):
        remove_leftovers(folder)


def read_run(out: Path) -> dict[str, Any]:
    """`run.json` of an output folder; raises OutputError where there is none that this version knows."""
    try:
        run = json.loads((out / "run.json").read_text())
        if not (isinstance(run, dict) and run.keys() >= {"schema_version", "settings", "classes", "buckets"}):
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


def start_run(out: Path, config: AnalyzeConfig, card: Card, planned_s: float) -> dict[str, Any]:
    """Write `run.json` of a new run. Its number of buckets is chosen here, once, from the seconds of video
    planned.
    """
    run = {
        "schema_version": SCHEMA_VERSION,
        "settings": _settings(config, card),
        "fingerprint": config.fingerprint(card.model_id),
        "classes": list(card.classes),
        "columns": {},
        "buckets": min(4096, max(1, round(planned_s / 3600 / BUCKET_HOURS))),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()}
        | {
            name: version(name)
            for name in ("fer-batch", "ray", "torch", "av", "facenet-pytorch", "deltalake")
        },
    }
    write_json(out / "run.json", run, "run.json")
    point("run.json")
    return run


def add_columns(out: Path, columns: Mapping[str, str]) -> None:
    """Let the run's `videos` have these columns of its owner's, and its plan those of this schema; `columns`
    says which of `manifest.KINDS` each is, and one that is there already becomes what holds both.
    """
    run = read_run(out)
    known = own_columns(run)
    wider = known | {name: widest(known.get(name, kind), kind) for name, kind in columns.items()}
    # The first schema had no snapshots: its number tells so until the tables are written anew.
    now = run | {"columns": wider, "schema_version": SCHEMA_VERSION if run["schema_version"] > 1 else 1}
    if now != run:
        write_json(out / "run.json", now, "run.json")


def own_columns(run: Mapping[str, Any]) -> dict[str, str]:
    """The owner's columns of a run, `run.json` as read, and which of `manifest.KINDS` each is."""
    return {str(name): kind for name, kind in run.get("columns", {}).items() if kind in KINDS}


def attempts(sources: pa.Table, known: pa.Table, failed: pa.Table) -> pa.Table:
    """Those of the listed files, rows of `schema.SOURCES`, that are to be planned, with `attempt`: which
    attempt at their version that is.

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
    return sources.append_column("attempt", number).filter(planned)


def described_anew(sources: pa.Table, known: pa.Table) -> pa.Table:
    """Those of the planned videos, rows of `schema.PROBED`, that a manifest now says something else of."""
    place = pc.index_in(known.column("video_id"), sources.column("video_id").combine_chunks())
    said = sources.column("extra").take(place)
    other = pc.and_(said.is_valid(), pc.not_equal(said, known.column("extra").fill_null("")))
    column = known.schema.get_field_index("extra")
    return known.set_column(column, PROBED.field("extra"), said).filter(other.fill_null(False))


def add_round(out: Path, videos: pa.Table, segments: pa.Table) -> None:
    """Add probed videos and their segments to the plan; a crash in between leaves the plan as it was."""
    (out / "_SUCCESS.json").unlink(missing_ok=True)
    folder = out / "plan"
    folder.mkdir(exist_ok=True)
    taken = [int(p.name[:6]) for p in folder.glob("*.videos.parquet")]
    name = f"{max(taken, default=0) + 1:06d}"
    write_parquet(folder / f"{name}.parquet", segments, step="plan")
    point("plan.segments")
    write_parquet(folder / f"{name}.videos.parquet", videos, step="plan")
    point("plan.videos")


def read_videos(out: Path) -> pa.Table:
    """All probed videos, rows of `schema.PROBED`, each as in the last round that has it; none lacks `round`.

    Raises OutputError where a round can't be read.
    """
    parts = [PROBED.empty_table()]
    for path in sorted((out / "plan").glob("*.videos.parquet")):
        part = _read_round(path, PROBED)
        for name, default in (("attempt", pa.scalar(0, pa.int32())), ("round", path.name[:6])):
            filled = part.column(name).fill_null(default)
            part = part.set_column(part.schema.get_field_index(name), PROBED.field(name), filled)
        parts.append(part)
    videos = pa.concat_tables(parts)
    later = videos.column("video_id").to_pandas().duplicated(keep="last").to_numpy()
    return videos.filter(pa.array(~later))


def read_segments(out: Path, videos: pa.Table) -> Iterator[pa.Table]:
    """The planned segments, rows of `schema.PLAN`, of the videos that `read_videos` has, round by round.

    Raises OutputError where a round can't be read.
    """
    for name in sorted(pc.unique(videos.column("round")).to_pylist()):
        segments = _read_round(out / "plan" / f"{name}.parquet", PLAN)
        mine = videos.filter(pc.equal(videos.column("round"), name)).column("video_id")
        yield segments.filter(pc.is_in(segments.column("video_id"), mine.combine_chunks()))


def _read_round(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        return conform(pq.read_table(path), schema)
    except (pa.ArrowException, OSError) as error:
        raise OutputError(
            f"the plan in {path.parent} can't be read: {error}; "
            "start anew with `fer-batch analyze --overwrite`"
        ) from error


def _settings(config: AnalyzeConfig, card: Card) -> dict[str, Any]:
    """What the answers depend on: a model is told by its weights, wherever its file lies."""
    return asdict(config) | {"checkpoint": card.model_id}
