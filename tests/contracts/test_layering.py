"""Who may import whom, as DESIGN's table says. Imports under `if TYPE_CHECKING:` are not run and do not count."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("compiler", "passes", "backends", "models")
IR, QUANT, PIPELINE, TOOLS = "compiler.ir", "compiler.quant", "compiler.pipeline", "compiler.tools"
SHARED_BACKENDS = {
    "fbgemm": "torchscript",
    "x86": "torchscript",
    "onednn": "torchscript",
    "qnnpack": "torchscript",
    "tensorrt": "onnx",
    "openvino": "onnx",
    "tflite": "xnnpack",
    "executorch": "xnnpack",
}
ALLOWED = {
    IR: {IR},
    QUANT: {IR, QUANT},
    "passes": {IR, QUANT, "passes"},
    PIPELINE: {IR, QUANT, PIPELINE, "passes", "backends.registry", "backends.base"},
    TOOLS: {IR, QUANT, PIPELINE, TOOLS, "passes", "backends.registry", "backends.base", "models"},
    "models": {"models"},
}


def _allowed(importer: str) -> set[str]:
    """Prefixes of the modules that `importer` may import; a name allows everything below it."""
    for prefix, allowed in ALLOWED.items():
        if _is_below(importer, prefix):
            return allowed
    assert importer.startswith("backends"), importer
    own = importer.split(".")[1] if importer.count(".") else importer
    everyone = ("base", "installed", "lowering_table")
    shared = {f"backends.{name}" for name in (own, SHARED_BACKENDS.get(own, own), *everyone)}
    return {IR, QUANT, "passes", *shared}


def _is_below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _imports(path: Path) -> Iterator[str]:
    """Modules of this package that a file imports when it runs, from the package's root."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            todo += node.orelse
            continue
        if isinstance(node, ast.ImportFrom):
            yield from _named(node, package)
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[2] for alias in node.names if _is_below(alias.name, "fxedge"))
        todo += ast.iter_child_nodes(node)


def _named(node: ast.ImportFrom, package: tuple[str, ...]) -> Iterator[str]:
    if node.level:
        base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
    elif _is_below(node.module or "", "fxedge"):
        base = (node.module or "").split(".")[1:]
    else:
        return
    module = ".".join(part for part in base if part)
    folder = ROOT.joinpath(*module.split("."))
    for alias in node.names:
        if not module and alias.name == "__version__":  # the one fact that the package's root holds itself
            continue
        is_module = folder.is_dir() and ((folder / alias.name).is_dir() or (folder / f"{alias.name}.py").is_file())
        yield f"{module}.{alias.name}".strip(".") if is_module else module


FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_table(path: Path) -> None:
    importer = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    if importer == "compiler":
        assert list(_imports(path)) == []
        return
    allowed = _allowed(importer)
    wrong = sorted({name for name in _imports(path) if not any(_is_below(name, prefix) for prefix in allowed)})
    assert wrong == [], f"{importer} may import {', '.join(sorted(allowed))}"


def test_deprecated_torch_stays_where_it_may() -> None:
    """torch.ao.quantization only in ir/qops.py; torch.jit only in backends/torchscript."""
    owners = {"torch.ao": "compiler/ir/qops.py", "torch.jit": "backends/torchscript"}
    for path in FILES:
        name, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        used = {ast.unparse(n) for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Attribute)}
        used |= {n.module or "" for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom)}
        for api, owner in owners.items():
            if any(_is_below(value, api) for value in used):
                assert name.startswith(owner), f"{name} uses {api}"


def test_the_reader_of_imports_sees_what_is_there() -> None:
    found = set(_imports(ROOT / "compiler" / "ir" / "passes.py"))
    assert {"compiler.ir.constants", "compiler.ir.stages"} <= found
    assert not any(name.startswith(QUANT) for name in found), "TYPE_CHECKING imports do not count"
