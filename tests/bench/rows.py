"""The rows of the accuracy table: what is compiled, how it is judged, and what it must reach."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from real.bootstrap import Metric
from real.measuring import DATA_FREE, FAST, Setting


@dataclass(frozen=True, slots=True)
class Row:
    """One case. Its figure must be within `goal` points of float, or, of agreement, at least `goal` percent."""

    name: str
    net: str
    recipe: str
    metric: Metric
    goal: float
    per_tensor: bool = False
    targets: tuple[str, ...] = ("onnx",)
    isa: str = "vnni"

    @property
    def must(self) -> str:
        return f"≥ {self.goal:g} %" if self.metric == "agreement" else f"float − {self.goal:g}"

    def reached(self, figure: float, float_figure: float) -> bool:
        """Figures in percent; the last bits of a mean do not count."""
        least = self.goal if self.metric == "agreement" else float_figure - self.goal
        return figure >= least - 1e-9

    def setting(self, target: str, *, naive: bool = False, limit: int | None = None, threads: int = 2) -> Setting:
        """How it is compiled; `naive`, the recipe `fast` on the same samples."""
        recipe, synthetic = FAST if naive else self.recipe, self.recipe == DATA_FREE
        return Setting(
            self.net, target, recipe, self.per_tensor, self.isa, synthetic, limit=limit, threads=threads
        )


@dataclass(frozen=True, slots=True)
class IsaRow:
    """A network compiled for vnni and for avx2: the two agree with float within `goal` points of each other, and
    what is compiled for avx2 gives the same values with and without VNNI."""

    net: str
    target: str
    recipe: str = "default"
    goal: float = 0.5

    @property
    def name(self) -> str:
        return f"isa-{self.net}-{self.target}"

    def setting(self, isa: str, *, images: int, limit: int | None = None, threads: int = 2) -> Setting:
        return Setting(
            self.net, self.target, self.recipe, False, isa, emulated=images, limit=limit, threads=threads
        )


@dataclass(frozen=True, slots=True)
class BitsRow:
    """A line of a table of weight bits; `ratios` of splitting in percent. With learned rounding each takes
    minutes."""

    bits: int
    rounding: str
    ratios: tuple[float, ...]
    per_tensor: bool = False

    @property
    def name(self) -> str:
        return f"bits-{self.bits}-{self.rounding}{'-tensor' if self.per_tensor else ''}"


_HERE = ("fbgemm", "x86", "onednn", "qnnpack", "onnx", "openvino", "tflite", "executorch")

ROWS = (
    Row("resnet20-rescaled", "rescaled_resnet20", DATA_FREE, "top-1", 0.5, per_tensor=True),
    Row("mobilenet_v2_tf-free", "mobilenet_v2_tf", DATA_FREE, "top-1", 1.5, per_tensor=True),
    Row("mobilenet_v2_tf", "mobilenet_v2_tf", "default", "top-1", 0.5, per_tensor=True),
    Row("mobilenet_v3_small", "mobilenet_v3_small", "default", "top-1", 1.5, per_tensor=True),
    Row("yolox_nano", "yolox_nano", "default", "mAP50-95", 2.0, per_tensor=True),
    Row("mobilenet_v2", "mobilenet_v2", "default", "agreement", 97.5, targets=("onnx", "x86", "onednn")),
    Row("mobilenet_v2-best", "mobilenet_v2", "best", "agreement", 98.5),
    Row("mobilenet_v3_small-best", "mobilenet_v3_small", "best", "top-1", 1.5),
)
# Where there is no VNNI; the detector on every runtime.
AVX2_ROWS = tuple(
    dataclasses.replace(
        row, name=f"{row.name}-avx2", targets=_HERE if row.metric == "mAP50-95" else row.targets, isa="avx2"
    )
    for row in ROWS
)
ISA_ROWS = (
    IsaRow("mobilenet_v2", "onnx"),
    IsaRow("mobilenet_v3_small", "onnx"),
    IsaRow("cifar10_resnet20", "onnx"),
    IsaRow("mobilenet_v2", "fbgemm"),
    IsaRow("mobilenet_v2", "x86"),
)
BITS_ROWS = (
    *(BitsRow(bits, "nearest", (1.0, 2.0, 5.0)) for bits in (6, 5, 4)),
    *(BitsRow(bits, "adaround", (2.0,)) for bits in (4, 5, 6)),
    *(BitsRow(bits, "nearest", (1.0, 2.0, 5.0), per_tensor=True) for bits in (6, 5, 4)),
)
