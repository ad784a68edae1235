"""A headless Chromium that tells what it meets on a page."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import websocket
from support import environment

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-breakpad", "--disable-dev-shm-usage", "--remote-debugging-port=0"),
)


class Tab:
    """One tab, over the DevTools protocol.

    Attributes:
        events: All events that were sent so far, oldest first.
    """

    def __init__(self, connection: websocket.WebSocket) -> None:
        self.events: list[dict] = []
        self._connection = connection
        self._session: dict[str, str] = {}
        self._sent = 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict:
        """Calls a method of the protocol and returns its result."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters, **self._session}
        self._connection.send(json.dumps(message))
        while (answer := self._receive()).get("id") != self._sent:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def evaluate(self, expression: str) -> object:
        """Returns the value of a JavaScript expression; a promise is awaited."""
        result = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, address: str, width: int, height: int) -> None:
        """Shows a page in a window of this size, until all of it is loaded and drawn."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600),
        )
        self.events.clear()
        self.call("Page.navigate", url=address)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._receive()
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")

    def _receive(self) -> dict:
        message = json.loads(self._connection.recv())
        if "method" in message:
            self.events.append(message)
        return message


@contextlib.contextmanager
def tab(profile: Path) -> Iterator[Tab]:
    """Yields a tab of a browser that ends, and whose profile folder is removed, on leaving."""
    process = subprocess.Popen(
        [PROGRAM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )
    try:
        port, path = _address(process, profile / "DevToolsActivePort")
        connection = websocket.create_connection(
            f"ws://127.0.0.1:{port}{path}", timeout=60, suppress_origin=True
        )
        with contextlib.closing(connection):
            yield Tab(connection)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        shutil.rmtree(profile, ignore_errors=True)


def _address(process: subprocess.Popen, file: Path) -> list[str]:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if file.exists() and len(lines := file.read_text().splitlines()) == 2:
            return lines
        time.sleep(0.05)
    raise RuntimeError(f"{PROGRAM} did not start")


def faults(tab: Tab, address: str, width: int, height: int) -> list[str]:
    """Opens a page and returns what is wrong with it; nothing, if all is well."""
    tab.open(address, width, height)
    found = []
    for event in tab.events:
        match event["method"], event["params"]:
            case "Runtime.exceptionThrown", what:
                found.append(f"exception: {what['exceptionDetails']}")
            case "Runtime.consoleAPICalled", what if what["type"] in ("error", "warning", "assert"):
                found.append(f"console: {what['args']}")
            case "Log.entryAdded", what:
                found.append(f"log: {what['entry']}")
            case "Network.loadingFailed", what:
                found.append(f"failed: {what['errorText']}")
            case "Network.requestWillBeSent", what:
                if not what["request"]["url"].startswith(("file:", "data:")):
                    found.append(f"network: {what['request']['url']}")
    for name, natural, wide, high in tab.evaluate(
        "[...document.images].map(i => [i.alt, i.naturalWidth, i.clientWidth, i.clientHeight])"
    ):
        if not (natural and wide and high):
            found.append(f"image not seen: {name}")
    if (needed := tab.evaluate("document.documentElement.scrollWidth")) > width:
        found.append(f"scrolls sideways: {needed} > {width}")
    return found
