"""Fix the precision of a run when it starts, so that its rows do not depend on the node."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fer_batch.config import AnalyzeConfig, PrecisionName
from fer_batch.model.card import Card, is_onnx_path
from fer_batch.model.precision import network_has_int8
from fer_batch.pipeline.hardware import (
    Hardware,
    check_continued_precision,
    check_run_precision,
    choose_run_precision,
)
from fer_batch.run.record import RunRecord

QueryNodes = Callable[[], tuple[Sequence[Mapping[str, Any]], Sequence[Hardware]]]
"""Returns the nodes of a run, as `placement.list_nodes` does, and the hardware of each."""


def fix_precision(
    config: AnalyzeConfig, run: RunRecord | None, card: Card, query_nodes: QueryNodes
) -> AnalyzeConfig:
    """Return the configuration with the precision of the whole run instead of "auto".

    That is the precision of `run`, which is continued, or else one that all nodes have. `query_nodes` returns
    them and their hardware. Raises ConfigError for a precision that a node does not have. A run is also
    continued if only some nodes have its precision, as workers on others are left out.
    """
    recorded: PrecisionName = run.settings.get("precision", "auto") if run else "auto"
    if config.precision == recorded != "auto" or config.precision == "auto" != recorded:
        if recorded != "fp32":
            check_continued_precision(recorded, *query_nodes())
        return replace(config, precision=recorded)
    if config.checkpoint and is_onnx_path(Path(config.checkpoint)):
        return replace(config, precision="fp32")
    nodes, hardware = query_nodes()
    if config.precision == "auto":
        # A run without a recorded precision has rows of an earlier version, which had no int8.
        has_int8 = run is None and network_has_int8(card.network, card.architecture)
        return replace(config, precision=choose_run_precision(nodes, hardware, has_int8))
    check_run_precision(config.precision, nodes, hardware)
    return config
