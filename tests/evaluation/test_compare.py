"""Comparison of results: the gain of each row over the first."""

from pathlib import Path

import pytest

from fer_batch.evaluation.compare import compare
from fer_batch.evaluation.evaluate import evaluate
from fer_batch.evaluation.metrics import PairedDifference
from tests.evaluation.faces import ck48, folder, tiny


def test_gain_of_an_averaging_is_the_difference_of_two_evaluations(tmp_path: Path) -> None:
    data = [folder(tmp_path / "own", *["happy", "sad", "fear"] * 20)]
    path = tiny(tmp_path / "one.safetensors", "happy", "sad", "fear", "calm")
    comparison = compare(evaluate(data, checkpoints=[path], averaging=["none", "flip"]))
    assert comparison.classes == ("happy", "sad", "fear")
    assert (len(comparison.examples.labels), comparison.examples.split) == (60, "train")
    alone = [
        evaluate(data, checkpoints=[path], averaging=[way]).results[0].metrics.accuracy
        for way in ("none", "flip")
    ]
    first, second = comparison.rows
    assert first.gain is None
    assert [first.metrics.accuracy, second.metrics.accuracy] == alone
    gain = second.gain
    assert gain is not None
    assert gain.accuracy == pytest.approx(alone[1] - alone[0])
    assert (gain.only_second - gain.only_first) / 60 == pytest.approx(gain.accuracy)
    assert gain.only_first + gain.only_second > 0


def test_equal_predictions_have_no_gain(tmp_path: Path) -> None:
    data = [ck48(tmp_path / "ck", S1_001="happy", S1_002="sad", S2_001="happy")]
    path = tiny(tmp_path / "one.safetensors", "happy", "sad")
    comparison = compare(evaluate(data, checkpoints=[path, path], ensemble=True))
    assert [row.checkpoint for row in comparison.rows] == ["one", "one-2", "ensemble"]
    nothing = PairedDifference(accuracy=0.0, interval=(0.0, 0.0), only_first=0, only_second=0, p=1.0)
    assert [row.gain for row in comparison.rows] == [None, nothing, nothing]


def test_classes_of_checkpoints_are_matched_by_name(tmp_path: Path) -> None:
    data = [folder(tmp_path / "own", *["happy", "sad"] * 20)]
    paths = [
        tiny(tmp_path / "a.safetensors", "happy", "sad"),
        tiny(tmp_path / "b.safetensors", "Sad", "Happiness"),
    ]
    evaluation = evaluate(data, checkpoints=paths)
    first, second = compare(evaluation).rows
    assert first.f1.keys() == second.f1.keys() == {"happy", "sad"}
    assert second.f1["happy"] == evaluation.results[1].metrics.per_class["Happiness"].f1
