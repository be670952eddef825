"""Command `plan`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fer_batch.cli.analyze import print_failures, warn_of_tracks
from fer_batch.cli.app import ANALYZE, add_command
from fer_batch.cli.arguments import Inputs
from fer_batch.cli.output import print_table, print_text
from fer_batch.config import AnalyzeConfig
from fer_batch.fields import Range

NodeCounts = Annotated[tuple[Annotated[int, Range(at_least=1)], ...], Parameter(consume_multiple=True)]


@add_command(ANALYZE)
def plan_command(
    videos: Inputs,
    /,
    *,
    nodes: NodeCounts = (1, 10, 100),
    cores: Annotated[int, Range(at_least=1)] = 8,
    price: Annotated[float | None, Range(above=0)] = None,
    cpu_ms: Annotated[float | None, Range(above=0)] = None,
    allow_query: bool = False,
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
        allow_query: Read web addresses with a query (?, # or ;) in manifests.
        json_output: Print one JSON object instead of tables.

    Examples:
      fer-batch plan archive/
      fer-batch plan list.csv --nodes 1 8 64 --cores 16 --price 0.68
      fer-batch plan s3://bucket/talks/
      fer-batch plan archive/ --cpu-ms 140
    """
    from fer_batch.inputs.listing import check_inputs_exist

    check_inputs_exist(videos)
    from fer_batch.pipeline.estimate import estimate_run
    from fer_batch.pipeline.settings import load_card

    card = load_card(Path(config.checkpoint) if config.checkpoint else None)
    plan = estimate_run(
        videos, config, card, nodes, cores, price=price, cpu_ms=cpu_ms, allow_query=allow_query
    )
    if json_output:
        print_text(json.dumps(asdict(plan), indent=1))
        return
    rows = {"videos": f"{plan.videos:,}"}
    for status, number in sorted(plan.statuses.items()):
        rows[f"  {'to analyze' if status == 'ok' else status}"] = f"{number:,}"
    if plan.unknown_length:
        rows["  of unknown length"] = f"{plan.unknown_length:,}"
    rows |= {
        "hours of video": _format_amount(plan.hours),
        "size, GB": _format_amount(plan.bytes / 1e9),
        "segments": f"{plan.segments:,}",
        "bundles": f"{plan.bundles:,}",
        "CPU hours, about": _format_amount(plan.cpu_hours),
    }
    if plan.store_requests:
        rows["requests to stores, about"] = f"{plan.store_requests:,}"
        rows["GB from stores, about"] = _format_amount(plan.store_bytes / 1e9)
    print_table(("", ""), rows.items())
    header = ["nodes", "cores", "time, about"]
    runs = [[f"{run.nodes:,}", f"{run.cores:,}", _format_hours(run.hours)] for run in plan.nodes]
    if price:
        header.append("cost, about")
        runs = [[*row, f"{run.cost:,.2f}"] for row, run in zip(runs, plan.nodes, strict=True)]
    print_table(header, runs, left=())
    warn_of_tracks(config)
    print_failures(plan.failures)


def _format_amount(number: float) -> str:
    return f"{number:,.1f}" if number >= 10 else f"{number:.2g}"


def _format_hours(hours: float) -> str:
    if hours < 1:
        return f"{max(hours * 60, 1):.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
