"""`bench`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fer_batch.cli.analyze import add_config_options, config_of
from fer_batch.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from fer_batch.pipeline.bench import VideoBenchmark

EXAMPLES = """\
examples:
  fer-batch bench talk.mp4
  fer-batch bench talks/ --fps 10 --runs 1 --json speed.json

Each file is decoded bare (FFmpeg's libraries, one thread, the frames thrown away) and analyzed, in turn, RUNS
times; shown are the medians. All in one process on one core, without Ray."""


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "bench",
        help="what each stage costs on your videos, beside bare decoding",
        description="Measure what each stage costs on a video, beside bare decoding of the same file.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="files, folders, globs, manifests")
    parser.add_argument("--runs", type=int, default=5, help="medians of so many runs (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    add_config_options(parser)
    parser.set_defaults(run=run_bench, parser=parser)


def run_bench(options: argparse.Namespace) -> int:
    """Run the command `bench`."""
    config = config_of(options)
    if options.runs < 1:
        raise ConfigError(f"--runs is {options.runs}; allowed is a whole number from 1")
    if options.json and (options.json.is_dir() or not options.json.absolute().parent.is_dir()):
        raise OutputError(f"--json {options.json} can't be written: it is a folder, or in none that exists")

    from fer_batch.inputs.listing import list_videos
    from fer_batch.pipeline.bench import benchmark_videos
    from fer_batch.storage.atomic import write_json

    sources = list_videos(options.videos).sources
    count = f"{len(sources)} video{'s' if len(sources) != 1 else ''}"
    print(
        f"{count}, {options.runs} run{'s' if options.runs != 1 else ''} each …", file=sys.stderr, flush=True
    )
    console = Console(highlight=False)
    results = benchmark_videos(sources, config, options.runs, lambda result: _show(console, result))
    if options.json:
        try:
            write_json(options.json, [result.to_dict() for result in results])
        except OSError as error:
            raise OutputError(f"--json {options.json} can't be written: {error.strerror}") from error
    return 0


def _show(console: Console, result: "VideoBenchmark") -> None:
    """One block: what the video is, a row a stage, and the ratio to bare decoding."""
    console.print(Text(result.video, style="bold"), soft_wrap=True)
    console.print(
        f"{result.seconds:.1f} s, {result.width}×{result.height}, {result.fps:.3g} fps, "
        f"{result.codec}; {result.moments} moments, {result.faces} faces "
        f"({result.faces_per_moment:.1f} a moment)",
        soft_wrap=True,
    )
    table = Table()
    table.add_column("ms per second of video")
    for name in ("CPU", "of it", "wall"):
        table.add_column(name, justify="right")
    total = result.stages["total"]
    for name, cost in result.stages.items():
        if name == "total":
            table.add_section()
        share = f"{100 * cost.cpu_s / total.cpu_s:.0f} %"
        table.add_row(name, _ms(cost.cpu_s), share, _ms(cost.wall_s))
    table.add_section()
    bare, ratio = result.bare_decoding, result.ratio
    table.add_row("bare decoding", _ms(bare.cpu_s), "", _ms(bare.wall_s))
    table.add_row("total over bare", f"{ratio.cpu_s:.2f}×", "", f"{ratio.wall_s:.2f}×")
    console.print(table)
    peak = result.peak_memory_bytes / 1e6
    console.print(f"peak memory of this process so far, libraries included: {peak:.0f} MB\n")


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"
