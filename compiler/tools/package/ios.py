"""A Swift package: resources, loader, and tests that replay the golden vectors. No Swift is compiled here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .contents import (
    Built,
    deploy_json,
    golden_files,
    identifier,
    licences,
    manifest_file,
    model_files,
    model_name,
    template,
    under,
)
from .source import Source, require_float32


@dataclass(frozen=True, slots=True)
class _Dependency:
    """What Package.swift says of a runtime, and what a user has to know of it."""

    package: str
    products: tuple[tuple[str, str], ...]
    note: str
    linker: str = ""


_DEPENDENCIES: Mapping[str, _Dependency] = {
    "onnxruntime": _Dependency(
        '.package(url: "https://github.com/microsoft/onnxruntime-swift-package-manager", from: "1.20.0")',
        (("onnxruntime", "onnxruntime-swift-package-manager"),),
        "ONNX Runtime comes as Microsoft's Swift package.",
    ),
    "executorch": _Dependency(
        '.package(url: "https://github.com/pytorch/executorch.git", branch: "swiftpm-1.0.0")',
        tuple(
            (product, "executorch")
            for product in ("executorch", "backend_xnnpack", "kernels_optimized", "kernels_quantized")
        ),
        "ExecuTorch registers its kernels when they are linked: an app that uses this package needs `-all_load` "
        "among its Other Linker Flags.",
        linker=',\n            linkerSettings: [.unsafeFlags(["-Wl,-all_load"])]',
    ),
}


def build(source: Source) -> Built:
    """Package.swift with sources, resources and tests.

    Raises:
        InputError: an input or an output is not float32.
    """
    require_float32(source, "ios")
    runtime, needed = source.runtime.name, _DEPENDENCIES[source.runtime.name]
    name, module = model_name(source), f"{identifier(model_name(source)).capitalize()}Model"
    runner = f"{runtime.capitalize()}Runner"
    sources = {
        "Model.swift": template("ios/Model.swift", runner=runner),
        "Deploy.swift": template("ios/Deploy.swift"),
        "Pixels.swift": template("ios/Pixels.swift"),
        f"{runner}.swift": template(f"ios/runners/{runtime}.swift"),
        **under("ModelFiles", model_files(source) | {"deploy.json": deploy_json(source, "ios")}),
    }
    tests = {
        "GoldenTests.swift": template("ios/GoldenTests.swift", module=module),
        **under("ModelFiles", golden_files(source)),
    }
    readme = template(
        "ios/README.md",
        model=name,
        model_file=source.runtime.file,
        runtime=source.runtime.title,
        module=module,
        note=needed.note,
    )
    files = {
        "Package.swift": _package_swift(module, needed),
        **under(f"Sources/{module}", sources),
        **under(f"Tests/{module}Tests", tests),
        **manifest_file(source),
        "README.md": readme,
        "LICENSES.md": licences(source),
    }
    return Built(files, ("No Swift was compiled: run the package's tests in Xcode before it is used.",))


def _package_swift(module: str, needed: _Dependency) -> bytes:
    products = [f'.product(name: "{product}", package: "{package}")' for product, package in needed.products]
    return template(
        "ios/Package.swift",
        module=module,
        dependency=needed.package,
        products=f",\n{' ' * 16}".join(products),
        linker=needed.linker,
    )
