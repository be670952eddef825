"""Completion in shells: what a real bash is offered, and that nobody else waits for it."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from fer_batch.cli.completion import SHELLS
from fer_batch.cli.main import main

ASK = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
$(complete -p fer-batch | sed 's/.*-F \\([^ ]*\\).*/\\1/') fer-batch "${COMP_WORDS[COMP_CWORD]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(["--print-completion", shell])
    assert end.value.code == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with two folders and two files."""
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
        (["--print-completion", ""], set(SHELLS)),
        (["query", "re"], {"results", "rest"}),
        (["query", "results", "SELECT 1", "--form"], {"--format"}),
        (["query", "results", "SELECT 1", "--format", "p"], {"parquet"}),
        (["query", "--output", "re"], {"results", "rest", "recipe.toml", "ready steady.mp4"}),
        (["analyze", "rea"], {"ready steady.mp4"}),
        (["analyze", "ready steady.mp4", "rec"], {"recipe.toml"}),
        (["analyze", "--out", "re"], {"results", "rest"}),
        (["forget", "results", "ready"], {"ready steady.mp4"}),
        (["export", "results", "ready", "-o", "rec"], {"recipe.toml"}),
        (["export", "results", "--format", "v"], {"vtt"}),
        (["submit", "an"], {"analyze"}),
        (["submit", "analyze", "--submission"], {"--submission-id"}),
        (["submit", "analyze", "--working-dir", "rest"], {"rest"}),
    ],
)
def test_bash_is_offered_what_may_follow(
    words: list[str], offered: set[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "completion.bash").write_text(script("bash", capsys))
    asked = subprocess.run(
        ["bash", "--norc", "-c", ASK, "bash", "./completion.bash", "fer-batch", *words],
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stderr == ""
    assert {line for line in asked.stdout.splitlines() if line} == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script_that_knows_commands_and_options(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = script(shell, capsys)
    assert all(word in said for word in ("fer-batch", "analyze", "submit", "min-face"))


def test_the_help_says_how_to_install_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(f"\n  fer-batch --print-completion {shell} > " in said for shell in SHELLS)


@pytest.mark.parametrize("words", [["--print-completion"], ["--print-completion", "cmd.exe"]])
def test_an_unknown_shell_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_no_other_command_waits_for_the_library() -> None:
    code = (
        "import sys; from fer_batch.cli.main import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert argparse.__name__ in said.split()
    assert "shtab" not in said.split()
