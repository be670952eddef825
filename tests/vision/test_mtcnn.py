"""The detector starts without torch's compiler, which stays importable."""

import subprocess
import sys

import pytest

AFTER_IMPORT = """
import sys, fer_batch.vision.faces
assert not {"torch._dynamo", "sympy", "scipy"} & set(sys.modules)
assert sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu") in (True, False)
"""
DURING_IMPORT = """
from fer_batch.vision.mtcnn import _without_compiler
with _without_compiler():
    import torch._dynamo
    from torch._dynamo.utils import counters
assert counters is torch._dynamo.utils.counters
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [AFTER_IMPORT, DURING_IMPORT], ids=["after import", "during import"])
def test_compiler_is_imported_on_demand(script: str) -> None:
    script += "import torch._dynamo.utils; print(len(torch._dynamo.utils.counters))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == "0", ended.stderr
