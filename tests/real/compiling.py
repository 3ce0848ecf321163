"""Compile a real network of the shared data folder: shared by the tests and the scripts of `tests/bench`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fxedge import CompileOptions, Preprocess, compile_model, open_dataset
from fxedge.compiler.ir.progress import Progress
from fxedge.compiler.pipeline.driver import CompileReport
from torch import nn

from . import nets

TARGETS = ("fbgemm", "x86", "onednn", "qnnpack", "onnx")
_IMAGENET = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=1 / 255)


@dataclass(frozen=True, slots=True)
class RealNet:
    """A network with its calibration and test data, relative to the data folder."""

    factory: Callable[[], nn.Module]
    calibration: str
    test: str
    preprocess: Preprocess


REAL_NETS = {
    "mobilenet_v2": RealNet(nets.mobilenet_v2, "imagenet/calib", "imagenet/val", _IMAGENET),
    "cifar10_resnet20": RealNet(
        nets.cifar10_resnet20,
        "cifar10_resnet20/calib_256.npz",
        "cifar10_resnet20/test_2000.npz",
        _IMAGENET.model_copy(update={"layout": "NHWC"}),
    ),
    "mobilenet_v3_small": RealNet(
        nets.mobilenet_v3_small, "imagenet/calib", "imagenet/val", Preprocess(mean=(1.0,), scale=1 / 127.5)
    ),
}


def compile_real(
    name: str,
    out: Path,
    targets: Sequence[str] = TARGETS,
    options: CompileOptions | None = None,
    progress: Progress | None = None,
) -> CompileReport:
    """Compile network `name` from its calibration data and judge it on its test data."""
    net = REAL_NETS[name]
    calibration = open_dataset(nets.DATA / net.calibration, net.preprocess, ["x"], 8)
    test = open_dataset(nets.DATA / net.test, net.preprocess, ["x"], 20)
    return compile_model(
        net.factory(),
        calibration,
        targets,
        out,
        evaluation=test,
        options=options,
        model_name=name,
        progress=progress,
    )
