"""Runs with checkpoints of other networks and classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import ConfigError
from fer_batch.model.card import Card
from fer_batch.model.registry import build_network
from fer_batch.model.weights import save_checkpoint
from fer_batch.run.record import load_matching_run
from tests.integration.test_analyze import QUICK, analyze_in_process, rows

SMALL: dict[str, dict[str, Any]] = {
    "cnn4": {"filters": (4, 4, 4, 4), "dense": (6, 5)},
    "dcnn-bilstm": {"filters": (4, 4, 4, 4), "lstm": (4, 3), "dense": 5},
}


def write_checkpoint(folder: Path, network: str, classes: tuple[str, ...]) -> tuple[Path, Card]:
    torch.manual_seed(0)
    architecture = {**SMALL[network], "classes": len(classes)}
    card = Card(
        classes=classes,
        network=network,
        architecture=architecture,
        window_length=3 if network == "dcnn-bilstm" else 1,
    )
    path = folder / f"{network}.safetensors"
    return path, save_checkpoint(path, build_network(network, architecture).eval(), card)


@pytest.mark.parametrize(
    ("network", "classes"),
    [("cnn4", ("glad", "other")), ("dcnn-bilstm", ("happy", "surprise", "angry", "sad", "fear"))],
)
def test_tables_have_the_classes_of_the_checkpoint(
    network: str, classes: tuple[str, ...], sample: Path, tmp_path: Path
) -> None:
    path, card = write_checkpoint(tmp_path, network, classes)
    config = AnalyzeConfig(checkpoint=str(path), min_face=QUICK.min_face, fps=1.0)
    out = tmp_path / "out"
    analyze_in_process([str(sample)], out, config)
    tracks = rows(out)
    assert len(tracks)
    columns = [f"p_{name}" for name in classes]
    assert [name for name in tracks.columns if name.startswith("p_")] == columns
    np.testing.assert_allclose(tracks[columns].sum(axis=1), 1, atol=1e-5)
    assert set(tracks["model_id"]) == {card.model_id}
    assert set(tracks["emotion"]) <= set(classes)
    assert tracks[columns].nunique().min() > 1  # the predictions differ between faces

    other = write_checkpoint(tmp_path, "cnn4", ("a", "b", "c"))[1]
    with pytest.raises(ConfigError, match="checkpoint was"):
        load_matching_run(out, config, other)
