"""What the tables of figures share: measurements made once and kept, Markdown, a place in a document."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fxedge.compiler.quant.isa import CPUINFO, native_isa, read_cpuinfo
from real.judged import JUDGED
from real.measuring import Setting, float_answers, in_own_process, kept, measure


@dataclass(frozen=True, slots=True)
class Workshop:
    """The measurements of one table, each made once; `commits` are those they were made at."""

    folder: Path
    limit: int | None
    threads: int
    commits: set[str] = field(default_factory=set)

    def measured(self, setting: Setting) -> dict[str, Any]:
        found: dict[str, Any] = self.made(setting.file, measure, setting)
        self.commits.add(found["commit"])
        for text in found["said"]:
            print(f"{setting.file}: {text}", file=sys.stderr, flush=True)
        return found

    def float_answers(self, net: str) -> list[Any]:
        answers: list[Any] = self.made(self.file(net, "float"), float_answers, net, self.limit, self.threads)
        return answers

    def truth(self, net: str) -> list[Any]:
        return JUDGED[net].truth(self.limit)

    def file(self, what: str, which: str) -> str:
        """A name for what is kept of these images."""
        return f"{what}.{which}.{'all' if self.limit is None else self.limit}.json"

    def made(self, name: str, function: Callable[..., Any], *arguments: object) -> Any:
        """`function(*arguments)`, from the file `name` if it was made before."""

        def compute() -> Any:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            return in_own_process(function, *arguments)

        return kept(self.folder / name, compute)

    def table(self, head: str, lines: Iterable[str]) -> str:
        """Markdown, with where it was measured below it."""
        rule = "---|" * (head.count("|") + 1)
        rows = [f"| {head.rstrip()} |", f"|{rule}", *(f"| {line} |" for line in lines)]
        return "\n".join([*rows, "", self.where()])

    def where(self) -> str:
        """On what the figures were taken."""
        images = "all images" if self.limit is None else f"{self.limit} images"
        commits = ", ".join(sorted(self.commits))
        return (
            f"{read_cpuinfo(CPUINFO)[0]} ({native_isa()}), {self.threads} threads, {images}; "
            f"torch {version('torch')}, onnxruntime {version('onnxruntime')}; commit {commits}"
        )


def replace_table(document: str, name: str, text: str) -> str:
    """`document` with what is between the markers of table `name` replaced by `text`.

    Raises:
        ValueError: it does not have the markers, once each and in this order.
    """
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    if document.count(begin) != 1 or document.partition(begin)[2].count(end) != 1:
        raise ValueError(f"the document needs the lines {begin.strip()} and {end}, once each and in this order")
    before, _, rest = document.partition(begin)
    return f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}"


def put_table(path: Path, name: str, text: str) -> None:
    """Replace table `name` in the document at `path`."""
    path.write_text(replace_table(path.read_text("utf-8"), name, text), "utf-8")
