"""Command `plan`."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fer_batch.cli.analyze import MAX_LISTED_VIDEOS
from fer_batch.cli.app import ANALYZE, add_command
from fer_batch.cli.arguments import Inputs
from fer_batch.cli.output import print_line, print_table
from fer_batch.config import AnalyzeConfig
from fer_batch.fields import Range


@add_command(ANALYZE)
def plan_command(
    videos: Inputs,
    /,
    *,
    nodes: Annotated[tuple[Annotated[int, Range(at_least=1)], ...], Parameter(consume_multiple=True)] = (
        1,
        10,
        100,
    ),
    cores: Annotated[int, Range(at_least=1)] = 8,
    price: Annotated[float | None, Range(above=0)] = None,
    cpu_ms: Annotated[float | None, Range(above=0)] = None,
    json_output: Annotated[bool, Parameter(name="--json")] = False,
    config: AnalyzeConfig,
) -> None:
    """Estimate the time and cost of `analyze`.

    The command opens the files whose length no manifest gives. It analyzes nothing, writes nothing and does
    not start Ray. The estimate depends on the size of the frames and on the speed of an Intel Xeon core, or
    on --cpu-ms. The start of nodes and network reads come on top.

    Args:
        nodes: Numbers of nodes to compare.
        cores: Cores of a node.
        price: Price of a node per hour, in any currency.
        cpu_ms: CPU milliseconds per second of video: the "total" that `fer-batch bench` measures on your
            machine.
        json_output: Print one JSON object instead of tables.

    Examples:
      fer-batch plan archive/
      fer-batch plan list.csv --nodes 1 8 64 --cores 16 --price 0.68
      fer-batch plan s3://bucket/talks/
      fer-batch plan archive/ --cpu-ms 140
    """
    from fer_batch.inputs.listing import check_inputs_exist

    check_inputs_exist(videos)
    from fer_batch.model.recognize import check_checkpoint
    from fer_batch.pipeline.estimate import estimate_run

    card = check_checkpoint(Path(config.checkpoint) if config.checkpoint else None)
    estimate = estimate_run(videos, config, card, max(nodes) * cores, cpu_ms)
    plan = estimate.to_dict(nodes, cores, price)
    if json_output:
        print(json.dumps(plan, indent=1))
        return
    rows = [("videos", f"{plan['videos']:,}")]
    for status, number in sorted(plan["statuses"].items()):
        rows.append((f"  {'to analyze' if status == 'ok' else status}", f"{number:,}"))
    if plan["unknown_length"]:
        rows.append(("  of unknown length", f"{plan['unknown_length']:,}"))
    rows += [
        ("hours of video", _format_amount(plan["hours"])),
        ("size, GB", _format_amount(plan["bytes"] / 1e9)),
        ("segments", f"{plan['segments']:,}"),
        ("bundles", f"{plan['bundles']:,}"),
        ("CPU hours, about", _format_amount(plan["cpu_hours"])),
    ]
    if plan["store_requests"]:
        rows.append(("requests to stores, about", f"{plan['store_requests']:,}"))
        rows.append(("GB from stores, about", _format_amount(plan["store_bytes"] / 1e9)))
    print_table(("", ""), rows)
    header = ["nodes", "cores", "time, about", *(["cost, about"] if price else [])]
    print_table(
        header,
        [
            [f"{row['nodes']:,}", f"{row['cores']:,}", _format_hours(row["hours"])]
            + ([f"{row['cost']:,.2f}"] if price else [])
            for row in plan["nodes"]
        ],
        left=(),
    )
    failed = estimate.failed_videos()
    for uri, status, error in failed[:MAX_LISTED_VIDEOS]:
        print_line(f"  {status}: {uri}: {error}")
    if len(failed) > MAX_LISTED_VIDEOS:
        print_line(f"  … and {len(failed) - MAX_LISTED_VIDEOS:,} more")


def _format_amount(number: float) -> str:
    return f"{number:,.1f}" if number >= 10 else f"{number:.2g}"


def _format_hours(hours: float) -> str:
    if hours < 1:
        return f"{max(hours * 60, 1):.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
