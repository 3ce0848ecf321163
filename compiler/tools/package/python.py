"""A folder that runs the model in Python with nothing but its runtime: no torch, no fxedge."""

from __future__ import annotations

from .contents import Built, deploy_json, golden_files, licences, manifest_file, model_files, model_name, template
from .source import Source


def build(source: Source) -> Built:
    """runner.py with its requirements, the model and what checks it."""
    requirements = "".join(
        f"{line}\n" for line in ("numpy>=1.26,<3", "pillow>=10,<14", source.runtime.requirement)
    )
    readme = template(
        "python/README.md",
        model=model_name(source),
        model_file=source.runtime.file,
        runtime=source.runtime.title,
        requirements=requirements.rstrip(),
    )
    files = {
        **model_files(source),
        **golden_files(source),
        **manifest_file(source),
        "deploy.json": deploy_json(source, "python"),
        "runner.py": template("python/runner.py"),
        "requirements.txt": requirements.encode(),
        "README.md": readme,
        "LICENSES.md": licences(source),
    }
    return Built(files)
