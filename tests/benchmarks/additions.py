"""Measure a nightly addition to a run: its cost must not grow with the number of buckets that exist.

    python -m tests.benchmarks.additions 100 1000 5000

Each bucket holds `--videos` videos of 10 seconds, so that many buckets fit on a disk. The results are
invented. The addition fills two new buckets; only its `finalize` is measured, in its own process.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fer_batch.inputs.segments import plan_segments, split_into_bundles
from fer_batch.model.weights import load_checkpoint
from fer_batch.run.finalize import finalize
from fer_batch.run.plan import add_planning_round
from fer_batch.run.record import create_run
from fer_batch.schema import PROBED_SCHEMA, conform_table
from fer_batch.storage.folder import open_folder
from tests.benchmarks.scale import CONFIG, WORKERS, answers_to, measured

LENGTH_S = 10.0
ADDED_BUCKETS = 2


def add_videos(out: Path, first: int, count: int) -> None:
    """Plan videos and write their results."""
    card = load_checkpoint(None)[1]
    videos = pa.table(
        {
            "video_id": [f"{number:016x}" for number in range(first, first + count)],
            "uri": [f"/archive/talks/{number:08d}.mp4" for number in range(first, first + count)],
            "version": ["1"] * count,
            "status": ["ok"] * count,
            "duration_s": np.full(count, LENGTH_S),
        }
    )
    videos = conform_table(videos, PROBED_SCHEMA)
    segments = plan_segments(videos, CONFIG, card.half_window_s, card.model_id, WORKERS)
    add_planning_round(out, videos, segments)
    answers = answers_to(segments)
    rows = segments.append_column("row", pa.array(range(len(segments))))
    for bundle_id, planned in split_into_bundles(rows):
        content = answers.slice(planned.column("row")[0].as_py(), len(planned))
        pq.write_table(content, out / "results" / f"{bundle_id}.parquet")


def finish(out: Path) -> None:
    finalize(out)


def main() -> None:
    """Measure an addition to each number of buckets."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("buckets", type=int, nargs="+", metavar="N", help="numbers of buckets")
    parser.add_argument("--videos", type=int, default=20, help="in each bucket (default %(default)d)")
    options = parser.parse_args()
    for buckets in options.buckets:
        with tempfile.TemporaryDirectory() as place:
            out = Path(place, "run")
            (out / "results").mkdir(parents=True)
            create_run(open_folder(out), CONFIG, load_checkpoint(None)[1], bucket_s=options.videos * LENGTH_S)
            videos = buckets * options.videos
            add_videos(out, 0, videos)
            first = measured(finish, out)
            add_videos(out, videos, ADDED_BUCKETS * options.videos)
            addition = measured(finish, out)
            nothing = measured(finish, out)
        for name, (wall_s, cpu_s, memory_gb) in (
            ("first finalize", first),
            (f"{ADDED_BUCKETS} buckets added", addition),
            ("nothing added", nothing),
        ):
            print(f"{buckets} buckets, {name}: {wall_s:.2f} s, {cpu_s:.2f} CPU s, {memory_gb:.2f} GB")


if __name__ == "__main__":
    main()
