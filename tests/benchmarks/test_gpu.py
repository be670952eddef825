"""The check of a real GPU also runs on a CPU, with little data."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_checks_run_on_a_cpu(tmp_path: Path) -> None:
    """The others take minutes on a CPU; without names the command runs all."""
    names = ["ddp", "recognizer", "faces", "detector", "decoding", "guard"]
    ended = run_script("--out", str(tmp_path), "--cpu", "--small", *names)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["machine"]["gpus"] == []
    checks = report["checks"]
    assert list(checks) == names
    assert [row["problems"] for row in checks.values()] == [[]] * len(checks)
    assert checks["recognizer"]["precisions"]["fp32"]["same_labels"] == 1
