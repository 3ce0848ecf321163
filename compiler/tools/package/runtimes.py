"""The runtimes that packages carry, and which package can carry which: facts in tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Runtime:
    """One target's artifact in the hands of its runtime: `file` is its name in a package, `name` what loaders
    call the runtime, `requirement` what brings it there.

    `elsewhere_lsb` is what outputs may be off where its kernels are not those of x86-64, which the compiler
    simulates. onnxruntime on MobileNetV2: 6 in WebAssembly, 9 on arm64; the float model is 12 off, so the limit
    tells a wrong model or wrong preprocessing and no more. XNNPACK's integers are the same on arm64.
    """

    target: str
    name: str
    title: str
    file: str
    requirement: str
    licence: str
    elsewhere_lsb: int = 0


_ONNXRUNTIME = "ONNX Runtime, MIT, Copyright (c) Microsoft Corporation"
_LITERT = "LiteRT, Apache-2.0, Copyright Google LLC"
_EXECUTORCH = "ExecuTorch, BSD-3-Clause, Copyright (c) Meta Platforms, Inc. and affiliates"
_PYTORCH = "PyTorch Lite, BSD-3-Clause, Copyright (c) Facebook, Inc. and its affiliates and contributors"


def _onnx(title: str, requirement: str) -> Runtime:
    return Runtime("onnx", "onnxruntime", title, "model.onnx", requirement, _ONNXRUNTIME, elsewhere_lsb=16)


def _tflite(title: str, requirement: str) -> Runtime:
    return Runtime("tflite", "litert", title, "model.tflite", requirement, _LITERT)


def _executorch(requirement: str) -> Runtime:
    return Runtime("executorch", "executorch", "ExecuTorch", "model.pte", requirement, _EXECUTORCH)


# Kind of package -> what it can carry, best first.
CARRIED: Mapping[str, tuple[Runtime, ...]] = {
    "android": (
        _tflite("LiteRT", "org.tensorflow:tensorflow-lite:2.17.0"),
        _onnx("ONNX Runtime Mobile", "com.microsoft.onnxruntime:onnxruntime-android:1.22.0"),
        _executorch("org.pytorch:executorch-android:1.0.0"),
        Runtime(
            "qnnpack", "pytorch", "PyTorch Lite", "model.ptl", "org.pytorch:pytorch_android_lite:2.1.0", _PYTORCH
        ),
    ),
    "ios": (
        _onnx("ONNX Runtime", "https://github.com/microsoft/onnxruntime-swift-package-manager"),
        _executorch("https://github.com/pytorch/executorch"),
    ),  # not tflite: its Swift library comes by CocoaPods alone, which no Swift package can depend on
    "web": (_onnx("ONNX Runtime Web", "onnxruntime-web"),),
    "python": (
        _onnx("onnxruntime", "onnxruntime>=1.22,<2"),
        _tflite("LiteRT", "ai-edge-litert>=2.3,<3"),
    ),
}
