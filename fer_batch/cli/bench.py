"""Command `bench`."""

from typing import TYPE_CHECKING, Annotated

from fer_batch.cli.app import ANALYZE, add_command
from fer_batch.cli.arguments import Inputs, OutputFile
from fer_batch.cli.output import print_line, print_status, print_table, print_text
from fer_batch.config import AnalyzeConfig
from fer_batch.errors import OutputError
from fer_batch.fields import Range
from fer_batch.terminal import count

if TYPE_CHECKING:
    from fer_batch.pipeline.bench import VideoBenchmark


@add_command(ANALYZE)
def bench_command(
    videos: Inputs,
    /,
    *,
    runs: Annotated[int, Range(at_least=1)] = 5,
    output: OutputFile | None = None,
    config: AnalyzeConfig,
) -> None:
    """Measure the time of each stage on your videos.

    The command decodes each file alone (FFmpeg's libraries, one thread), then analyzes it, and prints the
    medians of several runs. All work is done in one process on one core, without Ray.

    Args:
        runs: Number of runs.
        output: JSON file for the numbers.

    Examples:
      fer-batch bench talk.mp4
      fer-batch bench talks/ --fps 10 --runs 1 -o speed.json
    """
    if output and (output.is_dir() or not output.absolute().parent.is_dir()):
        raise OutputError(f"cannot write --output {output}: it is a folder, or its folder does not exist")
    from fer_batch.inputs.listing import list_videos

    sources = list_videos(videos).sources
    from fer_batch.pipeline.bench import benchmark_videos
    from fer_batch.storage.atomic import write_json

    print_status(f"{count(len(sources), 'video')}, {count(runs, 'run')} each …")
    results = benchmark_videos(sources, config, runs, _print_benchmark)
    if output:
        try:
            write_json(output, [result.to_dict() for result in results])
        except OSError as error:
            raise OutputError(f"cannot write --output {output}: {error.strerror}") from error


def _print_benchmark(result: "VideoBenchmark") -> None:
    print_line(result.video, style="bold")
    print_line(
        f"{result.seconds:.1f} s, {result.width}×{result.height}, {result.fps:.3g} fps, {result.codec}; "
        f"{count(result.moments, 'sampled frame')}, {count(result.faces, 'face')} "
        f"({result.faces_per_moment:.1f} per frame)"
    )
    total = result.stages["total"]
    rows: list[list[str] | None] = []
    for name, cost in result.stages.items():
        if name == "total":
            rows.append(None)
        share = f"{100 * cost.cpu_s / total.cpu_s:.0f} %"
        rows.append([name, _format_ms(cost.cpu_s), share, _format_ms(cost.wall_s)])
    bare, ratio = result.bare_decoding, result.ratio
    rows += [
        None,
        ["decoding alone", _format_ms(bare.cpu_s), "", _format_ms(bare.wall_s)],
        ["total / decoding alone", f"{ratio.cpu_s:.2f}×", "", f"{ratio.wall_s:.2f}×"],
    ]
    print_table(("ms per second of video", "CPU", "share", "wall"), rows)
    print_text(f"peak memory of this process, with its libraries: {result.peak_memory_bytes / 1e6:.0f} MB\n")


def _format_ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"
