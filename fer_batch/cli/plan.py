"""`plan`."""

import argparse
import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from fer_batch.cli.analyze import add_config_options, config_of
from fer_batch.errors import ConfigError

if TYPE_CHECKING:
    from fer_batch.pipeline.estimate import RunEstimate

EXAMPLES = """\
examples:
  fer-batch plan archive/
  fer-batch plan list.csv --nodes 1 8 64 --cores 16 --price 0.68
  fer-batch plan s3://bucket/talks/
  fer-batch plan archive/ --cpu-ms 140

It opens files whose length no manifest tells, analyzes none, writes nothing, and starts no Ray. The times are
estimates: from the size of frames and what an Intel Xeon core took, or from --cpu-ms, the "total" of
`fer-batch bench` for a video of yours on a machine of yours. Starting nodes and reading over a network are
extra."""


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "plan",
        help="what `analyze` would do, how long it would take and cost",
        description="Say how much video there is, what parts it would be cut to, about how long it takes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="as `analyze` takes them")
    group = parser.add_argument_group("where it would run")
    group.add_argument(
        "--nodes", type=int, nargs="+", default=[1, 10, 100], metavar="N", help="how many (default 1 10 100)"
    )
    group.add_argument("--cores", type=int, default=8, help="of a node (default %(default)s)")
    group.add_argument("--price", type=float, metavar="P", help="of a node for an hour, in any currency")
    group.add_argument(
        "--cpu-ms", type=float, metavar="MS", help="CPU milliseconds for a second of video, as `bench` tells"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    add_config_options(parser)
    parser.set_defaults(run=run_plan, parser=parser)


def run_plan(options: argparse.Namespace) -> int:
    """Run the command `plan`."""
    for name, value in (("--nodes", min(options.nodes)), ("--cores", options.cores)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; allowed are whole numbers from 1")
    for name, number in (("--price", options.price), ("--cpu-ms", options.cpu_ms)):
        if number is not None and not 0 < number < math.inf:
            raise ConfigError(f"{name} is {number:g}; allowed is a number above 0")
    config = config_of(options)

    from fer_batch.model.recognize import check_checkpoint
    from fer_batch.pipeline.estimate import estimate_run

    card = check_checkpoint(Path(config.checkpoint) if config.checkpoint else None)
    workers = max(options.nodes) * options.cores
    found = estimate_run(options.videos, config, card, workers, options.cpu_ms)
    hours = {count: found.duration_s(count * options.cores) / 3600 for count in options.nodes}
    plan = _figures(found) | {
        "nodes": [
            {"nodes": count, "cores": count * options.cores, "hours": hours[count]}
            | ({"cost": hours[count] * count * options.price} if options.price is not None else {})
            for count in options.nodes
        ]
    }
    if options.json:
        print(json.dumps(plan, indent=1))
    else:
        _show(plan, found)
    return 0


def _figures(found: "RunEstimate") -> dict[str, Any]:
    videos = found.videos
    return {
        "videos": len(videos),
        "statuses": dict(Counter(videos.column("status").to_pylist())),
        "unknown_length": sum(
            length is None and status == "ok"
            for length, status in zip(
                videos.column("duration_s").to_pylist(), videos.column("status").to_pylist(), strict=True
            )
        ),
        "skipped_files": found.listing.skipped,
        "hours": found.video_s / 3600,
        "bytes": sum(videos.column("size_bytes").to_pylist()),
        "segments": len(found.segments),
        "bundles": len(found.segments.column("bundle_id").unique()),
        "cpu_hours": found.cpu_s / 3600,
        "store_requests": found.store_requests,
        "store_bytes": found.store_bytes,
    }


def _show(plan: dict[str, Any], found: "RunEstimate") -> None:
    console = Console(highlight=False)
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("videos", f"{plan['videos']:,}")
    for status, count in sorted(plan["statuses"].items()):
        table.add_row(f"  {'to analyze' if status == 'ok' else status}", f"{count:,}")
    if plan["unknown_length"]:
        table.add_row("  of unknown length", f"{plan['unknown_length']:,}")
    table.add_row("hours of video", _amount(plan["hours"]))
    table.add_row("size, GB", _amount(plan["bytes"] / 1e9))
    table.add_row("segments", f"{plan['segments']:,}")
    table.add_row("bundles", f"{plan['bundles']:,}")
    table.add_row("CPU hours, about", _amount(plan["cpu_hours"]))
    if plan["store_requests"]:
        table.add_row("requests to stores, about", f"{plan['store_requests']:,}")
        table.add_row("GB from stores, about", _amount(plan["store_bytes"] / 1e9))
    console.print(table)
    priced = "cost" in plan["nodes"][0]
    times = Table("nodes", "cores", "time, about", *(["cost, about"] if priced else []))
    for column in times.columns:
        column.justify = "right"
    for row in plan["nodes"]:
        cost = [f"{row['cost']:,.2f}"] if priced else []
        times.add_row(f"{row['nodes']:,}", f"{row['cores']:,}", _time(row["hours"]), *cost)
    console.print(times)
    failed = found.videos.filter([s != "ok" for s in found.videos.column("status").to_pylist()])
    for video in failed.slice(0, 20).to_pylist():
        console.print(f"  {video['status']}: {video['uri']}: {video['error']}", markup=False, soft_wrap=True)
    if len(failed) > 20:
        console.print(f"  … and {len(failed) - 20:,} more")
    sys.stdout.flush()


def _amount(number: float) -> str:
    return f"{number:,.1f}" if number >= 10 else f"{number:.2g}"


def _time(hours: float) -> str:
    if hours < 1:
        return f"{max(hours * 60, 1):.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
