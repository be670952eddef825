"""Errors of GPUs are distinguished from errors of videos."""

import pytest
import torch

from fer_batch.errors import DecodeError
from fer_batch.pipeline.device_errors import describe_device_error


class OnnxError(Exception):
    """Like the errors of onnxruntime, which derive from Exception."""

    __module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


def caused_by(error: Exception) -> Exception:
    outer = ValueError("cannot recognize")
    outer.__cause__ = error
    error.__cause__ = outer  # a circle must not hang
    return outer


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("an illegal memory access was encountered"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("No CUDA GPUs are available"),
        RuntimeError("HIP error: invalid device function"),
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
        OnnxError("Non-zero status code: CUDA failure 700: an illegal memory access ; GPU=0"),
        OnnxError("CUDNN failure 8: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_device_error_is_recognized_also_as_a_cause(error: Exception) -> None:
    description = describe_device_error(error)
    assert description == f"{type(error).__name__}: {str(error).splitlines()[0]}"
    assert describe_device_error(caused_by(error)) == description


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(""),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 4000000 bytes"),
        RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu"),
        DecodeError("/videos/CUDA error: 1.mp4 cannot be read"),
        FileNotFoundError("CUDA error.mp4"),
        OnnxError("Invalid rank for input"),
        MemoryError(),
    ],
    ids=lambda error: str(error)[:20] or type(error).__name__,
)
def test_other_error_is_not_a_device_error(error: Exception) -> None:
    assert describe_device_error(error) is None
