"""The ops that random nets are made of: a function draws one for a value, or None where none of its kind fits.

`MAKERS` has them by the rank of the value that is read, `MAKERS_INT` those for token indices; the likelier an op
is, the more often it is there.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from random_nets import RandomNet

Step = Callable[..., Any]
Made = tuple[str, Step]  # a description, and the function of the values that the op reads
Maker = Callable[[random.Random, "RandomNet", Tensor], "Made | None"]


# --- products -------------------------------------------------------------------------------------------------


def _groups(rng: random.Random, channels: int) -> tuple[int, int]:
    """(groups, out channels)"""
    divisors = [d for d in range(1, channels + 1) if channels % d == 0]
    groups = rng.choice([1, 1, channels, rng.choice(divisors)])
    return groups, groups * rng.choice((1, 1, 2, 3)) if groups > 1 else rng.choice((1, 2, 4, 5, 8, 16))


def _conv(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    rank = x.ndim - 2
    kinds = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    groups, out = _groups(rng, x.shape[1])
    kernel = tuple(rng.choice((1, 2, 3, 3, 5)) for _ in range(rank))
    kernel = kernel if rng.random() < 0.3 else kernel[:1] * rank
    options: dict[str, Any] = {
        "stride": rng.choice((1, 1, 1, 2, 3)),
        "dilation": rng.choice((1, 1, 1, 2)),
        "groups": groups,
        "bias": rng.random() < 0.8,
        "padding": rng.choice((0, 1, kernel[0] // 2, tuple(k // 2 for k in kernel))),
    }
    if rng.random() < 0.1:
        options |= {"padding": "same", "stride": 1}
    elif rng.random() < 0.05:
        options |= {"padding_mode": rng.choice(("reflect", "replicate", "circular")), "padding": 1}
    if any(s < o + 2 for s, o in zip(x.shape[2:], ((k - 1) * options["dilation"] for k in kernel), strict=True)):
        return None
    conv = net.part(kinds[rank](x.shape[1], out, kernel, **options))
    return repr(conv), conv


def _conv_transpose(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    rank = x.ndim - 2
    if max(x.shape[2:]) > 9:
        return None
    kinds = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
    groups, out = _groups(rng, x.shape[1])
    stride = rng.choice((1, 2, 2, 3))
    kernel = rng.choice((1, 2, 3, 4))
    dilation = rng.choice((1, 1, 1, 2))
    padding = rng.choice((0, 0, (kernel - 1) // 2))
    extra = rng.choice((0, 0, 1)) if stride > 1 else 0
    conv = net.part(
        kinds[rank](x.shape[1], out, kernel, stride, padding, extra, groups, rng.random() < 0.8, dilation)
    )
    return repr(conv), conv


def _linear(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    linear = net.part(nn.Linear(x.shape[-1], rng.choice((1, 3, 4, 8, 10)), bias=rng.random() < 0.8))
    return repr(linear), linear


def _matmul(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    kind = rng.choice(("self", "constant", "left"))
    if kind == "self":
        return "x @ x.T", lambda x: (x @ x.transpose(-1, -2)) / x.shape[-1]
    if kind == "left":
        weight = nn.Parameter(torch.randn(3, x.shape[-2]))
        net.part(nn.ParameterList([weight]))
        return "W @ x", lambda x: weight @ x
    weight = nn.Parameter(torch.randn(x.shape[-1], 4))
    net.part(nn.ParameterList([weight]))
    return "x @ W", lambda x: x @ weight


def _attention(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    if x.shape[-1] % 2:
        return None
    if rng.random() < 0.5:
        attention = net.part(nn.MultiheadAttention(x.shape[-1], 2, batch_first=True))
        return "MultiheadAttention", lambda x: attention(x, x, x, need_weights=False)[0]
    project = net.part(nn.Linear(x.shape[-1], 3 * x.shape[-1]))

    def attend(x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = project(x).reshape(b, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c)

    return "attention", attend


# --- elementwise ----------------------------------------------------------------------------------------------

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu_": lambda x: F.relu(x * 1.5, inplace=True),
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.7),
    "clamp": lambda x: x.clamp(-0.3, 0.4),
    "clamp_min": lambda x: x.clamp(min=-0.2),
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softmax": lambda x: x.softmax(-1),
    "softmax 1": lambda x: x.softmax(1),
    "elu": F.elu,
    "softplus": F.softplus,
    "mish": F.mish,
    "abs": torch.abs,
    "neg": lambda x: -x,
    "square": lambda x: x**2,
    "sqrt": lambda x: (x.abs() + 0.1).sqrt(),
    "exp": lambda x: torch.exp(-x.abs()),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "normalize": lambda x: F.normalize(x, dim=1),
    "where": lambda x: torch.where(x > 0, x, 0.5 * x - 0.1),
    "maximum": lambda x: torch.maximum(x, 0.3 - x),
    "mask": lambda x: x.masked_fill(x > 1, 0.5),
    "cast": lambda x: x.to(torch.float64).to(torch.float32),
}


def _activation(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    name = rng.choice(list(_ACTIVATIONS))
    return name, _ACTIVATIONS[name]


def _prelu(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    return "prelu", net.part(nn.PReLU(x.shape[1] if rng.random() < 0.5 else 1))


_NUMBERS: dict[str, Callable[[Tensor], Tensor]] = {
    "x + 0.7": lambda x: x + 0.7,
    "x - 0.3": lambda x: x - 0.3,
    "1 - x": lambda x: 1 - x,
    "x * 0.5": lambda x: x * 0.5,
    "x * -2": lambda x: x * -2,
    "x / 3": lambda x: x / 3,
    "1 / (x * x + 1)": lambda x: 1 / (x * x + 1),
    "x + 0": lambda x: x + 0,
    "x * 1": lambda x: x * 1,
}


def _number(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    name = rng.choice(list(_NUMBERS))
    return name, _NUMBERS[name]


def _constant(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    shape = [1 if rng.random() < 0.5 else size for size in x.shape[1:]]
    weight = nn.Parameter(torch.randn(shape))
    net.part(nn.ParameterList([weight]))
    ops = {"x + p": torch.add, "x * p": torch.mul, "x - p": torch.sub}
    name = rng.choice(list(ops))
    swapped = rng.random() < 0.3
    return f"{name} {tuple(shape)}", lambda x: ops[name](weight, x) if swapped else ops[name](x, weight)


TWO: dict[str, Step] = {
    "add": torch.add,
    "add relu": lambda x, y: F.relu(x + y),
    "add_": lambda x, y: (x * 2).add_(y),
    "sub": torch.sub,
    "add alpha": lambda x, y: torch.add(x, y, alpha=0.5),
    "mul": torch.mul,
    "div": lambda x, y: x / (torch.sigmoid(y) + 0.5),
    "gate": lambda x, y: x * torch.sigmoid(y),
    "swish gate": lambda x, y: F.silu(x) * y,
    "cat": lambda x, y: torch.cat([x, y.expand_as(x)], 1),
    "cat -1": lambda x, y: torch.cat([y.expand_as(x), x, x], -1),
    "stack": lambda x, y: torch.stack([x, y.expand_as(x)], 1).flatten(1, 2),
    "minimum": torch.minimum,
}


def _two(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    name = rng.choice(list(TWO))
    return name, TWO[name]


def _shared(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    """One linear module used twice."""
    linear = net.part(nn.Linear(x.shape[-1], x.shape[-1]))
    return "shared linear", lambda x: linear(F.relu(linear(x))) + x


# --- pools, sizes ---------------------------------------------------------------------------------------------


def _pool(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    rank = x.ndim - 2
    if min(x.shape[2:]) < 3:
        return None
    kernel = rng.choice((2, 3, 3))
    stride = rng.choice((1, 2, 2, 3))
    padding = rng.choice((0, kernel // 2))
    ceil = rng.random() < 0.3
    if rng.random() < 0.5:
        kinds = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
        dilation = 2 if rng.random() < 0.1 and min(x.shape[2:]) > 4 else 1
        pool = net.part(kinds[rank](kernel, stride, padding, dilation, ceil_mode=ceil))
        return repr(pool), pool
    averages = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
    counted = rng.random() < 0.6 and not (ceil and padding)  # onnxruntime divides otherwise
    pool = net.part(averages[rank](kernel, stride, padding, ceil_mode=ceil, count_include_pad=counted))
    return f"{pool!r} include_pad={pool.count_include_pad}", pool


def _adaptive(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    rank, size = x.ndim - 2, rng.choice((1, 1, 2, 3))
    if any(n % size for n in x.shape[2:]):  # onnx has no op for uneven windows
        return None
    if rng.random() < 0.3:
        op = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}[rank]
        return f"adaptive_max {size}", lambda x: op(x, size)
    op = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[rank]
    return f"adaptive_avg {size}", lambda x: op(x, size)


def _reduce(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    axes = rng.choice([(-1,), (1,), tuple(range(2, x.ndim)), (2, 3) if x.ndim > 3 else (-1,)])
    keep = rng.random() < 0.6 or x.ndim - len(axes) < 2
    op = rng.choice(("mean", "mean", "amax", "sum"))
    return f"{op} {axes} keep={keep}", lambda x: getattr(x, op)(axes, keepdim=keep)


def _pad(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    axes = rng.randint(1, x.ndim - 1)
    pads = [rng.choice((0, 1, 1, 2)) for _ in range(2 * axes)]
    value = rng.choice((0.0, 0.0, 0.5, -1.0))
    modes = ["constant"] * 3 + (["reflect", "replicate"] if axes == x.ndim - 2 and min(x.shape[2:]) > 2 else [])
    mode = rng.choice(modes)
    if rng.random() < 0.1 and mode == "constant":
        pads = [-1 if i == 0 and x.shape[-1] > 4 else p for i, p in enumerate(pads)]
    return f"pad {pads} {mode} {value}", lambda x: F.pad(x, pads, mode, value if mode == "constant" else None)


def _interpolate(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    if max(x.shape[2:]) > 12:
        return None
    smooth = {3: "linear", 4: rng.choice(("bilinear", "bicubic")), 5: "trilinear"}[x.ndim]
    mode = rng.choice(("nearest", "nearest", "nearest-exact", smooth))
    options: dict[str, Any] = {"mode": mode}
    if mode == smooth:
        options["align_corners"] = rng.random() < 0.5
    if rng.random() < 0.6:
        options["scale_factor"] = rng.choice((2, 2.0, 1.5, 3))
    else:
        options["size"] = tuple(rng.choice((4, 7, 9)) for _ in x.shape[2:])
    return f"interpolate {options}", lambda x: F.interpolate(x, **options)


# --- views ----------------------------------------------------------------------------------------------------


def _view(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    last = x.ndim - 1
    order = list(range(1, x.ndim))
    rng.shuffle(order)
    choices: dict[str, Step] = {
        f"permute {order}": lambda x: x.permute(0, *order),
        "transpose": lambda x: x.transpose(1, last),
        "flatten 1": lambda x: x.flatten(1),
        "view -1": lambda x: x.view(x.size(0), -1) if x.is_contiguous() else x.reshape(x.size(0), -1),
        "reshape -1": lambda x: x.contiguous().reshape(-1, *x.shape[1:]),
        "unsqueeze": lambda x: x.unsqueeze(1),
        "squeeze": lambda x: x.mean(1, keepdim=True).squeeze(1),
        "slice": lambda x: x[:, 1:] if x.shape[1] > 1 else x,
        "slice -1": lambda x: x[..., ::2],
        "slice end": lambda x: x[..., :-1] if x.shape[-1] > 1 else x,
        "select": lambda x: x[:, 0],
        "select -1": lambda x: x.select(last, -1),
        "flip": lambda x: x.flip(last),
        "roll": lambda x: x.roll(1, last),
        "expand": lambda x: x[:, :1].expand(-1, 3, *x.shape[2:]),
        "repeat": lambda x: x.repeat(1, 2, *([1] * (x.ndim - 2))),
        "clone": lambda x: x.clone(),
        "index": lambda x: x[:, [0, -1]],
        "narrow": lambda x: x.narrow(1, 0, 1),
        "batch size": lambda x: torch.cat([torch.zeros(x.shape[0], 1, *x.shape[2:]), x], 1),
        "arange": lambda x: x + torch.arange(x.shape[-1]) * 0.1,
        "gather": lambda x: x.index_select(1, torch.tensor([0, 0])),
    }
    if x.ndim == 2:
        choices = {k: v for k, v in choices.items() if k not in ("select", "select -1", "squeeze")}
    name = rng.choice(list(choices))
    return name, choices[name]


def _image_view(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    c, h, w = x.shape[1:]
    choices: dict[str, Step] = {"tokens": lambda x: x.flatten(2).transpose(1, 2)}
    if h % 2 == 0:
        choices["focus"] = lambda x: torch.cat([x[..., ::2, :], x[..., 1::2, :]], 1)
    if c % 4 == 0:
        choices["pixel_shuffle"] = lambda x: F.pixel_shuffle(x, 2)
        split = (2, c // 2, h, w)
        choices["channel_shuffle"] = lambda x: x.view(-1, *split).transpose(1, 2).reshape(-1, c, h, w)
    if h % 2 == 0 and w % 2 == 0:
        choices["pixel_unshuffle"] = lambda x: F.pixel_unshuffle(x, 2)
    name = rng.choice(list(choices))
    if name == "channel_shuffle":
        return name, lambda x: choices[name](x.contiguous())
    return name, choices[name]


def _split(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    axis = rng.choice((1, x.ndim - 1))
    if x.shape[axis] < 2:
        return None
    kind = rng.choice(("chunk", "split", "sizes", "one"))
    if kind == "chunk":
        return f"chunk 2 {axis}", lambda x: x.chunk(2, axis)
    if kind == "split":
        return f"split 2 {axis}", lambda x: x.split(2, axis)
    if kind == "one":
        return f"chunk 2 {axis}, first", lambda x: x.chunk(2, axis)[0]
    return f"split sizes {axis}", lambda x: x.split([1, x.shape[axis] - 1], axis)


# --- norms, embedding -----------------------------------------------------------------------------------------


def _batch_norm(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    norm = net.part(kinds[x.ndim](x.shape[1], affine=rng.random() < 0.8))
    return repr(norm), norm


def _conv_bn_act(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    kinds = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    norms = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    groups, out = _groups(rng, x.shape[1])
    conv = kinds[x.ndim](x.shape[1], out, 3, padding=1, groups=groups, bias=rng.random() < 0.3)
    act = rng.choice((nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.LeakyReLU))()
    first = rng.random() < 0.2
    parts = [norms[x.ndim](x.shape[1]), conv, act] if first else [conv, norms[x.ndim](out), act]
    block = net.part(nn.Sequential(*parts))
    text = f"block {'bn-conv' if first else 'conv-bn'}-{act} out={out} groups={groups}"
    if out == x.shape[1] and rng.random() < 0.6:
        return text + " + x", lambda x: block(x) + x
    return text, block


def _conv_transpose_bn(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    if max(x.shape[2:]) > 9:
        return None
    kinds = {3: nn.ConvTranspose1d, 4: nn.ConvTranspose2d, 5: nn.ConvTranspose3d}
    norms = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    block = net.part(nn.Sequential(kinds[x.ndim](x.shape[1], 4, 2, 2), norms[x.ndim](4), nn.ReLU()))
    return "conv_transpose-bn-relu", block


def _squeeze_excite(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    c = x.shape[1]
    gate = rng.choice((nn.Sigmoid, nn.Hardsigmoid))()
    parts = (nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, 4, 1), nn.ReLU(), nn.Conv2d(4, c, 1), gate)
    block = net.part(nn.Sequential(*parts))
    return "squeeze-excite", lambda x: x * block(x)


def _layer_norm(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    """A norm of one or two numbers would only magnify rounding."""
    if x.shape[-1] < 4:
        return None
    norm = net.part(nn.LayerNorm(x.shape[-1], elementwise_affine=rng.random() < 0.8))
    if norm.elementwise_affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return repr(norm), norm


def _group_norm(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    if x[0, 0].numel() < 4:
        return None
    norm = net.part(nn.GroupNorm(x.shape[1] if x.shape[1] % 2 else 2, x.shape[1]))
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return repr(norm), norm


def _instance_norm(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    if x[0, 0].numel() < 4:
        return None
    kinds = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
    norm = net.part(kinds[x.ndim](x.shape[1], affine=True))
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return repr(norm), norm


def _embedding(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    table = net.part(nn.Embedding(11, rng.choice((4, 6, 8))))
    return repr(table), table


def _one_hot(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    return "one hot", lambda x: (x.unsqueeze(-1) == torch.arange(11)).float()


def _to_float(rng: random.Random, net: RandomNet, x: Tensor) -> Made | None:
    return "to float", lambda x: x.float() * 0.2


_ANY: list[Maker] = [_activation] * 4 + [_two] * 3 + [_view] * 3
_ANY += [_number, _constant, _reduce, _split, _prelu, _layer_norm, _linear]
_SPATIAL: list[Maker] = [_conv] * 4 + [_conv_bn_act] * 3 + [_conv_transpose, _conv_transpose_bn]
_SPATIAL += [_pool, _pool, _adaptive, _pad, _interpolate, _batch_norm, _group_norm, _instance_norm]
MAKERS: dict[int, list[Maker]] = {
    2: [*_ANY, _linear, _linear, _linear, _batch_norm, _shared],
    3: [*_ANY, *_SPATIAL, _linear, _linear, _matmul, _attention, _layer_norm, _shared],
    4: [*_ANY, *_SPATIAL, *_SPATIAL, _image_view, _squeeze_excite, _matmul],
    5: [*_ANY, *_SPATIAL],
}
MAKERS_INT: list[Maker] = [_embedding, _embedding, _embedding, _one_hot, _to_float]
