"""`fxedge report`, and the report that `fxedge compile` puts into a bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fxedge.compiler.pipeline.bundle import read_bundle
from fxedge.compiler.tools.report import command
from report_parts import make_record, write_bench
from small_compile import leftovers


def test_it_is_written(fxedge: Callable, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    status, said, err = fxedge("report", bundle, "-o", out)
    size = out.stat().st_size
    assert (status, err) == (0, "")
    assert said == f"{out}: net.py:make, onnx, {size / 1e3:.1f} kB\n".replace("net.py:make", f"{_model(bundle)}")
    assert out.read_text(encoding="utf-8").endswith("</html>")
    assert leftovers(tmp_path) == []
    assert out.stat().st_mode & 0o777 == _usual_mode(tmp_path)


def _model(bundle: Path) -> str:
    return read_bundle(bundle).model


def _usual_mode(folder: Path) -> int:
    (folder / "usual").touch()
    return (folder / "usual").stat().st_mode & 0o777


def test_compile_puts_the_same_into_the_bundle(fxedge: Callable, bundle: Path, tmp_path: Path) -> None:
    assert fxedge("report", bundle, "-o", tmp_path / "page.html", "-q")[0] == 0
    inside = (bundle / "report.html").read_bytes()
    assert inside == (tmp_path / "page.html").read_bytes()
    assert read_bundle(bundle).files["report.html"].size == len(inside)
    assert fxedge("verify", bundle, "-q")[0] == 0


def test_json_and_benches(fxedge: Callable, bundle: Path, tmp_path: Path) -> None:
    bench, out = write_bench(tmp_path / "bench.json", make_record(bundle)), tmp_path / "page.html"
    status, said, _ = fxedge("report", bundle, "-o", out, "--bench", bench, "--json")
    assert status == 0
    assert json.loads(said) == {"report": str(out), "size": out.stat().st_size, "targets": ["onnx"]}
    assert "2.30 → 1.15 ms (2.00×)" in out.read_text(encoding="utf-8")


def test_what_is_there_stays(fxedge: Callable, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_text("precious")
    wanted = f"error: {out} exists already; choose another -o or give --force to replace it.\n"
    assert fxedge("report", bundle, "-o", out) == (2, "", wanted)
    broken = write_bench(tmp_path / "bench.json", {})
    assert fxedge("report", bundle, "-o", out, "--force", "--bench", broken)[0] == 2
    assert out.read_text() == "precious"
    assert fxedge("report", bundle, "-o", out, "--force")[0] == 0
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_places_that_it_does_not_take(
    fxedge: Callable, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fxedge("report", bundle, "-o", tmp_path) == (
        *(2, "", f"error: {tmp_path} is a folder; give the name of a file with -o.\n"),
    )
    assert fxedge("report", bundle, "-o", tmp_path / "no" / "page.html") == (
        *(2, "", f"error: The folder {tmp_path / 'no'} does not exist; create it or choose another -o.\n"),
    )
    inside = "lies in the bundle, whose files may not change (fxedge verify checks them); choose another -o.\n"
    assert fxedge("report", bundle, "-o", bundle / "new.html") == (2, "", f"error: {bundle}/new.html {inside}")
    monkeypatch.chdir(bundle)
    assert fxedge("report", ".", "--force") == (2, "", f"error: report.html {inside}")


def test_a_damaged_bundle_is_not_read(fxedge: Callable, bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / "layers" / "onnx.json").write_bytes(b"x" * (copy / "layers" / "onnx.json").stat().st_size)
    status, out, err = fxedge("report", copy, "-o", tmp_path / "page.html")
    assert (status, out) == (2, "")
    assert err == f"error: {copy}/layers/onnx.json was changed: its sha256 is not the one in the manifest.\n"
    assert not (tmp_path / "page.html").exists()


def test_without_its_libraries(
    fxedge: Callable, bundle: Path, net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_LIBRARIES", ("jinja2", "no_such_library"))
    missing = "no_such_library not installed; run: pip install 'fxedge[report]'"
    assert fxedge("report", bundle, "-o", tmp_path / "page.html") == (
        *(2, "", f"error: No report can be drawn: {missing}\n"),
    )
    arguments = ("compile", f"{net}:make", "--calib", f"{net}:batches", "--target", "onnx", "--timed-runs", "0")
    status, _, err = fxedge(*arguments, "-o", tmp_path / "out")
    assert status == 0
    assert err.splitlines()[-1] == f"note: the bundle has no report.html: {missing}"
    assert not (tmp_path / "out" / "report.html").exists()
    assert fxedge("verify", tmp_path / "out")[0] == 0


def test_a_write_that_fails_leaves_nothing(
    fxedge: Callable, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "page.html"
    out.write_text("precious")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    wanted = "error: No space left on device. Free some space or choose another place.\n"
    assert fxedge("report", bundle, "-o", out, "--force") == (2, "", wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert out.read_text() == "precious"
