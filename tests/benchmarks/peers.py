"""Compare the CPU time with that of other recognizers on the same videos, in alternating runs.

python tests/benchmarks/peers.py --out DIR --python fer=PATH [--python deepface=PATH] [--python py-feat=PATH]

PATH is the Python of a virtual environment with the tool and PyAV, for example after `python -m venv ENV` and
`ENV/bin/pip install fer av 'setuptools<81'`. deepface and py-feat download weights when they start. A tool
that cannot start is named with its error. The times are CPU times of all threads for a sampled frame. The
start is measured apart and is not part of them. DIR/peers.json and DIR/peers.png have the medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from media import clip, enlarged

WORKER = Path(__file__).with_name("peer_worker.py")
OURS = "fer_batch"
SAMPLES_PER_S = 5.0
VIDEO_S = 20
PEERS = ("fer", "deepface", "py-feat")


def main() -> None:
    """Measure all tools, print a line for each video and tool, and write peers.json and peers.png."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--python", action="append", default=[], metavar="TOOL=PATH", help=", ".join(PEERS))
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    pythons = {OURS: sys.executable}
    for text in options.python:
        tool, _, path = text.partition("=")
        if tool not in PEERS or not Path(path).is_file():
            parser.error(f"--python must be TOOL=PATH with one of {', '.join(PEERS)} and a file, got {text}")
        pythons[tool] = path
    media = options.out / "media"
    videos = {
        "360p, one face": enlarged(media, clip("woman_pexels.mp4"), 360, VIDEO_S),
        "1080p, one face": enlarged(media, clip("woman_pexels.mp4"), 1080, VIDEO_S),
        "1080p, crowd": clip("crowd_1080p.mp4"),
    }
    report = measure_tools(pythons, videos, options.runs)
    (options.out / "peers.json").write_text(json.dumps(report, indent=1) + "\n")
    for tool, result in report.items():
        if "error" in result:
            print(f"{tool}: {result['error']}")
            continue
        print(f"{tool}: start {result['start_cpu_s']:.1f} s of CPU")
        for name, video in result["videos"].items():
            print(
                f"  {name}: {video['cpu_ms_a_sample']:.1f} ms of CPU a sample, "
                f"{video['faces_a_sample']:.2f} faces a sample, {video['over_ours']:.1f} times ours"
            )
    plot_tools(report, options.out / "peers.png")


def measure_tools(pythons: Mapping[str, str], videos: Mapping[str, Path], runs: int) -> dict[str, Any]:
    """Run all tools in turn, `runs` times, and return the medians of each, or its error."""
    measured: dict[str, list[dict[str, Any]]] = {tool: [] for tool in pythons}
    errors: dict[str, str] = {}
    for _ in range(runs):
        for tool, python in pythons.items():
            if tool in errors:
                continue
            command = [python, str(WORKER), tool, str(SAMPLES_PER_S), *map(str, videos.values())]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                errors[tool] = (done.stderr.strip().splitlines() or ["no message"])[-1]
            else:
                measured[tool].append(json.loads(done.stdout.splitlines()[-1]))
    ours: list[float] = []
    report: dict[str, Any] = {}
    for tool, results in measured.items():
        if tool in errors:
            report[tool] = {"error": f"cannot run: {errors[tool]}"}
            continue
        by_video = {}
        for number, name in enumerate(videos):
            parts = [result["videos"][number] for result in results]
            samples = parts[0]["samples"]
            cpu_ms = 1000 * statistics.median(part["cpu_s"] for part in parts) / samples
            if tool == OURS:
                ours.append(cpu_ms)
            by_video[name] = {
                "cpu_ms_a_sample": cpu_ms,
                "samples": samples,
                "faces_a_sample": parts[0]["faces"] / samples,
                "over_ours": cpu_ms / ours[number],
            }
        start_cpu_s = statistics.median(result["start_cpu_s"] for result in results)
        report[tool] = {"start_cpu_s": start_cpu_s, "runs": runs, "videos": by_video}
    return report


def plot_tools(report: Mapping[str, Any], path: Path) -> None:
    """Plot the CPU time of each tool for a sampled frame, on a logarithmic axis: left is better."""
    import matplotlib.pyplot as plt

    tools = [tool for tool, result in report.items() if "videos" in result]
    names = list(report[OURS]["videos"])
    figure, axes = plt.subplots(figsize=(8, 1 + 0.3 * len(tools) * len(names)), layout="constrained")
    height = 0.8 / len(tools)
    for place, tool in enumerate(tools):
        times_ms = [report[tool]["videos"][name]["cpu_ms_a_sample"] for name in names]
        heights = [number + place * height for number in range(len(names))]
        bars = axes.barh(heights, times_ms, height, label=tool)
        axes.bar_label(bars, fmt=" %.0f ms", fontsize=8)
    axes.set_yticks([number + (len(tools) - 1) * height / 2 for number in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("CPU milliseconds for a sampled frame, decoding included")
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
