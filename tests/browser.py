"""Chromium without a window, driven over its debugging pipe; nothing but the standard library."""

from __future__ import annotations

import base64
import functools
import itertools
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

_READ, _WRITE = 3, 4  # the descriptors on which Chromium listens and answers
_SECONDS = 90


class Page:
    """One tab."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = os.fdopen(commands, "wb", 0), os.fdopen(answers, "rb")
        self._count, self._session = itertools.count(1), ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.send("Page.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its result."""
        number = next(self._count)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            pass
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives; a promise is awaited."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression is true."""
        end = time.monotonic() + _SECONDS
        while not self.value(f"document.readyState !== 'loading' && Boolean({condition})"):
            assert time.monotonic() < end, (
                f"{condition} did not become true; {self.value('document.body.innerText')}"
            )
            time.sleep(0.05)

    def choose_file(self, selector: str, path: Path) -> None:
        """As if the user had chosen `path` in a file input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def look(self, width: int, height: int, scheme: str) -> None:
        """The size of the window in CSS pixels, and the colour scheme: light or dark."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path) -> None:
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._commands.close()
        self._answers.close()

    def _next(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "chromium ended"
            message += byte
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextmanager
def open_page(profile: Path) -> Iterator[Page]:
    """A tab of a Chromium that ends with the block, its profile in `profile`. Skips where there is no Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    reads, commands = os.pipe()
    answers, writes = os.pipe()

    def take_pipes() -> None:
        high = [os.dup(reads), os.dup(writes)]  # so that 3 and 4 may be any of the four
        os.dup2(high[0], _READ)
        os.dup2(high[1], _WRITE)

    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
    options += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--hide-scrollbars"]
    process = subprocess.Popen(
        [chromium, *options, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=take_pipes,
        pass_fds=(_READ, _WRITE),
    )
    os.close(reads)
    os.close(writes)
    page = Page(commands, answers)
    try:
        yield page
    finally:
        page.close()
        process.terminate()
        process.wait(30)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address under which the files of `folder` are served."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
