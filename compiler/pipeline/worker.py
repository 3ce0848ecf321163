"""The child process in which runtimes run: `python -m fxedge.compiler.pipeline.worker TARGET THREADS`.

Process-wide runtime state (a quantized engine, thread pools) stays in here. Requests come on stdin and answers go
to stdout, each a line of JSON followed by its arrays in NPY format (no pickle); see `runtime` for the other end.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...backends import registry
from ...backends.base import Runner
from ..ir.errors import FxedgeError


def write_message(stream: BinaryIO, header: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """One line of JSON with the number of arrays, then the arrays in NPY format."""
    stream.write(json.dumps(header | {"arrays": len(arrays)}).encode() + b"\n")
    for array in arrays:
        np.lib.format.write_array(_Bytes(stream), np.ascontiguousarray(array), allow_pickle=False)
    stream.flush()


def read_message(stream: BinaryIO) -> tuple[dict[str, Any], list[np.ndarray]] | None:
    """The next message, or None at the end of the stream."""
    line = stream.readline()
    if not line:
        return None
    header = json.loads(line)
    arrays = [np.lib.format.read_array(_Bytes(stream), allow_pickle=False) for _ in range(header["arrays"])]
    return header, arrays


class _Bytes:
    """A stream that numpy does not take for a file on disk: it would ask a pipe for its position."""

    def __init__(self, stream: BinaryIO) -> None:
        self.read = stream.read
        self.write = stream.write


class _Session:
    """The artifacts loaded so far, by key."""

    def __init__(self, target: str, threads: int) -> None:
        self._backend = registry.get(target)
        self._threads = threads
        self._runners: dict[str, Runner] = {}

    def load(self, request: dict[str, Any], arrays: list[np.ndarray]) -> tuple[dict[str, Any], list[np.ndarray]]:
        self._runners[request["key"]] = self._backend.load(Path(request["path"]), self._threads)
        return {}, []

    def run(self, request: dict[str, Any], arrays: list[np.ndarray]) -> tuple[dict[str, Any], list[np.ndarray]]:
        return {}, self._runners[request["key"]].run(arrays)

    def time(self, request: dict[str, Any], arrays: list[np.ndarray]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Interleaved: each repeat runs every key once, so that a slow moment of the machine hits all of them."""
        keys: list[str] = request["keys"]
        seconds: dict[str, list[float]] = {key: [] for key in keys}
        for key in keys * request["warmup"]:
            self._runners[key].run(arrays)
        for _ in range(request["repeats"]):
            for key in keys:
                start = time.perf_counter()
                self._runners[key].run(arrays)
                seconds[key].append(time.perf_counter() - start)
        return {"seconds": seconds}, []


def serve(target: str, threads: int, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until the stream ends; a failing request is answered with its error."""
    session = _Session(target, threads)
    handlers: dict[str, Callable[..., tuple[dict[str, Any], list[np.ndarray]]]] = {
        "load": session.load,
        "run": session.run,
        "time": session.time,
    }
    while (message := read_message(requests)) is not None:
        request, arrays = message
        try:
            header, results = handlers[request["do"]](request, arrays)
        except FxedgeError as error:
            header, results = {"error": str(error)}, []
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            header, results = {"error": f"{type(error).__name__}: {error}"}, []
        write_message(answers, header, results)


def main() -> None:
    """Keep stdout for answers alone: whatever a runtime prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.argv[1], int(sys.argv[2]), sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
