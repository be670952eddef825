"""The precision of a device, as far as it is known without torch."""

from pathlib import Path

import pytest
import torch

from fer_batch.errors import ConfigError
from fer_batch.model import inference
from fer_batch.model.inference import choose_precision
from fer_batch.model.precision import check_onnx_precision, has_cpu_precision, read_cpu_flags
from fer_batch.model.recognize import Recognizer

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("", set()),
        ("processor\t: 0\nflags\t\t: fpu avx2\n", set()),
        ("flags\t\t: fpu avx512f avx512_bf16 vaes\n\nflags\t\t: fpu\n", {"avx512_bf16"}),
        ("flags\t: amx_bf16 amx_tile avx512_fp16\n", {"amx_bf16", "avx512_fp16"}),
        ("Features\t: fp asimd bf16 sve\n", {"bf16"}),
        ("flags\t: avx512_bf16 avx512_vnni\n", {"avx512_bf16", "avx512_vnni"}),
        ("model name: bf16 avx512_bf16\n", set()),
    ],
    ids=["empty", "old", "x86", "AMX", "ARM", "VNNI", "name"],
)
def test_cpu_flags(text: str, flags: set[str], tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    found = read_cpu_flags(tmp_path / "cpuinfo")
    assert found == flags
    assert has_cpu_precision("bf16", found) == bool(flags)
    assert has_cpu_precision("fp32", found)
    assert read_cpu_flags(tmp_path / "missing") == frozenset()


@pytest.mark.parametrize(
    ("capability", "auto", "refused"),
    [((6, 1), "fp32", {"bf16", "fp16"}), ((7, 5), "fp32", {"bf16"}), ((8, 0), "bf16", set())],
    ids=["Pascal", "Turing", "Ampere"],
)
def test_precision_of_a_gpu(
    capability: tuple[int, int], auto: str, refused: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    gpu = torch.device("cuda")
    assert choose_precision("auto", gpu) == auto
    with pytest.raises(ConfigError, match="This GPU does not compute in int8"):
        choose_precision("int8", gpu)
    for precision in ("fp32", "bf16", "fp16"):
        if precision in refused:
            with pytest.raises(ConfigError, match=f"This GPU does not compute in {precision}"):
                choose_precision(precision, gpu)
        else:
            assert choose_precision(precision, gpu) == precision


def test_cpu_without_bfloat16_uses_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "read_cpu_flags", frozenset)
    assert choose_precision("auto", CPU) == "fp32"
    with pytest.raises(ConfigError, match="This CPU does not compute in bf16: give fp32"):
        Recognizer(device="cpu", precision="bf16")


def test_exported_network_refuses_other_precisions() -> None:
    check_onnx_precision("auto")
    check_onnx_precision("fp32")
    with pytest.raises(ConfigError, match=r"\.onnx file computes in fp32"):
        check_onnx_precision("bf16")


def test_auto_takes_the_first_precision_that_cpu_and_network_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_has_precision", lambda precision, device: True)
    assert choose_precision("auto", CPU) == "int8"
    assert choose_precision("auto", CPU, has_int8=False) == "bf16"
