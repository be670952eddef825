"""Test that one training, study or cross-validation at a time uses a folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_batch.cli.main import main
from fer_batch.storage.lease import hold_lease

FACES = ["--data", "folder=faces"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change into a folder with faces of two classes."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name in ("calm", "wild"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for number in range(60):
            face = random.integers(0, 256, (48, 48), np.uint8)
            Image.fromarray(face).save(tmp_path / "faces" / name / f"{number}.png")
    (tmp_path / "small.toml").write_text("filters = [4]\ndepths = [1]\nepochs = 1\nsequence_epochs = 0\n")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["train", *FACES],
        ["tune", *FACES, "--trials", "1"],
        ["crossval", *FACES, "--recipe", "small.toml", "--folds", "2"],
    ],
    ids=lambda words: words[0],
)
def test_folder_in_use_is_rejected(words: list[str], here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with hold_lease(here / "out", words[0]):
        assert main([*words, "--out", "out"]) == 2
        text = capfd.readouterr().err.splitlines()
        assert [path.name for path in (here / "out").iterdir()] == [".lease"]
    assert f"out is in use: `fer-batch {words[0]}` has written there since" in text[-1]
    assert not (here / "out").exists()
