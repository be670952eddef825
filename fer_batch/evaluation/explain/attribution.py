"""Attribution of a prediction: which parts of a crop, and which frames of a window, support an emotion.

All computations run on the CPU in single precision, without mirror images, as in `analyze --no-flip`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Occlusion
from torch import Tensor, nn

from fer_batch.config import CROP_SIZE_PX
from fer_batch.model.card import Card
from fer_batch.model.network import CropEncoder, Network

METHODS = ("grad-cam", "occlusion")
PATCH_PX, STRIDE_PX = 8, 3
"""Side of the patch that occlusion covers, and the distance between patches."""
PATCHES_PER_BATCH = 32
INTEGRATION_STEPS = 64
"""Points between grey frames and the window at which gradients are taken."""


@dataclass(frozen=True, kw_only=True)
class FrameWeights:
    """The contribution of each frame of a window to the prediction at its centre."""

    contributions: np.ndarray
    """`(emotions, T) float32`: contributions to ln p. A positive value supports the emotion."""
    difference: np.ndarray
    """`(emotions,) float32`: ln p, less ln p with grey frames. Exact contributions sum to it."""

    @property
    def weights(self) -> np.ndarray:
        """`(emotions, T) float32`, −1 to 1: contributions relative to the sum of their magnitudes."""
        total = np.abs(self.contributions).sum(axis=1, keepdims=True)
        return self.contributions / np.maximum(total, 1e-12)

    @property
    def error(self) -> np.ndarray:
        """`(emotions,) float32`: sum of the contributions − `difference`."""
        return self.contributions.sum(axis=1) - self.difference


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """The prediction for a face, and its attribution."""

    probs: np.ndarray
    """`(classes,) float32`: probabilities at the sampled frame, in its window."""
    crop_probs: np.ndarray
    """`(classes,) float32`: the probabilities that the maps explain."""
    crop_only: bool
    """Whether the maps explain the crop alone. Networks of whole clips explain it in its window."""
    emotions: list[int]
    """Indices of the explained classes."""
    maps: dict[str, np.ndarray]
    """`(emotions, 48, 48) float32` by method. "grad-cam" is 0 or more in arbitrary units. "occlusion" is the
    fall of ln p when that place is covered."""
    frames: FrameWeights | None
    """None if the network reads no neighbours or the face has none."""


def attribute_face(
    network: Network,
    card: Card,
    crops: np.ndarray,
    centre: int,
    emotions: Sequence[int] = (),
    methods: Sequence[str] = METHODS,
) -> Attribution:
    """Explain the prediction for one sampled frame of a face.

    `crops` is the window of the face, `(T, 48, 48) uint8` grey with T from 1, and `centre` the position of
    the sampled frame in it. `emotions` are class indices; by default, the two most probable classes. Methods
    that the network does not support (see `find_map_layer`) are left out.
    """
    inputs = torch.tensor(crops).float().div(255).sub(card.mean).div(card.std)[:, None]  # (T, 1, 48, 48)
    with torch.no_grad():
        embeddings = network.encode(inputs).float()  # (T, D)
        probs = _predict_log_probs(network, embeddings[None], card)[0, centre].exp()
    crop = inputs[centre : centre + 1]
    crop_only = network.first_phase != "clips" or len(crops) == 1
    context, position = (embeddings[centre][None], 0) if crop_only else (embeddings, centre)

    def build_windows(covered: Tensor) -> Tensor:  # (N, 1, 48, 48) to (N, T, D)
        windows = context.expand(len(covered), -1, -1).clone()
        windows[:, position] = network.encode(covered).float()
        return windows

    def logits(covered: Tensor) -> Tensor:
        return network.classify(build_windows(covered))[:, position]

    def log_probs(covered: Tensor) -> Tensor:
        return _predict_log_probs(network, build_windows(covered), card)[:, position]

    with torch.no_grad():
        crop_probs = log_probs(crop)[0].exp()
    chosen = list(emotions) or probs.argsort(descending=True)[:2].tolist()
    layer = find_map_layer(network.encoder) if "grad-cam" in methods else None
    maps = {}
    if layer is not None:
        maps["grad-cam"] = np.stack([grad_cam(logits, layer, crop, emotion) for emotion in chosen])
    if "occlusion" in methods:
        maps["occlusion"] = occlude(log_probs, crop, chosen)
    reads_frames = bool(network.lstms) and len(crops) > 1
    return Attribution(
        probs=probs.numpy(),
        crop_probs=crop_probs.numpy(),
        crop_only=crop_only,
        emotions=chosen,
        maps=maps,
        frames=weigh_frames(network, card, embeddings, centre, chosen) if reads_frames else None,
    )


def find_map_layer(encoder: CropEncoder) -> nn.Module | None:
    """Return the layer with the map of the encoder's last convolution, after its norm and activation.

    The result is None if the map has one place only, and for transformers, whose only convolution cuts the
    image into patches.
    """
    outputs: list[tuple[nn.Module, torch.Size]] = []
    calls = Counter[nn.Module]()

    def record(module: nn.Module, _: Any, output: Any) -> None:
        calls[module] += 1
        if isinstance(output, Tensor) and output.ndim == 4:
            outputs.append((module, output.shape[2:]))

    if any(isinstance(module, nn.MultiheadAttention) for module in encoder.modules()):
        return None
    hooks = [module.register_forward_hook(record) for module in encoder.modules()]
    try:
        with torch.no_grad():
            encoder(torch.zeros(1, 1, CROP_SIZE_PX, CROP_SIZE_PX))
    finally:
        for hook in hooks:
            hook.remove()
    last = max((n for n, (module, _) in enumerate(outputs) if isinstance(module, nn.Conv2d)), default=None)
    if last is None or outputs[last][1].numel() == 1:
        return None
    # A convolution's own output has any sign and offset, most of which the norm after it removes.
    same_size = [m for m, size in outputs[last:] if size == outputs[last][1] and calls[m] == 1]
    return same_size[-1]


def grad_cam(logits: Callable[[Tensor], Tensor], layer: nn.Module, crop: Tensor, emotion: int) -> np.ndarray:
    """Compute Grad-CAM: where the layer's map raises the logit of an emotion.

    The result is `(48, 48) float32`, 0 or more, enlarged from the size of the map. `crop` is
    `(1, 1, 48, 48)` normalized; `logits` maps N of them to `(N, classes)`. The method is that of Selvaraju et
    al. (2017), arXiv:1610.02391.
    """
    coarse = LayerGradCam(logits, layer).attribute(crop, target=emotion, relu_attributions=True)
    fine = LayerAttribution.interpolate(coarse, (CROP_SIZE_PX, CROP_SIZE_PX), "bilinear")
    return fine[0, 0].detach().numpy()


def occlude(log_probs: Callable[[Tensor], Tensor], crop: Tensor, emotions: Sequence[int]) -> np.ndarray:
    """Compute the fall of ln p when patches of the crop are covered with the mean grey.

    The result is `(emotions, 48, 48) float32`: for each pixel the mean over all patches that cover it.
    `crop` is `(1, 1, 48, 48)` normalized; `log_probs` maps N of them to `(N, classes)`. The method is that of
    Zeiler and Fergus (2014), arXiv:1311.2901.
    """

    def select_emotions(covered: Tensor) -> Tensor:
        return log_probs(covered)[:, list(emotions)]

    falls = Occlusion(select_emotions).attribute(
        crop,
        sliding_window_shapes=(1, PATCH_PX, PATCH_PX),
        strides=(1, STRIDE_PX, STRIDE_PX),
        baselines=0,
        perturbations_per_eval=PATCHES_PER_BATCH,
    )
    return falls[:, 0].numpy()


def weigh_frames(
    network: Network, card: Card, embeddings: Tensor, centre: int, emotions: Sequence[int]
) -> FrameWeights:
    """Compute the contribution of each frame of a window to ln p at its centre.

    `embeddings` is `(T, D)`. The method is integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365)
    from frames of mean grey, summed over the embedding of each frame. Frames are encoded one by one, so the
    path may lead through embeddings instead of pixels. On the whole path, the expression changes between
    frames with the probabilities of the window itself: those of grey frames would say that nothing changes.
    """
    with torch.no_grad():
        grey = network.encode(torch.zeros(1, 1, CROP_SIZE_PX, CROP_SIZE_PX)).float()  # (1, D)
    baseline = grey.expand(len(embeddings), -1)

    def log_probs(windows: Tensor) -> Tensor:  # (N, T, D) to (N, classes)
        logits = network.classify(windows).float() / card.temperature
        return network.smooth_log_probs(logits, embeddings[None].expand_as(windows))[:, centre]

    gradients = IntegratedGradients(log_probs)
    parts = [
        gradients.attribute(embeddings[None], baseline[None], target=emotion, n_steps=INTEGRATION_STEPS)
        for emotion in emotions
    ]
    with torch.no_grad():
        ends = log_probs(torch.stack([embeddings, baseline]))
    return FrameWeights(
        contributions=torch.cat(parts).sum(dim=2).float().detach().numpy(),
        difference=(ends[0] - ends[1])[list(emotions)].numpy(),
    )


def _predict_log_probs(network: Network, windows: Tensor, card: Card) -> Tensor:
    logits = network.classify(windows).float() / card.temperature
    return network.smooth_log_probs(logits, windows)
