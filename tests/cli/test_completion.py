"""Test the completion scripts with a real bash."""

import subprocess
import sys
from pathlib import Path

import pytest

from fer_batch.cli.main import main

SHELLS = ("bash", "zsh", "fish")
ASK_BASH = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
$(complete -p fer-batch | sed 's/.*-F \\([^ ]*\\).*/\\1/') fer-batch "${COMP_WORDS[COMP_CWORD]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def read_script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    streams = capsys.readouterr()
    assert streams.err == ""
    return streams.out


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with two folders and two files."""
    for name in ("results", "rest"):
        (tmp_path / name).mkdir()
    for name in ("recipe.toml", "ready steady.mp4"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["nothing"], set()),
        (["qu"], {"query"}),
        (["--vers"], {"--version"}),
        (["completion", ""], set(SHELLS)),
        (["query", "re"], {"results", "rest", "recipe.toml", "ready steady.mp4"}),
        (["query", "results", "SELECT 1", "--form"], {"--format"}),
        (["query", "results", "SELECT 1", "--format", "p"], {"parquet"}),
        (["query", "--output", "res"], {"results", "rest"}),
        (["analyze", "rea"], {"ready steady.mp4"}),
        (["analyze", "ready steady.mp4", "rec"], {"recipe.toml"}),
        (["analyze", "--out", "res"], {"results", "rest"}),
        (["forget", "results", "ready"], {"ready steady.mp4"}),
        (["export", "results", "ready", "-o", "rec"], {"recipe.toml"}),
        (["export", "results", "--format", "v"], {"vtt"}),
        (["ask", "turn"], {"turning-points"}),
        (["submit", "--submission"], {"--submission-id"}),
    ],
)
def test_bash_completes_commands_options_and_paths(
    words: list[str], offered: set[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "completion.bash").write_text(read_script("bash", capsys))
    answer = subprocess.run(
        ["bash", "--norc", "-c", ASK_BASH, "bash", "./completion.bash", "fer-batch", *words],
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stderr == ""
    assert {line.replace("\\ ", " ") for line in answer.stdout.splitlines() if line} == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_of_all_shells_have_commands_and_options(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    script = read_script(shell, capsys)
    assert all(word in script for word in ("fer-batch", "analyze", "submit", "min-face"))


def test_help_imports_no_heavy_library() -> None:
    code = "import sys; from fer_batch.cli.main import main; main(['--help']); print('', *sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = {"torch", "ray", "av", "duckdb", "pandas", "pyarrow", "numpy", "matplotlib"}
    assert not heavy & set(output.splitlines()[-1].split())
