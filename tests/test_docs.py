"""The tutorial runs, each recipe is a question that has an answer, and what the pages link to is there."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

import fer_batch.docs
from fer_batch.cli.main import main
from fer_batch.timeline.assign import assign_by_position
from fer_batch.timeline.store import Timeline, open_timeline
from tests.runs import write_tables
from tests.timeline.videos import VIDEOS

DOCS = Path(fer_batch.docs.__path__[0])
README = Path(__file__).parent.parent / "README.md"
PAGES = sorted(DOCS.glob("*.md"))


def blocks(path: Path) -> list[tuple[str, str]]:
    """Fenced blocks of a page: language and text."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def timeline(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    out = write_tables(tmp_path_factory.mktemp("recipes") / "out", VIDEOS)
    assign_by_position(out, ["Ann", "Bo"], ["talk.mp4"])
    return open_timeline(out)


RECIPES = [text for language, text in blocks(DOCS / "recipes.md") if language == "sql"]


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_a_recipe_is_a_question(timeline: Timeline, recipe: str) -> None:
    timeline.sql(recipe).fetchall()


def test_recipes_have_answers(timeline: Timeline) -> None:
    """All but those for what these made-up videos have not: trouble, minutes, surprise, sharp faces."""
    without = [recipe for recipe in RECIPES if not timeline.sql(recipe).fetchall()]
    assert len(without) <= 4 < len(RECIPES), without


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = []
    for language, text in blocks(DOCS / "tutorial.md"):
        if language == "python":
            exec(compile(text, "tutorial.md", "exec"), {})
            done.append("python")
            continue
        assert language == "console"
        for line in text.strip().splitlines():
            words = shlex.split(line)
            if words[0] == "fer-batch":
                assert main(words[1:]) == 0, line
            else:
                subprocess.run(line, shell=True, check=True)
            done.append(words[0])
    assert done.count("fer-batch") > 15 and "python" in done
    made = ("page.html", "annotated.mp4", "captions.vtt", "results.xlsx", "tracks.csv", "ribbons.png")
    assert [name for name in made if not (tmp_path / name).stat().st_size] == []


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target
