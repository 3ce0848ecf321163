"""The guide: its links lead somewhere, its commands parse, the tutorial's files work."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from fxedge.compiler.tools import config
from fxedge.compiler.tools.cli import app, run

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TUTORIAL = (DOCS / "tutorial.md").read_text(encoding="utf-8")


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def _commands() -> Iterator[str]:
    """The lines of all pages that call fxedge."""
    for page in PAGES:
        for block in _blocks(page.read_text(encoding="utf-8"), "sh"):
            lines = block.replace("\\\n", " ").splitlines()
            yield from (" ".join(line.split()) for line in lines if line.startswith("fxedge "))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in titles}, link


@pytest.mark.parametrize("line", dict.fromkeys(_commands()))
def test_every_command_parses(line: str) -> None:
    name, *words = shlex.split(line.partition(" > ")[0], comments=True)[1:]
    command = typer.main.get_command(app).commands.get(name)
    assert command is not None
    command.make_context(name, list(words))


def test_the_toml_of_the_tutorial_is_a_config(tmp_path: Path) -> None:
    (text,) = _blocks(TUTORIAL, "toml")
    (tmp_path / "fxedge.toml").write_text(text, encoding="utf-8")
    loaded = config.make_config({}, tmp_path / "fxedge.toml")
    assert {glob: layer.model_dump(exclude_none=True) for glob, layer in loaded.layers.items()} == {
        "0": {"weight_bits": 8},
        "17": {"quantize": False},
    }


@pytest.mark.slow
def test_the_tutorial_s_own_model_compiles_with_its_toml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,), (text,) = _blocks(TUTORIAL, "python"), _blocks(TUTORIAL, "toml")
    (tmp_path / "net.py").write_text(code, encoding="utf-8")
    (tmp_path / "fxedge.toml").write_text(text, encoding="utf-8")
    done = subprocess.run([sys.executable, "net.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} >= {"net.safetensors", "calib.npz", "test.npz"}
    monkeypatch.chdir(tmp_path)
    few = ["--limit", "32", "--parity-samples", "4", "--timed-runs", "0", "--no-float", "-q", "-o", "bundle"]
    status = run(
        ["compile", "--config", "fxedge.toml", "--target", "onnx", "--recipe", "fast", "--eval", "test.npz", *few]
    )
    assert status == 0, capsys.readouterr().err
    accuracy = re.search(r"onnx +(\d+\.\d) %", capsys.readouterr().out)
    assert accuracy is not None
    assert float(accuracy[1]) > 75
