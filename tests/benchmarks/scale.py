"""Measure the steps that grow with the number of inputs: list, plan, finalize, resume. Nothing is decoded.

    python -m tests.benchmarks.scale 10000 100000 1000000
    python -m tests.benchmarks.scale 10000000 --seconds 6 --steps "list and plan"

The inputs are empty files with a length of `--seconds` in a manifest, and the results are invented. All other
work is that of `analyze`. Each step runs in its own process. The table has wall time, CPU time and peak
memory.
"""

import argparse
import hashlib
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.segments import split_into_bundles
from fer_batch.model.weights import load_checkpoint
from fer_batch.pipeline.analyze import extend_plan, pending_segments
from fer_batch.pipeline.guard import probe_guarded
from fer_batch.pipeline.settings import RunSettings
from fer_batch.run.finalize import finalize
from fer_batch.run.plan import read_planned_segments, read_planned_videos
from fer_batch.run.results import list_done_bundles
from fer_batch.run.verify import verify_run
from fer_batch.schema import EMOTIONS, FACE_TYPE, MOMENT_TYPE, PROBED_SCHEMA, RESULTS_SCHEMA, conform_table
from fer_batch.storage.folder import open_folder

CONFIG = AnalyzeConfig()
WORKERS = 1600
"""Workers of a hundred nodes with 16 cores."""
LINKS = 50_000
"""Links to one file. An inode for each name would take longer than the listing."""


def path_of(number: int) -> Path:
    """Return paths with about 200 files per folder."""
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return Path("archive", f"{number // LINKS:03d}", digest[:2], f"{digest[2:14]}.mp4")


def make(folder: Path, videos: int, length_s: float) -> None:
    """Create the empty files and their manifest."""
    columns = {"path": pa.string(), "id": pa.string(), "duration_s": pa.float64(), "channel": pa.string()}
    with pq.ParquetWriter(folder / "list.parquet", pa.schema(list(columns.items()))) as manifest:
        for first in range(0, videos, LINKS):
            numbers = range(first, min(first + LINKS, videos))
            paths = [path_of(number) for number in numbers]
            for parent in {path.parent for path in paths}:
                (folder / parent).mkdir(parents=True, exist_ok=True)
            (folder / paths[0]).touch()
            for path in paths[1:]:
                os.link(folder / paths[0], folder / path)
            rows = [
                {"path": str(path), "id": f"v{n}", "duration_s": length_s, "channel": f"channel {n % 50}"}
                for n, path in zip(numbers, paths, strict=True)
            ]
            manifest.write_table(pa.Table.from_pylist(rows, schema=manifest.schema))


def list_inputs(folder: Path) -> None:
    listing = list_videos([str(folder / "list.parquet")])
    assert listing.sources.column("error").null_count == len(listing.sources)


def plan(folder: Path) -> None:
    """List and plan the inputs."""
    out = folder / "out"
    out.mkdir()
    plan_list(folder, is_new=True)


def plan_list(folder: Path, *, is_new: bool) -> None:
    out = folder / "out"
    extend_plan(
        open_folder(out),
        list_videos([str(folder / "list.parquet")]),
        PROBED_SCHEMA.empty_table(),
        settings(out),
        probe=probe_guarded,
        workers=WORKERS,
        is_new=is_new,
    )


def settings(out: Path) -> RunSettings:
    card = load_checkpoint(None)[1]
    return RunSettings(
        results=open_folder(out / "results"), config=CONFIG, card=card, checkpoint=None, limits=Limits()
    )


def answer(folder: Path) -> None:
    """Write the results of workers, with a face in every sampled frame. This is not timed."""
    out = folder / "out"
    (out / "results").mkdir()
    for segments in read_planned_segments(out, read_planned_videos(out)):
        answers = answers_to(segments)
        for bundle_id, planned in split_into_bundles(
            segments.append_column("row", pa.array(range(len(segments))))
        ):
            rows = answers.slice(planned.column("row")[0].as_py(), len(planned))
            pq.write_table(rows, out / "results" / f"{bundle_id}.parquet")  # workers also sync them


def answers_to(segments: pa.Table) -> pa.Table:
    """Invent the rows of `schema.RESULTS_SCHEMA` for planned segments."""
    starts_s, ends_s = (segments.column(f"core_{end}_s").to_numpy() for end in ("start", "end"))
    moments = np.maximum((ends_s - starts_s) * CONFIG.fps, 1).astype(np.int64)
    total = int(moments.sum())
    first = np.concatenate([[0], np.cumsum(moments)])
    number = np.arange(total) - np.repeat(first[:-1], moments)
    columns: dict[str, pa.Array] = {
        "time_s": pa.array(np.repeat(starts_s, moments) + number / CONFIG.fps),
        "frame_index": pa.array(5 * number),
        "faces": pa.repeat(pa.scalar(1, pa.int16()), total),
        "track": pa.repeat(pa.scalar(0, pa.int32()), total),
    }
    share = (np.arange(total) * 0.618 % 1).astype(np.float32)
    columns |= {field.name: pa.array(share) for field in FACE_TYPE if field.name not in columns}
    weights = np.stack([share, 1 - share, *[np.full_like(share, 0.2)] * (len(EMOTIONS) - 2)], axis=1) / 2
    probs = pa.ListArray.from_arrays(
        pa.array(np.arange(total + 1) * len(EMOTIONS), pa.int32()), pa.array(weights.ravel())
    )
    face = pa.StructArray.from_arrays(
        [*[columns[f.name] for f in FACE_TYPE], probs], [*FACE_TYPE.names, "probs"]
    )
    moment = pa.StructArray.from_arrays([columns[f.name] for f in MOMENT_TYPE], MOMENT_TYPE.names)
    offsets = pa.array(first, pa.int32())
    other: dict[str, Any] = {
        "status": pa.repeat("ok", len(segments)),
        "read_s": ends_s,
        "frames": 5 * moments,
        "moments": pa.ListArray.from_arrays(offsets, moment),
        "faces": pa.ListArray.from_arrays(offsets, face),
        "model_id": pa.repeat("m", len(segments)),
        **dict.fromkeys(("decode_s", "detect_s", "crop_s", "recognize_s"), np.ones(len(segments))),
    }
    return conform_table(
        pa.table({**{n: segments.column(n) for n in segments.column_names}, **other}), RESULTS_SCHEMA
    )


def finish(folder: Path) -> None:
    finalize(folder / "out")


def resume(folder: Path) -> None:
    """Repeat the command of a finished run."""
    out = folder / "out"
    plan_list(folder, is_new=False)
    assert not list(pending_segments(open_folder(out), list_done_bundles(out / "results")))
    finalize(out)


def check(folder: Path) -> None:
    assert verify_run(folder / "out") == []


STEPS: dict[str, Callable[[Path], None]] = {
    "list": list_inputs,
    "list and plan": plan,
    "(answer)": answer,
    "finalize": finish,
    "resume": resume,
    "verify": check,
}


def measured(step: Callable[[Path], None], folder: Path) -> tuple[float, float, float]:
    """Return wall seconds, CPU seconds and peak memory in GB of a step in its own process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measured, args=(step, folder, theirs))
    process.start()
    theirs.close()
    answer: tuple[float, float, float] = ours.recv()
    process.join()
    return answer


def _measured(step: Callable[[Path], None], folder: Path, tell: Connection) -> None:
    began, cpu_began_s = time.monotonic(), time.process_time()
    step(folder)
    memory_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    tell.send((time.monotonic() - began, time.process_time() - cpu_began_s, memory_gb))


def main() -> None:
    """Measure each number of inputs and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("inputs", type=int, nargs="+", metavar="N", help="numbers of inputs")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each video (default %(default)g)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="only these")
    options = parser.parse_args()
    console = Console(highlight=False)
    table = Table("inputs", *[f"{name}, s / CPU s / GB" for name in options.steps])
    for count in options.inputs:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            make(folder, count, options.seconds)
            cells = []
            for name in options.steps:
                seconds, cpu_s, memory_gb = measured(STEPS[name], folder)
                cells.append(f"{seconds:.1f} / {cpu_s:.1f} / {memory_gb:.2f}")
                console.print(f"{count} inputs, {name}: {cells[-1]}")
            table.add_row(f"{count:,}", *cells)
    console.print(table)


if __name__ == "__main__":
    main()
