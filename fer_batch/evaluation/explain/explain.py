"""Why a network answers as it does: which places of a crop, and which frames of a window, speak for an
emotion.

All on the CPU and in single precision, of the crops as they are: as `analyze --no-flip` answers.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Occlusion
from torch import Tensor, nn

from fer_batch.model.network import CROP_SIZE, CropEncoder, Network
from fer_batch.model.weights import Card

METHODS = ("grad-cam", "occlusion")
WINDOW_PX, STRIDE_PX = 8, 3
"""Of the patch that occlusion covers."""
PATCHES = 32
"""Covered crops that are answered together."""
STEPS = 64
"""Points on the way from grey frames to the window's own, at which gradients are taken."""


@dataclass(frozen=True, kw_only=True)
class FrameWeights:
    """What each frame of a window adds to the answer at its centre."""

    contributions: np.ndarray
    """`(emotions, T) float32`: to the logarithm of the probability, above 0 where a frame speaks for it."""
    difference: np.ndarray
    """`(emotions,) float32`: that logarithm, less what it is where all frames are grey: the contributions'
    sum, were they exact."""

    @property
    def weights(self) -> np.ndarray:
        """`(emotions, T) float32`, -1 to 1: contributions as shares of all that is added and taken away."""
        whole = np.abs(self.contributions).sum(axis=1, keepdims=True)
        return self.contributions / np.maximum(whole, 1e-12)

    @property
    def error(self) -> np.ndarray:
        """`(emotions,) float32`: how far the sums of the contributions are from `difference`."""
        return self.contributions.sum(axis=1) - self.difference


@dataclass(frozen=True, kw_only=True)
class Reasons:
    """Why a face has its answer."""

    probs: np.ndarray
    """`(classes,) float32`: the answer at the moment, in its window."""
    crop_probs: np.ndarray
    """`(classes,) float32`: the answer that the maps are of."""
    alone: bool
    """Whether that is to the crop alone; a network of clips is asked about the window."""
    emotions: list[int]
    """Those that are explained, by their number among the classes."""
    maps: dict[str, np.ndarray]
    """By method, `(emotions, 48, 48) float32`. "grad-cam" is 0 or more, in units of its own; "occlusion" is
    by how much the logarithm of the probability falls where that place is covered."""
    frames: FrameWeights | None
    """None where the network reads no neighbours or the face has none."""


def explain_face(
    network: Network,
    card: Card,
    crops: np.ndarray,
    centre: int,
    emotions: Sequence[int] = (),
    methods: Sequence[str] = METHODS,
) -> Reasons:
    """The reasons for the answer at one moment of a face.

    `crops` is its window, `(T, 48, 48) uint8` grey, T from 1, and `centre` is the moment's place in it.
    `emotions` are numbers of classes; where there are none, the most probable class and the runner-up.
    Methods that the network has no use for (see `map_layer`) are left out.
    """
    given = torch.tensor(crops).float().div(255).sub(card.mean).div(card.std)[:, None]  # (T, 1, 48, 48)
    with torch.no_grad():
        embeddings = network.encode(given).float()  # (T, D)
        probs = _settled(network, network.classify(embeddings[None]), card)[0, centre].exp()
    crop = given[centre : centre + 1]
    alone = network.first_phase != "clips" or len(crops) == 1
    around, place = (embeddings[centre][None], 0) if alone else (embeddings, centre)

    def answer(covered: Tensor) -> Tensor:  # (N, 1, 48, 48) to (N, T, classes) logits
        windows = around.expand(len(covered), -1, -1).clone()
        windows[:, place] = network.encode(covered).float()
        return network.classify(windows)

    def logits(covered: Tensor) -> Tensor:
        return answer(covered)[:, place]

    def log_probs(covered: Tensor) -> Tensor:
        return _settled(network, answer(covered), card)[:, place]

    with torch.no_grad():
        crop_probs = log_probs(crop)[0].exp()
    chosen = list(emotions) or probs.argsort(descending=True)[:2].tolist()
    layer = map_layer(network.encoder) if "grad-cam" in methods else None
    maps = {}
    if layer is not None:
        maps["grad-cam"] = np.stack([grad_cam(logits, layer, crop, emotion) for emotion in chosen])
    if "occlusion" in methods:
        maps["occlusion"] = occlusion(log_probs, crop, chosen)
    reads = bool(network.lstms) and len(crops) > 1
    return Reasons(
        probs=probs.numpy(),
        crop_probs=crop_probs.numpy(),
        alone=alone,
        emotions=chosen,
        maps=maps,
        frames=frame_weights(network, card, embeddings, centre, chosen) if reads else None,
    )


def map_layer(encoder: CropEncoder) -> nn.Module | None:
    """The layer with the map of the encoder's last convolution, after its norm and activation; None where
    there is none of use.

    There is none where the map has one place only, and in transformers, whose only convolution cuts the
    picture into patches before anything is known of them.
    """
    made: list[tuple[nn.Module, torch.Size]] = []
    seen = Counter[nn.Module]()

    def note(module: nn.Module, _: Any, output: Any) -> None:
        seen[module] += 1
        if isinstance(output, Tensor) and output.ndim == 4:
            made.append((module, output.shape[2:]))

    if any(isinstance(module, nn.MultiheadAttention) for module in encoder.modules()):
        return None
    hooks = [module.register_forward_hook(note) for module in encoder.modules()]
    try:
        with torch.no_grad():
            encoder(torch.zeros(1, 1, CROP_SIZE, CROP_SIZE))
    finally:
        for hook in hooks:
            hook.remove()
    last = max((n for n, (module, _) in enumerate(made) if isinstance(module, nn.Conv2d)), default=None)
    if last is None or made[last][1].numel() == 1:
        return None
    # A convolution's own output has any sign and offset, of which the norm after it takes off most.
    alike = [module for module, size in made[last:] if size == made[last][1] and seen[module] == 1]
    return alike[-1]


def grad_cam(logits: Callable[[Tensor], Tensor], layer: nn.Module, crop: Tensor, emotion: int) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391): where the layer's map holds what raises a logit,
    `(48, 48) float32`, 0 or more, enlarged from the map's own size.

    `crop` is `(1, 1, 48, 48)` normalised, `logits` takes N of them to `(N, classes)`.
    """
    coarse = LayerGradCam(logits, layer).attribute(crop, target=emotion, relu_attributions=True)
    fine = LayerAttribution.interpolate(coarse, (CROP_SIZE, CROP_SIZE), "bilinear")
    return fine[0, 0].detach().numpy()


def occlusion(log_probs: Callable[[Tensor], Tensor], crop: Tensor, emotions: Sequence[int]) -> np.ndarray:
    """Occlusion (Zeiler and Fergus 2014, arXiv:1311.2901): by how much the answers fall where patches of the
    crop are of the mean grey, `(emotions, 48, 48) float32`: of each pixel the mean of all patches over it.

    `crop` is `(1, 1, 48, 48)` normalised, `log_probs` takes N of them to `(N, classes)`.
    """

    def chosen(covered: Tensor) -> Tensor:  # all emotions of one look
        return log_probs(covered)[:, list(emotions)]

    found = Occlusion(chosen).attribute(
        crop,
        sliding_window_shapes=(1, WINDOW_PX, WINDOW_PX),
        strides=(1, STRIDE_PX, STRIDE_PX),
        baselines=0,
        perturbations_per_eval=PATCHES,
    )
    return found[:, 0].numpy()


def frame_weights(
    network: Network, card: Card, embeddings: Tensor, centre: int, emotions: Sequence[int]
) -> FrameWeights:
    """What each frame of a window, `(T, D)` embeddings, adds to the log probability of each emotion at its
    centre: integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) on the way from frames of mean
    grey, summed over each frame's embedding.

    Frames are encoded one by one, so the way may lead from embedding to embedding: pixels need not be asked.
    """
    with torch.no_grad():
        grey = network.encode(torch.zeros(1, 1, CROP_SIZE, CROP_SIZE)).float()  # (1, D)
    blank = grey.expand(len(embeddings), -1)

    def log_probs(windows: Tensor) -> Tensor:  # (N, T, D) to (N, classes)
        return _settled(network, network.classify(windows), card)[:, centre]

    gradients = IntegratedGradients(log_probs)
    parts = [
        gradients.attribute(embeddings[None], blank[None], target=emotion, n_steps=STEPS)
        for emotion in emotions
    ]
    with torch.no_grad():
        ends = log_probs(torch.stack([embeddings, blank]))
    return FrameWeights(
        contributions=torch.cat(parts).sum(dim=2).float().detach().numpy(),
        difference=(ends[0] - ends[1])[list(emotions)].numpy(),
    )


def _settled(network: Network, logits: Tensor, card: Card) -> Tensor:
    return network.smooth_log_probs(logits.float() / card.temperature)
