"""Ports of this machine that are free, by the system's own word."""

from __future__ import annotations

import socket
import time

from tutelage.deploy.local.launches import HOST


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, held all at once so that they differ."""
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind((HOST, 0))
        return [int(each.getsockname()[1]) for each in held]
    finally:
        for each in held:
            each.close()


def is_free(port: int, *, within_s: float = 0.0) -> bool:
    """Whether nobody listens on a port, now or within that time."""
    deadline = time.monotonic() + within_s
    while not _can_be_bound(port):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def _can_be_bound(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
