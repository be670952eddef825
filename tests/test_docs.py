"""The documentation is correct: its commands and Python run, its SQL returns rows, and its links exist."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fer_batch
import fer_batch.docs
from fer_batch.cli.main import main
from fer_batch.timeline.assign import assign_by_position
from fer_batch.timeline.store import Timeline, open_timeline
from tests.runs import write_tables
from tests.timeline.videos import VIDEOS

DOCS = Path(fer_batch.docs.__path__[0])
README = Path(__file__).parent.parent / "README.md"
PAGES = sorted(DOCS.rglob("*.md"))


def read_blocks(path: Path) -> list[tuple[str, str]]:
    """Return the language and the text of each fenced block of a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def run_python(path: Path) -> int:
    """Run the Python blocks of a page in one namespace, and return their number."""
    texts = [text for language, text in read_blocks(path) if language == "python"]
    namespace = {"fer_batch": fer_batch}
    for text in texts:
        exec(compile(text, path.name, "exec"), namespace)
    return len(texts)


@pytest.fixture(scope="module")
def timeline(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    out = write_tables(tmp_path_factory.mktemp("recipes") / "OUT", VIDEOS)
    assign_by_position(out, ["Ann", "Bo"], ["talk.mp4"])
    return open_timeline(out)


RECIPES = [text for language, text in read_blocks(DOCS / "recipes.md") if language == "sql"]


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_recipe_is_valid_sql(timeline: Timeline, recipe: str) -> None:
    timeline.sql(recipe).fetchall()


def test_recipes_return_rows(timeline: Timeline) -> None:
    """At most four recipes are empty: the generated videos have no failures, minutes or sharp faces."""
    empty = [recipe for recipe in RECIPES if not timeline.sql(recipe).fetchall()]
    assert len(empty) <= 4 < len(RECIPES), empty


def test_querying_guide_runs(timeline: Timeline, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(str(timeline.out)).parent
    monkeypatch.chdir(folder)
    shutil.copy(sample, folder / "talk.mp4")
    assert run_python(DOCS / "guide" / "querying.md") == 4


@pytest.mark.slow
def test_readme_runs(
    sample: Path, sample_frames: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("talks").mkdir()
    shutil.copy(sample, "talks/one.mp4")
    Image.fromarray(sample_frames[50]).save("portrait.jpg")
    assert run_python(README) == 2


@pytest.mark.slow
def test_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = 0
    for language, text in read_blocks(DOCS / "tutorial.md"):
        if language == "python":
            continue
        assert language == "console"
        for line in text.strip().splitlines():
            words = shlex.split(line)
            if words[0] == "fer-batch":
                assert main(words[1:]) == 0, line
                commands += 1
            else:
                subprocess.run(line, shell=True, check=True)
    assert commands > 15
    made = ("page.html", "annotated.mp4", "captions.vtt", "results.xlsx", "tracks.csv", "ribbons.png")
    assert [name for name in made if not (tmp_path / name).stat().st_size] == []


NOTEBOOKS = {
    "analyze_and_explore.md": ("ribbons.png", "talk.vtt", "results.xlsx", "talk.html", "annotated.mp4"),
    "train_and_evaluate.md": (
        "run/model.safetensors",
        "report/metrics.json",
        "why/explain.json",
        "model.onnx",
    ),
}
"""Pages whose Python blocks are the cells of a notebook, and files that they write."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", NOTEBOOKS)
def test_notebook_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_python(DOCS / page) > 9
    assert [name for name in NOTEBOOKS[page] if not (tmp_path / name).stat().st_size] == []
    if page == "train_and_evaluate.md":
        metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
        assert metrics["accuracy"] > 0.8
    else:
        assert "sad" in (tmp_path / "talk.vtt").read_text()


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_links_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target
