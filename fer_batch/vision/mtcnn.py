"""Import MTCNN from facenet-pytorch, and functions of torchvision, without torch's compiler.

torchvision imports the compiler for one function that it may need on a GPU: 900 modules, one second and
150 MB in each worker. Here a stand-in module delays that import until the function is called.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

COMPILER_UTILS = "torch._dynamo.utils"


class _LazyModule(ModuleType):
    """Stand in for `torch._dynamo.utils`, which is imported when it is used."""

    def is_compile_supported(self, device: str) -> bool:  # the function that torchvision imports
        return self._load().is_compile_supported(device)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._load(), name)

    def _load(self) -> ModuleType:
        if sys.modules.get(COMPILER_UTILS) is self:
            del sys.modules[COMPILER_UTILS]
        return importlib.import_module(COMPILER_UTILS)


@contextmanager
def _without_compiler() -> Iterator[None]:
    stand_in = sys.modules.setdefault(COMPILER_UTILS, _LazyModule(COMPILER_UTILS))
    try:
        yield
    finally:
        if isinstance(stand_in, _LazyModule) and sys.modules.get(COMPILER_UTILS) is stand_in:
            del sys.modules[COMPILER_UTILS]


with _without_compiler():
    from facenet_pytorch import MTCNN
    from facenet_pytorch.models.utils.detect_face import bbreg, generateBoundingBox, nms_numpy, rerec
    from torchvision.ops import batched_nms, nms

__all__ = [
    "MTCNN",
    "batched_nms",
    "bbreg",
    "generateBoundingBox",
    "nms",
    "nms_numpy",
    "rerec",
]

PNET_MIN_SCORE, RNET_MIN_SCORE = 0.6, 0.7
RNET_PX, ONET_PX = 24, 48
"""Sides of the patches that the networks classify."""
LEVEL_MAX_IOU = 0.5
"""Largest IoU of two boxes that are both kept in one level of the pyramid."""
