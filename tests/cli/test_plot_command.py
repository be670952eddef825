"""Test `fer-batch plot`."""

from pathlib import Path

import pytest
from PIL import Image

from fer_batch.cli.main import main
from fer_batch.storage.folder import open_folder
from tests.cli.conftest import ReadError
from tests.runs import write_run
from tests.s3 import BUCKET, Store
from tests.timeline.plots.test_plot import VIDEOS


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("plot") / "run", VIDEOS)


def plot(*words: object) -> int:
    return main(["plot", *map(str, words)])


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["a.mp4"],
        ["a.mp4", "--kind", "shares"],
        ["--kind", "shares"],
        ["--emotion", "happy", "--absolute"],
    ],
    ids=" ".join,
)
def test_plot_writes_a_picture(finished: Path, tmp_path: Path, words: list[str]) -> None:
    assert plot(finished, *words, "-o", tmp_path / "x.png") == 0
    assert Image.open(tmp_path / "x.png").size[0] == 1500


def test_run_in_a_store_is_plotted(store: Store, tmp_path: Path) -> None:
    out = f"s3://{BUCKET}/plotted"
    write_run(open_folder(out), {"/a.mp4": [["happy"]]})
    assert plot(out, "a.mp4", "-o", tmp_path / "x.svg") == 0
    assert (tmp_path / "x.svg").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.mp4", "-o", "x.png"], "has no video x.mp4"),
        (["broken.mp4", "-o", "x.png"], "(no index)"),
        (["--kind", "ribbons", "-o", "x.png"], "name a VIDEO"),
        (["a.mp4", "--kind", "strip", "-o", "x.png"], "leave VIDEO out"),
        (["--by-person", "-o", "x.png"], "--by-person is for --kind shares"),
        (["a.mp4", "--emotion", "sad", "-o", "x.png"], "--emotion is for --kind strip"),
        (["--kind", "shares", "--by-person", "-o", "x.png"], "fer-batch assign"),
        (["a.mp4", "--kind", "shares", "--min-face-px", "999", "-o", "x.png"], "no face matches the filter"),
        (["--max-yaw-deg", "-1", "-o", "x.png"], "--max-yaw-deg must be at least 0 and below 90, got -1"),
        (["-o", "x.gif"], "use one of .png, .svg"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line(
    finished: Path, read_error: ReadError, words: list[str], message: str
) -> None:
    assert message in read_error("plot", finished, *words)
    assert not Path("x.png").exists()


def test_picture_in_the_run_folder_is_rejected(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot(finished, "-o", finished / "x.png") == 2
    assert "lies in the folder of the run" in capsys.readouterr().err
