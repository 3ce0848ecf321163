"""The flags of the command line, one alias each, so that commands read as lists of what they take.

A flag that was not given is None, so that the configuration file can speak.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

_DATA = "a folder of images, a .npy, .npz or .safetensors file, or file.py:loader (its code is run)"

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="file.py:factory or a .pt2 file (both are code, and it is run), or the name of a reference model. "
        "Default: digits, with its own data.",
        show_default=False,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A checkpoint for MODEL: .pt, .pth (tensors only), .safetensors."),
]
Calib = Annotated[str | None, typer.Option(metavar="DATA", help=f"Calibration data: {_DATA}.")]
Eval = Annotated[
    str | None, typer.Option(metavar="DATA", help="Data for accuracy and parity. Default: that of --calib.")
]
Target = Annotated[str | None, typer.Option(metavar="A,B|all", help="Targets. Default: all that can run here.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="The bundle. Default: MODEL-bundle.")
]
Config = Annotated[
    Path | None, typer.Option(metavar="FILE", help="TOML file with any of these options; flags override it.")
]
Calibration = Annotated[
    str | None,
    typer.Option(metavar="METHOD", help="percentile[:P], minmax, moving_average[:C], mse or entropy."),
]
Recipe = Annotated[
    str | None, typer.Option(metavar="NAME", help="fast, default, best or data-free: which passes run.")
]
PerTensor = Annotated[bool | None, typer.Option("--per-tensor/--per-channel", help="Scales of weights.")]
WeightBits = Annotated[
    int | None, typer.Option(metavar="2..8", help="Bits of the weights, stored as int8. Default: 8.")
]
WeightRange = Annotated[
    str | None, typer.Option(metavar="minmax|mse", help="Cover all weights, or clip for the least error.")
]
Isa = Annotated[
    str | None,
    typer.Option(metavar="NAME|safe|native", help="Instruction set on which no sum may saturate: avx2, vnni, ..."),
]
SplitRatio = Annotated[
    float | None,
    typer.Option(metavar="X", help="Share of channels added by splitting those with outliers: 0.02. 0 for none."),
]
Tracer = Annotated[str | None, typer.Option(metavar="export|symbolic", help="How the model is captured.")]
DynamicAxes = Annotated[
    str | None, typer.Option(metavar="0,1", help="Axes of every input whose size may vary. Default: 0, the batch.")
]
Static = Annotated[
    bool, typer.Option("--static", help="No axis may vary: inputs of one sample and of fixed size.")
]
BatchSize = Annotated[int | None, typer.Option(metavar="N", help="Samples read at a time.")]
Limit = Annotated[int | None, typer.Option(metavar="N", help="Use at most N calibration samples.")]
EvalLimit = Annotated[int | None, typer.Option(metavar="N", help="Use at most N evaluation samples.")]
Mean = Annotated[str | None, typer.Option(metavar="M,..", help="Subtracted after --scale, by channel.")]
Std = Annotated[str | None, typer.Option(metavar="S,..", help="Divided by after --mean, by channel.")]
Scale = Annotated[str | None, typer.Option(metavar="X", help="Raw values are multiplied by it: 1/255.")]
Layout = Annotated[str | None, typer.Option(metavar="NHWC|NCHW|none", help="Axes of the raw data.")]
Dtype = Annotated[str | None, typer.Option(metavar="TYPE", help="Type of the raw data: uint8, float32, ...")]
Size = Annotated[str | None, typer.Option(metavar="HxW", help="Images of a folder are resized to it.")]
Color = Annotated[str | None, typer.Option(metavar="rgb|gray", help="Images of a folder are converted to it.")]
KeepFloat = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="Module paths or nodes that stay float; repeatable.")
]
Float = Annotated[
    bool | None, typer.Option("--float/--no-float", help="Put the float artifact beside the int8 one.")
]
Threads = Annotated[int | None, typer.Option(metavar="N", help="Threads of the runtimes.")]
ParitySamples = Annotated[
    str | None, typer.Option(metavar="N|all", help="Samples simulated and compared end to end. Default: 64.")
]
TimedRuns = Annotated[int | None, typer.Option(metavar="N", help="Runs timed, 0 for none. Default: 20.")]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Keep the most sensitive layers float until the loss on held-out calibration samples is at most X "
        "points of top-1 (of a model that is no classifier, X % of the outputs).",
    ),
]
Explain = Annotated[
    bool | None,
    typer.Option("--explain", help="Say what each pass bought and what each layer loses; also in DIR/explain."),
]
Force = Annotated[bool | None, typer.Option("--force", help="Replace the bundle that is there.")]
Json = Annotated[bool | None, typer.Option("--json", help="The result as JSON on stdout.")]
Quiet = Annotated[bool | None, typer.Option("--quiet", "-q", help="No progress and no notes.")]
Targets = Annotated[str | None, typer.Option("--target", metavar="A,B|all", help="Targets to plan for.")]
OneTarget = Annotated[str | None, typer.Option("--target", metavar="A", help="Whose arithmetic counts.")]
Bits = Annotated[str, typer.Option(metavar="8,6,4", help="Bits of the weights; the first ones rank the layers.")]
Samples = Annotated[int, typer.Option(metavar="N", min=1, help="Calibration samples to measure on.")]
VerifyTargets = Annotated[
    str | None, typer.Option("--target", metavar="A,B", help="Targets to check. Default: all in the bundle.")
]


def comma_list(text: str | None) -> tuple[str, ...] | None:
    """`a, b` -> ("a", "b"); None stays None."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def size(text: str | None) -> tuple[str, ...] | None:
    """`224x256` or `224` -> (height, width), still as text."""
    if text is None:
        return None
    parts = tuple(text.lower().replace(",", "x").split("x"))
    return parts * 2 if len(parts) == 1 else parts


_PREPROCESS = ("mean", "std", "scale", "layout", "dtype", "color")


def gather(given: Mapping[str, Any]) -> dict[str, Any]:
    """A command's arguments as `make_config` takes them: preprocessing apart, lists split, --static as axes."""
    found = dict(given)
    steps = {key: found.pop(key) for key in _PREPROCESS}
    steps |= {"mean": comma_list(steps["mean"]), "std": comma_list(steps["std"]), "size": size(found.pop("size"))}
    axes = () if found.pop("static") else comma_list(found.pop("dynamic_axes"))
    for key in ("config", "source"):
        found.pop(key, None)
    return found | {"preprocess": steps, "dynamic_axes": axes}
