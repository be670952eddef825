"""The files of an evaluation: JSON, CSV, and plots in print quality."""

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
from fer_batch.evaluation.evaluate import CheckpointResult, Evaluation
from fer_batch.evaluation.examples import DataPart, Examples
from fer_batch.evaluation.metrics import measure
from fer_batch.evaluation.plots import (
    plot_class_scores,
    plot_comparison,
    plot_confusion,
    plot_faces,
    plot_reliability,
)
from fer_batch.evaluation.report import write_comparison, write_evaluation, write_report
from fer_batch.plotting import render_figure
from fer_batch.training.curves import History
from tests.evaluation.faces import clips, images

FACES = ["mistakes.png", "samples_right.png", "samples_wrong.png"]
FILES = [
    "confusion.csv", "confusion.png", "confusion_normalized.csv", "metrics.json", "mistakes.csv",
    "mistakes.png", "per_class.csv", "per_class.png", "reliability.png", "samples_right.png",
    "samples_wrong.png",
]  # fmt: skip


def make_examples(*classes: str, count: int = 40) -> Examples:
    """Return examples of two data sets; the last class has none."""
    parts = [clips(*[2] * (count // 2)), clips(*[1] * (count - count // 2))]
    return Examples(
        parts=parts,
        labels=np.random.default_rng(0).integers(0, max(1, len(classes) - 1), count),
        classes=classes,
        indices=[np.arange(len(parts[0])) * 3, np.arange(len(parts[1]))],
        split="test",
        data=[
            DataPart(name=n, path=n, n=len(part), left_out={}) for n, part in zip("ab", parts, strict=True)
        ],
        left_out={},
    )


def make_result(examples: Examples, seed: int = 0) -> CheckpointResult:
    """Return random predictions."""
    width, labels = len(examples.classes), examples.labels
    probs = np.random.default_rng(seed).dirichlet(np.ones(width), len(labels)).astype(np.float32)
    return CheckpointResult(
        checkpoint=f"run {seed}",
        averaging="flip",
        model_id=f"model {seed}",
        metrics=measure(probs, labels, examples.classes),
        temperature=1.0,
        unused_classes=(),
        members=(),
        history=None,
        probs=probs,
        labels=labels,
    )


def make_evaluation(*classes: str, count: int = 40, results: int = 1) -> Evaluation:
    examples = make_examples(*classes, count=count)
    return Evaluation(
        examples=examples, results=tuple(make_result(examples, seed) for seed in range(results))
    )


def write_first(out: Path, evaluation: Evaluation, *, samples: bool = True) -> None:
    write_report(out, evaluation.examples, evaluation.results[0], samples=samples)


def read_rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


@pytest.mark.parametrize("count", [1, 40])
def test_all_files_hold_the_same_metrics(tmp_path: Path, count: int) -> None:
    evaluation = make_evaluation("calm", 'say "hi", you', "empty", count=count)
    out = tmp_path / "deep" / "report"
    evaluation.write(out)
    metrics = evaluation.results[0].metrics
    assert sorted(p.name for p in out.iterdir()) == FILES
    record = json.loads((out / "metrics.json").read_text())
    assert record == {**evaluation.results[0].to_dict(), **evaluation.examples.to_dict()}
    header, *table = read_rows(out / "confusion.csv")
    assert header == ["true", *metrics.classes]
    assert [row[0] for row in table] == list(metrics.classes)
    assert [[int(v) for v in row[1:]] for row in table] == metrics.confusion.tolist()
    _, *shares = read_rows(out / "confusion_normalized.csv")
    for counts, row in zip(metrics.confusion, shares, strict=True):
        assert [float(v) for v in row[1:]] == pytest.approx([v / max(sum(counts), 1) for v in counts])
    header, *scores = read_rows(out / "per_class.csv")
    assert header == ["class", "precision", "recall", "f1", "support"]
    for name, *values in scores:
        assert [float(v) for v in values] == list(vars(metrics.per_class[name]).values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "classes", [("a", "b"), ("cost in $", "$x^", "a_b", "<i>"), [f"class {i}" for i in range(15)]]
)
def test_plots_have_300_dots_per_inch(classes: list[str]) -> None:
    evaluation = make_evaluation(*classes, results=2)
    metrics = evaluation.results[0].metrics
    table = compare(evaluation)
    for figure in (
        plot_confusion(metrics.confusion, metrics.classes),
        plot_reliability(metrics),
        plot_class_scores(metrics),
        plot_faces(images(7), [(classes[0], classes[1], 0.5)] * 7, "$faces^"),
        plot_comparison(table[[*table.columns[:26]]], "a, test"),
    ):
        with Image.open(io.BytesIO(render_figure(figure))) as image:
            assert image.format == "PNG"
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            assert 800 < min(image.size) <= max(image.size) < 8000


def test_bars_are_labelled_with_class_support_and_value() -> None:
    metrics = make_evaluation("calm", "wild", "empty").results[0].metrics
    (axes,) = plot_class_scores(metrics).axes
    scores = metrics.per_class
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        f"{name}\nn = {one.support}" for name, one in scores.items()
    ]
    values = [f"{getattr(one, key):.2f}" for key in ("precision", "recall", "f1") for one in scores.values()]
    assert [text.get_text() for text in axes.texts] == values


def test_faces_stand_below_their_true_and_predicted_class() -> None:
    assert not plot_faces(images(0), [], "none").axes[0].images
    (axes,) = plot_faces(images(7), [("a" * 20, "happy", 0.956)] * 7, "seven").axes
    assert [text.get_text() for text in axes.texts] == [f"{'a' * 13}… → happy\n0.96"] * 7
    for shown, text, face in zip(axes.images, axes.texts, images(7), strict=True):
        assert np.array_equal(shown.get_array(), face)
        left, right, bottom, top = shown.get_extent()
        assert bottom - top == pytest.approx(right - left)
        assert left < text.get_position()[0] < right
        assert text.get_position()[1] < top


def test_mistakes_are_ordered_by_confidence(tmp_path: Path) -> None:
    evaluation = make_evaluation("calm", "wild", "empty")
    (result,) = evaluation.results
    write_first(tmp_path, evaluation, samples=False)
    header, *table = read_rows(tmp_path / "mistakes.csv")
    assert header == ["data", "index", "true", "predicted", "confidence", "true_probability"]
    assert len(table) == round((1 - result.metrics.accuracy) * 40)
    confidences = [float(row[4]) for row in table]
    assert confidences == sorted(confidences, reverse=True)
    for data, index, true, predicted, confidence, true_probability in table:
        place = int(index) // 3 if data == "a" else 20 + int(index)
        probs = dict(zip(result.metrics.classes, result.probs[place], strict=True))
        assert true != predicted
        assert true == result.metrics.classes[result.labels[place]]
        assert [float(confidence), float(true_probability)] == pytest.approx(
            [max(probs.values()), probs[true]], abs=1e-6
        )
        assert probs[predicted] == max(probs.values())


def test_report_replaces_its_own_files_and_removes_pictures_of_faces_on_request(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    evaluation = make_evaluation("a", "b")
    pictures = []
    for _ in range(2):
        write_first(tmp_path, evaluation)
        pictures.append({name: (tmp_path / name).read_bytes() for name in FACES})
    assert pictures[0] == pictures[1]
    write_first(tmp_path, make_evaluation("a", "b", count=20), samples=False)
    assert json.loads((tmp_path / "metrics.json").read_text())["n"] == 20
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == sorted(["notes.txt", *(name for name in FILES if name not in FACES)])
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_perfect_predictions_have_no_mistakes(tmp_path: Path) -> None:
    examples = make_examples("a", "b", count=30)
    probs = np.eye(2, dtype=np.float32)[examples.labels]
    write_report(tmp_path, examples, dataclasses.replace(make_result(examples), probs=probs))
    assert len(read_rows(tmp_path / "mistakes.csv")) == 1
    with Image.open(tmp_path / "mistakes.png") as image:
        assert image.height < 300  # a line of text
    with Image.open(tmp_path / "samples_right.png") as image:
        assert image.height > 1500


def test_history_of_the_run_is_copied(tmp_path: Path) -> None:
    examples = make_examples("a", "b")
    epochs = [{"epoch": 1, "phase": "stills", "loss": 1.5}, {"epoch": 2, "phase": "stills", "accuracy": None}]
    result = dataclasses.replace(make_result(examples), history=History(epochs=list(epochs), selection={}))
    write_report(tmp_path, examples, result, samples=False)
    assert json.loads((tmp_path / "history.json").read_text()) == epochs
    assert read_rows(tmp_path / "history.csv") == [
        ["epoch", "phase", "loss", "accuracy"], ["1", "stills", "1.5", ""], ["2", "stills", "", ""],
    ]  # fmt: skip
    assert (tmp_path / "learning_curves.png").read_bytes()[1:4] == b"PNG"


def test_several_results_get_a_folder_each_and_a_comparison(tmp_path: Path) -> None:
    evaluation, out = make_evaluation("calm", "wild", "empty", results=2), tmp_path / "report"
    write_evaluation(out, evaluation, samples=False)
    expected = compare(evaluation)
    assert sorted(p.name for p in out.iterdir()) == [
        "comparison.csv", "comparison.json", "comparison.png", "run 0", "run 1",
    ]  # fmt: skip
    record = json.loads((out / "comparison.json").read_text())
    assert (record["n"], record["split"]) == (40, "test")
    assert [list(row) for row in record["rows"]] == [list(expected)] * 2
    assert [row["gain_points"] for row in record["rows"]] == [None, expected.gain_points[1]]
    with (out / "comparison.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["checkpoint"] for row in table] == ["run 0", "run 1"]
    assert table[0]["gain_points"] == table[0]["p"] == ""
    for row, (_, values) in zip(table, expected.iterrows(), strict=True):
        assert row["checkpoint"] == values["checkpoint"]
        for name in ("accuracy", "macro_f1_low", "macro_f1_high", "f1_calm", "f1_wild"):
            assert float(row[name]) == values[name]
    assert int(table[1]["only_this"]) == expected.only_this[1]
    figure = plot_comparison(expected, "a, test")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["run 0, flip", "run 1, flip"]
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.axison][2:] == ["F1 calm", "F1 wild"]


@pytest.mark.slow
def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    evaluation = make_evaluation("a", "b")
    message = "cannot write to .*file/report: Not a directory"
    with pytest.raises(OutputError, match=message):
        write_first(tmp_path / "file" / "report", evaluation)
    with pytest.raises(OutputError, match=message):
        write_comparison(tmp_path / "file" / "report", evaluation)
