"""What tests of the report share: records of fxedge bench, and the code that a page holds."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from fxedge.compiler.pipeline.bundle import read_bundle


def make_record(bundle: Path, **changes: Any) -> dict[str, Any]:
    """What fxedge bench might have recorded of a bundle's int8 and float artifacts, float at half the speed."""
    manifest = read_bundle(bundle)
    results = []
    for target, entry in manifest.targets.items():
        for contestant, artifact in (("int8", entry.artifact), ("float", entry.float_artifact)):
            assert artifact is not None
            slow = 2.0 if contestant == "float" else 1.0
            results.append(make_result(target, contestant, manifest.files[artifact].sha256, slow))
    return {
        "schema_version": 1,
        "fxedge": "0.1.0",
        "taken": "2026-01-02T03:04:05+00:00",
        "machine": {
            "cpu": "A processor",
            "architecture": "x86_64",
            "isa": "vnni",
            "cores": 2,
            "governor": "performance",
            "load": 0.5,
            "system": "Linux",
            "python": "3.11",
        },
        "libraries": {},
        "settings": {"threads": [1], "batch": 1, "runs": 4, "seconds": 1.0},
        "results": results,
        "ratios": [
            {
                "bundle": "bundle",
                "target": target,
                "threads": 1,
                "above": "float",
                "below": "int8",
                "value": 2.0,
                "low": 1.9,
                "high": 2.1,
                "pairs": 4,
            }
            for target in manifest.targets
        ],
        "skipped": [],
    } | changes


def make_result(target: str, contestant: str, sha256: str, slow: float) -> dict[str, Any]:
    return {
        "bundle": "bundle",
        "model": "net",
        "target": target,
        "contestant": contestant,
        "threads": 1,
        "batch": 1,
        "artifact": "model.onnx",
        "sha256": sha256,
        "size": 1,
        "versions": {},
        "seconds": [slow * 1e-3, slow * 1.1e-3, slow * 1.2e-3, slow * 1.3e-3],
        "median": slow * 1.15e-3,
        "p90": slow * 1.3e-3,
        "p99": slow * 1.3e-3,
        "samples_per_second": 1e3 / slow / 1.15,
        "cold_start": 1.5,
        "first_load": 0.5,
        "load": 0.01,
        "memory_before": 10,
        "memory_peak": 2_000_000,
        "joules": None,
        "no_energy": "this system has no counter",
    }


def write_bench(path: Path, record: dict[str, Any]) -> Path:
    path.write_text(json.dumps(record))
    return path


def snippets(page: str) -> dict[str, str]:
    """The code of the page by name, as a reader copies it."""
    code = r'<code class="snippet" data-language="\w+" data-name="([^"]*)">(.*?)</code>'
    found = re.findall(code, page, re.DOTALL)
    return {html.unescape(name): html.unescape(text) for name, text in found}
