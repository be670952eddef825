"""What `detect` takes from facenet-pytorch and torchvision, imported without torch's compiler.

torchvision imports the compiler for one function that it may want on a GPU: 900 modules, a second and 150 MB
in each worker. Here that is put off until somebody calls the function.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

COMPILER, WANTED = "torch._dynamo", "torch._dynamo.utils"


class _Later(ModuleType):
    """Stands for a module, whose functions import it when they are called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if COMPILER in sys.modules:  # it is being imported after all
            return getattr(self._itself(), name)

        def called(*args: Any, **named: Any) -> Any:
            return getattr(self._itself(), name)(*args, **named)

        return called

    def _itself(self) -> ModuleType:
        if sys.modules.get(WANTED) is self:
            del sys.modules[WANTED]
        return importlib.import_module(WANTED)


@contextmanager
def _without_compiler() -> Iterator[None]:
    stand_in = _Later(WANTED)
    if COMPILER not in sys.modules:
        sys.modules[WANTED] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(WANTED) is stand_in:
            del sys.modules[WANTED]


with _without_compiler():
    from facenet_pytorch import MTCNN
    from facenet_pytorch.models.utils.detect_face import bbreg, generateBoundingBox, nms_numpy, rerec
    from torchvision.ops import nms

__all__ = ["MTCNN", "bbreg", "generateBoundingBox", "nms", "nms_numpy", "rerec"]
