"""Count the parameters of a network, and its multiply-adds per prediction."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.flop_counter import FlopCounterMode

from fer_batch.config import CROP_SIZE_PX
from fer_batch.model.registry import build_network


def measure_cost(network: str, architecture: Mapping[str, Any], window: int) -> tuple[int, int]:
    """Return the parameters of a network, and its multiply-adds for one crop and its window.

    Convolutions, matrix products and LSTMs are counted, without biases and activations.
    """
    built = build_network(network, architecture).eval()
    crop = _count_multiply_adds(built, built.encode, torch.zeros(1, 1, CROP_SIZE_PX, CROP_SIZE_PX))
    context = _count_multiply_adds(built, built.classify, torch.zeros(1, window, built.width))
    return sum(p.numel() for p in built.parameters()), crop + context


@torch.no_grad()
def _count_multiply_adds(network: nn.Module, step: Callable[[Tensor], Tensor], inputs: Tensor) -> int:
    in_lstms = 0

    def count_lstm(lstm: nn.Module, args: tuple[Any, ...], _: Any) -> None:  # FlopCounterMode skips LSTMs
        nonlocal in_lstms
        assert isinstance(lstm, nn.LSTM)
        values = args[0].data if isinstance(args[0], PackedSequence) else args[0]
        weights = sum(p.numel() for name, p in lstm.named_parameters() if "weight" in name)
        in_lstms += weights * (values.numel() // lstm.input_size)

    hooks = [m.register_forward_hook(count_lstm) for m in network.modules() if isinstance(m, nn.LSTM)]
    with FlopCounterMode(display=False) as counter:
        step(inputs)
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() // 2 + in_lstms
