"""Two workers train on RAF-DB and AffectNet, with a head for each and a teacher."""

from pathlib import Path

import pytest
import torch

from fer_batch.evaluation.evaluate import evaluate
from fer_batch.model.card import Card
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.weights import load_checkpoint, save_checkpoint
from fer_batch.schema import EMOTIONS
from fer_batch.train_config import TrainConfig
from fer_batch.training.run import train
from tests.datasets import affectnet_sets, number_images, rafdb_original
from tests.training.examples import SMALL_RECIPE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SPLITS = ("train", "train", "train", "test")


def write_teacher(path: Path) -> str:
    torch.manual_seed(3)
    architecture = {"classes": 7, "filters": [4], "depths": [1], "fold": 2}
    network = CnnBiLstm(**architecture).eval()
    torch.nn.init.normal_(network.crop_head.weight, std=5)
    save_checkpoint(path, network, Card(classes=EMOTIONS, architecture=architecture))
    return str(path)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Configure a run; AffectNet has contempt and no disgust."""
    folder = tmp_path_factory.mktemp("data")
    rafdb = rafdb_original(folder, number_images([1, 2, 3, 4, 5, 6, 7] * 20, SPLITS))
    affectnet = affectnet_sets(folder, number_images([0, 1, 2, 3, 4, 6, 7] * 20, SPLITS))
    return TrainConfig.from_dict(
        {
            **SMALL_RECIPE,
            "data": [["affectnet", str(affectnet)], ["rafdb", str(rafdb)]],
            "heads": "per-dataset",
            "ship_head": "rafdb",
            "teacher": [write_teacher(folder / "teacher.safetensors")],
            "workers": 2,
        }
    )


def test_a_run_ships_the_head_of_rafdb_and_tests_on_the_published_parts(
    config: TrainConfig, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    summary = train(config, out, resources={"CPU": 0.5})
    network, card = load_checkpoint(out)
    assert card.classes == EMOTIONS
    assert network.crop_head.out_features == len(EMOTIONS)
    assert (summary.config["ship_head"], summary.config["workers"]) == ("rafdb", 2)
    assert summary.data == ["affectnet", "rafdb"]
    assert summary.left_out["contempt_left_out"] == 20
    assert summary.train_clips["disgust"] < summary.train_clips["happy"]
    examples = evaluate(config.data, checkpoints=[out]).examples
    assert examples.split == "test"
    assert len(examples.labels) == 35 + 30
