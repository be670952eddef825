"""What grows with the number of inputs: listing, planning, finishing a run and going on with it; no decoding.

    python -m tests.benchmarks.scale 10000 100000 1000000

Inputs are empty files of a minute each, by a manifest that says so, and answers are made up; all else is what
`analyze` does. Each step runs in a process of its own; told are its seconds, and the most memory that it had.
"""

import argparse
import csv
import hashlib
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from fer_batch.archive.listing import list_videos
from fer_batch.archive.plan import bundles_of
from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.model.weights import load_checkpoint
from fer_batch.pipeline.analyze import _Meter, extend_plan, left_to_do
from fer_batch.pipeline.finalize import finalize
from fer_batch.pipeline.plan_store import read_run, read_segments, read_videos
from fer_batch.pipeline.verify import verify
from fer_batch.schema import EMOTIONS, PROBED, RESULTS

CONFIG = AnalyzeConfig()
WORKERS = 1600
"""Of a hundred nodes of 16 cores."""
LENGTH_S = 60.0
FACES = 3
"""In the answer to a segment, each at a moment of its own."""


def path_of(number: int, folder: Path) -> Path:
    """Some 250 files a folder, as archives have them."""
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return folder / f"{number // 65_536:03d}" / digest[:2] / f"{digest[2:14]}.mp4"


def make(folder: Path, videos: int) -> None:
    """The empty files, and the manifest of them."""
    with (folder / "list.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "id", "duration_s", "channel"])
        for number in range(videos):
            path = path_of(number, folder / "archive")
            try:
                path.touch()
            except FileNotFoundError:
                path.parent.mkdir(parents=True)
                path.touch()
            rows.writerow([path.relative_to(folder), f"v{number}", LENGTH_S, f"channel {number % 50}"])


def list_inputs(folder: Path) -> None:
    listing = list_videos([str(folder / "list.csv")])
    assert listing.sources.column("error").null_count == len(listing.sources)


def plan(folder: Path) -> None:
    """Listing included, as it can't be had without."""
    out = folder / "out"
    out.mkdir()
    card = load_checkpoint(None)[1]
    listing = list_videos([str(folder / "list.csv")])
    extend_plan(out, listing, None, PROBED.empty_table(), CONFIG, card, Limits(), WORKERS)


def answer(folder: Path) -> None:
    """What workers would write; no part of the driver's work."""
    out = folder / "out"
    (out / "results").mkdir()
    face = {"frame_index": 0, "track": 0, "probs": np.full(len(EMOTIONS), 1 / len(EMOTIONS), np.float32)}
    face |= {f"box_{side}": 0.5 for side in ("x0", "y0", "x1", "y1")}
    for segments in read_segments(out, read_videos(out)):
        for bundle_id, planned in bundles_of(segments):
            answers = []
            for row in planned.to_pylist():
                times = [row["core_start_s"] + n for n in range(FACES)]
                faces = [face | {"time_s": time_s} for time_s in times]
                moments = [{"time_s": time_s, "frame_index": 0, "faces": 1} for time_s in times]
                spent = dict.fromkeys(("decode_s", "detect_s", "crop_s", "recognize_s"), 1.0)
                seen = {"status": "ok", "read_s": row["core_end_s"], "frames": FACES, "model_id": "m"}
                seen |= {"faces": faces, "moments": moments}
                answers.append({k: v for k, v in row.items() if k in RESULTS.names} | seen | spent)
            rows = pa.Table.from_pylist(answers, schema=RESULTS)
            pq.write_table(rows, out / "results" / f"{bundle_id}.parquet")  # not synced, as workers' are


def finish(folder: Path) -> None:
    finalize(folder / "out")


def resume(folder: Path) -> None:
    """The same command again, when all is done."""
    out = folder / "out"
    listing = list_videos([str(folder / "list.csv")])
    card = load_checkpoint(None)[1]
    extend_plan(out, listing, read_run(out), PROBED.empty_table(), CONFIG, card, Limits(), WORKERS)
    assert not list(left_to_do(out, _Meter(out / "results", lambda progress: None)))
    finalize(out)


def check(folder: Path) -> None:
    assert verify(folder / "out") == []


STEPS: dict[str, Callable[[Path], None]] = {
    "list": list_inputs,
    "list and plan": plan,
    "(answer)": answer,
    "finalize": finish,
    "resume": resume,
    "verify": check,
}


def measured(step: Callable[[Path], None], folder: Path) -> tuple[float, float]:
    """Seconds, and the most memory in GB, of a step in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measured, args=(step, folder, theirs))
    process.start()
    theirs.close()
    answer: tuple[float, float] = ours.recv()
    process.join()
    return answer


def _measured(step: Callable[[Path], None], folder: Path, tell: Connection) -> None:
    began = time.monotonic()
    step(folder)
    memory_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    tell.send((time.monotonic() - began, memory_gb))


def main() -> None:
    """Measure each number of inputs, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("inputs", type=int, nargs="+", metavar="N", help="numbers of inputs")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="only these")
    options = parser.parse_args()
    console = Console(highlight=False)
    table = Table("inputs", *[f"{name}, s / GB" for name in options.steps])
    for count in options.inputs:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            make(folder, count)
            cells = []
            for name in options.steps:
                seconds, memory_gb = measured(STEPS[name], folder)
                cells.append(f"{seconds:.1f} / {memory_gb:.2f}")
                console.print(f"{count} inputs, {name}: {cells[-1]}")
            table.add_row(f"{count:,}", *cells)
    console.print(table)


if __name__ == "__main__":
    main()
