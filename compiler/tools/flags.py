"""The flags of the command line, each defined once; a command names those that it takes.

A flag that was not given is None, so that the configuration file can speak.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..ir.errors import InputError

_DATA = "a folder of images, a .npy, .npz or .safetensors file, or file.py:loader (its code is run)"

# Also taken by commands that have few flags and spell them out.
Threads = Annotated[int | None, typer.Option(metavar="N", help="Threads of the runtimes.")]
Json = Annotated[bool | None, typer.Option("--json", help="The result as JSON on stdout.")]
Quiet = Annotated[bool | None, typer.Option("--quiet", "-q", help="No progress and no notes.")]
VerifyTargets = Annotated[
    str | None, typer.Option("--target", metavar="A,B", help="Targets to check. Default: all in the bundle.")
]
PackageTarget = Annotated[
    str | None,
    typer.Option("--target", metavar="NAME", help="Whose artifact. Default: the first that KIND can carry."),
]
Labels = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Names of the classes: a text file, one a line.")
]
PackageOutput = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="The package. Default: BUNDLE-KIND.")
]
PackageForce = Annotated[bool | None, typer.Option("--force", help="Replace the package that is there.")]


@dataclass(frozen=True, slots=True)
class Flag:
    """A parameter as typer reads it, and its value where it is not given."""

    kind: Any
    default: object = None


def _option(kind: Any, *names: str, help: str, metavar: str | None = None) -> Flag:
    return Flag(Annotated[kind | None, typer.Option(*names, metavar=metavar, help=help)])


def _required(kind: Any, metavar: str, help: str) -> Flag:
    return Flag(Annotated[kind, typer.Argument(metavar=metavar, help=help)], inspect.Parameter.empty)


FLAGS: Mapping[str, Flag] = {
    "model": Flag(
        Annotated[
            str | None,
            typer.Argument(
                metavar="MODEL",
                help="file.py:factory or a .pt2 file (both are code, and it is run), or the name of a reference "
                "model. Default: digits, with its own data.",
                show_default=False,
            ),
        ]
    ),
    "weights": _option(
        Path, metavar="FILE", help="A checkpoint for MODEL: .pt, .pth (tensors only), .safetensors."
    ),
    "calib": _option(str, metavar="DATA", help=f"Calibration data: {_DATA}."),
    "eval": _option(str, metavar="DATA", help="Data for accuracy and parity. Default: that of --calib."),
    "target": _option(str, metavar="A,B|all", help="Targets. Default: all that can run here."),
    "output": _option(Path, "--output", "-o", metavar="DIR", help="The bundle. Default: MODEL-bundle."),
    "config": _option(Path, metavar="FILE", help="TOML file with any of these options; flags override it."),
    "calibration": _option(
        str, metavar="METHOD", help="percentile[:P], minmax, moving_average[:C], mse, entropy or noise."
    ),
    "recipe": _option(str, metavar="NAME", help="fast, default, best or data-free: which passes run."),
    "per_tensor": _option(bool, "--per-tensor/--per-channel", help="Scales of weights."),
    "weight_bits": _option(int, metavar="2..8", help="Bits of the weights, stored as int8. Default: 8."),
    "weight_range": _option(str, metavar="minmax|mse", help="Cover all weights, or clip for the least error."),
    "split_ratio": _option(
        float,
        metavar="X",
        help="Share of channels added by splitting those with outliers: 0.02. 0 for none.",
    ),
    "float_budget": _option(
        float,
        metavar="X",
        help="Share of the multiplications that may run in float where int8 would ruin the outputs, beyond what "
        "float saves at activations. Default: 0.1, with best 0.2, with fast and data-free 0.",
    ),
    "isa": _option(
        str,
        metavar="NAME|safe|native",
        help="Instruction set on which no sum may saturate: avx2, vnni, ...",
    ),
    "tracer": _option(str, metavar="export|symbolic", help="How the model is captured."),
    "dynamic_axes": _option(
        str, metavar="0,1", help="Axes of every input whose size may vary. Default: 0, the batch."
    ),
    "static": _option(bool, "--static", help="No axis may vary: inputs of one sample and of fixed size."),
    "batch_size": _option(int, metavar="N", help="Samples read at a time."),
    "limit": _option(int, metavar="N", help="Use at most N calibration samples."),
    "eval_limit": _option(int, metavar="N", help="Use at most N evaluation samples."),
    "mean": _option(str, metavar="M,..", help="Subtracted after --scale, by channel."),
    "std": _option(str, metavar="S,..", help="Divided by after --mean, by channel."),
    "scale": _option(str, metavar="X", help="Raw values are multiplied by it: 1/255."),
    "layout": _option(str, metavar="NHWC|NCHW|none", help="Axes of the raw data."),
    "dtype": _option(str, metavar="TYPE", help="Type of the raw data: uint8, float32, ..."),
    "size": _option(str, metavar="HxW", help="Images of a folder are resized to it."),
    "color": _option(str, metavar="rgb|gray", help="Images of a folder are converted to it."),
    "keep_float": _option(list[str], metavar="GLOB", help="Module paths or nodes that stay float; repeatable."),
    "float": _option(bool, "--float/--no-float", help="Put the float artifact beside the int8 one."),
    "threads": Flag(Threads),
    "parity_samples": _option(
        str, metavar="N|all", help="Samples simulated and compared end to end. Default: 64."
    ),
    "timed_runs": _option(int, metavar="N", help="Runs timed, 0 for none. Default: 20."),
    "max_drop": _option(
        float,
        metavar="X",
        help="Keep the most sensitive layers float until the loss on held-out calibration samples is at most X "
        "points of top-1 (of a model that is no classifier, X % of the outputs).",
    ),
    "explain": _option(
        bool, "--explain", help="Say what each pass bought and what each layer loses; also in DIR/explain."
    ),
    "force": _option(bool, "--force", help="Replace the bundle that is there."),
    "json": Flag(Json),
    "quiet": Flag(Quiet),
}

# `inspect` and `sensitivity` have words of their own for these.
SOURCE = Flag(
    Annotated[str, typer.Argument(metavar="MODEL|BUNDLE", help="As for compile, or a bundle's folder.")],
    inspect.Parameter.empty,
)
TARGETS = _option(str, "--target", metavar="A,B|all", help="Targets to plan for.")
ONE_TARGET = _option(str, "--target", metavar="A", help="Whose arithmetic counts.")
BITS = Flag(
    Annotated[str, typer.Option(metavar="8,6,4", help="Bits of the weights; the first ones rank the layers.")],
    "8,6,4",
)
SAMPLES = Flag(Annotated[int, typer.Option(metavar="N", min=1, help="Calibration samples to measure on.")], 32)
MEASURE = Flag(
    Annotated[bool, typer.Option("--measure/--no-measure", help="Also run what was made: seconds a target.")],
    True,
)

# `bench` has most of its flags to itself.
BENCH: Mapping[str, Flag] = {
    "bundles": Flag(
        Annotated[
            list[Path] | None,
            typer.Argument(
                metavar="BUNDLE", help="Folders that fxedge compile wrote; with --compare, OLD.json NEW.json."
            ),
        ]
    ),
    "target": _option(str, metavar="A,B", help="Targets to measure. Default: all in the bundle."),
    "threads": Flag(Annotated[str, typer.Option(metavar="1,2", help="Threads of the runtimes.")], "1"),
    "batch": Flag(
        Annotated[int | None, typer.Option(metavar="N", min=1, help="Samples at a time. Default: 1.")],
    ),
    "runs": Flag(
        Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Timed runs of an artifact, at most.")],
        100,
    ),
    "seconds": Flag(
        Annotated[
            float,
            typer.Option(metavar="S", min=0, help="About how long a target is timed; six runs at least."),
        ],
        10.0,
    ),
    "against": _option(
        list[Path], metavar="FILE", help="Somebody else's .onnx, .tflite, ...: into the same run; repeatable."
    ),
    "compare": Flag(
        Annotated[bool, typer.Option("--compare", help="Compare two records; status 1 if something is slower.")],
        False,
    ),
    "margin": Flag(
        Annotated[float, typer.Option(metavar="X", min=0, help="--compare: up to X % is no change.")],
        5.0,
    ),
    "force": Flag(
        Annotated[bool, typer.Option("--force", help="--compare: records of different machines too.")], False
    ),
    "calibrate_machine": Flag(
        Annotated[
            bool,
            typer.Option(
                "--calibrate-machine", help="Measure single kernels and keep their costs in the user's cache."
            ),
        ],
        False,
    ),
    "adb_binary": _option(
        Path,
        metavar="PROGRAM",
        help="On an Android device: the runtime's benchmark_model, onnxruntime_perf_test or executor_runner.",
    ),
    "adb": _option(str, metavar="SERIAL", help="--adb-binary: which of several devices."),
}
RECORD = _option(Path, "--json", metavar="FILE", help="Write the record there; - for stdout, without the table.")

# `report` has a place of its own to write to.
REPORT: Mapping[str, Flag] = {
    "bundle": Flag(
        Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that fxedge compile wrote.")],
        inspect.Parameter.empty,
    ),
    "output": Flag(
        Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The report, outside of the bundle.")],
        Path("report.html"),
    ),
    "bench": _option(
        list[Path], metavar="FILE", help="Latencies that fxedge bench recorded of this bundle; repeatable."
    ),
    "force": Flag(Annotated[bool, typer.Option("--force", help="Replace the file that is there.")], False),
}

# How a model is captured, quantized and fed; of the raw data, `PREPROCESS`.
RECIPE = (
    "calibration",
    "recipe",
    "per_tensor",
    "weight_bits",
    "weight_range",
    "split_ratio",
    "float_budget",
    "isa",
)
READING = ("tracer", "dynamic_axes", "static", "batch_size", "limit")
PREPROCESS = ("mean", "std", "scale", "layout", "dtype", "size", "color")


# Those of `diff`.
DIFF: Mapping[str, Flag] = {
    "old": _required(Path, "OLD", "The bundle before."),
    "new": _required(Path, "NEW", "The bundle after."),
    "target": _option(str, metavar="A,B", help="Targets to compare. Default: all that both have."),
    "max_accuracy_drop": _option(float, metavar="X", help="Points of accuracy that may be lost."),
    "max_agreement_drop": _option(float, metavar="X", help="Points of agreement with float that may be lost."),
    "max_sqnr_drop": _option(float, metavar="DB", help="Decibels of SQNR that any one layer may lose."),
    "max_slowdown": _option(float, metavar="PCT", help="Percent that latency may gain beyond noise."),
    "max_growth": _option(float, metavar="PCT", help="Percent that an artifact may grow."),
    "max_new_floats": _option(int, metavar="N", help="Ops that may newly run in float."),
    "runs": Flag(Annotated[int, typer.Option(metavar="N", min=0, help="Pairs of runs timed, 0 for none.")], 50),
    "threads": Flag(Annotated[int, typer.Option(metavar="N", min=1, help="Threads of the runtimes.")], 1),
    "markdown": Flag(Annotated[bool, typer.Option("--markdown", help="For a comment on a pull request.")], False),
}


def takes(*names: str, **own: Flag) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, a function of one dict, the parameters `names` in that order: of `FLAGS`, or its `own`."""
    parameters = []
    for name in names:
        flag = own.get(name) or FLAGS[name]
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, default=flag.default, annotation=flag.kind))

    def decorate(command: Callable[[dict[str, Any]], None]) -> Callable[..., None]:
        def call(**given: Any) -> None:
            command(given)

        call.__name__, call.__doc__ = command.__name__, command.__doc__
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return call

    return decorate


def comma_list(text: str | None) -> tuple[str, ...] | None:
    """`a, b` -> ("a", "b"); None stays None."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def counts(text: str, flag: str) -> tuple[int, ...]:
    """`1,2` -> (1, 2), each once.

    Raises:
        InputError: something else than whole numbers from 1 on.
    """
    parts = comma_list(text) or ()
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"{flag} takes whole numbers from 1 on, separated by commas, not {text!r}.")
    return tuple(dict.fromkeys(int(part) for part in parts))


def size(text: str | None) -> tuple[str, ...] | None:
    """`224x256` or `224` -> (height, width), still as text."""
    if text is None:
        return None
    parts = tuple(text.lower().replace(",", "x").split("x"))
    return parts * 2 if len(parts) == 1 else parts


def gather(given: Mapping[str, Any]) -> dict[str, Any]:
    """A command's arguments as `make_config` takes them: preprocessing apart, lists split, --static as axes."""
    found = {key: value for key, value in given.items() if key not in ("config", "source")}
    steps = {key: found.pop(key) for key in PREPROCESS}
    steps |= {"mean": comma_list(steps["mean"]), "std": comma_list(steps["std"]), "size": size(steps["size"])}
    axes = () if found.pop("static") else comma_list(found.pop("dynamic_axes"))
    return found | {"preprocess": steps, "dynamic_axes": axes}
