"""The page in a real browser, where there is one: its script runs under its own policy, and nothing overflows."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fxedge.compiler.pipeline.bundle import read_bundle
from fxedge.compiler.tools.report.page import make_page

_PROBE = """<script>
for (const part of document.querySelectorAll("details")) part.open = true;
const sort = document.querySelector("table.sortable thead th:nth-child(5) button");
sort.click();
sort.click();
location.hash = "#t1-n1";
setTimeout(() => {
  const values = [...sort.closest("table").tBodies[0].rows].map((row) => row.cells[4].textContent.trim());
  const numbers = values.filter((value) => value !== "").map(Number);
  const shown = [...document.querySelectorAll(".target.shown")].map((target) => target.id);
  const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  document.body.dataset.found = JSON.stringify({ shown, wide, numbers });
}, 200);
</script>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs chromium, which is not installed")
    return found


def _dom(chromium: str, page: Path, width: int, part: str = "") -> str:
    """The page, opened at `part`, after its scripts ran, in a window of that width."""
    profile = page.with_suffix(".profile")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    own = [f"--user-data-dir={profile}", f"--window-size={width},800", f"{page.as_uri()}{part}"]
    done = subprocess.run([chromium, *flags, *own], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("part", ["", "#%"])
def test_the_script_runs_under_the_policy(explained: Path, chromium: str, tmp_path: Path, part: str) -> None:
    page = tmp_path / "page.html"
    page.write_text(make_page(explained, read_bundle(explained)), encoding="utf-8")
    dom = _dom(chromium, page, 1200, part)
    assert '<body class="tabs">' in dom
    assert len(re.findall(r'class="target shown"', dom)) == 1
    assert dom.count(">Copy</button>") == 2


def test_a_foreign_script_does_not(explained: Path, chromium: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = make_page(explained, read_bundle(explained))
    page.write_text(text.replace("</body>", "<script>document.title = 'mine'</script></body>"), encoding="utf-8")
    assert "<title>mine" not in _dom(chromium, page, 1200)


@pytest.mark.parametrize("width", [390, 1200])
def test_sorting_links_and_no_overflow(explained: Path, chromium: str, tmp_path: Path, width: int) -> None:
    page = tmp_path / "page.html"
    text = make_page(explained, read_bundle(explained))
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    page.write_text(text.replace("</body>", f"{_PROBE}</body>"), encoding="utf-8")
    (found,) = re.findall(r'data-found="([^"]*)"', _dom(chromium, page, width))
    assert "{&quot;shown&quot;:[&quot;t1&quot;],&quot;wide&quot;:false" in found
    numbers = [float(value) for value in re.findall(r"\d+\.\d+", found)]
    assert len(numbers) == 3
    assert numbers == sorted(numbers, reverse=True)
