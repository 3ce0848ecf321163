"""The page as a browser gets it: everything in it, nothing loaded, nothing of the bundle taken for HTML."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fxedge.compiler.ir.errors import BundleError
from fxedge.compiler.pipeline.bundle import list_files, read_bundle, write_manifest
from fxedge.compiler.pipeline.layers import read_layers, write_layers
from fxedge.compiler.pipeline.manifest import Manifest
from fxedge.compiler.tools.report.latency import read_benches
from fxedge.compiler.tools.report.page import make_page
from report_parts import make_record, write_bench

EVIL = "<script>alert(1)</script>"
_VOID = {"meta", "br", "link", "img", "input", "hr"}


@pytest.fixture(scope="module")
def page(explained: Path) -> str:
    return make_page(explained, read_bundle(explained))


class Outline(HTMLParser):
    """Tags with their attributes, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_tags_are_balanced_and_ids_unique(page: str) -> None:
    outline = Outline(page)
    assert outline.open == []
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"] for _, attributes in outline.tags if "href" in attributes}
    assert {link.removeprefix("#") for link in links if link} <= set(ids)


def test_nothing_is_loaded(page: str) -> None:
    for tag, attributes in Outline(page).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form"), tag
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes), attributes
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), attributes
    assert re.findall(r"https?:", page) == []
    assert "@import" not in page
    assert set(re.findall(r"url\((.)", page)) <= {"#"}


def test_only_its_own_script_may_run(page: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy == (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )


def test_the_same_bundle_gives_the_same_bytes(explained: Path, page: str) -> None:
    assert make_page(explained, read_bundle(explained)) == page


def test_what_it_says(page: str) -> None:
    text = html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)))
    for said in (
        "integer nodes",
        "kept float by 'linear'",
        "1 op in float",
        "conversion between the two (2)",
        "on avx2",
        "Histograms and ranges of 5 steps",
        "fold-batch-norm",
        "Bought: what the SQNR of the outputs gained",
        "of the noise at the outputs is there already",
    ):
        assert said in text, said


def test_light_dark_phone_and_print_are_provided_for(page: str) -> None:
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    for query in ("(prefers-color-scheme: dark)", "(max-width: 640px)", "print"):
        assert f"@media {query}" in page
    used = set(re.findall(r"var\(--([\w-]+)\)", page))
    assert used <= set(re.findall(r"--([\w-]+):", page))


def _rewritten(bundle: Path, folder: Path, name: str) -> Path:
    """A copy of a bundle in which everything that can be called something is called `name`."""
    manifest = read_bundle(bundle)
    out = folder / "evil"
    for path in manifest.files:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes((bundle / path).read_bytes())
    layers = read_layers(bundle, "onnx")
    assert layers is not None
    nodes = tuple(node.model_copy(update={"node": name, "module": name, "op": name}) for node in layers.nodes)
    write_layers(out, layers.model_copy(update={"nodes": nodes, "inputs": (name,)}))
    text = manifest.model_dump_json().replace('"name":"x"', f'"name":{json.dumps(name)}')
    changed = Manifest.model_validate_json(text.replace('"linear: ', f"{json.dumps(name)[:-1]}: "))
    fields = {"model": name, "notes": (name,), "recipe": name, "files": list_files(out)}
    write_manifest(out, changed.model_copy(update=fields))
    return out


def test_names_are_text(explained: Path, tmp_path: Path, page: str) -> None:
    out = _rewritten(explained, tmp_path, EVIL)
    bench = make_record(out)
    bench["machine"]["cpu"] = EVIL
    bench["results"].append(bench["results"][0] | {"contestant": EVIL, "sha256": "0"})
    manifest = read_bundle(out)
    runs = read_benches([write_bench(tmp_path / "bench.json", bench)], manifest)
    evil = make_page(out, manifest, runs)
    assert EVIL not in evil
    assert evil.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 20
    assert [tag for tag, _ in Outline(evil).tags].count("script") == 1


def test_names_cannot_leave_an_attribute(explained: Path, tmp_path: Path) -> None:
    name = '" onmouseover="alert(1)" x="'
    out = _rewritten(explained, tmp_path, name)
    tags = Outline(make_page(out, read_bundle(out))).tags
    assert not any(key.startswith("on") for _, attributes in tags for key in attributes)


def test_a_bundle_of_an_older_fxedge(explained: Path) -> None:
    """Without layers and explanations: what there is is shown."""
    manifest = read_bundle(explained)
    files = {name: entry for name, entry in manifest.files.items() if not name.startswith(("layers", "explain"))}
    found = make_page(explained, manifest.model_copy(update={"files": files}))
    assert "This bundle says nothing of the layers of onnx; compile it again to see them." in found
    assert "fold-batch-norm" in found
    assert Outline(found).open == []


def test_a_target_of_a_newer_fxedge(explained: Path) -> None:
    manifest = read_bundle(explained)
    targets = {"../quantum": manifest.targets["onnx"], "x86": manifest.targets["x86"]}
    found = make_page(explained, manifest.model_copy(update={"targets": targets}))
    assert "This fxedge knows no target ../quantum." in found
    assert found.index("#t0") < found.index(">../quantum<")


def test_damaged_layers(explained: Path, tmp_path: Path) -> None:
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "onnx.json").write_text("{}")
    with pytest.raises(BundleError) as caught:
        make_page(tmp_path, read_bundle(explained))
    path = tmp_path / "layers" / "onnx.json"
    assert str(caught.value) == f"{path} has schema None; this fxedge reads schema 1 of a description of layers."
