"""`analyze`, `finalize` and `demo`."""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.schema import VIDEO_STATUSES
from fer_batch.storage.folder import open_folder

if TYPE_CHECKING:
    from fer_batch.inputs.listing import Listing
    from fer_batch.pipeline.progress import Progress
    from fer_batch.run.summary import RunSummary
    from fer_batch.storage.folder import OutputFolder

SAMPLE = Path(__file__).parent.parent / "sample" / "two_faces.mp4"
DEFAULTS = AnalyzeConfig()

ANALYZE_EXAMPLES = """\
examples:
  fer-batch analyze talks/ --out results              every video in a folder and below
  fer-batch analyze 'talks/*.mkv' more.mp4 --out results
  fer-batch analyze videos.csv --out results          a manifest: .txt (a path a line), .csv, .parquet, .jsonl
  fer-batch analyze s3://bucket/talks/ --out results          in a store, with its own standard credentials
  fer-batch analyze 'shard-*.tar' --out results       the videos in archives, WebDataset's too
  fer-batch analyze talks/ --out results --fps 10     ten moments a second instead of five
  fer-batch analyze talks/ --out results --address auto       on the Ray cluster of this machine

The same command again goes on where it was stopped; more videos are added. A video that can't be read is a
row in the table `videos` with the reason, and the exit code stays 0. Ask with `fer-batch query`."""


def add_commands(commands: Any) -> None:
    """Add the commands of this module to the parser."""
    parser = commands.add_parser(
        "analyze",
        help="videos to emotion tracks in Parquet",
        description="Find the faces in videos, follow them, and write how each looks at every moment.",
        epilog=ANALYZE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "videos",
        nargs="*",
        metavar="VIDEOS",
        help="files, folders (recursive), globs, archives (.tar, .tar.gz, .zip), manifests (.txt, .csv, "
        ".parquet, .jsonl), here or in a store (s3://, gs://, hf://, https://)",
    )
    parser.add_argument(
        "--out", required=True, type=open_folder, metavar="OUT",
        help="output folder, here or in a store (s3://, gs://): new, empty, or of the same run",
    )  # fmt: skip
    group = parser.add_argument_group("what is done where OUT holds a run")
    before = group.add_mutually_exclusive_group()
    before.add_argument(
        "--retry-failed", action="store_true", help="analyze those of VIDEOS again that failed or are partial"
    )
    before.add_argument(
        "--overwrite", action="store_true", help="remove that run, of whatever settings, and start anew"
    )
    add_config_options(parser)
    _add_limits(parser)
    _add_ray_options(parser)
    parser.set_defaults(run=run_analyze, parser=parser)

    parser = commands.add_parser(
        "finalize",
        help="write the tables of a run anew from its results",
        description="Stitch a run's results into `videos`, `tracks` and `moments`, as `analyze` does.",
        epilog="example:\n  fer-batch finalize results",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=open_folder, metavar="OUT", help="output folder of `analyze`")
    parser.set_defaults(run=run_finalize, parser=parser)

    parser = commands.add_parser(
        "demo",
        help="analyze the sample video that is packaged, and show the timeline",
        description="Analyze the packaged sample video: two public-domain portraits that move, 10 seconds.",
        epilog="example:\n  fer-batch demo --out /tmp/demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, default=Path("fer-batch-demo"), metavar="OUT", help="default: ./fer-batch-demo"
    )
    _add_ray_options(parser)
    parser.set_defaults(run=run_demo, parser=parser, retry_failed=False, overwrite=False)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """The options that make an AnalyzeConfig."""
    group = parser.add_argument_group("what is looked at")
    group.add_argument(
        "--fps", type=float, default=DEFAULTS.fps, help="moments a second (default %(default)g)"
    )
    group.add_argument(
        "--every-frame", action="store_true", help="every frame instead of --fps moments a second"
    )
    group.add_argument(
        "--min-face", type=float, default=DEFAULTS.min_face, metavar="SHARE",
        help="smallest face, as a share of the frame's height (default %(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--min-score", type=float, default=DEFAULTS.min_score, metavar="SCORE",
        help="lowest score of the face detector, 0 to 1 (default %(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--max-faces", type=int, metavar="N", help="of each moment only the N largest faces (default: all)"
    )
    group.add_argument(
        "--detect-every", type=float, metavar="SECONDS",
        help="search for faces this often, every other time where something has changed only, follow them "
        "between (default 1, for surveys 2)",
    )  # fmt: skip
    surveys = group.add_mutually_exclusive_group()
    surveys.add_argument(
        "--fast", action="store_const", const="nonref",
        help="for surveys: leave frames undecoded that no other refers to; moments fall on the others",
    )  # fmt: skip
    surveys.add_argument(
        "--keyframes", action="store_const", const="keyframes", dest="fast",
        help="faster still: decode key frames alone, often one in several seconds",
    )  # fmt: skip
    group.add_argument(
        "--max-gap", type=float, default=DEFAULTS.max_gap_s, metavar="SECONDS", dest="max_gap_s",
        help="how long a face may be lost and keep its track (default %(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="a model's .safetensors, or a .onnx of `export` (default: the packaged one)",
    )
    group.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        default=DEFAULTS.flip,
        help="mean with the mirrored face: a little better, recognizing takes twice as long (default: yes)",
    )
    group = parser.add_argument_group("how the work is cut (the answers don't depend on it)")
    group.add_argument(
        "--segment", type=float, default=DEFAULTS.segment_s, metavar="SECONDS", dest="segment_s",
        help="longest part of a video that is one piece of work (default %(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--bundle", type=float, default=DEFAULTS.bundle_s, metavar="SECONDS", dest="bundle_s",
        help="video in one bundle, the unit that a stopped run does again (default %(default)g)",
    )  # fmt: skip


def config_of(options: argparse.Namespace) -> AnalyzeConfig:
    """What the options of `add_config_options` ask for."""
    names = {field.name for field in dataclasses.fields(AnalyzeConfig)}
    return AnalyzeConfig(**{name: value for name, value in vars(options).items() if name in names})


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = Limits()
    group = parser.add_argument_group("what a video may cost (it ends as failed where it takes more)")
    group.add_argument(
        "--timeout", type=float, default=limits.timeout_s, metavar="SECONDS", dest="timeout_s",
        help="longest time in which nothing comes of a video (default %(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--memory", type=float, default=limits.memory_gb, metavar="GB", dest="memory_gb",
        help="most memory to read a video, on top of what a worker has (default %(default)g)",
    )  # fmt: skip


def _add_ray_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it runs")
    group.add_argument(
        "--address",
        help="a Ray cluster, also by RAY_ADDRESS or from inside a Ray job (default: this machine)",
    )
    add_insecure_option(group)
    group.add_argument("--verbose", action="store_true", help="show what Ray says")


def add_insecure_option(group: Any) -> None:
    """Add `--insecure`, as all commands take it that take `--address`."""
    group.add_argument(
        "--insecure",
        action="store_true",
        help="also on a cluster that asks for no token, where whoever reaches it can run anything",
    )


def run_analyze(options: argparse.Namespace) -> int:
    """Run the command `analyze`."""
    limits = Limits(timeout_s=options.timeout_s, memory_gb=options.memory_gb)
    _analyze(options.videos, options.out, config_of(options), limits, options)
    return 0


def run_finalize(options: argparse.Namespace) -> int:
    """Run the command `finalize`."""
    from fer_batch.run.finalize import finalize
    from fer_batch.run.forget import complete_forget
    from fer_batch.run.record import read_run
    from fer_batch.storage.lease import hold_lease

    out = options.out.absolute()
    read_run(out)  # so that no folder is made where there is none
    with hold_lease(out, "finalize"):
        complete_forget(out)
        _print_summary(finalize(out, rewrite_all=True), options.out)
    return 0


def run_demo(options: argparse.Namespace) -> int:
    """Run the command `demo`."""
    from fer_batch.timeline.plots.text import format_ribbons
    from fer_batch.timeline.store import open_timeline

    _analyze([str(SAMPLE)], options.out, DEFAULTS, Limits(), options)
    timeline = open_timeline(options.out)
    print("\nTwo faces, 10 seconds, from left to right (one leaves and comes back):")
    print("\n".join(format_ribbons(timeline.to_pandas(), width=72)))
    print(f"\nThe tracks are in {options.out}/tracks. Ask, for example:")
    print(f'  fer-batch query {options.out} "SELECT emotion, count(*) FROM tracks GROUP BY 1"')
    return 0


def _analyze(
    videos: list[str], out: "OutputFolder", config: AnalyzeConfig, limits: Limits, options: argparse.Namespace
) -> None:
    from fer_batch.pipeline.analyze import analyze

    line = _ProgressLine()
    summary = analyze(
        videos,
        out,
        config,
        limits=limits,
        retry_failed=options.retry_failed,
        overwrite=options.overwrite,
        address=options.address,
        insecure=options.insecure,
        verbose=options.verbose,
        on_listing=line.listed,
        on_progress=line.show,
    )
    line.close()
    _print_summary(summary, out)


class _ProgressLine:
    """One line on stderr, written over in a terminal, else again every ten seconds where it has changed."""

    def __init__(self) -> None:
        self.over = "\r\x1b[K" if sys.stderr.isatty() else ""
        self.last = 0.0
        self.text = self.shown = ""

    def listed(self, listing: "Listing", finished: bool) -> None:
        count = len(listing.sources)
        said = [f"{count} video{'s' if count != 1 else ''}"]
        said += [f"{listing.skipped} other files skipped"] if listing.skipped else []
        said += [f"{listing.duplicates} named again"] if listing.duplicates else []
        said += (
            [f"{listing.rows_without_path} rows of manifests without a path"]
            if listing.rows_without_path
            else []
        )
        then = "all are done" if finished else "starting Ray …"
        print(f"{', '.join(said)}; {then}", file=sys.stderr, flush=True)

    def show(self, progress: "Progress") -> None:
        rate = progress.video_s_done / max(progress.elapsed_s, 1e-9)
        left = (progress.video_s - progress.video_s_done) / rate if rate else None
        done = f"{progress.videos_done} of {progress.videos} videos done, {progress.faces} faces found"
        self.text = f"{done}, {rate:.1f}× realtime, {'…' if left is None else _clock(left)} left"
        if self.over:
            print(f"{self.over}{self.text}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self.last >= 10 and done != self.shown:
            print(self.text, file=sys.stderr, flush=True)
            self.last = time.monotonic()
            self.text, self.shown = "", done

    def close(self) -> None:
        if self.text:
            print(self.over + self.text, file=sys.stderr, flush=True)


def _print_summary(summary: "RunSummary", out: "OutputFolder") -> None:
    console = Console(highlight=False)
    table = Table(title=f"{out}", title_justify="left", title_style="bold", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("videos", str(sum(summary.videos.values())))
    for status in VIDEO_STATUSES:
        if status in summary.videos:
            table.add_row(f"  {status}", str(summary.videos[status]))
    table.add_row("hours of video", f"{summary.video_s / 3600:.3f}")
    table.add_row("moments looked at", str(summary.moments))
    table.add_row("faces", str(summary.faces))
    table.add_row("tracks", str(summary.tracks))
    console.print(table)
    for failure in summary.failures[:20]:
        console.print(f"  {failure.status}: {failure.uri}: {failure.error}", markup=False, soft_wrap=True)
    if len(summary.failures) > 20:
        console.print(
            f"  … and {len(summary.failures) - 20} more: "
            "SELECT uri, status, error FROM videos WHERE error IS NOT NULL"
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
