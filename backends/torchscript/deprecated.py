"""torch's deprecated quantized tensors, packed parameters and TorchScript, behind functions that keep quiet.

torch says that these APIs are deprecated; they are what this runtime is. The warnings are filtered here,
around each call, and nowhere else.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.jit.mobile import _load_for_lite_interpreter

from ...compiler.quant.qparams import QParams

QUINT8 = torch.quint8


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's deprecation warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def engine(name: str) -> Iterator[None]:
    """Under a quantized engine: it decides which weights can be packed (the stored form is the same for all)."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def quantized_tensor(integers: Tensor, qp: QParams) -> Tensor:
    """A quantized tensor of these integers, per tensor or per channel; dtype as `qp` says."""
    with quiet():
        if not qp.per_channel:
            return torch._make_per_tensor_quantized_tensor(integers.to(qp.dtype), qp.scale[0], qp.zero_point[0])
        scale, zero_point = qp.scale_tensor().double(), qp.zero_point_tensor()
        return torch._make_per_channel_quantized_tensor(integers.to(qp.dtype), scale, zero_point, qp.axis or 0)


def pack_conv(op: str, weight: Tensor, bias: Tensor | None, *window: Sequence[int] | int) -> Any:
    """The packed parameters of `quantized::<op>`; `window` as its prepack op takes it."""
    with quiet():
        return getattr(torch.ops.quantized, f"{op}_prepack")(weight, bias, *window)


def pack_linear(weight: Tensor, bias: Tensor | None) -> Any:
    """The packed parameters of `quantized::linear`."""
    with quiet():
        return torch.ops.quantized.linear_prepack(weight, bias)


def lite_bytes(module: Any) -> bytes:
    """A scripted module with bytecode for the lite interpreter."""
    with quiet():
        stored: bytes = module._save_to_buffer_for_lite_interpreter()
    return stored


def script(gm: fx.GraphModule, *, optimize_numerics: bool) -> Any:
    """TorchScript of `gm`, frozen: constants inlined, and folded where `optimize_numerics`."""
    with quiet():
        return torch.jit.freeze(torch.jit.script(gm.eval()), optimize_numerics=optimize_numerics)


def load_lite(path: Path) -> Any:
    """A module in the lite interpreter, which has no optimizer."""
    with quiet():
        return _load_for_lite_interpreter(str(path))
