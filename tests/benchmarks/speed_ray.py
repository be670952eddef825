"""Speed of whole runs on Ray: scaling, start, short clips, and the overhead of Ray itself."""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from media import clip, copies, enlarged, repeated
from speed_stages import CARD, CONFIG, Measurement, Setup, pack_video, plan_videos

from fer_batch.inputs.segments import split_into_bundles
from fer_batch.pipeline.analyze import analyze
from fer_batch.pipeline.stages import AnalyzeStage
from fer_batch.run.results import write_bundle
from fer_batch.runtime import ray_session
from fer_batch.schema import pack_bundle


def measure_workers(setup: Setup) -> Measurement:
    """Wall time of one worker relative to two, with their start; 40 clips."""
    folder = copies(setup.media, clip("woman_pexels.mp4"), 40)

    def run(workers: int) -> float:
        with ray_session(num_cpus=workers):
            return time_analysis([folder])[0]

    return compare_one_with_two(setup, run)


def measure_nodes(setup: Setup) -> Measurement:
    """Wall time of one node relative to two, with one CPU each; 40 clips of a minute."""
    folder = copies(setup.media, repeated(setup.media, clip("woman_pexels.mp4"), seconds=55), 40)

    def run(nodes: int) -> float:
        command = [sys.executable, str(Path(__file__).with_name("nodes.py")), str(nodes), str(folder)]
        return float(subprocess.run(command, capture_output=True, check=True).stdout.split()[-1])

    return compare_one_with_two(setup, run)


def compare_one_with_two(setup: Setup, run: Callable[[int], float]) -> Measurement:
    """Return the median seconds of `run(1)` relative to `run(2)`."""
    one_s, two_s = [], []
    for _ in range(setup.runs):
        one_s.append(run(1))
        two_s.append(run(2))
    ratio = statistics.median(one_s) / statistics.median(two_s)
    return {"value": ratio, "seconds": {"one": one_s, "two": two_s}}


def measure_actor(setup: Setup) -> Measurement:
    """CPU time of 10 minutes of video on one actor, with all of Ray, relative to the same stages here.

    The start of the actor is excluded: the time is the difference between 20 and 10 minutes of video.
    """
    video = clip("woman_pexels.mp4")
    videos = [repeated(setup.media / f"{n}", video, seconds=600) for n in range(2)]
    stage = AnalyzeStage(CONFIG, CARD.crop_scale, None)
    stage(pack_video(video, CONFIG))
    here_s, actor_s = [], []
    for _ in range(setup.runs):
        began = time.process_time()
        with tempfile.TemporaryDirectory() as results:
            for bundle_id, rows in split_into_bundles(plan_videos(videos[:1], CONFIG)):
                write_bundle(Path(results), stage(pack_bundle(bundle_id, rows)))
        here_s.append(time.process_time() - began)
        costs_s = []
        for inputs in (videos[:1], videos):
            with measure_tree_cpu() as spent_s, ray_session(num_cpus=1):
                time_analysis(inputs)
            costs_s.append(spent_s())
        actor_s.append(costs_s[1] - costs_s[0])
    return {
        "value": statistics.median(actor_s) / statistics.median(here_s),
        "cpu_s": {"actor": actor_s, "here": here_s},
    }


def measure_start(setup: Setup) -> Measurement:
    """Seconds from the command to the first result file, with warm files."""
    folder = copies(setup.media, clip("woman_pexels.mp4"), 40)
    seconds = []
    for _ in range(setup.runs):
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, "-m", "fer_batch.cli.main", "analyze", str(folder), "--out", out]
            began = time.monotonic()
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
                while not list(Path(out).glob("results/[!.]*.parquet")) and run.poll() is None:
                    time.sleep(0.05)
                seconds.append(time.monotonic() - began)
                run.terminate()
    return {"value": statistics.median(seconds), "seconds": seconds}


def measure_short_clips(setup: Setup) -> Measurement:
    """Speed of 300 clips of 3 s relative to one video of this length; two workers, Ray already running."""
    clips = copies(setup.media, enlarged(setup.media, clip("woman_pexels.mp4"), 360, 3), 300)
    long = repeated(setup.media, enlarged(setup.media, clip("woman_pexels.mp4"), 360, 20), seconds=900)
    rates: dict[str, list[float]] = {"clips": [], "long": []}
    with ray_session(num_cpus=2):
        for _ in range(setup.runs):
            for name, inputs in (("clips", clips), ("long", long)):
                wall_s, video_s = time_analysis([inputs])
                rates[name].append(video_s / wall_s)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {"value": medians["clips"] / medians["long"], "times_realtime": medians}


def time_analysis(inputs: list[Path]) -> tuple[float, float]:
    """Analyze on the connected Ray; return wall seconds and seconds of video."""
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        summary = analyze([str(path) for path in inputs], Path(out) / "run")
        return time.perf_counter() - began, summary.video_s


@contextmanager
def measure_tree_cpu() -> Iterator[Callable[[], float]]:
    """Measure the CPU seconds of this process and its descendants, sampled once a second."""
    spent_s: dict[int, float] = {}
    stop = threading.Event()

    def sample() -> None:
        stats = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # the process has ended
            stats[int(path.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
        for pid, (_, ticks) in stats.items():
            ancestor = pid
            while ancestor in stats and ancestor != os.getpid():
                ancestor = stats[ancestor][0]
            if ancestor == os.getpid():
                spent_s[pid] = ticks / os.sysconf("SC_CLK_TCK")

    def watch() -> None:
        while not stop.wait(1):
            sample()

    sample()
    before_s = sum(spent_s.values())
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: sum(spent_s.values()) - before_s
    finally:
        stop.set()
        thread.join()
