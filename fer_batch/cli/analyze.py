"""Commands `analyze`, `demo` and `finalize`."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import fer_batch
from fer_batch.cli.app import ANALYZE, UsageError, add_command
from fer_batch.cli.arguments import RAY, Inputs, NewRunFolder, RayOptions, RunFolder
from fer_batch.cli.output import (
    ProgressLine,
    print_line,
    print_partial,
    print_status,
    print_table,
    print_text,
)
from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.lazy_pandas import delay_pandas
from fer_batch.terminal import count

if TYPE_CHECKING:
    from fer_batch.inputs.listing import Listing
    from fer_batch.pipeline.progress import Progress
    from fer_batch.run.summary import RunSummary

SAMPLE = Path(__file__).parent.parent / "sample" / "two_faces.mp4"
MAX_LISTED_VIDEOS = 20
UseRay = Annotated[bool, Parameter(name="--ray"), RAY]
FAILED_SQL = ": SELECT uri, status, error FROM videos WHERE error IS NOT NULL"


@add_command(ANALYZE)
def analyze_command(
    videos: Inputs | None = None,
    /,
    *,
    out: NewRunFolder,
    retry_failed: bool = False,
    overwrite: bool = False,
    allow_query: bool = False,
    people: bool = False,
    config: AnalyzeConfig,
    limits: Limits,
    use_ray: UseRay = False,
    ray: RayOptions,
) -> None:
    """Analyze videos: find and follow faces, and classify their expressions.

    The results are Parquet tables in OUT: `videos`, `tracks` and `moments`. The same command continues a
    stopped run; other inputs are added to it. A video that cannot be read becomes a row in `videos` with the
    reason, and the exit code stays 0. Query the tables with `fer-batch query` and `fer-batch ask`.

    Up to 15 minutes of video are analyzed without Ray, unless a cluster is named with --address or
    RAY_ADDRESS, or this machine has an NVIDIA GPU.

    Args:
        retry_failed: Analyze the given videos again that failed or are partial.
        overwrite: Delete the run in OUT first, whatever its settings are.
        allow_query: Read web addresses with a query (?, # or ;) in manifests. The query is used in this run
            and stored nowhere, so the same command with the manifest must continue a stopped run.
        people: Group the tracks of each video into persons, see `fer-batch people`. This processes biometric
            data in memory, and needs the extra `people`.
        use_ray: Start Ray however short the videos are.

    Examples:
      fer-batch analyze talks/ --out results                 all videos in a folder and below it
      fer-batch analyze 'talks/*.mkv' more.mp4 --out results
      fer-batch analyze videos.csv --out results             a manifest
      fer-batch analyze s3://bucket/talks/ --out results     in a store, with its standard credentials
      fer-batch analyze 'shard-*.tar' --out results          videos in archives (WebDataset)
      fer-batch analyze talks/ --out results --fps 10        ten sampled frames per second
      fer-batch analyze talks/ --out results --address auto  on the Ray cluster of this machine
    """
    if retry_failed and overwrite:
        raise UsageError("--retry-failed and --overwrite exclude each other")
    settings = {"limits": limits, "retry_failed": retry_failed, "overwrite": overwrite}
    settings |= {"allow_query": allow_query, "use_ray": use_ray, "people": people}
    _analyze(list(videos or ()), out, config, ray, **settings)
    if people:
        from fer_batch.cli.people import print_groups

        rows = fer_batch.open_timeline(out).sql("SELECT video_id, number, reason FROM people")
        print_groups(rows.to_arrow_table(), out)


@add_command(ANALYZE)
def demo_command(*, out: NewRunFolder = "fer-batch-demo", use_ray: UseRay = False, ray: RayOptions) -> None:
    """Analyze the packaged sample video, and show its timeline.

    The sample shows two moving portraits in the public domain for ten seconds. One leaves and returns, and
    the other changes its expression for three seconds.

    Args:
        use_ray: Start Ray, which so short a video does not need.

    Examples:
      fer-batch demo --out /tmp/demo
    """
    _analyze([str(SAMPLE)], out, AnalyzeConfig(), ray, use_ray=use_ray)
    from fer_batch.timeline.plots.text import format_ribbons

    print_text(
        "\nTwo faces, 10 seconds, from left to right (one looks sad from 4 to 7 s, one leaves and returns):"
    )
    print_text("\n".join(format_ribbons(fer_batch.open_timeline(out).to_pandas(), width=72)) + "\n")
    print_line(f"The tracks are in {out}/tracks. A query, for example:")
    print_line(f'  fer-batch query {out} "SELECT emotion, count(*) FROM tracks GROUP BY 1"')
    print_line("View the video and its timeline in a browser:")
    print_line(f"  fer-batch view {out}")


@add_command(ANALYZE)
def finalize_command(out: RunFolder, /, *, partial: bool = False, ray: RayOptions) -> None:
    """Write the tables of a run again from its results.

    `analyze` does this at its end. It also completes an interrupted `fer-batch forget`. A cluster that is
    named with --address or RAY_ADDRESS, or runs this command as a job, writes with all its CPUs. Otherwise
    this process writes everything; --address local uses all CPUs of this machine.

    Args:
        partial: Write tables of the videos that are finished if others are not. While `analyze` runs, it does
            so itself every few minutes.

    Examples:
      fer-batch finalize results
      fer-batch finalize results --partial      after `analyze` was stopped
      fer-batch finalize results --address local
      fer-batch finalize /mnt/results --address auto
    """
    delay_pandas()
    print_summary(fer_batch.finalize(out, rewrite_all=not partial, partial=partial, **vars(ray)), out)
    if partial:
        print_partial(fer_batch.open_timeline(out))


def _analyze(videos: list[str], out: str, config: AnalyzeConfig, ray: RayOptions, **settings: Any) -> None:
    from fer_batch.inputs.listing import check_inputs_exist

    check_inputs_exist(videos)  # before the import of the libraries that read and write tables
    delay_pandas()
    warn_of_tracks(config)
    line = ProgressLine()
    summary = fer_batch.analyze(
        videos,
        out,
        config,
        **settings,
        **vars(ray),
        on_listing=_print_listing,
        on_ray=lambda: print_status("starting Ray …"),
        on_progress=lambda progress: _show_progress(line, progress),
        on_grouped=lambda done, total: line.show(f"{done:,} of {count(total, 'video')} grouped"),
    )
    line.close(keep=True)
    print_summary(summary, out)


def warn_of_tracks(config: AnalyzeConfig) -> None:
    """Print what tracks are worth if only key frames are decoded."""
    if config.fast == "keyframes":
        print_status(
            "--keyframes: faces cannot be followed between key frames; a face that moves gets a new track"
        )


def _print_listing(listing: "Listing", finished: bool) -> None:
    counts = [count(len(listing.sources), "video")]
    if listing.manifests:
        counts.append(f"read {', '.join(listing.manifests[:MAX_LISTED_VIDEOS])} as a list of videos")
    if listing.skipped:
        counts.append(f"{count(listing.skipped, 'other file')} skipped")
    if listing.duplicates:
        counts.append(f"{count(listing.duplicates, 'repeated name')} ignored")
    if listing.rows_without_path:
        counts.append(f"{count(listing.rows_without_path, 'manifest row')} without a path ignored")
    print_status(", ".join(counts) + ("; all are finished" if finished else ""))


def _show_progress(line: ProgressLine, progress: "Progress") -> None:
    speed = progress.video_s_done / max(progress.elapsed_s, 1e-9)
    remaining_s = (progress.video_s - progress.video_s_done) / speed if speed else None
    remaining = "…" if remaining_s is None else timedelta(seconds=round(remaining_s))
    done, total = (n - progress.videos_before for n in (progress.videos_done, progress.videos))
    analyzed = f"{progress.video_s_done / progress.video_s:.0%} analyzed, " if progress.video_s else ""
    state = f"{done:,} of {count(total, 'video')} done, {analyzed}{count(progress.faces, 'face')}"
    before = f" ({count(progress.videos_before, 'video')} done before)" if progress.videos_before else ""
    line.show(f"{state}, {speed:.1f}× realtime, {remaining} left{before}", key=state)


def print_summary(summary: "RunSummary", title: str) -> None:
    """Print the numbers of a run, and its first videos with errors."""
    from fer_batch.schema import VIDEO_STATUSES

    videos = summary.videos
    rows = {"videos": f"{sum(videos.values()):,}"}
    rows |= {f"  {status}": f"{videos[status]:,}" for status in VIDEO_STATUSES if status in videos}
    rows["hours of video"] = f"{summary.video_s / 3600:.3f}"
    rows["sampled frames"] = f"{summary.moments:,}"
    rows |= {"faces": f"{summary.faces:,}", "tracks": f"{summary.tracks:,}"}
    print_table(("", ""), rows.items(), title=title)
    print_failures([(failure.status, failure.uri, failure.error) for failure in summary.failures], FAILED_SQL)


def print_failures(failures: Sequence[tuple[str, str, str | None]], sql: str = "") -> None:
    """Print the status, address and error of the first videos that cannot be analyzed."""
    for status, uri, error in failures[:MAX_LISTED_VIDEOS]:
        print_line(f"  {status}: {uri}: {error}")
    if len(failures) > MAX_LISTED_VIDEOS:
        print_line(f"  … and {len(failures) - MAX_LISTED_VIDEOS:,} more{sql}")
