"""Comparison of results: the gain of each row over the first."""

from pathlib import Path

import pytest

from fer_batch.evaluation.compare import compare
from fer_batch.evaluation.evaluate import evaluate
from tests.evaluation.faces import ck48, folder, tiny


def test_gain_of_an_averaging_is_the_difference_of_two_evaluations(tmp_path: Path) -> None:
    data = [folder(tmp_path / "own", *["happy", "sad", "fear"] * 20)]
    path = tiny(tmp_path / "one.safetensors", "happy", "sad", "fear", "calm")
    table = compare(evaluate(data, checkpoints=[path], averaging=["none", "flip"]))
    assert [name for name in table if name.startswith("f1_")] == ["f1_happy", "f1_sad", "f1_fear"]
    assert table.n.tolist() == [60, 60]
    alone = [
        evaluate(data, checkpoints=[path], averaging=[way]).results[0].metrics.accuracy
        for way in ("none", "flip")
    ]
    assert table.accuracy.tolist() == alone
    assert table.filter(regex="gain|only|^p$").loc[0].isna().all()
    gain = table.loc[1]
    assert gain.gain_points / 100 == pytest.approx(alone[1] - alone[0])
    assert (gain.only_this - gain.only_first) / 60 == pytest.approx(gain.gain_points / 100)
    assert gain.only_first + gain.only_this > 0


def test_equal_predictions_have_no_gain(tmp_path: Path) -> None:
    data = [ck48(tmp_path / "ck", S1_001="happy", S1_002="sad", S2_001="happy")]
    path = tiny(tmp_path / "one.safetensors", "happy", "sad")
    table = compare(evaluate(data, checkpoints=[path, path], ensemble=True))
    assert table.checkpoint.tolist() == ["one", "one-2", "ensemble"]
    gains = table.filter(regex="gain|only|^p$").loc[1:].astype(float)
    assert gains.to_numpy().tolist() == [[0, 0, 0, 0, 0, 1]] * 2


def test_classes_of_checkpoints_are_matched_by_name(tmp_path: Path) -> None:
    data = [folder(tmp_path / "own", *["happy", "sad"] * 20)]
    paths = [
        tiny(tmp_path / "a.safetensors", "happy", "sad"),
        tiny(tmp_path / "b.safetensors", "Sad", "Happiness"),
    ]
    evaluation = evaluate(data, checkpoints=paths)
    f1 = compare(evaluation)["f1_happy"].tolist()
    assert f1 == [
        result.metrics.per_class[name].f1
        for result, name in zip(evaluation.results, ("happy", "Happiness"), strict=True)
    ]
