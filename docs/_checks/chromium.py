"""A headless Chromium, spoken to over a pipe in its DevTools protocol; no package is needed."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--disable-background-networking",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--no-sandbox",  # which cannot be had as root, and the pages are our own
    "--remote-debugging-pipe",
)


class Chromium:
    """One browser with one tab.

    Attributes:
      events: What the tab has told of itself since the last `open`, as (method, parameters).
    """

    def __init__(self, executable: str) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [executable, *FLAGS, f"--user-data-dir={self._profile.name}"]
        # Chromium reads commands from descriptor 3 and writes answers to descriptor 4.
        their_input, our_output = os.pipe()
        our_input, their_output = os.pipe()
        self._pid = os.posix_spawn(
            executable,
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                # By way of high numbers, for a pipe may itself be number 3 or 4.
                (os.POSIX_SPAWN_DUP2, their_input, 103),
                (os.POSIX_SPAWN_DUP2, their_output, 104),
                (os.POSIX_SPAWN_DUP2, 103, 3),
                (os.POSIX_SPAWN_DUP2, 104, 4),
            ],
        )
        os.close(their_input)
        os.close(their_output)
        self._output = os.fdopen(our_output, "wb", buffering=0)
        self._input = os.fdopen(our_input, "rb", buffering=0)
        self._buffer = b""
        self._ids = itertools.count(1)
        self._session: dict[str, str] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        answer = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": answer["sessionId"]}
        for domain in ("Log", "Network", "Page", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Gives a command and returns its answer; keeps the events that come between.

        Raises:
          RuntimeError: If the browser refuses, or is gone.
        """
        number = next(self._ids)
        command = {"id": number, "method": method, "params": parameters, **self._session}
        self._output.write(json.dumps(command).encode() + b"\0")
        while True:
            message = self._receive()
            if "method" in message:
                self.events.append((message["method"], message["params"]))
            elif message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]

    def open(self, url: str) -> None:
        """Opens a page and waits until it and all that it names are loaded."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(method == "Page.loadEventFired" for method, _ in self.events):
            message = self._receive()
            if "method" in message:
                self.events.append((message["method"], message["params"]))

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def close(self) -> None:
        """Ends the browser and removes its profile."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._output.close()
        self._input.close()
        self._profile.cleanup()

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = self._input.read(1 << 16)
            if not chunk:
                raise RuntimeError("the browser has ended")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)


def find_chromium() -> str | None:
    """The first installed browser of its family, or None."""
    found = (shutil.which(name) for name in NAMES)
    return next((str(Path(path).resolve()) for path in found if path), None)
