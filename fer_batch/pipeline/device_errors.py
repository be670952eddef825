"""Recognize errors of a GPU and of the libraries that use it. They are no fault of a video."""

import re
import sys
from collections.abc import Iterator

TYPES = ("AcceleratorError", "OutOfMemoryError")
"""Types of torch for errors of a GPU. The memory of a CPU has no type of its own."""
TEXT = re.compile(
    r"(CUDA|cuDNN|CUBLAS|HIP|MIOpen)( driver)? (error|failure|out of memory)"
    r"|CUDNN_STATUS|CUBLAS_STATUS|cudaError|miopenStatus|cudaGetDeviceCount"
    r"|No (CUDA|HIP) GPUs are available|NVIDIA driver|valid cuDNN algorithm|INTERNAL ASSERT.*CUDA",
    re.IGNORECASE | re.DOTALL,
)
"""Text of such errors that torch raises as RuntimeError, and of those of onnxruntime."""


def describe_device_error(error: BaseException) -> str | None:
    """Describe the error of a GPU that is, or has caused, an exception in one line; None if there is none."""
    for cause in list_causes(error):
        if _is_device_error(cause):
            return f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}"
    return None


def list_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes, also those that Ray keeps in `cause`."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__


def _is_device_error(error: BaseException) -> bool:
    torch = sys.modules.get("torch")  # a process that has not imported it cannot have such an error
    types = tuple(kind for name in TYPES if (kind := getattr(torch, name, None)))
    if isinstance(error, types):
        return True
    # Other exceptions may quote a file's name.
    has_text = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
    return has_text and TEXT.search(str(error)) is not None
