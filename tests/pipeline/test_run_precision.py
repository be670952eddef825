"""A run keeps one precision."""

from pathlib import Path

import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import ConfigError
from fer_batch.pipeline.hardware import Hardware
from fer_batch.pipeline.run_precision import fix_precision
from fer_batch.run.record import create_run
from tests.runs import CARD


def query_old_cpu() -> tuple[list[dict[str, object]], list[Hardware]]:
    nodes: list[dict[str, object]] = [{"NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 2.0}}]
    return nodes, [Hardware(cpu_flags=frozenset())]


def test_precision_is_that_of_the_run_or_else_of_all_nodes(tmp_path: Path) -> None:
    auto, bf16 = AnalyzeConfig(), AnalyzeConfig(precision="bf16")
    assert fix_precision(auto, None, CARD, query_old_cpu).precision == "fp32"
    with pytest.raises(ConfigError, match=r"10\.0\.0\.1 does not compute in bf16"):
        fix_precision(bf16, None, CARD, query_old_cpu)
    run = create_run(tmp_path, bf16, CARD)
    assert (
        fix_precision(auto, run, CARD, query_old_cpu) == fix_precision(bf16, run, CARD, query_old_cpu) == bf16
    )
    assert fix_precision(AnalyzeConfig(checkpoint="a.onnx"), None, CARD, query_old_cpu).precision == "fp32"
