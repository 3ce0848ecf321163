"""The Android module: compiled by javac, read by aapt, run on a desktop JVM with LiteRT behind a bridge."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fxedge.compiler.tools.cli import run
from fxedge.compiler.tools.package import android
from fxedge.models.digits import digits_data
from PIL import Image, ImageOps
from safetensors.numpy import load_file, save_file

DESKTOP = Path(__file__).parent / "desktop"
JSON = Path("/usr/share/java/json-android.jar")
FRAMEWORK = Path("/usr/share/android-framework-res/framework-res.apk")
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RUNNERS = {
    "tflite": ("LitertRunner", "model.tflite"),
    "onnx": ("OnnxruntimeRunner", "model.onnx"),
    "executorch": ("ExecutorchRunner", "model.pte"),
    "qnnpack": ("PytorchRunner", "model.ptl"),
}


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def output(*command: object) -> str:
    """What a command prints that ends well and complains of nothing."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def made(digits_bundle: Path, changed: Callable, fxedge: Callable, tmp_path: Path) -> Callable[[str], Path]:
    """`made(target)`: a package for the runtime of `target`, whose artifact only bears that name."""

    def package(target: str) -> Path:
        def rename(manifest: dict, folder: Path) -> None:
            manifest["targets"] = {target: next(iter(manifest["targets"].values()))}

        assert fxedge("package", changed(digits_bundle, rename), "--as", "android", "-o", tmp_path / "p")[0] == 0
        return tmp_path / "p"

    return package


@pytest.fixture(scope="module")
def desktop(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package for tflite, and beside it its classes for a desktop; not to be changed."""
    javac = tool("javac")
    tool("java")
    if not JSON.is_file():
        pytest.skip(f"{JSON} (libandroid-json-org-java) is not installed")
    pytest.importorskip("ai_edge_litert")
    folder = tmp_path_factory.mktemp("android")
    (folder / "labels").write_text("".join(f"{label}\n" for label in LABELS))
    given = ["--as", "android", "--labels", str(folder / "labels"), "-o", str(folder / "p"), "-q"]
    assert run(["package", str(digits_bundle), "--target", "tflite", *given]) == 0
    sources = [*(folder / "p" / "model").rglob("*.java"), *DESKTOP.rglob("*.java")]
    assert output(javac, "-Xlint:all,-try", "-cp", JSON, "-d", folder / "classes", *sources) == ""
    return folder


def java(desktop: Path, module: Path, *arguments: object) -> list[str]:
    """The lines that Desktop.java prints for `arguments`."""
    facts = {"module": module, "python": sys.executable, "bridge": DESKTOP / "bridge.py"}
    options = [f"-D{key}={value}" for key, value in facts.items()]
    command = [tool("java"), *options, "-cp", f"{desktop / 'classes'}:{JSON}", "fxedge.digitsmodel.Desktop"]
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("target", RUNNERS)
def test_the_library_archive(made: Callable, target: str):
    tool("javac")
    runner, model = RUNNERS[target]
    package = made(target)
    with zipfile.ZipFile(package / "model.aar") as aar:
        assert aar.testzip() is None
        assert aar.namelist() == [
            "AndroidManifest.xml",
            "R.txt",
            "assets/digits/deploy.json",
            f"assets/digits/{model}",
            "classes.jar",
            "proguard.txt",
        ]
        assert (
            aar.read(f"assets/digits/{model}") == (package / f"model/src/main/assets/digits/{model}").read_bytes()
        )
        classes = zipfile.ZipFile(io.BytesIO(aar.read("classes.jar")))
    names = ("Deploy", "Floats", "Model$Score", "Model", "ModelFile", "Pixels$Taps", "Pixels", "Runner", runner)
    assert set(classes.namelist()) == {f"fxedge/digitsmodel/{name}.class" for name in names}
    version = classes.read("fxedge/digitsmodel/Model.class")[6:8]
    assert int.from_bytes(version, "big") == 52  # Java 8, which every Android build tool reads


@pytest.mark.parametrize("target", RUNNERS)
def test_aapt_takes_it(made: Callable, target: str, tmp_path: Path):
    """Manifest and assets become an archive of which aapt reads the names back."""
    aapt, package, _ = tool("aapt"), made(target), tool("javac")
    if not FRAMEWORK.is_file():
        pytest.skip(f"{FRAMEWORK} (android-framework-res) is not installed")
    zipfile.ZipFile(package / "model.aar").extractall(tmp_path / "aar")
    given = ["-M", tmp_path / "aar" / "AndroidManifest.xml", "-A", tmp_path / "aar" / "assets", "-I", FRAMEWORK]
    subprocess.run([aapt, "package", "-f", *given, "-F", tmp_path / "out.apk"], check=True, capture_output=True)
    listed = subprocess.run([aapt, "list", tmp_path / "out.apk"], check=True, capture_output=True, text=True)
    assert f"assets/digits/{RUNNERS[target][1]}" in listed.stdout.splitlines()
    told = subprocess.run(
        [aapt, "dump", "badging", tmp_path / "out.apk"], check=True, capture_output=True, text=True
    )
    assert told.stdout.startswith("package: name='fxedge.digitsmodel' ")
    assert "sdkVersion:'24'" in told.stdout.splitlines()


def test_what_gradle_is_told(made: Callable):
    package = made("onnx")
    module = (package / "model" / "build.gradle.kts").read_text()
    for line in (
        'namespace = "fxedge.digitsmodel"',
        "minSdk = 24",
        'noCompress += "onnx"',
        'implementation("com.microsoft.onnxruntime:onnxruntime-android:1.22.0")',
    ):
        assert f"    {line}\n" in module
    assert 'rootProject.name = "digits"\n\ninclude(":model")' in (package / "settings.gradle.kts").read_text()
    assert (package / "model" / "consumer-rules.pro").read_text() == "-keep class ai.onnxruntime.** { *; }\n"


def test_the_golden_test(desktop: Path):
    assert sorted(java(desktop, desktop / "p" / "model", "test")) == [
        "ok outputsAreTheGoldenOnes",
        "ok preprocessingIsTheCompilers",
    ]


def test_images(desktop: Path, tmp_path: Path):
    data = digits_data()
    paths = [tmp_path / f"{at}.png" for at in range(3)]
    for path, image in zip(paths, data.test_images, strict=False):
        Image.fromarray(image.repeat(3, 2)).save(path)
    found = java(desktop, desktop / "p" / "model", "classify", *paths)
    assert found == [LABELS[label] for label in data.test_labels[:3]]


def test_what_differs_fails(desktop: Path, tmp_path: Path):
    module = Path(shutil.copytree(desktop / "p" / "model", tmp_path / "model"))
    path = module / "src/main/assets/digits/deploy.json"
    text = path.read_text()
    path.write_text(
        text.replace('"scale": 0.0625', '"scale": 0.125').replace('"tolerance_lsb": 0', '"tolerance_lsb": -1')
    )
    found = sorted(java(desktop, module, "test"))
    assert found[0] == ("FAILED outputsAreTheGoldenOnes: output is 0.0 LSB from the golden outputs (allowed -1)")
    assert found[1].startswith("FAILED preprocessingIsTheCompilers: ")
    model = module / "src/main/assets/digits/model.tflite"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    message = "digits/model.tflite was changed: its sha256 is not the one in deploy.json"
    assert sorted(java(desktop, module, "test")) == [
        f"FAILED outputsAreTheGoldenOnes: {message}",
        f"FAILED preprocessingIsTheCompilers: {message}",
    ]


@pytest.mark.parametrize(
    ("from_size", "to_size", "channels"),
    [((21, 15), (8, 8), 1), ((5, 7), (16, 12), 3), ((301, 97), (33, 64), 3), ((640, 480), (224, 224), 3)],
)
def test_resampling_has_the_bits_of_pillow(
    desktop: Path, tmp_path: Path, from_size: tuple[int, int], to_size: tuple[int, int], channels: int
):
    y, x, c = np.ogrid[: from_size[1], : from_size[0], :channels]
    pixels = ((x * 7 + y * 13 + c * 29 + x * y // 8) % 256).astype(np.uint8)
    image = Image.fromarray(pixels if channels == 3 else pixels[:, :, 0])
    expected = ImageOps.fit(image, to_size, method=Image.Resampling.BILINEAR)
    java(desktop, desktop / "p" / "model", "fit", *from_size, channels, *to_size, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == expected.tobytes()


def test_without_a_jdk(digits_bundle: Path, fxedge: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(android.shutil, "which", lambda name: None)
    status, out, err = fxedge("package", digits_bundle, "--as", "android", "-o", tmp_path / "p")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == (
        "note  model.aar was left out, since javac is not installed; Gradle makes one of the module."
    )
    assert not (tmp_path / "p" / "model.aar").exists()
    readme = (tmp_path / "p" / "README.md").read_text()
    assert "`model.aar` was left out, since javac is not installed. `gradle :model:assembleRelease`" in readme


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("src/Model.java:1: error: no such release", "src/Model.java:1: error: no such release"),
        ("", "exit status 3"),
    ],
)
def test_a_javac_that_fails(
    digits_bundle: Path,
    fxedge: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    reason: str,
):
    javac = tmp_path / "javac"
    javac.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 3\n")
    javac.chmod(0o755)
    monkeypatch.setattr(android.shutil, "which", lambda name: str(javac))
    status, out, err = fxedge("package", digits_bundle, "--as", "android", "-o", tmp_path / "p")
    assert (status, err) == (0, "")
    told = f"model.aar was left out, since javac failed ({reason})"
    assert out.splitlines()[-1] == f"note  {told}; Gradle makes one of the module."
    readme = (tmp_path / "p" / "README.md").read_text()
    assert f"`model.aar` {told.removeprefix('model.aar ')}. `gradle :model:assembleRelease`" in readme


def test_only_float32(digits_bundle: Path, changed: Callable, fxedge: Callable, tmp_path: Path):
    def to_int8(manifest: dict, folder: Path) -> None:
        for target in manifest["targets"].values():
            outputs = load_file(folder / target["golden"])
            save_file({name: value.astype(np.int8) for name, value in outputs.items()}, folder / target["golden"])

    bundle = changed(digits_bundle, to_int8)
    assert fxedge("package", bundle, "--as", "android", "-o", tmp_path / "p") == (
        2,
        "",
        "error: output of the model is int8; a package for android carries models whose inputs and outputs are "
        "float32. One for python takes any.\n",
    )
