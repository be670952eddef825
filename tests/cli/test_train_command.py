"""`fer-batch train`: what can't be trained is one line and exit code 2, with nothing written."""

from pathlib import Path

import pytest

from fer_batch.cli.main import main
from fer_batch.config import TrainConfig


def train(*words: str) -> int | str | None:
    try:
        return main(["train", *words])
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--data"),
        (["--epochs", "1"], "--data"),
        (["--data"], "--data"),
        (["--data", ""], "'' is not NAME=PATH"),
        (["--data", "fer2013.parquet"], "'fer2013.parquet' is not NAME=PATH"),
        (["--data", "=fer2013.parquet"], "is not NAME=PATH"),
        (["--data", "fer2013="], "is not NAME=PATH"),
        (["--data", "fer2013=x.csv", "--data", "ck48"], "'ck48' is not NAME=PATH"),
        (["--data", "fer2013=x.csv", "--epochs", "0"], "--epochs is 0"),
        (["--data", "fer2013=x.csv", "--epochs", "many"], "many"),
        (["--data", "fer2013=x.csv", "--sequence-epochs", "-1"], "--sequence-epochs is -1"),
        (["--data", "fer2013=x.csv", "--batch-size", "1"], "--batch-size is 1"),
        (["--data", "fer2013=x.csv", "--lr", "0"], "--lr is 0"),
        (["--data", "fer2013=x.csv", "--lr", "nan"], "--lr is nan"),
        (["--data", "fer2013=x.csv", "--dropout", "1"], "--dropout is 1"),
        (["--data", "fer2013=x.csv", "--ema-decay", "1"], "--ema-decay is 1"),
        (["--data", "fer2013=x.csv", "--workers", "0"], "--workers is 0"),
        (["--data", "fer2013=x.csv", "--threads", "0"], "--threads is 0"),
        (["--data", "fer2013=x.csv", "--schedule", "linear"], "linear"),
        (["--data", "fer2013=x.csv", "--class-weights", "focal"], "focal"),
    ],
)
def test_words_that_cannot_be_trained_by_are_one_line_and_nothing_is_written(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(*words, "--out", "run") == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert said in streams.err
    assert streams.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_data_of_other_columns_is_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faces.csv").write_text("label,picture\n1,2\n")
    assert train("--data", "fer2013=faces.csv", "--out", "run") == 2
    streams = capfd.readouterr()
    assert streams.out == ""
    assert str(tmp_path / "faces.csv") in streams.err
    assert streams.err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["faces.csv"]


def test_the_defaults_are_those_of_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    defaults = TrainConfig(data=(("fer2013", "x"),))
    for name in ("epochs", "sequence_epochs", "batch_size", "lr", "dropout", "ema_decay", "seed", "workers"):
        words = said.partition(f" --{name.replace('_', '-')} ")[2]
        assert f"(default {getattr(defaults, name)})" in words.partition(" --")[0]
