"""A run has one precision, which all of its nodes have."""

from dataclasses import replace
from typing import Any

import pytest

from fer_batch.errors import ConfigError
from fer_batch.pipeline.hardware import (
    Gpu,
    Hardware,
    check_run_precision,
    choose_run_precision,
    read_hardware,
)

NEW, OLD = Hardware(cpu_flags=frozenset({"avx512_bf16"})), Hardware(cpu_flags=frozenset())
VNNI = Hardware(cpu_flags=frozenset({"avx512_bf16", "avx512_vnni"}))
UNKNOWN = Hardware()
T4, H100 = Gpu(memory_gb=16.0, capability=7.5), Gpu(memory_gb=80.0, capability=9.0)
OLD_WITH_H100 = Hardware(cpu_flags=frozenset(), gpus=(H100,))


def node(address: str, **resources: float) -> dict[str, Any]:
    return {"NodeID": address, "NodeManagerAddress": address, "Resources": resources}


HEAD = node("head", memory=8e9)
CPU_NODES = [node("c1", CPU=8.0), node("c2", CPU=8.0)]
GPU_NODE = node("g", CPU=8.0, GPU=2.0)
SEPARATE_GPU = node("g", GPU=1.0)


@pytest.mark.parametrize(
    ("nodes", "hardware", "precision", "lacking"),
    [
        pytest.param([], [], "fp32", "", id="none yet"),
        pytest.param([HEAD], [NEW], "fp32", "", id="only a head so far"),
        pytest.param([HEAD, *CPU_NODES], [OLD, NEW, NEW], "bf16", "", id="all CPUs have it"),
        pytest.param([HEAD, *CPU_NODES], [OLD, VNNI, VNNI], "int8", "", id="all CPUs have int8 too"),
        pytest.param(CPU_NODES, [NEW, VNNI], "bf16", "", id="one CPU lacks int8"),
        pytest.param([GPU_NODE], [replace(VNNI, gpus=(H100,))], "bf16", "", id="no GPU has int8"),
        pytest.param(CPU_NODES, [NEW, OLD], "fp32", "c2", id="one CPU lacks it"),
        pytest.param(CPU_NODES, [NEW, UNKNOWN], "fp32", "", id="unknown CPU"),
        pytest.param([GPU_NODE], [Hardware(gpus=(H100, H100))], "bf16", "", id="GPU with an old CPU"),
        pytest.param([GPU_NODE], [Hardware(gpus=(H100, T4))], "fp32", "g", id="two kinds of GPU"),
        pytest.param([GPU_NODE], [NEW], "fp32", "", id="unknown GPU"),
        pytest.param([*CPU_NODES, GPU_NODE], [NEW, NEW, OLD_WITH_H100], "fp32", "g", id="mixed"),
        pytest.param(
            [*CPU_NODES, SEPARATE_GPU],
            [NEW, NEW, Hardware(gpus=(H100,))],
            "bf16",
            "",
            id="mixed, all have it",
        ),
        pytest.param([*CPU_NODES, SEPARATE_GPU], [NEW, NEW, Hardware(gpus=(T4,))], "fp32", "g", id="old GPU"),
    ],
)
def test_precision_of_a_run(
    nodes: list[dict[str, Any]], hardware: list[Hardware], precision: str, lacking: str
) -> None:
    assert choose_run_precision(nodes, hardware) == precision
    check_run_precision("fp32", nodes, hardware)
    if lacking:
        with pytest.raises(ConfigError, match=f"The node {lacking} does not compute in bf16"):
            check_run_precision("bf16", nodes, hardware)
    else:
        check_run_precision("bf16", nodes, hardware)


def test_network_without_int8_gets_the_next_precision() -> None:
    assert choose_run_precision(CPU_NODES, [VNNI, VNNI], has_int8=False) == "bf16"


def test_gpus_are_read_from_the_driver(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    program.write_text("#!/bin/sh\necho '81559, 9.0'\necho '16384, 7.5'\n")
    program.chmod(0o755)
    assert [gpu.capability for gpu in read_hardware().gpus] == [9.0, 7.5]
    assert read_hardware().gpus[1].memory_gb == pytest.approx(17.18, abs=0.01)
    program.write_text("#!/bin/sh\necho '[N/A], [N/A]'\n")
    assert read_hardware().gpus == ()
