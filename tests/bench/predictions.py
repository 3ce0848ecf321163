"""Predicted against measured: is int8 faster, for the reference models and the real networks on every target.

    fxedge bench --calibrate-machine --target onnx,tflite && python tests/bench/predictions.py --target onnx,tflite
    python tests/bench/predictions.py --target onnx,tflite --measure

Each model is predicted as `fxedge predict` does, then compiled (recipe `fast`) and timed, float and int8 by turns.
Where the measured interval lies beyond 10 % of no difference, the verdict must match. Targets without kernel costs
of this machine are left out. With `--measure` what `fxedge predict --measure` says is judged as well; that needs
no kernel costs. Prints Markdown; ends with status 1 if a verdict is wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from fxedge import CompileOptions
from fxedge.backends import registry
from fxedge.compiler.ir.errors import FxedgeError, InputError
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.driver import usable_backends
from fxedge.compiler.pipeline.kernel_costs import TargetTable, cache_folder, find_table
from fxedge.compiler.pipeline.lower import FloatModel, lower, plan_targets, prepare
from fxedge.compiler.pipeline.machine import describe_machine
from fxedge.compiler.pipeline.predict import Speed, predict
from fxedge.compiler.pipeline.runtime import RemoteRuntime
from fxedge.compiler.tools.bench.figures import Ratio, paired_ratio
from fxedge.compiler.tools.predicting import Measured
from fxedge.models import catalog  # noqa: F401  fills the registry
from fxedge.models import registry as zoo
from real.judged import JUDGED
from torch import Tensor

REAL = ("mobilenet_v2", "mobilenet_v3_small", "cifar10_resnet20", "yolox_nano")
_OPTIONS = CompileOptions(recipe="fast")
_CLEAR = 1.1  # a measured difference beyond this, interval and all, needs the right verdict


@dataclass(frozen=True, slots=True)
class Case:
    """One model on one target; `runs` are what `fxedge predict --measure` times."""

    model: str
    target: str
    costs: Speed | None
    runs: Measured | None
    measured: Ratio

    @property
    def clear(self) -> str | None:
        """The verdict that the measurement leaves no doubt about."""
        low, high = self.measured.low, self.measured.high
        if low is not None and low > _CLEAR:
            return "faster"
        return "slower" if high is not None and high < 1 / _CLEAR else None

    @property
    def said(self) -> dict[str, str]:
        """The verdict of each way of telling."""
        found = {"kernel costs": self.costs, "--measure": self.runs}
        return {way: speed.verdict for way, speed in found.items() if speed is not None}

    @property
    def wrong(self) -> list[str]:
        """Ways whose verdict is not the clear one."""
        return [way for way, verdict in self.said.items() if self.clear not in (None, verdict)]

    def line(self) -> str:
        costs = "-" if self.costs is None else f"{self.costs.ratio:.2f}× {self.costs.verdict}"
        runs = "-" if self.runs is None else f"{self.runs.ratio.value:.2f}× {self.runs.verdict}"
        verdict = "" if self.clear is None else f"**wrong: {', '.join(self.wrong)}**" if self.wrong else "right"
        return f"| {self.model} | {self.target} | {costs} | {runs} | {self.measured.format()} | {verdict} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="default: every reference model and real network"
    )
    parser.add_argument("--target", type=lambda text: text.split(","), default=registry.names())
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--measure", action="store_true", help="judge `fxedge predict --measure` as well")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | target | by kernel costs | by --measure | measured | verdict |\n|" + "---|" * 6, flush=True)
    cases = []
    for name in args.models or dict.fromkeys((*zoo.names(), *REAL)):
        for case in compare(name, args.target, args.runs, args.measure):
            print(case.line(), flush=True)
            cases.append(case)
    clear = [case for case in cases if case.clear is not None]
    print(f"\n{len(clear)} cases clear; {len(cases) - len(clear)} within 10 % or noise")
    for way in ("kernel costs", "--measure"):
        judged = [case for case in clear if way in case.said]
        if judged:
            print(f"{way}: {sum(way not in case.wrong for case in judged)} of {len(judged)} right")
    sys.exit(any(case.wrong for case in clear))


def compare(name: str, targets: Sequence[str], runs: int, measured: bool) -> Iterator[Case]:
    """The model on each target that takes it and has kernel costs or is to be `measured`."""
    samples = _samples(name)
    model = prepare(_model(name), samples, _OPTIONS)
    for target in usable_backends(targets)[0]:
        try:
            found = predict(model, registry.get(target), _OPTIONS, _table(target, measured), measure=measured)
            timed = None if found.runs is None else Measured.of(found.runs)
            if found.speed is not None or timed is not None:  # else nothing runs it but a stand-in
                yield Case(name, target, found.speed, timed, measure(model, target, samples, runs))
        except FxedgeError as error:
            print(f"| {name} | {target} | {str(error).splitlines()[0][:80]} | | | |", flush=True)


def _table(target: str, measured: bool) -> TargetTable | None:
    """The machine's kernel costs; those who measure can do without."""
    versions = registry.get(target).versions()
    try:
        return find_table(cache_folder(), target, describe_machine(), versions, 1)
    except InputError:
        if measured:
            return None
        raise


def _model(name: str) -> torch.nn.Module:
    return JUDGED[name].factory() if name in JUDGED else zoo.get(name).factory()


def _samples(name: str) -> tuple[Tensor, ...]:
    if name in JUDGED:
        return tuple(tensor[:2] for tensor in next(iter(JUDGED[name].calibration())).inputs)
    return zoo.get(name).example_inputs()


def measure(model: FloatModel, target: str, samples: tuple[Tensor, ...], runs: int) -> Ratio:
    """Float over int8 seconds of one sample in the target's runtime, by turns."""
    backend = registry.get(target)
    plan = plan_targets(model, [backend.spec], _OPTIONS)[target]
    stats = collect(model, {target: plan}, [samples], _OPTIONS)
    with tempfile.TemporaryDirectory() as folder:
        paths = {form: Path(folder) / f"{form}_{backend.artifact}" for form in ("float", "int8")}
        backend.emit(lower(model, backend.spec, plan, stats, _OPTIONS).program, paths["int8"])
        backend.emit_float(model.gm, paths["float"])
        with RemoteRuntime(target, paths) as runtime:
            seconds = runtime.time(list(paths), [tensor[:1].numpy() for tensor in samples], runs, warmup=10)
    return paired_ratio(seconds["float"], seconds["int8"])


if __name__ == "__main__":
    main()
