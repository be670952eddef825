"""The precision in which faces are recognized, and the hardware that computes in it.

This module does not import torch, so that a query of all nodes is fast.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_batch.config import PrecisionName
from fer_batch.errors import ConfigError

CPU_FLAGS = {
    "fp32": frozenset[str](),
    "int8": frozenset({"avx512_vnni", "avx_vnni", "amx_int8"}),
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    "fp16": frozenset({"avx512_fp16", "amx_fp16"}),
}
"""For each precision, the flags of a CPU of which it needs one, as Linux names them on x86 and ARM."""
MIN_CAPABILITY = {"fp32": 0.0, "int8": math.inf, "bf16": 8.0, "fp16": 7.0}
"""For each precision, the least compute capability of NVIDIA's GPUs that have units for it. Older GPUs
emulate bfloat16. No GPU computes in int8 here."""
FASTEST_PRECISIONS: tuple[PrecisionName, ...] = ("int8", "bf16", "fp32")
"""Precisions that "auto" stands for, the fastest first."""


def read_cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Read the flags of this machine's CPU that any precision needs; none where Linux does not state them."""
    wanted = frozenset().union(*CPU_FLAGS.values())
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return wanted.intersection(flags.split())
    return frozenset()


def has_cpu_precision(precision: str, flags: frozenset[str]) -> bool:
    """Return whether a CPU with these flags computes in this precision in hardware."""
    return not CPU_FLAGS[precision] or bool(CPU_FLAGS[precision] & flags)


def check_onnx_precision(precision: str) -> None:
    """Raise ConfigError for a precision other than that of exported networks, fp32."""
    if precision not in ("auto", "fp32"):
        raise ConfigError(
            f"An .onnx file computes in fp32, not in {precision}: give --precision fp32 or auto"
        )


def network_has_int8(network: str, architecture: Mapping[str, Any]) -> bool:
    """Return whether a network of this name and architecture, as in its card, can compute in int8."""
    return network == "cnn-bilstm" and not architecture.get("backbone")


def check_network_precision(precision: str, network: str, architecture: Mapping[str, Any]) -> None:
    """Raise ConfigError for int8 if a network cannot compute in it."""
    if precision == "int8" and not network_has_int8(network, architecture):
        raise ConfigError(f"A {network} of this kind does not compute in int8: give --precision auto")
