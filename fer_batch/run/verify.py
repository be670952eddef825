"""Whether a run is whole: every input has its row, nothing is lost or there twice, and none left over."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_batch.errors import OutputError
from fer_batch.inputs.segments import split_into_bundles
from fer_batch.run.finalize import check_tables, planned_keys, summarize_run
from fer_batch.run.forget import read_forget_marker
from fer_batch.run.plan import own_columns, read_planned_segments, read_planned_videos, read_run
from fer_batch.run.results import list_done_bundles, read_bundle, select_results
from fer_batch.run.snapshot import open_tables
from fer_batch.storage.atomic import content, source
from fer_batch.storage.lease import describe_lease_holder


def verify_run(out: Path) -> list[str]:
    """What does not add up in `out`, a line each; none where all does. Writes nothing.

    Where somebody writes there at the moment, the first line says so: what is missing may be on its way.

    Raises OutputError where `out` holds no run.
    """
    read_run(out)
    found = [
        f"{uri} is half forgotten: `fer-batch finalize {out}` completes that"
        for uri in sorted(read_forget_marker(out).values())
    ]
    try:
        found += find_differences(out)
        found = found or list(_wrong_success(out))
    except OutputError as error:
        found.append(str(error))
    writing = describe_lease_holder(out) if found else None
    if writing:
        found.insert(0, f"the run is going on: {writing}; verify it again when it has ended")
    return [" ".join(line.split()) for line in found]


def find_differences(out: Path) -> list[str]:
    """What does not add up in a run, a line each, none where all does: between what was planned, the answers,
    and the tables as readers see them.

    Raises OutputError where `out` holds no run or its plan can't be read.
    """
    run = read_run(out)
    videos = read_planned_videos(out)
    known = videos.column("video_id").combine_chunks()
    results = out / "results"
    wrong = []
    left = planned = 0
    done = list_done_bundles(results)
    strange = set(done)
    unplanned = dict(
        videos.filter(pc.equal(videos.column("status"), "ok")).select(["video_id", "uri"]).to_pandas().values
    )
    for segments in read_planned_segments(out, videos, ["segment_id", "bundle_id", "video_id", "segments"]):
        planned += len(segments)
        wrong += list(_wrong_plan(unplanned, segments))
        for bundle_id, mine in split_into_bundles(segments):
            if bundle_id not in done:
                left += len(mine)
                continue
            strange.discard(bundle_id)
            path = results / f"{bundle_id}.parquet"
            try:
                answers = read_bundle(path, keep_damaged=True)
                wrong += _strangers(path, answers, known)
                select_results(mine, answers, results)
            except OutputError as error:
                wrong.append(str(error))
    for name in sorted(strange):
        path = results / f"{name}.parquet"
        try:
            wrong += _strangers(path, pq.read_table(source(path), columns=["video_id"]), known)
        except (pa.ArrowException, OSError) as error:
            wrong.append(f"{path} can't be read ({error}): remove it")
    wrong += [f"{uri}: 0 of its segments planned" for uri in unplanned.values()]
    if left:  # then the tables are those of an earlier plan
        return [f"{left} of {planned} segments are not done: run the same `fer-batch analyze` again", *wrong]
    try:
        tables = open_tables(out)
    except OutputError as error:
        return [*wrong, str(error)]
    columns = own_columns(run)
    return [*wrong, *check_tables(out, tables, planned_keys(videos, columns), columns)]


def _wrong_plan(unplanned: dict[str, str], segments: pa.Table) -> Iterator[str]:
    """Videos of a round whose segments are not all there; takes those that it has out of `unplanned`."""
    counts = segments.group_by("video_id").aggregate([([], "count_all"), ("segments", "max")])
    for row in counts.to_pylist():
        uri = unplanned.pop(row["video_id"], row["video_id"])
        if row["count_all"] != row["segments_max"]:
            yield f"{uri}: {row['count_all']} of {row['segments_max']} segments planned"


def _strangers(path: Path, answers: pa.Table, planned: pa.Array) -> Iterator[str]:
    """What is in a bundle's file of videos that no plan has."""
    owners = answers.column("video_id")
    names = pc.unique(owners.filter(pc.invert(pc.is_in(owners, planned)))).to_pylist()
    yield from (f"{path} holds {name}, which is not planned" for name in sorted(names))


def _wrong_success(out: Path) -> Iterator[str]:
    """Where `_SUCCESS.json` is not what the tables say."""
    path = out / "_SUCCESS.json"
    try:
        said = json.loads(content(path))
    except FileNotFoundError:
        yield f"there is no {path}: run the same `fer-batch analyze` again"
        return
    except (OSError, ValueError) as error:
        yield f"{path} can't be read: {error}"
        return
    summary = summarize_run(out)
    for name, count in (("videos", summary.videos), ("moments", summary.moments), ("faces", summary.faces)):
        if said.get(name) != count:
            yield f"{path} says {name}: {said.get(name)}, the tables {count}"
