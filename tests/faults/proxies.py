"""A real TCP proxy (toxiproxy) before every broker: built once by Go into the user's cache, one process, told over HTTP what to do."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

VERSION = "v2.5.0"
HOST = "127.0.0.1"


def toxiproxy() -> Path:
    """The program, built if need be. RuntimeError, with what Go said, if that fails."""
    folder = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        / "tutelage"
        / f"toxiproxy-{VERSION}"
    )
    program = folder / "server"
    if not program.exists():
        go = shutil.which("go") or "/usr/local/go/bin/go"
        done = subprocess.run(
            [go, "install", f"github.com/Shopify/toxiproxy/v2/cmd/server@{VERSION}"],
            env={**os.environ, "GOBIN": str(folder)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"Go could not build toxiproxy: {done.stderr.strip()[-500:]}")
    return program


class Proxies:
    """One toxiproxy process; a proxy named `broker-N` for each port it was given. Close it."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self._port = int(probe.getsockname()[1])
        self._process = subprocess.Popen(
            [str(toxiproxy()), "-host", HOST, "-port", str(self._port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._names: list[str] = []
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                self._ask("GET", "/version")
                return
            except OSError:
                time.sleep(0.05)
        self.close()
        raise RuntimeError("toxiproxy did not answer within 20 s")

    def before(self, ports: list[int]) -> list[int]:
        """A proxy before each port; returns theirs."""
        found: list[int] = []
        for index, port in enumerate(ports, start=1):
            made = self._ask(
                "POST",
                "/proxies",
                {
                    "name": f"broker-{index}",
                    "listen": f"{HOST}:0",
                    "upstream": f"{HOST}:{port}",
                    "enabled": True,
                },
            )
            self._names.append(f"broker-{index}")
            found.append(int(made["listen"].rpartition(":")[2]))
        return found

    def add(self, kind: str, *, stream: str = "downstream", **attributes: object) -> None:
        """Add a toxic (latency, timeout, slicer, reset_peer, bandwidth, limit_data) to all proxies."""
        for name in self._names:
            toxic = {
                "name": f"{kind}-{stream}",
                "type": kind,
                "stream": stream,
                "toxicity": 1.0,
                "attributes": attributes,
            }
            self._ask("POST", f"/proxies/{name}/toxics", toxic)

    def heal(self) -> None:
        """Remove all toxics."""
        self._ask("POST", "/reset")

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(10)

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(
            f"http://{HOST}:{self._port}{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Content-Type": "application/json", "User-Agent": "tests"},
        )
        with urllib.request.urlopen(request, timeout=5) as response:
            text = response.read().decode()
        return json.loads(text) if text.startswith(("{", "[")) else text
