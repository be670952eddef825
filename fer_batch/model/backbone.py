"""Encoders of torchvision, trained on photographs, for face crops."""

from pathlib import Path

import safetensors
import safetensors.torch
import torch.nn.functional as F
from torch import Tensor, nn

from fer_batch.config import GREY_MEAN, GREY_STD
from fer_batch.errors import CheckpointError, ConfigError
from fer_batch.model.network import CropEncoder
from fer_batch.storage.user_files import read_bounded
from fer_batch.train_config import BACKBONES

VIT_PX, DEFAULT_PX = 224, 112
"""Sides to which a crop is scaled, for transformers (which have a fixed size) and for other networks."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_FILE_BYTES = 1_000_000_000
HEAD_PREFIXES = ("fc.", "classifier.", "heads.")
"""Weights of the ImageNet classifiers, which are not used."""


class BackboneEncoder(CropEncoder):
    """Encode crops with a torchvision network without its head.

    `name` is a ResNet (He et al. 2016, arXiv:1512.03385), an EfficientNet (Tan & Le 2019, arXiv:1905.11946)
    or a ViT (Dosovitskiy et al. 2021, arXiv:2010.11929). Crops are scaled to `size` pixels a side, by default
    a size that suits the network, and repeated in three channels. Raises ConfigError for a name that is not
    in `BACKBONES`.
    """

    def __init__(self, name: str, size: int = 0) -> None:
        super().__init__()
        if name not in BACKBONES:
            raise ConfigError(f"--backbone must be one of {', '.join(BACKBONES)}, got {name}")
        from torchvision.models import get_model

        self.size = VIT_PX if name.startswith("vit") else size or DEFAULT_PX
        self.network = get_model(name, weights=None)
        if name.startswith("vit"):
            self.width, self.network.heads = self.network.hidden_dim, nn.Identity()
        elif name.startswith("efficientnet"):
            self.width = self.network.classifier[-1].in_features
            self.network.classifier = nn.Identity()
        else:
            self.width, self.network.fc = self.network.fc.in_features, nn.Identity()

    def forward(self, crops: Tensor) -> Tensor:
        sized = F.interpolate(crops, (self.size, self.size), mode="bilinear", align_corners=False)
        grey = sized * GREY_STD + GREY_MEAN  # (N, 1, size, size), 0–1
        mean = crops.new_tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
        std = crops.new_tensor(IMAGENET_STD).view(1, 3, 1, 1)
        return self.network((grey - mean) / std)  # (N, D)

    def load_pretrained(self, path: Path) -> None:
        """Load the weights of the torchvision network from a .safetensors file.

        Raises CheckpointError if the file cannot be read or holds another network.
        """
        if path.suffix != ".safetensors":
            raise CheckpointError(
                f"--backbone-weights must be a .safetensors file, got {path}; convert a state dict of "
                "torchvision with safetensors.torch.save_file(state_dict, 'weights.safetensors')"
            )
        try:
            tensors = safetensors.torch.load(read_bounded(path, MAX_FILE_BYTES))
            body = {name: value for name, value in tensors.items() if not name.startswith(HEAD_PREFIXES)}
            self.network.load_state_dict(body)
        except (OSError, ValueError, KeyError, safetensors.SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"--backbone-weights {path} does not hold the weights of this backbone: {reason[:300]}"
            ) from error
