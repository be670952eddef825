"""The files of an evaluation: figures as JSON and CSV, plots that can be printed."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_batch.errors import OutputError
from fer_batch.evaluation.metrics import measure
from fer_batch.evaluation.report import confusion_plot, reliability_plot, write_report

FILES = [
    "confusion.csv", "confusion.png", "confusion_normalized.csv", "metrics.json", "per_class.csv",
    "reliability.png",
]  # fmt: skip


def figures(*classes: str, count: int = 40) -> dict:
    random = np.random.default_rng(0)
    probs = random.dirichlet(np.ones(len(classes)), count)
    return measure(probs, random.integers(0, max(1, len(classes) - 1), count), classes)


def rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


@pytest.mark.parametrize("count", [1, 40])
def test_every_file_says_the_same(tmp_path: Path, count: int) -> None:
    found = figures("calm", 'say "hi", you', "empty", count=count)
    out = tmp_path / "deep" / "report"
    write_report(out, found)
    assert sorted(p.name for p in out.iterdir()) == FILES
    assert json.loads((out / "metrics.json").read_text()) == found
    header, *table = rows(out / "confusion.csv")
    assert header == ["true", *found["classes"]]
    assert [row[0] for row in table] == found["classes"]
    assert [[int(v) for v in row[1:]] for row in table] == found["confusion"]
    _, *shares = rows(out / "confusion_normalized.csv")
    for counts, row in zip(found["confusion"], shares, strict=True):
        assert [float(v) for v in row[1:]] == pytest.approx([v / max(sum(counts), 1) for v in counts])
    header, *scores = rows(out / "per_class.csv")
    assert header == ["class", "precision", "recall", "f1", "support"]
    for name, *values in scores:
        assert [float(v) for v in values] == list(found["per_class"][name].values())


@pytest.mark.parametrize(
    "classes", [("a", "b"), ("cost in $", "$x^", "a_b", "<i>"), [f"class {i}" for i in range(40)]]
)
def test_plots_are_pictures_of_300_dots_an_inch(classes: list[str]) -> None:
    found = figures(*classes)
    for content in (
        confusion_plot(np.array(found["confusion"]), found["classes"]),
        reliability_plot(found),
    ):
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == "PNG"
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            assert 900 < min(image.size) <= max(image.size) < 8000


def test_a_report_replaces_its_own_files_only(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for count in (10, 20):
        write_report(tmp_path, figures("a", "b", count=count))
        assert json.loads((tmp_path / "metrics.json").read_text())["n"] == count
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*FILES, "notes.txt"])
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_where_a_report_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/report can't be written to: Not a directory"):
        write_report(tmp_path / "file" / "report", figures("a", "b"))
