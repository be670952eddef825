"""Fix the precision of a run when it starts, so that its rows do not depend on the node."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fer_batch.config import AnalyzeConfig, PrecisionName
from fer_batch.model.card import Card, is_onnx_path
from fer_batch.model.precision import network_has_int8
from fer_batch.pipeline.hardware import Hardware, check_run_precision, choose_run_precision
from fer_batch.run.record import RunRecord

QueryNodes = Callable[[], tuple[Sequence[Mapping[str, Any]], Sequence[Hardware]]]
"""Returns the nodes of a run, as `placement.list_nodes` does, and the hardware of each."""


def fix_precision(
    config: AnalyzeConfig, run: RunRecord | None, card: Card, query_nodes: QueryNodes
) -> AnalyzeConfig:
    """Return the configuration with the precision of the whole run instead of "auto".

    That is the precision of `run`, which is continued, or else one that all nodes have. `query_nodes` returns
    them and their hardware. Raises ConfigError for a precision that a node does not have.
    """
    recorded: PrecisionName = run.settings.get("precision", "auto") if run else "auto"
    if config.precision == recorded != "auto" or config.precision == "auto" != recorded:
        return replace(config, precision=recorded)
    if config.checkpoint and is_onnx_path(Path(config.checkpoint)):
        return replace(config, precision="fp32")
    nodes, hardware = query_nodes()
    if config.precision == "auto":
        has_int8 = network_has_int8(card.network, card.architecture)
        return replace(config, precision=choose_run_precision(nodes, hardware, has_int8))
    check_run_precision(config.precision, nodes, hardware)
    return config
