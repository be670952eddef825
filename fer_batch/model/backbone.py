"""Encoders of torchvision, that were trained on photographs, for face crops."""

from pathlib import Path

import safetensors
import safetensors.torch
import torch.nn.functional as F
from torch import Tensor, nn

from fer_batch.config import BACKBONES
from fer_batch.errors import CheckpointError, ConfigError
from fer_batch.model.network import GREY_MEAN, GREY_STD, CropEncoder

VIT_SIZE, SIZE = 224, 112
"""Pixels a side that a crop is scaled to, for transformers (which are made for one size) and others."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's images, as torchvision's weights expect."""
HEADS = ("fc.", "classifier.", "heads.")
"""Where torchvision's networks answer ImageNet's classes, which nothing here needs."""


class BackboneEncoder(CropEncoder):
    """Crops to embeddings, `(N, 1, 48, 48)` float, normalised, to `(N, D)` float, by the torchvision network
    `name` without its head: a ResNet (He et al. 2016, arXiv:1512.03385), an EfficientNet (Tan & Le 2019,
    arXiv:1905.11946) or a ViT (Dosovitskiy et al. 2021, arXiv:2010.11929).

    Crops become three equal channels of `size` pixels a side, 0 for the one that suits the network. Raises
    ConfigError for a name that is none of `BACKBONES`.
    """

    def __init__(self, name: str, size: int = 0) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise ConfigError(f"--backbone is {name}; allowed is {', '.join(BACKBONES)}")
        from torchvision.models import get_model

        self.size = VIT_SIZE if name.startswith("vit") else size or SIZE
        self.network = get_model(name, weights=None)
        if name.startswith("vit"):
            self.width, self.network.heads = self.network.hidden_dim, nn.Identity()
        elif name.startswith("efficientnet"):
            self.width = self.network.classifier[-1].in_features
            self.network.classifier = nn.Identity()
        else:
            self.width, self.network.fc = self.network.fc.in_features, nn.Identity()

    def forward(self, crops: Tensor) -> Tensor:
        """As the class says."""
        sized = F.interpolate(crops, (self.size, self.size), mode="bilinear", align_corners=False)
        grey = sized * GREY_STD + GREY_MEAN  # (N, 1, size, size), 0–1
        mean, std = crops.new_tensor(MEAN).view(1, 3, 1, 1), crops.new_tensor(STD).view(1, 3, 1, 1)
        return self.network((grey - mean) / std)  # (N, D)

    def load_pretrained(self, path: Path) -> None:
        """Take the weights of torchvision's network of that name from a .safetensors file.

        Raises CheckpointError where it can't be read or is of another network.
        """
        if path.suffix != ".safetensors":
            raise CheckpointError(
                f"--backbone-weights {path} is no .safetensors file; a state dict of torchvision becomes one "
                "by safetensors.torch.save_file(state_dict, 'weights.safetensors')"
            )
        try:
            given = safetensors.torch.load(path.read_bytes())
            body = {name: value for name, value in given.items() if not name.startswith(HEADS)}
            self.network.load_state_dict(body)
        except (OSError, safetensors.SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"--backbone-weights {path} does not hold the weights of this backbone: {reason[:300]}"
            ) from error
