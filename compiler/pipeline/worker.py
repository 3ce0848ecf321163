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
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...backends import registry
from ...backends.base import HasKernels, Runner, TellsInputs
from ..ir.errors import FxedgeError
from .memory import forget_peak, keep_freed_memory, read_memory


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
    """The artifacts loaded so far, by key, and the inputs held for timing."""

    def __init__(self, target: str, threads: int) -> None:
        self._backend = registry.get(target)
        self._threads = threads
        self._runners: dict[str, Runner] = {}
        self._held: list[np.ndarray] = []
        forget_peak()
        self._before = read_memory()

    def load(self, request: dict[str, Any], arrays: list[np.ndarray]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Seconds to load; the first time in a process with those of the runtime's own library."""
        start = time.perf_counter()
        path, kernels = Path(request["path"]), request.get("kernels")
        if kernels is None:
            runner = self._backend.load(path, self._threads)
        else:
            assert isinstance(self._backend, HasKernels)
            runner = self._backend.load_with(kernels, path, self._threads)
        self._runners[request["key"]] = runner
        return {"seconds": time.perf_counter() - start}, []

    def inputs(self, request: dict[str, Any], arrays: list[np.ndarray]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """What the artifact says of its inputs; null where its runtime does not tell."""
        runner = self._runners[request["key"]]
        told = [asdict(fact) for fact in runner.input_facts()] if isinstance(runner, TellsInputs) else None
        return {"inputs": told}, []

    def hold(self, request: dict[str, Any], arrays: list[np.ndarray]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Keep inputs for `time`, so that a turn of one run need not send them again."""
        self._held = arrays
        return {}, []

    def memory(self, request: dict[str, Any], arrays: list[np.ndarray]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Bytes: of the process before it loaded anything, and the most since; null where nothing tells."""
        before, now = self._before, read_memory()
        return {"before": before and before.resident, "peak": now and now.peak}, []

    def run(self, request: dict[str, Any], arrays: list[np.ndarray]) -> tuple[dict[str, Any], list[np.ndarray]]:
        return {}, self._runners[request["key"]].run(arrays)

    def time(self, request: dict[str, Any], arrays: list[np.ndarray]) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Interleaved: each repeat runs every key once, so that a slow moment of the machine hits all of them.
        Without inputs, on those that are held."""
        arrays = arrays or self._held
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
        "inputs": session.inputs,
        "hold": session.hold,
        "memory": session.memory,
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
    """Keep stdout for answers alone: whatever a runtime prints goes to stderr.

    Freed memory is kept, so that times do not depend on what the process did before: glibc gives the pages of
    tensors back after each run until a larger batch has taught it not to (mobilenet_v3_small on fbgemm, float over
    int8: 1.17 in a fresh process, 0.85 in one that has run 16 samples, 0.83 in either that keeps them).
    """
    keep_freed_memory()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.argv[1], int(sys.argv[2]), sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
