"""What a network costs: its parameters, and its multiply-adds for an answer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.flop_counter import FlopCounterMode

from fer_batch.model.network import CROP_SIZE
from fer_batch.model.registry import build_network


def measure_cost(network: str, architecture: dict[str, Any], window: int) -> dict[str, int]:
    """Of the network of that name: `parameters`, and `multiply_adds` for an answer to a moment of a track:
    one crop encoded, and its window of `window` embeddings read.

    Convolutions, matrix products and LSTMs are counted, without biases and activations.
    """
    built = build_network(network, architecture).eval()
    crop = _counted(built, built.encode, torch.zeros(1, 1, CROP_SIZE, CROP_SIZE))
    read = _counted(built, built.classify, torch.zeros(1, window, built.width))
    return {"parameters": sum(p.numel() for p in built.parameters()), "multiply_adds": crop + read}


@torch.no_grad()
def _counted(network: nn.Module, step: Callable[[Tensor], Tensor], given: Tensor) -> int:
    in_lstms = 0

    def count(lstm: nn.Module, inputs: tuple[Any, ...], _: Any) -> None:  # which FlopCounterMode passes over
        nonlocal in_lstms
        assert isinstance(lstm, nn.LSTM)
        read = inputs[0].data if isinstance(inputs[0], PackedSequence) else inputs[0]
        weights = sum(p.numel() for name, p in lstm.named_parameters() if "weight" in name)
        in_lstms += weights * (read.numel() // lstm.input_size)

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.LSTM)]
    with FlopCounterMode(display=False) as counter:
        step(given)
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() // 2 + in_lstms
