"""The script that builds an engine, against stand-ins that know what TensorRT 10 and 11 have, and nothing else.

Names as NVIDIA's Python API reference and its guide "Migrating from TensorRT 10.x to 11.x" give them: 11 has no
calibrator, no precision flags, no dynamic ranges, and its networks are strongly typed without a flag.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fxedge.backends.tensorrt import build_engine as script

DYNAMIC = {"x": (-1, 3, 8, 8), "scale": (1,)}

# Members by class; what a version lacks is not here, so that reading or calling it is an AttributeError.
CONFIG = (
    "add_optimization_profile",
    "clear_flag",
    "create_timing_cache",
    "get_timing_cache",
    "set_memory_pool_limit",
    "set_timing_cache",
)
ENUMS = {
    10: {
        "BuilderFlag": ("FP16", "INT8", "TF32", "DEBUG", "REFIT"),
        "MemoryPoolType": ("WORKSPACE", "DLA_MANAGED_SRAM"),
        "NetworkDefinitionCreationFlag": ("EXPLICIT_BATCH", "STRONGLY_TYPED"),
    },
    11: {
        "BuilderFlag": ("TF32", "DEBUG", "REFIT"),
        "MemoryPoolType": ("WORKSPACE", "DLA_MANAGED_SRAM"),
        "NetworkDefinitionCreationFlag": ("PREFER_AOT_PYTHON_PLUGINS", "PREFER_JIT_PYTHON_PLUGINS"),
    },
}


class Strict:
    """Only the members given; none can be set, as none of those that exist is needed."""

    def __init__(self, **members: Any) -> None:
        self.__dict__.update(members)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"can't set {name}")


class StandIn:
    """The `tensorrt` module; `calls` has what was asked of it, in order."""

    def __init__(
        self, version: str, inputs: dict[str, tuple[int, ...]], parses: bool = True, plan: bytes | None = b"plan"
    ) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._inputs, self._parses, self._plan = inputs, parses, plan
        major = int(version.split(".")[0])
        enums = {
            name: Strict(**{member: place for place, member in enumerate(members)})
            for name, members in ENUMS[min(max(major, 10), 11)].items()
        }
        logger = type("Logger", (), {"WARNING": 2, "__init__": lambda self, severity: None})
        self.module = Strict(
            __version__=version, Logger=logger, Builder=self._builder, OnnxParser=self._parser, **enums
        )

    def _record(self, name: str, answer: Callable[..., Any] = lambda *_: None) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            self.calls.append((name, *given, *named.items()))
            return answer(*given)

        return call

    def _builder(self, logger: Any) -> Strict:
        profile = Strict(set_shape=self._record("set_shape"))
        cache = Strict(serialize=lambda: b"timings")
        config = {name: self._record(name) for name in CONFIG}
        config["create_timing_cache"] = self._record("create_timing_cache", lambda blob: cache)
        config["get_timing_cache"] = lambda: cache
        config["add_optimization_profile"] = self._record("add_optimization_profile", lambda profile: 0)
        names = list(self._inputs)
        network = Strict(
            num_inputs=len(names),
            get_input=lambda index: Strict(name=names[index], shape=self._inputs[names[index]]),
        )
        return Strict(
            create_network=self._record("create_network", lambda flags: network),
            create_builder_config=lambda: Strict(**config),
            create_optimization_profile=lambda: profile,
            build_serialized_network=lambda network, config: self._plan,
        )

    def _parser(self, network: Any, logger: Any) -> Strict:
        return Strict(
            parse=self._record("parse", lambda content: self._parses),
            num_errors=1,
            get_error=lambda index: f"error {index}: no such op",
        )

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., StandIn]:
    def install(version: str, inputs: dict[str, tuple[int, ...]] = DYNAMIC, **options: Any) -> StandIn:
        stand_in = StandIn(version, inputs, **options)
        monkeypatch.setitem(sys.modules, "tensorrt", stand_in.module)
        return stand_in

    return install


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"onnx")
    return path


@pytest.mark.parametrize(("version", "flags"), [("10.0.1", 2), ("10.14.1", 2), ("11.0.0", 0), ("11.4.1", 0)])
def test_a_strongly_typed_engine_with_one_profile(
    version: str, flags: int, tensorrt: Callable[..., StandIn], model: Path
) -> None:
    known = tensorrt(version)
    assert script.build_engine(model, batch=(1, 4, 16), workspace=2**20) == b"plan"
    assert known.named("create_network") == [(flags,)]
    assert known.named("parse") == [(b"onnx",)]
    assert known.named("set_memory_pool_limit") == [(0, 2**20)]
    assert known.named("clear_flag") == [(known.module.BuilderFlag.TF32,)]
    assert known.named("set_shape") == [("x", (1, 3, 8, 8), (4, 3, 8, 8), (16, 3, 8, 8))]
    assert len(known.named("add_optimization_profile")) == 1


def test_the_stand_in_refuses_what_the_library_has_not(tensorrt: Callable[..., StandIn]) -> None:
    known = tensorrt("11.0.0").module
    with pytest.raises(AttributeError):
        _ = known.BuilderFlag.INT8
    with pytest.raises(AttributeError):
        _ = known.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    with pytest.raises(AttributeError):
        known.Builder(None).create_builder_config().int8_calibrator = None


def test_the_script_names_nothing_that_was_removed() -> None:
    tree = ast.parse(Path(script.__file__).read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    removed = {"INT8", "FP16", "BF16", "FP8", "int8_calibrator", "set_calibration_profile", "dynamic_range"}
    removed |= {"set_dynamic_range", "set_quantization_flag", "platform_has_fast_int8", "algorithm_selector"}
    assert used.isdisjoint(removed | {"EXPLICIT_BATCH", "max_workspace_size", "build_engine", "precision"})


def test_fixed_shapes_need_no_profile(tensorrt: Callable[..., StandIn], model: Path) -> None:
    known = tensorrt("11.0.0", {"x": (1, 3, 8, 8)})
    script.build_engine(model)
    assert known.named("add_optimization_profile") == []


def test_the_timing_cache_is_read_and_written(
    tensorrt: Callable[..., StandIn], model: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "timing.cache"
    first = tensorrt("10.3.0")
    script.build_engine(model, cache)
    assert first.named("create_timing_cache") == [(b"",)]
    assert cache.read_bytes() == b"timings"
    second = tensorrt("10.3.0")
    script.build_engine(model, cache)
    assert second.named("create_timing_cache") == [(b"timings",)]
    assert second.named("set_timing_cache")[0][1] == ("ignore_mismatch", False)


def test_shapes_given_in_full(tensorrt: Callable[..., StandIn], model: Path) -> None:
    known = tensorrt("11.0.0", {"tokens": (-1, -1)})
    script.build_engine(model, shapes=script.parse_shapes(["tokens=1x16,1x64,8x128"]))
    assert known.named("set_shape") == [("tokens", (1, 16), (1, 64), (8, 128))]


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"version": "8.6.1"}, {}, "TensorRT 8.6.1 is too old; install TensorRT 10 or newer."),
        ({"parses": False}, {}, "TensorRT cannot read {model}: error 0: no such op"),
        ({"plan": None}, {}, "TensorRT found no engine for {model}; its log, above, says why."),
        (
            {"inputs": {"tokens": (-1, -1)}},
            {},
            "The input tokens has the shape ?x?: give --shape tokens=MIN,OPT,MAX (as 1x16,1x64,8x128).",
        ),
        ({}, {"shapes": {"y": ((1,), (1,), (1,))}}, "The model has no input 'y'; it has x, scale."),
    ],
)
def test_what_cannot_be_built_says_why(
    options: dict[str, Any], arguments: dict[str, Any], message: str, tensorrt: Callable[..., StandIn], model: Path
) -> None:
    tensorrt(**{"version": "10.3.0", **options})
    with pytest.raises(script.BuildError) as error:
        script.build_engine(model, **arguments)
    assert str(error.value) == message.format(model=model)


def test_the_command_line(
    tensorrt: Callable[..., StandIn], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensorrt("11.0.0")
    engine = tmp_path / "model.plan"
    files = ["--onnx", str(model), "--engine", str(engine), "--cache", str(tmp_path / "timing.cache")]
    assert script.main([*files, "--batch", "1,2,4"]) == 0
    assert engine.read_bytes() == b"plan"
    assert capsys.readouterr().out == f"{engine}: 4 bytes\n"
    assert script.main([*files, "--batch", "4,2,1"]) == 1
    assert capsys.readouterr().err == "--batch 4,2,1 is not MIN,OPT,MAX in rising order.\n"
    assert script.main([*files, "--shape", "x=1x3"]) == 1
    assert capsys.readouterr().err == (
        "--shape x=1x3 is not NAME=MIN,OPT,MAX (as x=1x3x224x224,8x3x224x224,32x3x224x224).\n"
    )


def test_without_tensorrt(
    monkeypatch: pytest.MonkeyPatch, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert script.main(["--onnx", str(model)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("TensorRT is not installed (")
    assert said.endswith("); run: pip install tensorrt\n")


def test_files_lie_beside_the_script() -> None:
    args = script._arguments([])
    folder = Path(script.__file__).parent
    assert (args.onnx, args.engine) == (folder / "model.onnx", folder / "model.plan")
