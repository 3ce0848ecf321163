"""The table of runtimes: every real network on every target from the same calibration, as deployed.

    python tests/bench/runtimes_table.py [NET ...] [--target NAME,...] [--keep FOLDER] [--write docs/runtimes.md]

Compiled, kept and judged as in `accuracy_table.py`; besides, what the check found, sizes and the ratio of float to
int8 latency. --write replaces the document's table, so give it every network. Needs the shared data folder (see
tests/real/nets.py). Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.workshop import Workshop, put_table
from fxedge.backends import registry
from fxedge.compiler.quant.isa import SAFE, native_isa
from real.bootstrap import (
    Statistic,
    difference,
    draws_for,
    estimate,
    over_all,
    share_equal,
    spread_by_chance,
    statistic_of,
)
from real.judged import JUDGED
from real.measuring import Setting

NETS = ("mobilenet_v2", "mobilenet_v3_small", "cifar10_resnet20", "yolox_nano", "minilm")
# A figure below float by more than this is named; of a classifier, the spread between runtimes.
GOALS = {"top-1": 1.0, "mAP50-95": 2.0, "Spearman": 1.0}
_TIMED = 60  # runs
# Judged by halves, each by an artifact that was calibrated on the other one: of a metric that few images decide.
_SWAPPED = {"yolox_nano": "yolox_nano_swapped"}
_TOO_NOISY = "kept float: rounding it alone would show at the outputs"
_HEAD = (
    "network | target, ISA | figure [95 %] | below float [95 %] | same top-1 | nodes exact (worst LSB) "
    "| end to end | ops int8 + float | MB (float) | float / int8 latency"
)


def main() -> None:
    args = _parse()
    with tempfile.TemporaryDirectory() as folder:
        keep = args.keep or Path(folder)
        keep.mkdir(parents=True, exist_ok=True)
        workshop = Workshop(keep, args.limit, args.threads)
        cases = [(net, target) for net in args.nets or NETS for target in args.target]
        if args.only_kept:
            cases = [case for case in cases if _is_kept(keep, _settings(*case, args.recipe, workshop))]
        text = runtimes_table(workshop, cases, args.recipe)
    print(text, flush=True)
    if args.write is not None:
        put_table(args.write, args.table, text)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", metavar="NET", help=", ".join(NETS))
    parser.add_argument("--target", type=lambda text: text.split(","), default=registry.names())
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--keep", type=Path, help="folder of measurements; those in it are not made again")
    parser.add_argument("--only-kept", action="store_true", help="rows that are in FOLDER; nothing is measured")
    parser.add_argument("--write", type=Path, help="document whose table is replaced by the one printed")
    parser.add_argument("--table", default="runtimes", help="its name there; runtimes-avx2: without VNNI")
    parser.add_argument("--limit", type=int, help="judge on so many samples, for a quick look; default all")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def runtimes_table(workshop: Workshop, cases: Sequence[tuple[str, str]], recipe: str) -> str:
    """Of (network, target) pairs: the table, what falls short of its goal, and why ops are left float."""
    lines: list[str] = []
    found: dict[str, dict[str, Any]] = {}
    for net, target in cases:
        try:
            one = _measured(net, target, recipe, workshop)
            lines.append(_line(workshop, net, target, one))
            found.setdefault(net, {})[target] = one
        except Exception as error:  # one runtime that fails must not cost the others
            traceback.print_exc()
            lines.append(f"{net} | {target} | **failed**: {type(error).__name__}: {error}" + " | " * 7)
    notes = [note for net, results in found.items() for note in _notes(workshop, net, results)]
    return "\n".join([workshop.table(_HEAD, lines), "", *(f"* {note}" for note in notes)])


def _settings(net: str, target: str, recipe: str, workshop: Workshop) -> list[Setting]:
    """For this machine's instruction set; the second half is judged alone, neither timed nor compared with the
    simulator beyond two samples."""
    first = Setting(
        net, target, recipe, False, _isa(target), limit=workshop.limit, threads=workshop.threads, timed=_TIMED
    )
    return [first, *(replace(first, net=half, timed=0, compared=2) for half in _halves(net)[1:])]


def _halves(net: str) -> list[str]:
    return [net, _SWAPPED[net]] if net in _SWAPPED else [net]


def _is_kept(folder: Path, settings: Sequence[Setting]) -> bool:
    return all((folder / setting.file).is_file() for setting in settings)


def _measured(net: str, target: str, recipe: str, workshop: Workshop) -> dict[str, Any]:
    """What was found of the first half, with the answers of all."""
    found = [workshop.measured(setting) for setting in _settings(net, target, recipe, workshop)]
    return found[0] | {"answers": [answer for half in found for answer in half["answers"]]}


def _line(workshop: Workshop, net: str, target: str, found: dict[str, Any]) -> str:
    exact, statistic, images, draws = _statistics(workshop, net, found)
    checked, end, latency = found["checked"], found["checked"]["end"], found["checked"]["latency"]
    same = ""
    if JUDGED[net].metric == "top-1":
        same = f"{over_all(share_equal(found['answers'], workshop.float_answers(net)), images):.1f} %"
    integers = f"{end['worst_lsb']} LSB, {end['differing']} of {end['total']}" if end["total"] else ""
    floats = f"{end['worst_float']:.1g} of float" if end["worst_float"] or not end["total"] else ""
    flips = f"{end['flips']} flips of {end['samples']}" if end["flips"] else ""
    cells = (
        net,
        f"{target}, {_isa(target)}",
        estimate(statistic, images, draws).format(),
        estimate(difference(exact, statistic), images, draws).format(),
        same,
        f"{checked['exact']} of {checked['nodes']} ({checked['worst']})",
        ", ".join(filter(None, (integers, floats, flips))),
        f"{checked['integer_ops']} + {len(checked['floats'])}",
        f"{checked['size'] / 1e6:.2f} ({(checked['float_size'] or 0) / 1e6:.2f})",
        "" if latency is None else f"{latency['ratio']:.2f}×",
    )
    return " | ".join(cells)


def _isa(target: str) -> str:
    """This machine's, where it concerns the target."""
    return native_isa() if native_isa() in registry.get(target).spec.saturation else SAFE


def _statistics(workshop: Workshop, net: str, found: dict[str, Any]) -> tuple[Statistic, Statistic, int, int]:
    """Of float and of what was found; the number of samples and of draws."""
    metric = JUDGED[net].metric
    truth = _truth(workshop, net)
    floats = [answer for half in _halves(net) for answer in workshop.float_answers(half)]
    exact, statistic = (statistic_of(metric, answers, truth, floats) for answers in (floats, found["answers"]))
    return exact, statistic, len(truth), draws_for(metric)


def _truth(workshop: Workshop, net: str) -> list[Any]:
    return [wanted for half in _halves(net) for wanted in workshop.truth(half)]


def _notes(workshop: Workshop, net: str, found: dict[str, dict[str, Any]]) -> Iterator[str]:
    figures, metric, float_figure = {}, JUDGED[net].metric, 0.0
    for target, one in found.items():
        exact, statistic, images, _ = _statistics(workshop, net, one)
        figures[target] = over_all(statistic, images)
        float_figure = over_all(exact, images)
    goal, spread = GOALS[metric], max(figures.values()) - min(figures.values())
    verdict = "reached" if spread <= goal + 1e-9 else "**missed**"
    said = f" (at most {goal:g}: {verdict}; {_by_chance(workshop, net, found)})" if metric == "top-1" else ""
    yield f"{net}: float {metric} {float_figure:.1f}; spread between runtimes {spread:.1f}{said}"
    if metric != "top-1":
        short = [f"{target} {figure:.1f}" for target, figure in figures.items() if figure < float_figure - goal]
        yield f"{net}: more than {goal:g} below float: {', '.join(short) or 'none'}"
    if net in _SWAPPED:
        yield f"{net}: {metric} by half, {_by_half(workshop, net, found)}"
    slow = [target for target, one in found.items() if (one["checked"]["latency"] or {"ratio": 9})["ratio"] < 1]
    if slow:
        yield f"{net}: int8 is slower than float on {', '.join(slow)}"
    for target, one in found.items():
        if reasons := Counter(_kind(reason) for _, reason in one["checked"]["floats"]):
            text = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common())
            yield f"{net} on {target}, in float: {text}"


def _by_chance(workshop: Workshop, net: str, found: dict[str, dict[str, Any]]) -> str:
    """The spread if of each image it were chance which runtimes are right."""
    truth, answers = _truth(workshop, net), [one["answers"] for one in found.values()]
    chance = spread_by_chance(answers, truth)
    some = sum(wanted in given and len(set(given)) > 1 for *given, wanted in zip(*answers, truth, strict=True))
    where = f"which are right on the {some} images where some are"
    return f"{chance.low:.1f} to {chance.high:.1f} if chance decides {where}"


def _by_half(workshop: Workshop, net: str, found: dict[str, dict[str, Any]]) -> str:
    """The figure of each half alone, of float and of each target."""
    floats = [answer for half in _halves(net) for answer in workshop.float_answers(half)]
    texts = []
    for name, answers in {"float": floats, **{target: one["answers"] for target, one in found.items()}}.items():
        figures, start = [], 0
        for half in _halves(net):
            truth = workshop.truth(half)
            part = answers[start : (start := start + len(truth))]
            figures.append(over_all(statistic_of(JUDGED[net].metric, part, truth, part), len(truth)))
        texts.append(f"{name} {' and '.join(f'{figure:.1f}' for figure in figures)}")
    return ", ".join(texts)


def _kind(reason: str) -> str:
    """A reason without the figures of the one op that it speaks of."""
    return _TOO_NOISY if reason.startswith("kept float: rounding") else reason


if __name__ == "__main__":
    main()
