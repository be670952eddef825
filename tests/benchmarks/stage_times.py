"""Where the time of one worker goes, beside bare decoding of the same files in the same run, interleaved.

python tests/benchmarks/stage_times.py VIDEO... [--runs 5] [--json FILE]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import av
import torch

from fer_batch.archive.listing import list_videos
from fer_batch.archive.plan import plan_segments
from fer_batch.archive.probe import probe_video
from fer_batch.config import AnalyzeConfig
from fer_batch.model.weights import load_checkpoint
from fer_batch.pipeline.stages import AnalyzeStage
from fer_batch.schema import RESULTS, from_bundle, to_bundle

STAGES = ("decode_s", "detect_s", "crop_s", "recognize_s")


def bare_decoding(path: str) -> float:
    """Seconds of CPU to decode a video with FFmpeg on one thread, the frames thrown away."""
    began = time.process_time()
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for _ in container.decode(video=0):
            pass
    return time.process_time() - began


def main() -> None:
    """Print a row a video: CPU seconds per second of video, by stage, and the ratio to bare decoding."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config, card = AnalyzeConfig(), load_checkpoint()[1]
    stage = AnalyzeStage(config, card.crop_scale, None)
    answers = []
    for source in list_videos(options.videos).sources:
        video = probe_video(source)
        plan = plan_segments([video], config, card.half_window_s, card.model_id, 1)
        bundle = to_bundle(source.video_id, plan)
        stage(bundle)
        runs: dict[str, list[float]] = {name: [] for name in (*STAGES, "cpu_s", "bare_s")}
        for _ in range(options.runs):
            runs["bare_s"].append(bare_decoding(source.uri))
            began = time.process_time()
            rows = from_bundle(stage(bundle), RESULTS)
            runs["cpu_s"].append(time.process_time() - began)
            for name in STAGES:
                runs[name].append(sum(rows.column(name).to_pylist()))
        length_s = max(rows.column("read_s").to_pylist())
        moments = sum(map(len, rows.column("moments").to_pylist()))
        median = {name: statistics.median(values) / length_s for name, values in runs.items()}
        answers.append(
            {"video": Path(source.uri).name, "seconds": length_s, "moments": moments, "runs": options.runs}
            | {f"{name}_per_s": value for name, value in median.items()}
            | {
                "times_realtime": 1 / median["cpu_s"],
                "over_bare_decoding": median["cpu_s"] / median["bare_s"],
            }
        )
        print(f"{answers[-1]['video']} ({length_s:.1f} s), CPU ms per second of video: ", end="")
        print(", ".join(f"{name[:-2]} {1000 * median[name]:.1f}" for name in (*STAGES, "bare_s")), end="; ")
        print(f"{1 / median['cpu_s']:.2f}× realtime, {median['cpu_s'] / median['bare_s']:.1f}× bare decoding")
    if options.json:
        options.json.write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    main()
