"""A headless Chromium, spoken to over a pipe in its DevTools protocol: nothing to install beside the browser."""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["Browser", "BrowserError"]

_FLAGS = (
    "--headless=new", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--no-proxy-server", "--force-color-profile=srgb",
)  # fmt: skip
# The protocol's pipes are file descriptors 3 (commands) and 4 (answers), each message ended by a zero byte. By their
# names: some shells know descriptors of one digit alone.
_PLACE_PIPES = 'exec 3<"/dev/fd/$0" 4>"/dev/fd/$1" && shift && exec "$@"'


class BrowserError(Exception):
    """The browser is gone, or refuses, or what was waited for never came."""


class Browser:
    """One page in a browser of its own.

    Args:
        program: the browser's name or path.
        width: of the page, in pixels.
        height: of the page, in pixels.
        storage: what the page's local storage holds from the start.
    """

    def __init__(self, program: str, width: int, height: int, storage: dict[str, str]) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        commands, self._to = os.pipe()
        answers, out = os.pipe()
        flags = [*_FLAGS, f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # which Chromium refuses to root
        line = ["sh", "-c", _PLACE_PIPES, str(commands), str(out), program, *flags, "about:blank"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(line, pass_fds=(commands, out), stdout=quiet, stderr=quiet)
        os.close(commands)
        os.close(out)
        self._from = os.fdopen(answers, "rb")
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self._open(width, height, storage)

    def _open(self, width: int, height: int, storage: dict[str, str]) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        keys = "".join(f"localStorage.setItem({json.dumps(key)}, {json.dumps(text)});" for key, text in storage.items())
        self.call("Page.addScriptToEvaluateOnNewDocument", source=keys)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != number:
            pass
        if "error" in answer:
            msg = f"{method}: {answer['error']['message']}"
            raise BrowserError(msg)
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._from.read(1)) != b"\0":
            if not byte:
                msg = "the browser has ended"
                raise BrowserError(msg)
            text += byte
        message: dict[str, Any] = json.loads(text)
        return message

    def go(self, url: str, until: str, seconds: float = 60) -> None:
        """Open a page, and wait until an expression holds in it."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.wait(until, seconds)

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            msg = f"{expression}: {answer['exceptionDetails']['text']}"
            raise BrowserError(msg)
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> None:
        """Wait until an expression holds, and a moment longer for what is still being drawn."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.run(f"Boolean({expression})"):
                time.sleep(1.5)
                return
            time.sleep(0.3)
        msg = f"after {seconds:.0f} s the page still lacks {expression}; it shows: {self.text()[:500]}"
        raise BrowserError(msg)

    def text(self) -> str:
        """What the page says."""
        return str(self.run("document.body ? document.body.innerText : ''"))

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def scroll(self, x: int, y: int, *, down: int) -> None:
        """Turn the mouse's wheel over a point of the window, by so many pixels."""
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=down)
        time.sleep(1.5)

    def shoot(self, path: Path) -> None:
        """Save what is seen as PNG."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End the browser."""
        self._session = None
        self.call("Browser.close")
        self._process.wait(30)
        self._from.close()
        os.close(self._to)
        self._profile.cleanup()
