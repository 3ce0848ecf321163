"""Artifacts run in a process of their own, driven from here.

`torch.backends.quantized.engine`, thread counts and allocators are process-wide; a runtime that crashes must not
take the compiler with it. `RemoteRuntime` is a context manager around one such child process.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ...backends.base import InputFact
from ..ir.errors import VerificationError
from .worker import read_message, write_message


class RemoteRuntime:
    """A child process with the runtime of `target` and the artifacts given, by key; `kernels` as in `HasKernels`.

    Raises:
        VerificationError: an artifact does not load or run, or the process dies; with what it said.
    """

    def __init__(
        self, target: str, artifacts: Mapping[str, Path], threads: int = 1, kernels: str | None = None
    ) -> None:
        self._target, self._kernels = target, kernels
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        # -P: the current folder, which may be an untrusted bundle, must not shadow a library
        command = [sys.executable, "-P", "-m", f"{__package__}.worker", target, str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        try:
            for key, path in artifacts.items():
                self.load(key, path)
        except BaseException:
            self.close()
            raise

    def load(self, key: str, path: Path) -> float:
        """Load an artifact (again) and return the seconds that it took."""
        request = {"do": "load", "key": key, "path": str(path.resolve()), "kernels": self._kernels}
        seconds: float = self._ask(request)[0]["seconds"]
        return seconds

    def run(self, key: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs of artifact `key`, flattened in order."""
        return self._ask({"do": "run", "key": key}, inputs)[1]

    def time(
        self, keys: Sequence[str], inputs: Sequence[np.ndarray] = (), repeats: int = 20, warmup: int = 3
    ) -> dict[str, list[float]]:
        """Seconds of each of `repeats` interleaved runs, by key; without inputs, on those that it holds."""
        request = {"do": "time", "keys": list(keys), "repeats": repeats, "warmup": warmup}
        seconds: dict[str, list[float]] = self._ask(request, inputs)[0]["seconds"]
        return seconds

    def hold(self, inputs: Sequence[np.ndarray]) -> None:
        """Give it inputs for `time` once and for all."""
        self._ask({"do": "hold"}, inputs)

    def inputs(self, key: str) -> tuple[InputFact, ...] | None:
        """What artifact `key` says of its inputs; None where its runtime does not tell."""
        told = self._ask({"do": "inputs", "key": key})[0]["inputs"]
        return None if told is None else tuple(InputFact(**fact) for fact in told)

    def memory(self) -> tuple[int | None, int | None]:
        """Bytes of the process before it loaded anything, and the most since; None where the system is silent."""
        answer = self._ask({"do": "memory"})[0]
        return answer["before"], answer["peak"]

    def _ask(
        self, request: dict[str, Any], arrays: Sequence[np.ndarray] = ()
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            write_message(self._process.stdin, request, arrays)  # type: ignore[arg-type]
            answer = read_message(self._process.stdout)  # type: ignore[arg-type]
        except (BrokenPipeError, ValueError) as error:
            raise VerificationError(self._died(request)) from error
        if answer is None:
            raise VerificationError(self._died(request))
        if "error" in answer[0]:
            raise VerificationError(f"The {self._target} runtime could not {request['do']}: {answer[0]['error']}")
        return answer

    def _died(self, request: dict[str, Any]) -> str:
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:  # it lives, but what it answered is no message
            self._process.kill()
            status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        tail = " | ".join(said[-3:]) or "nothing"
        return (
            f"The process of the {self._target} runtime ended with status {status} when asked to "
            f"{request['do']}; it said: {tail}"
        )

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> RemoteRuntime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self.close()
