import io
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fxedge.backends import registry
from fxedge.backends.base import InputFact
from fxedge.compiler.ir.errors import BackendUnavailableError
from fxedge.compiler.pipeline.memory import read_memory
from fxedge.compiler.pipeline.worker import read_message, serve, write_message


class Doubler:
    """A runtime that doubles its input."""

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [2 * array for array in inputs]


class FakeBackend:
    def load(self, path: Path, threads: int = 1) -> Doubler:
        if path.name == "missing":
            raise BackendUnavailableError("the runtime is not here")
        if path.name == "broken":
            raise RuntimeError("bad magic")
        return Doubler()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "get", lambda name: FakeBackend())


def ask(*requests: tuple[dict[str, Any], list[np.ndarray]]) -> list[tuple[dict[str, Any], list[np.ndarray]]]:
    """All answers of one session."""
    stream, answers = io.BytesIO(), io.BytesIO()
    for header, arrays in requests:
        write_message(stream, header, arrays)
    stream.seek(0)
    serve("fake", 1, stream, answers)
    answers.seek(0)
    found = []
    while (answer := read_message(answers)) is not None:
        found.append(answer)
    return found


LOAD = ({"do": "load", "key": "a", "path": "model"}, [])


def test_loads_and_runs(fake: None):
    x = np.arange(6, dtype=np.float32).reshape(2, 3).T
    loaded, ran = ask(LOAD, ({"do": "run", "key": "a"}, [x, np.array([1, 2], dtype=np.uint8)]))
    assert loaded[0].keys() == {"arrays", "seconds"}
    assert loaded[0]["seconds"] >= 0
    np.testing.assert_array_equal(ran[1][0], 2 * x, strict=True)
    np.testing.assert_array_equal(ran[1][1], np.array([2, 4], dtype=np.uint8), strict=True)


def test_times_every_key_as_often(fake: None):
    second = ({"do": "load", "key": "b", "path": "model"}, [])
    request = {"do": "time", "keys": ["a", "b"], "repeats": 3, "warmup": 1}
    header, arrays = ask(LOAD, second, (request, [np.zeros(2)]))[2]
    assert {key: len(times) for key, times in header["seconds"].items()} == {"a": 3, "b": 3}
    assert all(time >= 0 for times in header["seconds"].values() for time in times)
    assert arrays == []


def test_times_on_inputs_that_it_holds(fake: None):
    request = {"do": "time", "keys": ["a"], "repeats": 2, "warmup": 0}
    held = ({"do": "hold"}, [np.zeros(2)])
    assert len(ask(LOAD, held, (request, []))[2][0]["seconds"]["a"]) == 2


def test_tells_what_the_artifact_takes_where_its_runtime_does(fake: None, monkeypatch: pytest.MonkeyPatch):
    question = ({"do": "inputs", "key": "a"}, [])
    assert ask(LOAD, question)[1][0]["inputs"] is None
    fact = InputFact("x", (None, 3), "float32")
    monkeypatch.setattr(Doubler, "input_facts", lambda self: (fact,), raising=False)
    assert ask(LOAD, question)[1][0]["inputs"] == [
        {"name": "x", "shape": [None, 3], "dtype": "float32", "scale": None, "zero_point": 0}
    ]


def test_memory_before_and_at_most(fake: None):
    header, _ = ask(({"do": "memory"}, []))[0]
    assert read_memory() is None or 0 < header["before"] <= header["peak"]


def test_an_error_is_an_answer_and_the_session_goes_on(fake: None, capsys):
    answers = ask(
        ({"do": "load", "key": "a", "path": "missing"}, []),
        ({"do": "load", "key": "a", "path": "broken"}, []),
        LOAD,
        ({"do": "run", "key": "b"}, []),
    )
    assert [header.get("error") for header, _ in answers] == [
        "the runtime is not here",
        "RuntimeError: bad magic",
        None,
        "KeyError: 'b'",
    ]
    assert "bad magic" in capsys.readouterr().err


def test_messages_go_through_a_pipe():
    """numpy takes a pipe's stream for a file on disk and would ask it for its position."""
    read_end, write_end = os.pipe()
    x = np.arange(12, dtype=np.int8).reshape(3, 4)
    with os.fdopen(write_end, "wb") as writer:
        write_message(writer, {"do": "run"}, [x])
    with os.fdopen(read_end, "rb") as reader:
        header, arrays = read_message(reader) or ({}, [])
        assert read_message(reader) is None
    assert header == {"do": "run", "arrays": 1}
    np.testing.assert_array_equal(arrays[0], x, strict=True)


def test_pickled_arrays_are_refused():
    stream = io.BytesIO(b'{"arrays": 1}\n')
    stream.seek(0, io.SEEK_END)
    np.lib.format.write_array(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    stream.seek(0)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_message(stream)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        write_message(io.BytesIO(), {}, [np.array([pickle], dtype=object)])
