"""A Gradle library module in Java, and an .aar of it where a JDK is at hand."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from .contents import (
    TEMPLATES,
    Built,
    Files,
    archive,
    deploy_json,
    golden_files,
    identifier,
    licences,
    manifest_file,
    model_files,
    model_name,
    template,
    under,
    write_files,
)
from .source import Source, require_float32

MIN_SDK = "24"
LIBRARY = ("Model", "Deploy", "Pixels", "Floats", "Runner", "ModelFile")
_KEPT = {
    "litert": "org.tensorflow.lite",
    "onnxruntime": "ai.onnxruntime",
    "executorch": "org.pytorch.executorch",
    "pytorch": "org.pytorch",
}
_MAIN, _TEST = "model/src/main", "model/src/androidTest"
_JAVAC_SECONDS = 300


def build(source: Source) -> Built:
    """The module, and `model.aar` if javac compiles its classes; else a note says why there is none.

    Raises:
        InputError: an input or an output is not float32.
    """
    require_float32(source, "android")
    package, folder = f"fxedge.{names(source)[0]}", names(source)[1]
    assets = under(f"assets/{folder}", model_files(source) | {"deploy.json": deploy_json(source, "android")})
    classes = _sources(source, package, folder)
    rules = f"-keep class {_KEPT[source.runtime.name]}.** {{ *; }}\n".encode()
    aar, reason = _try_aar(package, assets, classes, rules)
    notes = () if reason is None else (f"model.aar was left out, since {reason}; Gradle makes one of the module.",)
    java = f"java/{package.replace('.', '/')}"
    test = {"GoldenTest.java": template("android/java/GoldenTest.java", package=package)}
    files = {
        **_gradle(source, package),
        **under(
            _MAIN, assets | under(java, classes) | {"AndroidManifest.xml": template("android/AndroidManifest.xml")}
        ),
        **under(_TEST, under(java, test) | under(f"assets/{folder}", golden_files(source))),
        **manifest_file(source),
        **aar,
        "model/consumer-rules.pro": rules,
        "README.md": _readme(source, package, folder, reason),
        "LICENSES.md": licences(source),
    }
    return Built(files, notes)


def names(source: Source) -> tuple[str, str]:
    """The last part of the Java package, which no keyword of Java can be, and the folder of the assets."""
    name = identifier(model_name(source))
    return f"{name}model", name


def _sources(source: Source, package: str, folder: str) -> Files:
    """File name -> Java source: the library, and the loader for the runtime."""
    runner = f"{source.runtime.name.capitalize()}Runner"
    marks = {
        "Model": {"package": package, "runner": runner},
        "Deploy": {"package": package, "folder": folder},
        "ModelFile": {"package": package, "folder": folder},
    }
    made = {
        f"{name}.java": template(f"android/java/{name}.java", **marks.get(name, {"package": package}))
        for name in LIBRARY
    }
    return made | {f"{runner}.java": template(f"android/runners/{source.runtime.name}.java", package=package)}


def _gradle(source: Source, package: str) -> Files:
    module = template(
        "android/module.gradle.kts",
        package=package,
        min_sdk=MIN_SDK,
        suffix=Path(source.runtime.file).suffix.removeprefix("."),
        requirement=source.runtime.requirement,
    )
    return {
        "settings.gradle.kts": template("android/settings.gradle.kts", name=names(source)[1]),
        "build.gradle.kts": template("android/build.gradle.kts"),
        "gradle.properties": b"android.useAndroidX=true\n",
        "model/build.gradle.kts": module,
    }


def _readme(source: Source, package: str, folder: str, no_aar: str | None) -> bytes:
    """`no_aar`: why there is no model.aar."""
    aar = (
        "**As a library**: put `model.aar` into your app's `libs/` and add to its dependencies\n\n"
        f'```kotlin\nimplementation(files("libs/model.aar"))\nimplementation("{source.runtime.requirement}")\n```'
    )
    left_out = f"`model.aar` was left out, since {no_aar}. `gradle :model:assembleRelease` makes one."
    return template(
        "android/README.md",
        model=model_name(source),
        model_file=source.runtime.file,
        runtime=source.runtime.title,
        package=package,
        folder=folder,
        aar=aar if no_aar is None else left_out,
    )


def _try_aar(package: str, assets: Files, sources: Files, rules: bytes) -> tuple[Files, str | None]:
    """`model.aar`, or nothing and the reason."""
    javac = shutil.which("javac")
    if javac is None:
        return {}, "javac is not installed"
    try:
        classes = compile_classes(javac, sources)
    except subprocess.TimeoutExpired:
        return {}, f"javac took more than {_JAVAC_SECONDS} seconds"
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().partition("\n")[0] or f"exit status {error.returncode}"
        return {}, f"javac failed ({said})"
    files = {
        "AndroidManifest.xml": template("android/aar/AndroidManifest.xml", package=package, min_sdk=MIN_SDK),
        "classes.jar": archive(classes),
        "R.txt": b"",
        "proguard.txt": rules,
        **assets,
    }
    return {"model.aar": archive(files)}, None


def compile_classes(javac: str, sources: Files) -> Files:
    """Class files by path, for Java 8. What the APIs of Android and of the runtime look like is declared in
    template-files/android/stubs, as android.jar only declares it too.

    Raises:
        CalledProcessError: javac refuses the sources, or knows no Java 8 any more. TimeoutExpired: it hangs.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder) / "src", sources)
        given = [f"src/{name}" for name in sources]
        stubs, out = TEMPLATES / "android" / "stubs", Path(folder) / "out"
        command = [javac, "--release", "8", "-Xlint:-options", "-implicit:none", "-g:source,lines", "-proc:none"]
        subprocess.run(
            [*command, "-encoding", "UTF-8", "-sourcepath", str(stubs), "-d", str(out), *given],
            cwd=folder,  # so that what javac says names no folder that is gone
            capture_output=True,
            text=True,
            timeout=_JAVAC_SECONDS,
            check=True,
        )
        paths = sorted(path for path in out.rglob("*") if path.is_file())
        return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}
