"""No command prints a control character, whatever names, rows and arguments contain."""

import logging
import re
import sys
from pathlib import Path

import pytest

from fer_batch.cli.app import app
from fer_batch.cli.main import main
from fer_batch.cli.output import ProgressLine, print_line, print_output, print_status, print_table, print_text
from fer_batch.logs import EscapingFormatter
from fer_batch.terminal import escape_controls, escape_lines
from tests.runs import plan_videos, write_run

FORBIDDEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
HOSTILE = "a\x1b]0;title\x07\x1b[2J\x9b31m\u202egpm\u2066.\r\n\tok: b\x7f\x85\u2028.mp4"
URI = f"/talks/{HOSTILE}"
CLEAN = "été 日本 👩‍👩‍👧 نیم‌فاصله.mp4"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", {URI: [["happy"] * 5, ["sad"] * 2], f"{URI}2": None})


def check_streams(capfd: pytest.CaptureFixture[str], *, allow_tabs: bool = False) -> str:
    streams = capfd.readouterr()
    for text in streams:
        text = text.replace("\t", " ") if allow_tabs else text
        found = FORBIDDEN.search(text)
        assert not found, repr(text[max(found.start() - 40, 0) : found.end() + 40])
    return streams.out + streams.err


@pytest.mark.parametrize(
    "text", [HOSTILE, "\x1b", "a\nb", *map(chr, (0, 8, 13, 127, 128, 155, 159, 0x202E, 0x2069, 0xDC80))]
)
def test_controls_are_escaped(text: str) -> None:
    escaped = escape_controls(text)
    assert escaped.isprintable()
    assert escaped.encode().decode("unicode_escape") == text
    assert not FORBIDDEN.search(escape_lines(text).replace("\t", ""))


def test_other_text_is_unchanged() -> None:
    assert escape_controls(CLEAN) == CLEAN
    assert escape_lines(f"{CLEAN}\n\t{CLEAN}\n") == f"{CLEAN}\n\t{CLEAN}\n"


def test_functions_of_output_escape(capfd: pytest.CaptureFixture[str]) -> None:
    print_line(HOSTILE)
    print_line(HOSTILE, style="bold")
    print_status(HOSTILE)
    print_text(HOSTILE.replace("\t", ""))
    print_table((HOSTILE, "b"), [(HOSTILE, HOSTILE)], title=HOSTILE)
    line = ProgressLine()
    line.show(HOSTILE)
    line.show("later")
    line.print(HOSTILE)
    line.show(HOSTILE)
    line.close(keep=True)
    print_output("\x1b[36m(worker)\x1b[0m line\r\n")
    assert check_streams(capfd).count(escape_controls(HOSTILE)) >= 7


def test_log_is_escaped() -> None:
    record = logging.LogRecord("fer_batch", logging.INFO, "", 0, "skipped: %s", (HOSTILE,), None)
    assert EscapingFormatter().format(record) == f"skipped: {escape_controls(HOSTILE)}"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["query", "OUT", "SELECT uri, error FROM videos"], 0),
        (["query", "OUT", 'SELECT 1 AS "a\x1b[2J", chr(27) || chr(155) AS b'], 0),
        (["query", "OUT", f"SELECT '{HOSTILE}' FROM nothing"], 2),
        (["ask", "episodes", "OUT"], 0),
        (["ask", "shares", "OUT", "--by", "video"], 0),
        (["ask", "shares", "OUT", URI], 0),
        (["verify", "OUT"], 0),
        (["verify", "OUT", "--json"], 0),
        (["finalize", "OUT"], 0),
        (["forget", "OUT", URI], 0),
        (["forget", "OUT", f"no {HOSTILE}"], 2),
        (["assign", "OUT", URI, "--seats", f"Ann {HOSTILE}", "Bo"], 0),
        (["export", "OUT", "-o", "FOLDER/rows.csv"], 0),
        (["export", "OUT", "-o", "FOLDER/texts", "--format", "vtt"], 0),
        (["report", "OUT", URI, "-o", "FOLDER/page.html"], 0),
        (["plot", "OUT", URI, "-o", "FOLDER/plot.png"], 0),
        (["overlay", "OUT", URI, "-o", "FOLDER/a.mp4"], 2),
        (["overlay", "OUT", f"{URI}2", "-o", "FOLDER/a.mp4"], 2),
        (["plan", "FOLDER/videos"], 0),
        (["plan", "FOLDER/list.csv"], 0),
        (["plan", "FOLDER/list.csv", "--json"], 0),
    ],
    ids=lambda value: None if isinstance(value, int) else re.sub(r"[^\w.-]+", " ", " ".join(value))[:60],
)
def test_rows_and_names_are_escaped(
    words: list[str], code: int, out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if words[0] == "plan":
        (tmp_path / "videos").mkdir()
        (tmp_path / "videos" / HOSTILE.replace("/", "")).write_bytes(b"no video")
        (tmp_path / "list.csv").write_text(f'path,note\n"{HOSTILE}","{HOSTILE}"\n', newline="")
    words = [word.replace("OUT", str(out)).replace("FOLDER", str(tmp_path)) for word in words]
    assert main(words) == code
    assert check_streams(capfd, allow_tabs=words[0] in ("query", "ask")) or words[0] == "plot"


@pytest.mark.parametrize("format", ["csv", "json", "table"])
def test_terminal_gets_no_controls_in_data(
    format: str, out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    name = HOSTILE.replace("\t", "")
    query = ["query", str(out), f"SELECT '{name}' AS name", "--format", format]
    if format == "csv":
        assert main(query) == 0
        assert name.encode() in capfd.readouterr().out.encode()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(query) == 0
    assert "x9b" in check_streams(capfd)


def test_differences_of_a_run_are_escaped(out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plan_videos(out, {f"{URI}3": [["happy"]]})
    assert main(["verify", str(out)]) == 1
    assert check_streams(capfd)


COMMANDS = sorted(name for name in app.resolved_commands() if not name.startswith("-"))


@pytest.mark.parametrize("command", [*COMMANDS, HOSTILE])
def test_arguments_are_escaped_in_errors(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    for words in (
        [HOSTILE],
        [f"--{HOSTILE}"],
        [HOSTILE, HOSTILE, "--output", HOSTILE],
        ["--out", HOSTILE, HOSTILE],
    ):
        assert main([command, *words]) == 2
        assert check_streams(capfd).count("\n") == 1
