"""Measure the speed and compare it with alternatives: interleaved runs, medians.

python tests/benchmarks/speed.py --out DIR [ROW...] [--runs 5] [--all] [--videos FOLDER]

Without names it measures the rows that take a few minutes; --all measures every row (one or two hours, 4 GB
of disk). DIR/media gets the videos, made of ../shared/media/clean or of the packaged sample. DIR/speed.json
keeps the latest result of each row, and DIR/speed.png shows all.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from media import CLEAN, clip
from speed_ray import measure_actor, measure_nodes, measure_short_clips, measure_start, measure_workers
from speed_stages import (
    Measurement,
    Setup,
    measure_360p,
    measure_bytes_read,
    measure_crowd,
    measure_guard,
    measure_memory,
    measure_over_bare,
    measure_recall,
)
from speed_tables import measure_overlay, measure_queries, measure_shares


@dataclass(frozen=True)
class Row:
    """A row of the table: the work, its measurement, the lowest acceptable value, and the goal."""

    work: str
    measure: Callable[[Setup], Measurement]
    floor: float
    goal: float
    unit: str = "×"
    long: bool = False
    """Whether the row is measured only by name or with --all."""


ONE_FACE = partial(measure_over_bare, name="woman_pexels.mp4")
TWO_FACES = partial(measure_over_bare, name="heads_female-and-male.mp4")
ROWS = {
    "1080p": Row("1080p25, one face: CPU over bare decoding", partial(ONE_FACE, height=1080), 2.0, 1.3),
    "1080p-two": Row("1080p25, two faces: CPU over bare decoding", partial(TWO_FACES, height=1080), 2.0, 1.3),
    "720p": Row("720p25, one face: CPU over bare decoding", partial(ONE_FACE, height=720), 3.0, 1.7),
    "fast": Row(
        "1080p with B-frames, --fast: CPU over bare decoding",
        partial(ONE_FACE, height=1080, preset="medium"),
        1.3,
        0.9,
    ),
    "360p": Row("360p, one face: CPU a sampled frame", measure_360p, 25, 12, "ms"),
    "crowd": Row("crowd, 1080p: faster than plain MTCNN", measure_crowd, 4, 8),
    "recall": Row("recall against full MTCNN", measure_recall, 0.97, 1.0, "", long=True),
    "workers": Row("two workers against one, 40 clips", measure_workers, 1.7, 1.9, long=True),
    "nodes": Row("two nodes against one, 40 minutes", measure_nodes, 1.7, 1.9, long=True),
    "actor": Row("an actor of Ray against none: CPU", measure_actor, 1.15, 1.05, long=True),
    "guard": Row("a guarded process against none: CPU", measure_guard, 1.03, 1.0),
    "start": Row("start to first result on disk", measure_start, 30, 12, "s"),
    "memory": Row("peak memory, an hour of 1080p", measure_memory, 1.5, 1.0, "GB", long=True),
    "clips": Row("300 clips of 3 s against one long video", measure_short_clips, 0.7, 0.9, long=True),
    "bytes": Row("bytes read over a file's size, 1 GB", measure_bytes_read, 1.5, 1.15, long=True),
    "query": Row("emotion shares over 10 million rows", measure_shares, 1.0, 0.3, "s", long=True),
    "overlay": Row("overlay of 720p, two faces, over realtime", measure_overlay, 2.0, 5.0),
    "queries": Row("each query over 10 million rows", measure_queries, 2.0, 1.0, "s", long=True),
}


def main() -> None:
    """Measure rows, print a line for each, and write speed.json and speed.png."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--all", action="store_true", help="also the rows that take long")
    parser.add_argument(
        "--videos", type=Path, default=CLEAN if CLEAN.exists() else clip("").parent, help="for recall"
    )
    options = parser.parse_args()
    if unknown := set(options.rows) - ROWS.keys():
        parser.error(f"unknown rows {', '.join(unknown)}: choose from {', '.join(ROWS)}")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    setup = Setup(media=options.out / "media", videos=options.videos, runs=options.runs)
    report = options.out / "speed.json"
    results = json.loads(report.read_text()) if report.exists() else {}
    for name in options.rows or [name for name, row in ROWS.items() if options.all or not row.long]:
        row = ROWS[name]
        measured = row.measure(setup)
        about = {"work": row.work, "floor": row.floor, "goal": row.goal, "unit": row.unit}
        results[name] = about | measured
        goals = f"floor {row.floor:g}, goal {row.goal:g}"
        print(f"{name}: {measured['value']:.3g} {row.unit} ({goals})  {row.work}", flush=True)
        report.write_text(json.dumps(results, indent=1) + "\n")
        plot(results, options.out / "speed.png")


def plot(results: dict[str, Measurement], path: Path) -> None:
    """Plot value and goal of each row relative to its floor, on a logarithmic axis: right is better."""
    import matplotlib.pyplot as plt

    names = [name for name in ROWS if name in results]
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(names) + 1.5), layout="constrained")
    for height, name in enumerate(reversed(names)):
        row, value = ROWS[name], results[name]["value"]
        sign = 1 if row.goal > row.floor else -1
        ours, goal = (value / row.floor) ** sign, (row.goal / row.floor) ** sign
        axes.plot([goal], [height], "D", color="tab:gray", label="goal" if not height else None)
        color = "tab:red" if ours < 1 else "tab:orange" if ours < goal else "tab:green"
        axes.plot([1, ours], [height, height], "-", color=color)
        axes.plot([ours], [height], "o", color=color)
        axes.annotate(f" {value:.3g} {row.unit}", (ours, height + 0.2), fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    labels = [
        f"{ROWS[n].work} ({ROWS[n].floor:g} → {ROWS[n].goal:g} {ROWS[n].unit})" for n in reversed(names)
    ]
    axes.set_yticks(range(len(names)), labels, fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("times better than the floor; diamonds are the goals")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
