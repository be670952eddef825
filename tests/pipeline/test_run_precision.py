"""A run keeps one precision."""

from dataclasses import replace
from pathlib import Path

import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import ConfigError
from fer_batch.pipeline.hardware import Gpu, Hardware
from fer_batch.pipeline.run_precision import fix_precision
from fer_batch.run.record import create_run
from tests.runs import CARD

Nodes = tuple[list[dict[str, object]], list[Hardware]]

OLD_CPU = Hardware(cpu_flags=frozenset())
NEW_CPU = Hardware(cpu_flags=frozenset({"avx512_vnni", "avx512_bf16"}))


def make_nodes(*hardware: Hardware, cpus: float = 2.0) -> Nodes:
    resources = {"CPU": cpus, "GPU": 0.0}
    gpu = {"CPU": cpus, "GPU": 1.0}
    nodes: list[dict[str, object]] = [
        {"NodeManagerAddress": f"10.0.0.{number}", "Resources": gpu if own.gpus else resources}
        for number, own in enumerate(hardware, 1)
    ]
    return nodes, [*hardware]


def query_old_cpu() -> Nodes:
    return make_nodes(OLD_CPU)


def query_new_cpu() -> Nodes:
    return make_nodes(NEW_CPU)


def test_precision_is_that_of_the_run_or_else_of_all_nodes(tmp_path: Path) -> None:
    auto, bf16 = AnalyzeConfig(), AnalyzeConfig(precision="bf16")
    assert fix_precision(auto, None, CARD, query_old_cpu).precision == "fp32"
    with pytest.raises(ConfigError, match=r"10\.0\.0\.1 does not compute in bf16"):
        fix_precision(bf16, None, CARD, query_old_cpu)
    run = create_run(tmp_path, bf16, CARD)
    assert (
        fix_precision(auto, run, CARD, query_new_cpu) == fix_precision(bf16, run, CARD, query_new_cpu) == bf16
    )
    assert fix_precision(AnalyzeConfig(checkpoint="a.onnx"), None, CARD, query_old_cpu).precision == "fp32"


@pytest.mark.parametrize(
    "hardware", [(OLD_CPU,), (OLD_CPU, OLD_CPU), (Hardware(gpus=(Gpu(memory_gb=80, capability=9.0),)),)]
)
def test_run_is_not_continued_where_nothing_computes_in_its_precision(
    tmp_path: Path, hardware: tuple[Hardware, ...]
) -> None:
    run = create_run(tmp_path, AnalyzeConfig(precision="int8"), CARD)
    for config in (AnalyzeConfig(), AnalyzeConfig(precision="int8")):
        with pytest.raises(ConfigError, match=r"recognizes faces in int8, and no node .*--overwrite"):
            fix_precision(config, run, CARD, lambda: make_nodes(*hardware))


def test_run_is_continued_if_a_node_may_compute_in_its_precision(tmp_path: Path) -> None:
    run = create_run(tmp_path, AnalyzeConfig(precision="int8"), CARD)
    for query in (
        lambda: make_nodes(OLD_CPU, NEW_CPU),
        lambda: make_nodes(OLD_CPU, Hardware()),
        lambda: make_nodes(OLD_CPU, cpus=0),  # workers join later
        make_nodes,
    ):
        assert fix_precision(AnalyzeConfig(), run, CARD, query).precision == "int8"


def test_run_of_a_version_without_int8_does_not_change_to_it(tmp_path: Path) -> None:
    run = create_run(tmp_path, AnalyzeConfig(), CARD)
    older = replace(run, settings={key: run.settings[key] for key in run.settings if key != "precision"})
    assert fix_precision(AnalyzeConfig(), older, CARD, query_new_cpu).precision == "bf16"
    assert fix_precision(AnalyzeConfig(), None, CARD, query_new_cpu).precision == "int8"
