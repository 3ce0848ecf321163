"""Rescale consecutive layers channel by channel, the function unchanged bit for bit.

S(low, high): every channel between two layers is multiplied by its own power of two in [low, high], drawn with a
seed; the layer after it divides. With a positively homogeneous activation between the layers (none, ReLU, leaky
ReLU, PReLU; not ReLU6, hardswish or SiLU) no output bit changes, while one scale for a whole weight tensor then
fits no channel: the standard way to make per-tensor quantization collapse, and to show that equalization undoes it
(Nagel et al., *Data-Free Quantization* (2019), §3).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Writer = nn.Linear | _ConvNd | _BatchNorm


def rescale_layers(
    model: nn.Module, chains: Sequence[Sequence[str]], low: float, high: float, seed: int = 0
) -> None:
    """Apply S(low, high) to `model`, in place.

    Each chain names modules in the order of the data: ("bn1", "conv2") rescales what bn1 gives and conv2 reads,
    ("expand", "depthwise", "project") two times. What lies between must be homogeneous, and nothing else may read
    it. A linear after a flatten reads each channel as many times as it has positions.

    Raises:
        ValueError: low > high, a bound that is not positive, a chain of fewer than two modules, a module that is
            no convolution, linear or batch norm, or channels that do not meet.
    """
    if not 0 < low <= high < math.inf:
        raise ValueError(f"S({low:g}, {high:g}): allowed are 0 < low <= high")
    if any(len(chain) < 2 for chain in chains):
        raise ValueError("a chain names at least two modules")
    generator = torch.Generator().manual_seed(seed)
    exponents = math.ceil(math.log2(low)), math.floor(math.log2(high))
    for chain in chains:
        for before, after in itertools.pairwise(chain):
            first, second = model.get_submodule(before), model.get_submodule(after)
            drawn = torch.randint(exponents[0], exponents[1] + 1, (_outputs(before, first),), generator=generator)
            factor = torch.exp2(drawn.float())
            _check_meet(before, after, len(factor), second)
            _scale_outputs(first, factor)
            _scale_inputs(second, 1 / factor)


def _outputs(name: str, module: nn.Module) -> int:
    if isinstance(module, _BatchNorm) and module.weight is not None:
        return module.num_features
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd):
        return module.out_channels
    raise ValueError(
        f"{name} is a {type(module).__name__}; allowed: Conv1d-3d, Linear, and batch norms that have a weight"
    )


def _check_meet(before: str, after: str, channels: int, module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        wanted, fits = module.in_features, module.in_features % channels == 0
    elif isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd):
        wanted, fits = module.in_channels, module.in_channels == channels
    else:
        raise ValueError(f"{after} is a {type(module).__name__}; allowed to read: Conv1d-3d and Linear")
    if not fits:
        raise ValueError(f"{before} gives {channels} channels, {after} reads {wanted}")


def _scale_outputs(module: nn.Module, factor: Tensor) -> None:
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        weight.mul_(factor.reshape(-1, *[1] * (weight.ndim - 1)))
        if isinstance(bias, Tensor):
            bias.mul_(factor)


def _scale_inputs(module: nn.Module, factor: Tensor) -> None:
    """Weight [out, in / groups, ...]: entry (o, i) reads channel group(o) · in / groups + i."""
    with torch.no_grad():
        if isinstance(module, nn.Linear):
            module.weight.mul_(factor.repeat_interleave(module.in_features // len(factor)))
            return
        assert isinstance(module, _ConvNd)
        per_group = factor.reshape(module.groups, 1, -1)
        rows = per_group.expand(-1, module.out_channels // module.groups, -1).flatten(0, 1)
        module.weight.mul_(rows.reshape(*rows.shape, *[1] * (module.weight.ndim - 2)))
