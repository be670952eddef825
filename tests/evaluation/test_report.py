"""The files of an evaluation: figures as JSON and CSV, plots that can be printed."""

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_batch.errors import OutputError
from fer_batch.evaluation.compare import compare
from fer_batch.evaluation.curves import History
from fer_batch.evaluation.evaluate import Answers
from fer_batch.evaluation.examples import Examples
from fer_batch.evaluation.metrics import measure
from fer_batch.evaluation.pictures import (
    comparison_plot,
    confusion_plot,
    faces_plot,
    per_class_plot,
    reliability_plot,
)
from fer_batch.evaluation.report import write_comparison, write_report
from fer_batch.plotting import render_figure
from tests.evaluation.faces import clips, images

FACES = ["mistakes.png", "samples_right.png", "samples_wrong.png"]
FILES = [
    "confusion.csv", "confusion.png", "confusion_normalized.csv", "metrics.json", "mistakes.csv",
    "mistakes.png", "per_class.csv", "per_class.png", "reliability.png", "samples_right.png",
    "samples_wrong.png",
]  # fmt: skip


def answered(*classes: str, count: int = 40, seed: int = 0) -> tuple[Examples, Answers]:
    """Answers at random to two data sets; the last class has no examples."""
    random = np.random.default_rng(0)
    labels = random.integers(0, max(1, len(classes) - 1), count)
    probs = np.random.default_rng(seed).dirichlet(np.ones(len(classes)), count).astype(np.float32)
    parts = [clips(*[2] * (count // 2)), clips(*[1] * (count - count // 2))]
    examples = Examples(
        parts=parts,
        labels=labels,
        classes=classes,
        places=[np.arange(len(parts[0])) * 3, np.arange(len(parts[1]))],
        split="test",
        data=[{"name": name, "n": len(part)} for name, part in zip("ab", parts, strict=True)],
        left_out={},
    )
    figures = measure(probs, labels, classes) | {"model_id": f"model {seed}"}
    answers = Answers(checkpoint=f"run {seed}", averaging="flip", probs=probs, labels=labels, figures=figures)
    return examples, answers


def rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


@pytest.mark.parametrize("count", [1, 40])
def test_every_file_says_the_same(tmp_path: Path, count: int) -> None:
    examples, answers = answered("calm", 'say "hi", you', "empty", count=count)
    found = answers.figures
    out = tmp_path / "deep" / "report"
    write_report(out, examples, answers)
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
    examples, answers = answered(*classes)
    found = answers.figures
    compared = compare(examples, [answers] * 2)
    for figure in (
        confusion_plot(np.array(found["confusion"]), found["classes"]),
        reliability_plot(found),
        per_class_plot(found),
        faces_plot(images(7), [(classes[0], classes[1], 0.5)] * 7, "$faces^"),
        comparison_plot(compared | {"classes": compared["classes"][:6]}),
    ):
        with Image.open(io.BytesIO(render_figure(figure))) as image:
            assert image.format == "PNG"
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            assert 800 < min(image.size) <= max(image.size) < 8000


def test_bars_are_labelled_with_their_class_support_and_value() -> None:
    _, answers = answered("calm", "wild", "empty")
    (axes,) = per_class_plot(answers.figures).axes
    scores = answers.figures["per_class"]
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        f"{name}\nn = {one['support']}" for name, one in scores.items()
    ]
    values = [f"{one[key]:.2f}" for key in ("precision", "recall", "f1") for one in scores.values()]
    assert [text.get_text() for text in axes.texts] == values


def test_faces_are_under_their_true_and_predicted_class() -> None:
    assert not faces_plot(images(0), [], "none").axes[0].images
    (axes,) = faces_plot(images(7), [("a" * 20, "happy", 0.956)] * 7, "seven").axes
    assert [text.get_text() for text in axes.texts] == [f"{'a' * 13}… → happy\n0.96"] * 7
    for shown, text, face in zip(axes.images, axes.texts, images(7), strict=True):
        assert np.array_equal(shown.get_array(), face)
        left, right, bottom, top = shown.get_extent()
        assert bottom - top == pytest.approx(right - left)
        assert left < text.get_position()[0] < right
        assert text.get_position()[1] < top


def test_mistakes_are_those_in_order_of_their_confidence(tmp_path: Path) -> None:
    examples, answers = answered("calm", "wild", "empty")
    write_report(tmp_path, examples, answers, samples=False)
    header, *table = rows(tmp_path / "mistakes.csv")
    assert header == ["data", "index", "true", "predicted", "confidence", "true_probability"]
    assert len(table) == round((1 - answers.figures["accuracy"]) * 40)
    confidences = [float(row[4]) for row in table]
    assert confidences == sorted(confidences, reverse=True)
    for data, index, true, predicted, confidence, true_probability in table:
        place = int(index) // 3 if data == "a" else 20 + int(index)
        probs = dict(zip(answers.figures["classes"], answers.probs[place], strict=True))
        assert true != predicted
        assert true == answers.figures["classes"][answers.labels[place]]
        assert [float(confidence), float(true_probability)] == pytest.approx(
            [max(probs.values()), probs[true]], abs=1e-6
        )
        assert probs[predicted] == max(probs.values())


def test_faces_can_be_left_out_and_then_are_gone(tmp_path: Path) -> None:
    examples, answers = answered("a", "b")
    write_report(tmp_path, examples, answers)
    seen = {name: (tmp_path / name).read_bytes() for name in FACES}
    write_report(tmp_path, examples, answers)
    assert seen == {name: (tmp_path / name).read_bytes() for name in FACES}
    write_report(tmp_path, examples, answers, samples=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == [name for name in FILES if name not in FACES]


def test_where_all_is_right_there_are_no_mistakes(tmp_path: Path) -> None:
    examples, answers = answered("a", "b", count=30)
    probs = np.eye(2, dtype=np.float32)[answers.labels]
    answers = dataclasses.replace(answers, probs=probs)
    write_report(tmp_path, examples, answers)
    assert len(rows(tmp_path / "mistakes.csv")) == 1
    with Image.open(tmp_path / "mistakes.png") as image:
        assert image.height < 300  # a line of text
    with Image.open(tmp_path / "samples_right.png") as image:
        assert image.height > 1500


def test_the_history_of_a_run_comes_along(tmp_path: Path) -> None:
    examples, answers = answered("a", "b")
    epochs = [{"epoch": 1, "phase": "stills", "loss": 1.5}, {"epoch": 2, "phase": "stills", "accuracy": None}]
    write_report(tmp_path, examples, answers, samples=False, history=History(epochs=epochs, selection={}))
    assert json.loads((tmp_path / "history.json").read_text()) == epochs
    assert rows(tmp_path / "history.csv") == [
        ["epoch", "phase", "loss", "accuracy"], ["1", "stills", "1.5", ""], ["2", "stills", "", ""],
    ]  # fmt: skip
    assert (tmp_path / "learning_curves.png").read_bytes()[1:4] == b"PNG"


def test_a_comparison_is_a_table_a_picture_and_json(tmp_path: Path) -> None:
    examples, first = answered("calm", "wild", "empty")
    comparison = compare(examples, [first, answered("calm", "wild", "empty", seed=1)[1]])
    write_comparison(tmp_path / "report", comparison)
    assert json.loads((tmp_path / "report" / "comparison.json").read_text()) == comparison
    with (tmp_path / "report" / "comparison.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["checkpoint"] for row in table] == ["run 0", "run 1"]
    assert table[0]["gain_points"] == table[0]["p"] == ""
    for row, said in zip(table, comparison["rows"], strict=True):
        assert float(row["accuracy"]) == said["accuracy"]
        assert [float(row[f"macro_f1_{end}"]) for end in ("low", "high")] == said["intervals"]["macro_f1"]
        assert {name: float(row[f"f1_{name}"]) for name in ("calm", "wild")} == said["f1"]
    gain = comparison["rows"][1]["gain"]
    assert float(table[1]["gain_points"]) == pytest.approx(100 * gain["accuracy"])
    assert int(table[1]["only_this"]) == gain["only_second"]
    figure = comparison_plot(comparison)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["run 0, flip", "run 1, flip"]
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.axison][2:] == ["F1 calm", "F1 wild"]


def test_a_report_replaces_its_own_files_only(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for count in (10, 20):
        write_report(tmp_path, *answered("a", "b", count=count), samples=False)
        assert json.loads((tmp_path / "metrics.json").read_text())["n"] == count
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == sorted(["notes.txt", *(name for name in FILES if name not in FACES)])
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_where_a_report_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    examples, answers = answered("a", "b")
    said = "file/report can't be written to: Not a directory"
    with pytest.raises(OutputError, match=said):
        write_report(tmp_path / "file" / "report", examples, answers)
    with pytest.raises(OutputError, match=said):
        write_comparison(tmp_path / "file" / "report", compare(examples, [answers]))
