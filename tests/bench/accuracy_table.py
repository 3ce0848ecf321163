"""The accuracy table: what each recipe reaches on the real networks, compiled and run as a user would.

    python tests/bench/accuracy_table.py [ROW ...] [--keep FOLDER] [--write docs/accuracy.md]

Every artifact comes from `compile_model` in a process of its own and runs in its real runtime, on images that
nothing is tuned on. With --keep each measurement is kept as JSON, and a run that was cut goes on from there
(delete the folder to measure anew). --write puts each table printed between its markers in a document. Needs the
shared data folder (see tests/real/nets.py); the isa rows need qemu-x86_64. Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import weight_bits
from bench.rows import AVX2_ROWS, BITS_ROWS, ISA_ROWS, ROWS, BitsRow, IsaRow, Row
from bench.workshop import Workshop, put_table
from real.bootstrap import (
    Estimate,
    Statistic,
    difference,
    draws_for,
    estimate,
    over_all,
    share_equal,
    statistic_of,
)

NAMES = tuple(row.name for row in (*ROWS, *AVX2_ROWS, *ISA_ROWS, *BITS_ROWS))
_EMULATED = 8  # images


def main() -> None:
    args = _parse()
    with tempfile.TemporaryDirectory() as folder:
        keep = args.keep or Path(folder)
        keep.mkdir(parents=True, exist_ok=True)
        for name, (rows, table) in TABLES.items():
            if wanted := [row for row in rows if row.name in (args.rows or NAMES)]:
                text = table(Workshop(keep, args.limit, args.threads), wanted)
                print(f"{text}\n", flush=True)
                if args.write is not None:
                    put_table(args.write, name, text)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(NAMES))
    parser.add_argument("--keep", type=Path, help="folder of measurements; those in it are not made again")
    parser.add_argument("--write", type=Path, help="document whose tables are replaced by those printed")
    parser.add_argument("--limit", type=int, help="judge on so many images, for a quick look; default all")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if unknown := [name for name in args.rows if name not in NAMES]:
        parser.error(f"there is no row {unknown[0]!r}; allowed: {', '.join(NAMES)}")
    return args


_HEAD = (
    "case | recipe | weights per | target, ISA | figure | float | naive | reached [95 %] | below float [95 %] "
    "| must reach | | seconds (naive) | peak MB"
)


@dataclass(frozen=True, slots=True)
class Scores:
    """The figures of one artifact: in float, of the recipe `fast`, of the row's recipe, and how far that is below
    float. Of agreement, float is what agrees with itself."""

    float: float
    naive: float
    reached: Estimate
    below: Estimate


def score(
    row: Row, truth: Sequence[Any], floats: Sequence[Any], naive: Sequence[Any], reached: Sequence[Any]
) -> Scores:
    """From the answers on the same images."""

    def statistic(answers: Sequence[Any]) -> Statistic:
        return statistic_of(row.metric, answers, truth, floats)

    exact, found = statistic(floats), statistic(reached)
    images, draws = len(truth), draws_for(row.metric)
    return Scores(
        over_all(exact, images),
        over_all(statistic(naive), images),
        estimate(found, images, draws),
        estimate(difference(exact, found), images, draws),
    )


def rows_table(workshop: Workshop, rows: Sequence[Row]) -> str:
    """The first table, and that of processors without VNNI."""
    lines = [_tried(row_line, workshop, row, target) for row in rows for target in row.targets]
    return workshop.table(_HEAD, lines)


def row_line(workshop: Workshop, row: Row, target: str) -> str:
    """One line of the first table."""
    rest = {"limit": workshop.limit, "threads": workshop.threads}
    naive = workshop.measured(row.setting(target, naive=True, **rest))
    found = workshop.measured(row.setting(target, **rest))
    floats = workshop.float_answers(row.net)
    scores = score(row, workshop.truth(row.net), floats, naive["answers"], found["answers"])
    verdict = "reached" if row.reached(scores.reached.value, scores.float) else "**missed**"
    cells = (
        row.net,
        row.recipe,
        "tensor" if row.per_tensor else "channel",
        f"{target}, {row.isa}",
        row.metric,
        f"{scores.float:.1f}",
        f"{scores.naive:.1f}",
        scores.reached.format(),
        scores.below.format(),
        row.must,
        verdict,
        f"{found['seconds']:.0f} ({naive['seconds']:.0f})",
        f"{found['peak_mb']:.0f}",
    )
    return " | ".join(cells)


_ISA_HEAD = (
    "network | recipe | target | agreement, vnni [95 %] | agreement, avx2 [95 %] | avx2 below vnni [95 %] "
    "| must reach | differing on Haswell, vnni | avx2 | "
)


def isa_table(workshop: Workshop, rows: Sequence[IsaRow]) -> str:
    """The second table."""
    return workshop.table(_ISA_HEAD, [_tried(isa_line, workshop, row) for row in rows])


def isa_line(workshop: Workshop, row: IsaRow) -> str:
    """One line of the second table."""
    found = {
        isa: workshop.measured(row.setting(isa, images=_EMULATED, limit=workshop.limit, threads=workshop.threads))
        for isa in ("vnni", "avx2")
    }
    floats = workshop.float_answers(row.net)
    agreeing = {isa: share_equal(one["answers"], floats) for isa, one in found.items()}
    below = estimate(difference(agreeing["vnni"], agreeing["avx2"]), len(floats))
    reached = below.value <= row.goal + 1e-9 and found["avx2"]["differing"] == 0
    cells = (
        row.net,
        row.recipe,
        row.target,
        *(estimate(statistic, len(floats)).format() for statistic in agreeing.values()),
        below.format(),
        f"vnni − {row.goal:g}, 0 differing",
        *(f"{one['differing']} of {one['compared']}" for one in found.values()),
        "reached" if reached else "**missed**",
    )
    return " | ".join(cells)


def _tried(make: Callable[..., str], workshop: Workshop, row: Row | IsaRow, *more: str) -> str:
    """The line, or what went wrong: one row that fails must not cost the others."""
    try:
        return make(workshop, row, *more)
    except Exception as error:
        traceback.print_exc()
        return f"{row.net} | {row.recipe} | {', '.join(more)} **failed**: {type(error).__name__}: {error}"


def bits_table(workshop: Workshop, rows: Sequence[BitsRow]) -> str:
    """The third and the fourth table, and below it whether what it must show is there."""
    lines = {(row.bits, row.rounding): _bits_line(workshop, row) for row in rows}
    said = [weight_bits.format_table(list(lines.values())), ""]
    for bits in (6, 5):
        if (line := lines.get((bits, "nearest"))) is not None:
            said += [f"* {bits} bits, nearest: {text}" for text in against_clipping(line)]
    if (line := lines.get((4, "adaround"))) is not None:
        exact = estimate(share_equal(line["float"], line["labels"]), len(line["labels"])).value
        below = exact - weight_bits.share_of(line, weight_bits.CLIP, "labels")
        reached = "reached" if below <= 2 + 1e-9 else "**missed**"
        said.append(f"* 4 bits, clipped, AdaRound: within 2 points of float: {below:.2f} below, {reached}")
    return "\n".join([*said, "", workshop.where()])


def _bits_line(workshop: Workshop, row: BitsRow) -> dict[str, Any]:
    how = (row.bits, row.rounding, row.ratios, row.per_tensor, workshop.limit, workshop.threads)
    file = workshop.file(row.name, "line")
    line: dict[str, Any] = workshop.made(file, weight_bits.measure_line, workshop.folder, *how)
    workshop.commits.update(cell["commit"] for cell in line["cells"].values())
    return line


def against_clipping(line: Mapping[str, Any]) -> Iterator[str]:
    """Where splitting, alone or with clipping, is at least as good as clipping alone; and how far the best of
    splitting alone is from that, resampled on the same images."""
    for figure, wanted in (("top-1", "labels"), ("agreement", "float")):
        hits = {name: share_equal(cell["classes"], line[wanted]) for name, cell in line["cells"].items()}
        shares = {name: weight_bits.share_of(line, name, wanted) for name in hits}
        clip = shares[weight_bits.CLIP]
        enough = [name for name, share in shares.items() if "split" in name and share >= clip - 1e-9]
        best = max((name for name in shares if name.startswith("split")), key=shares.__getitem__)
        ahead = estimate(difference(hits[best], hits[weight_bits.CLIP]), len(line[wanted]))
        yield (
            f"by {figure}, at least as good as clipping ({clip:.1f}): {', '.join(enough) or '**none**'}; "
            f"{best} is ahead of it by {ahead.format()}"
        )


# Markers in the document -> rows, and what makes their table.
TABLES: dict[str, tuple[Sequence[Any], Callable[[Workshop, Sequence[Any]], str]]] = {
    "rows": (ROWS, rows_table),
    "rows-avx2": (AVX2_ROWS, rows_table),
    "isa": (ISA_ROWS, isa_table),
    "weight-bits": ([row for row in BITS_ROWS if not row.per_tensor], bits_table),
    "weight-bits-tensor": ([row for row in BITS_ROWS if row.per_tensor], bits_table),
}


if __name__ == "__main__":
    main()
