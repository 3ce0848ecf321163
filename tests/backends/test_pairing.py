"""Which weights each kernel sums in 16 bits: every pair at its limit is exact, and pairs above it are not.

Weights fill every pair of the target's table to exactly 128, activations are mostly 255: had a kernel any other
pairs, some of those would exceed the limit by far and saturate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from emulated.processes import AVX2, AVX512, HASWELL, needs_qemu, run_elsewhere
from fxedge.backends import registry
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.quant.isa import native_isa
from fxedge.compiler.quant.program import IntegerStep, build_program, computed_by
from fxedge.compiler.quant.saturation import prove_unsaturated
from fxedge.compiler.quant.simulate import simulate
from fxedge.compiler.quant.target import TargetSpec
from fxedge.passes._pair_repair import PairLayout
from quantized_ops import OpCase, integer_steps, qint8, quint8

CONV = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}
UP = {1: aten.conv_transpose1d.default, 2: aten.conv_transpose2d.input, 3: aten.conv_transpose3d.input}


class Shape(NamedTuple):
    """A product: `kernel` () is a linear; `up` a transposed convolution of equal channels in and out."""

    inputs: int
    outputs: int
    kernel: tuple[int, ...] = ()
    groups: int = 1
    stride: int = 1
    padding: int = 0
    rows: int = 2
    up: bool = False


SHAPES = [
    Shape(16, 8),
    Shape(33, 20, rows=1),
    Shape(7, 5, rows=9),
    Shape(16, 32, (1, 1)),
    Shape(7, 6, (1, 1), stride=2),
    Shape(3, 16, (3, 3), stride=2, padding=1),
    Shape(4, 8, (3, 3), padding=1),
    Shape(5, 9, (3, 2)),
    Shape(32, 64, (3, 3), padding=1),
    Shape(5, 8, (3,), padding=1),
    Shape(8, 8, (4,), stride=2),
    Shape(3, 8, (2, 2, 2)),
    Shape(4, 6, (3, 3, 3), padding=1),
    Shape(16, 16, (3, 3), groups=4, padding=1),
    Shape(24, 24, (3, 3), groups=3, padding=1),
    Shape(6, 10, (3, 3), groups=2),
    Shape(64, 32, (3, 3), groups=2),
    Shape(4, 8, (3, 3), groups=4, padding=1),
    Shape(16, 16, (3, 3), groups=16, padding=1),
    Shape(24, 24, (5, 5), groups=24, padding=2),
    Shape(37, 37, (3, 3), groups=37),
    Shape(40, 40, (3, 3), groups=40, stride=2),
    Shape(48, 48, (5, 5), groups=48, stride=2, padding=1),
    Shape(44, 44, (5, 5), groups=44, padding=2),
    Shape(8, 8, (3,), groups=8, padding=1),
    Shape(120, 120, (3, 3), groups=120, padding=1),
    Shape(4, 4, (3, 3, 3), groups=4, padding=1),
    Shape(8, 8, (2, 2), stride=2, up=True),
    Shape(5, 5, (3, 3), stride=2, up=True),
    Shape(8, 8, (3, 3), groups=2, padding=1, up=True),
    Shape(3, 3, (4,), stride=2, up=True),
    Shape(8, 8, (3, 3), groups=8, stride=2, up=True),
    Shape(4, 4, (2, 2, 2), groups=4, up=True),
]

# fbgemm's kernel for 4, 8 or 16 channels per group and a padding of 1 sums in 32 bits: the table is on the safe
# side. So it is for oneDNN's groups of few channels on AVX2, and for some of one channel everywhere.
UP_DEPTHWISE = [shape for shape in SHAPES if shape.up and shape.groups == shape.inputs]
SAFE_SIDE = {
    "fbgemm": [shape for shape in SHAPES if shape.groups > 1 and shape.padding == 1] + UP_DEPTHWISE,
    "onednn": [shape for shape in SHAPES if shape.groups > 1],
    "x86": [shape for shape in SHAPES if shape.groups > 1],
    "onnx": UP_DEPTHWISE,
    "openvino": UP_DEPTHWISE,
}
MANY = 12


def case_of(shape: Shape) -> OpCase:
    """The product with weights of 0, on activations most of which are 255."""
    generator = torch.Generator().manual_seed(0)
    size = (shape.rows, shape.inputs, *(9,) * len(shape.kernel))
    x = torch.where(
        torch.rand(size, generator=generator) < 0.8, 255, torch.randint(0, 256, size, generator=generator)
    )
    over = shape.outputs if not shape.up else shape.outputs // shape.groups
    first = (over, shape.inputs // shape.groups) if not shape.up else (shape.inputs, over)
    weight = torch.zeros((*first, *shape.kernel), dtype=torch.int32)
    each = [shape.stride], [shape.padding], [1]
    stride, padding, dilation = (values * len(shape.kernel) for values in each)
    args = [stride, padding, dilation, shape.groups]
    op, scales = aten.linear.default, torch.ones(len(weight))
    if shape.kernel:
        op = (UP if shape.up else CONV)[len(shape.kernel)]
        args = [stride, padding, [0] * len(stride), shape.groups, dilation] if shape.up else args
    axis = None if shape.up else 0
    weight_qp = qint8(scales[:1] if shape.up else scales, axis)
    output = quint8(255.0 * 256, 128)
    return OpCase(op, [x], [quint8(1.0, 0)], output, args if shape.kernel else (), weight, weight_qp)


def layout_of(case: OpCase, target: str) -> PairLayout:
    (step,) = integer_steps(build_program(case.graph(), registry.get(target).spec))
    pairing = registry.get(target).spec.saturation["avx2"]
    assert pairing is not None
    assert step.weight is not None
    return PairLayout.of(step.weight, lambda weight: pairing(step, weight), 128)


def filled(case: OpCase, target: str) -> OpCase:
    """Every pair adds up to 128 or -128; a weight without a partner is 127 or -127."""
    layout, generator = layout_of(case, target), torch.Generator().manual_seed(1)
    assert case.weight is not None
    signs = torch.randint(0, 2, layout.places.shape[:2], generator=generator) * 2 - 1
    first = torch.randint(1, 128, signs.shape, generator=generator)
    first = torch.where(layout.places[..., 0] == layout.places[..., 1], 64, first)
    pairs = torch.stack([first, 128 - first], -1)
    pairs = torch.where((layout.places == 0).any(-1, keepdim=True), 127, pairs)
    alone = torch.randint(0, 2, case.weight.shape, generator=generator) * 254 - 127
    return dataclasses.replace(case, weight=layout.put(alone.to(torch.int32), pairs * signs[..., None]))


def overfull(case: OpCase) -> OpCase:
    """Every weight is 127: all pairs saturate."""
    assert case.weight is not None
    return dataclasses.replace(case, weight=torch.full_like(case.weight, 127))


def differing(
    cases: Mapping[str, OpCase], target: str, folder: Path, allowed: int = 0, **elsewhere: object
) -> dict[str, int]:
    """For each case, how many integers of the runtime differ from the exact ones by more than `allowed`."""
    backend, artifacts, expected = registry.get(target), {}, {}
    for name, case in cases.items():
        program = computed_by(build_program(case.graph(), backend.spec), without_vnni(backend.spec))
        (step,) = integer_steps(program)
        path = folder / f"{name}-{backend.artifact}"
        backend.emit(program, path, [step.name])
        artifacts[path] = [x.numpy() for x in case.floats()]
        expected[path] = name, simulate(program, case.floats(), keep=[step.name]).integers[step.name]
    found = run_elsewhere(target, artifacts, **elsewhere)  # type: ignore[arg-type]
    return {
        name: int(((torch.from_numpy(found[path][-1]).int() - exact).abs() > allowed).sum())
        for path, (name, exact) in expected.items()
    }


def without_vnni(spec: TargetSpec) -> TargetSpec:
    return spec.kernels.get("avx2", spec)


def check_pairs(target: str, folder: Path, **elsewhere: object) -> None:
    """Full pairs are as exact as the target says; overfull ones are not, where the table has any."""
    empty = {f"{index}": case_of(shape) for index, shape in enumerate(SHAPES)}
    empty = {name: case for name, case in empty.items() if takes(case, target)}
    full = {name: filled(case, target) for name, case in empty.items()}
    for name, case in full.items():
        assert not prove_unsaturated(build_program(case.graph(), registry.get(target).spec), "avx2").unsafe, name
    tolerance = registry.get(target).spec.ops[aten.conv2d.default].tolerance
    assert differing(full, target, folder, tolerance, **elsewhere) == dict.fromkeys(full, 0)
    paired = {
        f"over{name}": overfull(case)
        for name, case in empty.items()
        if (layout_of(case, target).places > 0).all(-1).any()
    }
    saturated = {name for name, count in differing(paired, target, folder, **elsewhere).items() if count}
    assert len(saturated) >= MANY
    assert set(paired) - saturated <= {f"over{SHAPES.index(shape)}" for shape in SAFE_SIDE[target]}


def takes(case: OpCase, target: str) -> bool:
    program = build_program(case.graph(), registry.get(target).spec)
    return any(isinstance(step, IntegerStep) for step in program.steps)


@pytest.mark.parametrize("environment", [AVX2, AVX512], ids=["avx2", "avx512"])
@pytest.mark.parametrize("engine", ["fbgemm", "onednn"])
@pytest.mark.slow
def test_pairs_of_torch_kernels_without_vnni(engine: str, environment: dict[str, str], tmp_path: Path) -> None:
    check_pairs(engine, tmp_path, environment=environment)


@pytest.mark.parametrize("target", SAFE_SIDE)
@pytest.mark.skipif(native_isa() != "avx2", reason="this machine has VNNI: nothing saturates")
def test_pairs_on_this_machine(target: str, tmp_path: Path) -> None:
    if registry.get(target).missing():
        pytest.skip(f"{target} is not installed")
    check_pairs(target, tmp_path)


@pytest.mark.parametrize("target", ["onnx", "x86"])
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_pairs_on_haswell(target: str, tmp_path: Path) -> None:
    """These ask the processor what it has."""
    needs_qemu()
    check_pairs(target, tmp_path, emulator=HASWELL)


@pytest.mark.parametrize("target", registry.names())
@pytest.mark.skipif(native_isa() == "avx2", reason="this machine has no VNNI")
def test_nothing_saturates_with_vnni(target: str, tmp_path: Path) -> None:
    cases = {f"{i}": overfull(case_of(s)) for i, s in enumerate(SHAPES) if takes(case_of(s), target)}
    tolerance = registry.get(target).spec.ops[aten.conv2d.default].tolerance
    assert differing(cases, target, tmp_path, tolerance) == dict.fromkeys(cases, 0)
