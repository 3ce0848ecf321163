"""Build a TensorRT engine from the model.onnx beside this file.

    python build_engine.py [--onnx model.onnx] [--engine model.plan] [--batch 1,8,32] [--shape NAME=MIN,OPT,MAX]

TensorRT 10 or 11, on the machine and GPU that will run the engine. The network is strongly typed: the quantize and
dequantize nodes of the model say what runs on int8, so no precision flag and no calibrator is set. A timing cache
is read and kept beside the engine: a second build is faster. `--batch` gives the least, usual and largest batch of
the optimization profile; `--shape x=1x3x224x224,8x3x224x224,32x3x224x224` gives an input's shapes in full, needed
where another axis than the first may vary. Written by fxedge, which never ran it: no TensorRT was at hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Shape = tuple[int, ...]
Profile = tuple[Shape, Shape, Shape]
BATCH = (1, 8, 32)


class BuildError(Exception):
    """The engine cannot be built; the message says why and what to do."""


def build_engine(
    onnx: Path,
    cache: Path | None = None,
    batch: Sequence[int] = BATCH,
    shapes: Mapping[str, Profile] | None = None,
    workspace: int = 2**30,
) -> bytes:
    """The serialized engine of the model at `onnx`, for the GPU of this machine.

    Args:
        cache: the timing cache to read, and to write after the build.
        batch: least, usual and largest batch size.
        shapes: (least, usual, largest) by input name, where the batch alone does not say it.
        workspace: bytes of scratch memory on the GPU.

    Raises:
        BuildError: TensorRT is too old, the model does not parse, or no kernel was found.
    """
    import tensorrt as trt

    major = int(trt.__version__.split(".")[0])
    if major < 10:
        raise BuildError(f"TensorRT {trt.__version__} is too old; install TensorRT 10 or newer.")
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt, major))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx.read_bytes()):
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise BuildError(f"TensorRT cannot read {onnx}: {errors}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    config.clear_flag(trt.BuilderFlag.TF32)  # float layers as the model says, not rounded to 10 bits
    _add_profile(builder, network, config, batch, shapes or {})
    timings = config.create_timing_cache(cache.read_bytes() if cache is not None and cache.is_file() else b"")
    config.set_timing_cache(timings, ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"TensorRT found no engine for {onnx}; its log, above, says why.")
    if cache is not None:
        cache.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _network_flags(trt: Any, major: int) -> int:
    """Strongly typed: asked for in TensorRT 10, the only kind from 11 on."""
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if major == 10 else 0


def _add_profile(
    builder: Any, network: Any, config: Any, batch: Sequence[int], shapes: Mapping[str, Profile]
) -> None:
    """One optimization profile, if any input has an axis that may vary."""
    profile, varies = builder.create_optimization_profile(), False
    names = [network.get_input(index).name for index in range(network.num_inputs)]
    if unknown := [name for name in shapes if name not in names]:
        raise BuildError(f"The model has no input {unknown[0]!r}; it has {', '.join(names)}.")
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        declared = tuple(tensor.shape)
        if -1 not in declared and tensor.name not in shapes:
            continue
        profile.set_shape(tensor.name, *(shapes.get(tensor.name) or profile_of(tensor.name, declared, batch)))
        varies = True
    if varies:
        config.add_optimization_profile(profile)


def profile_of(name: str, declared: Shape, batch: Sequence[int]) -> Profile:
    """Least, usual and largest shape of an input whose first axis may vary."""
    if -1 in declared[1:]:
        text = "x".join("?" if size == -1 else str(size) for size in declared)
        raise BuildError(
            f"The input {name} has the shape {text}: give --shape {name}=MIN,OPT,MAX (as 1x16,1x64,8x128)."
        )
    least, usual, largest = ((size, *declared[1:]) for size in batch)
    return least, usual, largest


def _numbers(text: str, separator: str) -> Shape:
    return tuple(int(part) for part in text.split(separator))


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Build a TensorRT engine from an fxedge model.")
    parser.add_argument("--onnx", type=Path, default=here / "model.onnx")
    parser.add_argument("--engine", type=Path, default=here / "model.plan")
    parser.add_argument("--cache", type=Path, default=here / "timing.cache")
    parser.add_argument("--batch", default=",".join(map(str, BATCH)), help="MIN,OPT,MAX")
    parser.add_argument("--shape", action="append", default=[], help="NAME=MIN,OPT,MAX")
    parser.add_argument("--workspace", type=int, default=2**30, help="bytes")
    return parser.parse_args(arguments)


def parse_shapes(given: Sequence[str]) -> dict[str, Profile]:
    """`NAME=MIN,OPT,MAX` -> three shapes by name."""
    found: dict[str, Profile] = {}
    for text in given:
        name, _, listed = text.partition("=")
        shapes = [_numbers(part, "x") for part in listed.split(",")] if listed else []
        if len(shapes) != 3:
            raise BuildError(
                f"--shape {text} is not NAME=MIN,OPT,MAX (as x=1x3x224x224,8x3x224x224,32x3x224x224)."
            )
        found[name] = (shapes[0], shapes[1], shapes[2])
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0, or 1 with one paragraph on stderr."""
    args = _arguments(arguments)
    try:
        batch = _numbers(args.batch, ",")
        if len(batch) != 3 or not 0 < batch[0] <= batch[1] <= batch[2]:
            raise BuildError(f"--batch {args.batch} is not MIN,OPT,MAX in rising order.")
        plan = build_engine(args.onnx, args.cache, batch, parse_shapes(args.shape), args.workspace)
    except ImportError as error:
        print(f"TensorRT is not installed ({error}); run: pip install tensorrt", file=sys.stderr)
        return 1
    except (BuildError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    args.engine.write_bytes(plan)
    print(f"{args.engine}: {len(plan)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
