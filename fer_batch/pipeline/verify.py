"""Whether a run is whole: every input has its row, nothing is lost or there twice, and none left over."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fer_batch.errors import OutputError
from fer_batch.pipeline.finalize import differences, summarize
from fer_batch.pipeline.forget import begun
from fer_batch.pipeline.lease import holder
from fer_batch.pipeline.plan_store import read_run, read_segments, read_videos


def verify(out: Path) -> list[str]:
    """What does not add up in `out`, a line each; none where all does. Writes nothing.

    Where somebody writes there at the moment, the first line says so: what is missing may be on its way.

    Raises OutputError where `out` holds no run.
    """
    read_run(out)
    found = [
        f"{uri} is half forgotten: `fer-batch finalize {out}` completes that"
        for uri in sorted(begun(out).values())
    ]
    try:
        found += [*differences(out), *_strangers(out)]
        found = found or list(_wrong_success(out))
    except OutputError as error:
        found.append(str(error))
    writing = holder(out) if found else None
    if writing:
        found.insert(0, f"the run is going on: {writing}; verify it again when it has ended")
    return [" ".join(line.split()) for line in found]


def _strangers(out: Path) -> Iterator[str]:
    """Results of videos that no plan has, and results beside the plan that can't be read."""
    videos = read_videos(out)
    planned = set(videos.column("video_id").to_pylist())
    bundles = {name for part in read_segments(out, videos) for name in part.column("bundle_id").to_pylist()}
    for path in sorted((out / "results").glob("*.parquet")):
        try:
            owners = set(pq.read_table(path, columns=["video_id"]).column("video_id").to_pylist())
        except (pa.ArrowException, OSError) as error:
            if path.stem not in bundles:
                yield f"{path} can't be read ({error}): remove it"
            continue
        yield from (f"{path} holds {name}, which is not planned" for name in sorted(owners - planned))


def _wrong_success(out: Path) -> Iterator[str]:
    """Where `_SUCCESS.json` is not what the tables say."""
    path = out / "_SUCCESS.json"
    try:
        said = json.loads(path.read_text())
    except FileNotFoundError:
        yield f"there is no {path}: run the same `fer-batch analyze` again"
        return
    except (OSError, ValueError) as error:
        yield f"{path} can't be read: {error}"
        return
    summary = summarize(out)
    for name, count in (("videos", summary.videos), ("moments", summary.moments), ("faces", summary.faces)):
        if said.get(name) != count:
            yield f"{path} says {name}: {said.get(name)}, the tables {count}"
