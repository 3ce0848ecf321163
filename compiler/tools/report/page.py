"""A bundle -> one HTML page that loads nothing: style, script and drawings are in it.

Everything that comes from the bundle is escaped by the templates, and the page forbids itself (by its content
security policy) every script but its own and every request.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ....backends import registry
from ...ir.progress import Progress, Silent
from ...pipeline.layers import FOLDER as LAYERS
from ...pipeline.layers import read_layers
from ...pipeline.manifest import Manifest, TargetEntry
from ..tables import size_text
from .deploy import Snippet, deploy_snippet, preprocess_code
from .explained import ExplanationRead, read_explanation
from .headline import make_headline, model_facts, saturation_text, target_facts
from .latency import Run
from .network import Network, decibel, view_network
from .pass_log import LoggedPass, group_skips, log_passes
from .svg import drawing

_TEMPLATES = Path(__file__).parent / "template-files"


@dataclass(frozen=True, slots=True)
class TargetView:
    """What the page shows of one target; `id` is its own in the page."""

    id: str
    name: str
    entry: TargetEntry
    facts: tuple[tuple[str, str], ...]
    network: Network | None
    passes: tuple[LoggedPass, ...]
    explanation: ExplanationRead | None
    fallbacks: dict[str, list[str]]
    saturation: str | None
    snippet: Snippet | None


def make_page(folder: Path, manifest: Manifest, runs: Sequence[Run] = (), progress: Progress | None = None) -> str:
    """The page about the bundle at `folder`, whose hashes were checked; `runs` are its measured latencies.

    Raises:
        BundleError: a file of the bundle is not what its name says.
    """
    targets = []
    with drawing():
        with (progress or Silent()).track("report", len(manifest.targets)) as advance:
            for number, name in enumerate(_in_order(manifest)):
                targets.append(_view(folder, manifest, name, f"t{number}"))
                advance(number + 1)
        hrefs = {target.name: f"#{target.id}" for target in targets}
        headline = make_headline(manifest, runs, hrefs)
    script = _read("script.js")
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bytes": size_text, "decibel": decibel}
    return environment.get_template("page.html").render(
        manifest=manifest,
        facts=tuple(model_facts(manifest)),
        headline=headline,
        runs=runs,
        targets=targets,
        preprocess=preprocess_code(manifest.preprocess),
        style=_read("style.css"),
        script=script,
        script_hash=_hash(script),
    )


def _in_order(manifest: Manifest) -> list[str]:
    """Its targets as tables list them, then those that are not known here."""
    known = registry.names()
    return sorted(manifest.targets, key=lambda name: (known.index(name) if name in known else len(known), name))


def _view(folder: Path, manifest: Manifest, name: str, prefix: str) -> TargetView:
    entry = manifest.targets[name]
    layers = read_layers(folder, name) if f"{LAYERS}/{name}.json" in manifest.files else None
    explanation = read_explanation(folder, name) if f"explain/{name}.json" in manifest.files else None
    return TargetView(
        id=prefix,
        name=name,
        entry=entry,
        facts=tuple(target_facts(manifest, name)),
        network=None if layers is None else view_network(layers, prefix),
        passes=log_passes(manifest, name, explanation),
        explanation=explanation,
        fallbacks=group_skips(entry.float_ops),
        saturation=None if entry.saturation is None else saturation_text(entry.saturation),
        snippet=deploy_snippet(manifest, name),
    )


def _read(name: str) -> Markup:
    """Of ours, so not escaped."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
