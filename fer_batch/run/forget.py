"""Leaving no trace of a video in a run's folder: not in answers, plan or tables, nor in what they were."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import write_deltalake

from fer_batch import faults
from fer_batch.errors import InputError, OutputError
from fer_batch.run.finalize import (
    KEEP_LOG_FILES,
    finalize,
    open_current_tables,
    remove_stale_files,
    table_schemas,
)
from fer_batch.run.people import drop_videos, read_people, write_people
from fer_batch.run.plan import own_columns, read_planned_segments, read_planned_videos, read_run
from fer_batch.run.results import list_done_bundles, write_bundle
from fer_batch.run.snapshot import TABLES, write_snapshot
from fer_batch.schema import PEOPLE_SCHEMA, RESULTS_SCHEMA, conform_table, pack_bundle
from fer_batch.storage.atomic import content, remove_tree, source, write_json, write_parquet
from fer_batch.storage.folder import open_folder
from fer_batch.storage.lease import hold_lease

FORGET_MARKER = ".forget.json"
"""Names the videos that are being forgotten, from the first step to the last."""
SHOWN = 10
"""Candidates that are named where several videos have one name."""


def forget_videos(out: Path, names: Sequence[str]) -> list[str]:
    """Remove all that `out` holds of these videos, each named by its id, uri or file name; their uris.

    Readers that have the tables open may fail. Killed at any step, it is completed by the next start of
    itself, of `analyze` or of the command `finalize`. Raises InputError, with nothing changed, where a name
    is no video's or several videos'; OutputError where `out` holds no run, is in use, or can't be read.
    """
    out = open_folder(out).absolute()
    read_run(out)
    with hold_lease(out, "forget"):
        videos = read_forget_marker(out)
        known = videos | _planned(out)
        videos |= {video_id: known[video_id] for video_id in [_find(name, known, out) for name in names]}
        if videos:
            write_json(out / FORGET_MARKER, {"videos": videos})
            faults.fault_point("forget.read_forget_marker")
            complete_forget(out)
    return sorted(videos.values())


def complete_forget(out: Path) -> None:
    """Do again all steps of a `forget_videos` that has begun, if one has; whoever calls it has the lease."""
    if not (out / FORGET_MARKER).exists():
        return
    ids = set(read_forget_marker(out))
    (out / "_SUCCESS.json").unlink(missing_ok=True)
    for path in [*out.glob(".*.tmp"), *(out / "plan").glob(".*.tmp"), *(out / "results").glob(".*.tmp")]:
        path.unlink(missing_ok=True)
    _strip_results(out / "results", ids)
    faults.fault_point("forget.results")
    _strip_plan(out / "plan", ids)
    faults.fault_point("forget.plan")
    if ids & set(read_people(out).column("video_id").to_pylist()):
        write_people(out, PEOPLE_SCHEMA.empty_table(), ids)
    _strip_tables(out, ids)
    faults.fault_point("forget.tables")
    try:
        done = list_done_bundles(out / "results")
        if all(
            done.issuperset(part.column("bundle_id").to_pylist())
            for part in read_planned_segments(out, read_planned_videos(out))
        ):
            finalize(out)
        faults.fault_point("forget.finalized")
    finally:  # whatever is wrong with the others, these are forgotten
        (out / FORGET_MARKER).unlink()


def read_forget_marker(out: Path) -> dict[str, str]:
    """Ids and uris of the videos that are being forgotten, or were when that was killed."""
    try:
        return dict(json.loads(content(out / FORGET_MARKER))["videos"])
    except FileNotFoundError:
        return {}


def _planned(out: Path) -> dict[str, str]:
    """Ids and uris of all videos in `plan/`, also in rounds that a crash left without their second file."""
    known: dict[str, str] = {}
    for path in (out / "plan").glob("*.parquet"):
        rows = pq.read_table(source(path), columns=["video_id", "uri"]).to_pydict()
        known |= zip(rows["video_id"], rows["uri"], strict=True)
    return known


def _find(name: str, known: dict[str, str], out: Path) -> str:
    """Id of the video that a name stands for, as in `Timeline.to_pandas`."""
    exact = [video_id for video_id, uri in known.items() if name in (video_id, uri)]
    found = exact or [video_id for video_id, uri in known.items() if uri.endswith(f"/{name}")]
    if not found:
        raise InputError(
            f'{out} has no video {name}; `fer-batch query {out} "SELECT uri FROM videos"` lists those it has'
        )
    if len(found) > 1:
        uris = sorted(known[video_id] for video_id in found)
        more = f" and {len(uris) - SHOWN} more" if len(uris) > SHOWN else ""
        raise InputError(
            f"{name} is {len(uris)} videos: {', '.join(uris[:SHOWN])}{more}; name one by its whole path"
        )
    return found[0]


def _strip_results(folder: Path, ids: set[str]) -> None:
    """Bundles keep their names, so that they stay done, but for those of which nothing is left."""
    for path in sorted(folder.glob("*.parquet")):
        try:
            with path.open("rb") as file:
                owners = set(pq.read_table(file, columns=["video_id"]).column("video_id").to_pylist())
                whole = pq.read_table(file, page_checksum_verification=True) if owners & ids else None
        except (pa.ArrowException, OSError) as error:
            if getattr(error, "errno", None) is not None:  # of the file system, not of what is in the file
                raise OutputError(f"{path} can't be read: {error}") from error
            path.unlink()  # damaged: nobody can say whose it is, and it is to do again anyway
            continue
        if owners <= ids:
            path.unlink()
        elif whole is not None:
            write_bundle(
                folder, pack_bundle(path.stem, conform_table(drop_videos(whole, ids), RESULTS_SCHEMA))
            )


def _strip_plan(folder: Path, ids: set[str]) -> None:
    for path in sorted(folder.glob("*.parquet")):
        rows = pq.read_table(source(path))
        rest = drop_videos(rows, ids)
        if rest.num_rows < rows.num_rows:
            write_parquet(path, rest)


def _strip_tables(out: Path, ids: set[str]) -> None:
    """Take the rows out of what readers open, and away all files of older states; the log names no values.

    Tables that can't be gone on with go as a whole: finalize writes them anew.
    """
    run = read_run(out)
    tables = open_current_tables(out, table_schemas(tuple(run["classes"]), own_columns(run)))
    if tables is None:
        (out / "snapshot.json").unlink(missing_ok=True)
        for name in TABLES:
            if (out / name).exists():
                remove_tree(out / name)
        return
    for name, table in tables.items():
        its = pc.field("video_id").isin(sorted(ids))
        buckets = table.to_pyarrow_dataset().to_table(columns=["bucket"], filter=its).column("bucket")
        for bucket in sorted(set(buckets.to_pylist())):
            rows = pa.table(table.to_pyarrow_table(filters=[("bucket", "=", bucket)]))
            rest = drop_videos(rows, ids)
            if rest.num_rows < rows.num_rows:
                write_deltalake(
                    table,
                    rest,
                    mode="overwrite",
                    predicate=f"bucket = {bucket}",
                    post_commithook_properties=KEEP_LOG_FILES,
                )
        faults.fault_point(f"forget.{name}")
    write_snapshot(out, tables)
    faults.fault_point("forget.snapshot")
    remove_stale_files(out)
