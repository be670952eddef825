"""The training workers of a run: the device and rank of each, and collective operations."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """The device of a worker, and its rank among all workers."""

    device: torch.device
    rank: int = 0
    world: int = 1
    """Number of workers."""
    join: Callable[[nn.Module], nn.Module] = lambda module: module
    """Wraps a module so that all workers average its gradients."""


def sum_over_workers(value: Tensor) -> Tensor:
    """Sum a tensor over all workers, in place."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value)
    return value


def broadcast_weights(network: nn.Module) -> None:
    """Copy the weights and statistics of the first worker to all others."""
    if dist.is_initialized():
        for value in network.state_dict().values():
            dist.broadcast(value, 0)
