"""torchvision encoders: embeddings, and weights from files."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torchvision.models import get_model

from fer_batch.config import CROP_SIZE_PX, GREY_MEAN, GREY_STD
from fer_batch.errors import CheckpointError, ConfigError
from fer_batch.model.backbone import BackboneEncoder
from fer_batch.model.card import Card
from fer_batch.model.registry import build_network
from fer_batch.model.weights import load_checkpoint, save_checkpoint
from fer_batch.train_config import BACKBONES


def test_every_backbone_exists_in_torchvision() -> None:
    for name in BACKBONES:
        with torch.device("meta"):
            assert BackboneEncoder(name).width > 0


def test_unknown_name_raises_config_error() -> None:
    with pytest.raises(ConfigError, match=r"--backbone must be one of resnet18, .*got alexnet"):
        BackboneEncoder("alexnet")


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("efficientnet_b0", 1280)])
def test_pretrained_weights_give_the_features_of_their_network(name: str, width: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = get_model(name, weights=None).eval()
    safetensors.torch.save_file(network.state_dict(), tmp_path / "network.safetensors")
    encoder = BackboneEncoder(name, 64).eval()
    encoder.load_pretrained(tmp_path / "network.safetensors")
    grey = torch.rand(2, 1, CROP_SIZE_PX, CROP_SIZE_PX)
    sized = torch.nn.functional.interpolate(grey, (64, 64), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    head = network.fc if name == "resnet18" else network.classifier
    with torch.inference_mode():
        embeddings = encoder((grey - GREY_MEAN) / GREY_STD)
        torch.testing.assert_close(head(embeddings), network((sized - mean) / std), atol=1e-4, rtol=1e-3)
    assert embeddings.shape == (2, width) == (2, encoder.width)


def test_transformer_returns_an_embedding() -> None:
    encoder = BackboneEncoder("vit_b_32", 64).eval()
    with torch.inference_mode():
        assert encoder(torch.zeros(1, 1, CROP_SIZE_PX, CROP_SIZE_PX)).shape == (1, 768)


@pytest.mark.parametrize("case", ["missing", "pickled", "damaged", "another network"])
def test_unusable_weights_raise_checkpoint_error(case: str, tmp_path: Path) -> None:
    path = tmp_path / ("weights.pth" if case == "pickled" else "weights.safetensors")
    if case in ("pickled", "damaged"):
        path.write_bytes(b"no weights")
    elif case == "another network":
        safetensors.torch.save_file({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"--backbone-weights .*weights") as caught:
        BackboneEncoder("resnet18").load_pretrained(path)
    if case == "pickled":
        assert "save_file" in str(caught.value)


def test_network_with_a_backbone_survives_saving_and_loading(tmp_path: Path) -> None:
    architecture = {"classes": 2, "backbone": "resnet18", "size": 32, "lstm": (4, 4), "dropout": 0.0}
    torch.manual_seed(0)
    network = build_network("cnn-bilstm", architecture).eval()
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, network, Card(classes=("a", "b"), architecture=architecture))
    loaded = load_checkpoint(path)[0]
    crops = torch.randn(1, 2, 1, CROP_SIZE_PX, CROP_SIZE_PX)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(crops), network(crops), atol=1e-2, rtol=0)
