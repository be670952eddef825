"""A worker is ready without torch's compiler, and who wants that still gets it."""

import subprocess
import sys

import pytest

LATER = """
import sys, fer_batch.vision.faces
assert not {"torch._dynamo", "sympy", "scipy"} & set(sys.modules)
assert sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu") in (True, False)
"""
MEANWHILE = """
from fer_batch.vision.mtcnn import _without_compiler
with _without_compiler():
    import torch._dynamo
    from torch._dynamo.utils import counters
assert counters is torch._dynamo.utils.counters
"""


@pytest.mark.parametrize("script", [LATER, MEANWHILE], ids=["later", "meanwhile"])
def test_the_compiler_is_imported_when_it_is_wanted(script: str) -> None:
    script += "import torch._dynamo.utils; print(len(torch._dynamo.utils.counters))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == "0", ended.stderr
