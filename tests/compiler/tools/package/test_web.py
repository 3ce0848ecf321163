"""The page in a real browser: Chromium, as Debian has it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Page, open_page, serving
from fxedge.compiler.tools.cli import run
from fxedge.compiler.tools.package import web
from fxedge.models.digits import digits_data
from PIL import Image, ImageOps

LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VERDICT = "document.querySelector('#checks')?.dataset.verdict"
READY = "document.querySelector('#status')?.textContent === 'Ready.'"


@pytest.fixture(scope="module")
def package(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the runtime from npm; not to be changed."""
    folder = tmp_path_factory.mktemp("web")
    labels = folder / "labels.txt"
    labels.write_text("".join(f"{label}\n" for label in LABELS))
    given = ["--as", "web", "--labels", str(labels), "-o", str(folder / "p"), "-q"]
    assert run(["package", str(digits_bundle), *given]) == 0
    if not (folder / "p" / "vendor").is_dir():
        pytest.skip("npm is not here, or its registry is out of reach")
    return folder / "p"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_page(tmp_path_factory.mktemp("profile")) as page:
        yield page


def test_self_test(package: Path, page: Page):
    with serving(package) as url:
        page.open(f"{url}/?selftest")
        page.wait(VERDICT)
        assert page.value("document.title") == "PASS · digits"
        assert page.value("[...document.querySelectorAll('#verdicts li')].map(li => li.textContent)") == [
            "✓ 4 files have their sha256",
            "✓ preprocessing is the compiler's, bit for bit",
            "✓ output is 0 LSB from the golden outputs (allowed 16)",
        ]


def test_images_that_are_chosen(package: Path, page: Page, tmp_path: Path):
    data = digits_data()
    with serving(package) as url:
        page.open(url)
        page.wait(READY)
        for image, label in zip(data.test_images[:4], data.test_labels, strict=False):
            path = tmp_path / f"{label}.png"
            Image.fromarray(image[:, :, 0]).save(path)
            page.value("document.querySelector('#top').replaceChildren()")
            page.choose_file("#file", path)
            page.wait("document.querySelectorAll('#top li').length === 5")
            assert page.value("document.querySelector('#top li span').textContent") == LABELS[label]
        latency = page.value("document.querySelector('#latency').textContent")
        assert latency.endswith(" ms, median of 10 runs on one sample")
        (tmp_path / "no.png").write_text("this is no image")
        page.choose_file("#file", tmp_path / "no.png")
        page.wait("document.querySelector('#status').className.includes('bad')")
        assert page.value("document.querySelector('#status').textContent").startswith("That did not work: ")


def test_the_camera(package: Path, page: Page):
    """Chromium's own moving picture in place of a camera."""
    with serving(package) as url:
        page.open(url)
        page.wait(READY)
        page.value("document.querySelector('#camera').click()")
        page.wait("!document.querySelector('#shoot').hidden")
        page.value("document.querySelector('#shoot').click()")
        page.wait("document.querySelectorAll('#top li').length === 5")
        assert page.value("document.querySelector('#video').hidden") is True


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(package: Path, page: Page, scheme: str):
    with serving(package) as url:
        page.look(360, 740, scheme)
        page.open(f"{url}/?selftest")
        page.wait(VERDICT)
        assert page.value("document.documentElement.scrollWidth") == 360
        light = page.value("getComputedStyle(document.body).backgroundColor") == "rgb(244, 245, 247)"
        assert light == (scheme == "light")


def test_a_changed_model_is_not_loaded(package: Path, page: Page, tmp_path: Path):
    copied = Path(shutil.copytree(package, tmp_path / "p"))
    content = bytearray((copied / "model.onnx").read_bytes())
    content[-1] ^= 1
    (copied / "model.onnx").write_bytes(content)
    with serving(copied) as url:
        page.open(f"{url}/?selftest")
        page.wait(VERDICT)
        message = "model.onnx was changed: its sha256 is not the one in deploy.json."
        assert page.value("document.querySelector('#status').textContent") == message
        assert page.value("document.title") == "FAIL · digits"


def test_golden_outputs_that_differ_fail(package: Path, page: Page, tmp_path: Path):
    copied = Path(shutil.copytree(package, tmp_path / "p"))
    deploy = json.loads((copied / "deploy.json").read_text())
    deploy["golden"]["outputs"][0]["shape"] = [1, 40]
    (copied / "deploy.json").write_text(json.dumps(deploy))
    with serving(copied) as url:
        page.open(f"{url}/?selftest")
        page.wait(VERDICT)
        assert page.value("document.title") == "FAIL · digits"
        assert page.value("document.querySelector('#verdicts .bad').textContent") == (
            "✗ output has shape [4, 10], not [1, 40]"
        )


def test_a_model_that_takes_no_images(package: Path, page: Page, bundle: Path, fxedge: Callable, tmp_path: Path):
    """It can still test itself."""
    assert fxedge("package", bundle, "--as", "web", "-o", tmp_path / "p")[0] == 0
    with serving(tmp_path / "p") as url:
        page.open(f"{url}/?selftest")
        page.wait(VERDICT)
        assert page.value("document.title").startswith("PASS · ")
        assert page.value("document.querySelector('#input').hidden") is True
        assert page.value("document.querySelector('#latency').textContent") == (
            "This model takes no images: the bundle declares no image layout (compile with --layout NHWC)."
        )


@pytest.mark.parametrize(
    ("from_size", "to_size"),
    [((21, 15), (8, 8)), ((8, 8), (8, 8)), ((5, 7), (16, 12)), ((301, 97), (33, 64)), ((640, 480), (224, 224))],
)
def test_resampling_has_the_bits_of_pillow(
    package: Path, page: Page, from_size: tuple[int, int], to_size: tuple[int, int]
):
    width, height = from_size
    y, x, c = np.ogrid[:height, :width, :3]
    pixels = ((x * 7 + y * 13 + c * 29 + x * y // 8) % 256).astype(np.uint8)
    expected = ImageOps.fit(Image.fromarray(pixels), to_size, method=Image.Resampling.BILINEAR)
    script = f"""import('./preprocess.js').then(({{Pixels, fit}}) =>
        Array.from(fit(Pixels.pattern({width}, {height}, 3), {to_size[0]}, {to_size[1]}).data))"""
    with serving(package) as url:
        page.open(url)
        page.wait(READY)
        assert bytes(page.value(script)) == expected.tobytes()


def test_without_npm(digits_bundle: Path, fxedge: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(web.shutil, "which", lambda name: None)
    status, out, err = fxedge("package", digits_bundle, "--as", "web", "-o", tmp_path / "p")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == (
        "note  ONNX Runtime Web is not in the package (npm is not installed): run npm install in it before it is "
        "served."
    )
    assert json.loads((tmp_path / "p" / "package.json").read_text()) == {
        "name": "digits",
        "version": "1.0.0",
        "private": True,
        "dependencies": {"onnxruntime-web": "1.30.0"},
    }
    deploy = json.loads((tmp_path / "p" / "deploy.json").read_text())
    assert deploy["runtime_path"] == "node_modules/onnxruntime-web/dist/"
    assert "\nnpm install\npython3 -m http.server 8000\n" in (tmp_path / "p" / "README.md").read_text()
    assert not (tmp_path / "p" / "vendor").exists()


def test_another_file_than_npms_is_refused(monkeypatch: pytest.MonkeyPatch, package: Path):
    monkeypatch.setitem(web._VENDORED, "ort-wasm-simd-threaded.mjs", "0" * 64)
    with pytest.raises(web._NotFetched) as caught:
        web._fetch_runtime()
    assert str(caught.value) == (
        "ort-wasm-simd-threaded.mjs of npm's onnxruntime-web 1.30.0 is not the file that it should be"
    )
