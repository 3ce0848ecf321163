"""A model small enough to compile many times, as a file of user code and in memory, with its data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fxedge.backends import registry
from fxedge.backends.base import Backend
from fxedge.compiler.pipeline.data import Dataset, from_arrays
from fxedge.compiler.pipeline.driver import CompileReport, compile_model
from fxedge.compiler.pipeline.options import CompileOptions
from torch import Tensor, nn

NET_FILE = """
import torch
from torch import nn


class Net(nn.Sequential):
    def forward(self, x):
        return super().forward(x)


def make():
    torch.manual_seed(0)
    return Net(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def batches():
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        yield torch.randn(4, 1, 6, 6, generator=generator), torch.arange(4) % 3


def wrong_shape():
    yield torch.randn(4, 1, 5, 5)


def with_nan():
    batch = torch.zeros(4, 1, 6, 6)
    batch[1, 0, 2, 3] = float("nan")
    yield batch


def nan_weight():
    model = make()
    model[0].weight.data[1, 0, 2, 2] = float("nan")
    return model


def number():
    return 3


def slow():
    import time

    open("started", "w").close()
    time.sleep(60)
    yield torch.zeros(4, 1, 6, 6)
"""


class Net(nn.Sequential):
    """Its input is called x."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def small_model() -> nn.Module:
    """The `make` of `NET_FILE`."""
    torch.manual_seed(0)
    return Net(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def small_images(count: int = 12) -> Tensor:
    return torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def small_data(count: int = 12) -> Dataset:
    return from_arrays(small_images(count), input_names=("x",), batch_size=4, labels=torch.arange(count) % 3)


def compile_small(out: Path, targets: tuple[str, ...] = ("onnx",), **options: object) -> CompileReport:
    """The small model, compiled without timing."""
    chosen = CompileOptions(timed_runs=0, **options)  # type: ignore[arg-type]
    return compile_model(small_model(), small_data(), targets, out, options=chosen)


def write_net(folder: Path) -> str:
    """`NET_FILE` written to `folder`; its path."""
    path = folder / "net.py"
    path.write_text(NET_FILE)
    return str(path)


def leftovers(folder: Path) -> list[str]:
    """Hidden entries: what an unfinished bundle would have left."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def patch_backend(
    monkeypatch: pytest.MonkeyPatch, name: str, method: str, function: Callable[..., object]
) -> None:
    """Replace a method of one target's backend (`function` takes what follows self), not of its class."""
    kind = type(registry.get(name))
    original = getattr(kind, method)

    def chosen(self: Backend, *given: object, **named: object) -> object:
        return function(*given, **named) if self.spec.name == name else original(self, *given, **named)

    monkeypatch.setattr(kind, method, chosen)


def patch_missing(monkeypatch: pytest.MonkeyPatch, name: str, reason: str) -> None:
    """The runtime of a target is not installed."""
    patch_backend(monkeypatch, name, "missing", lambda: reason)
