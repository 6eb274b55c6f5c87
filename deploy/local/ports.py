"""Ports of this machine that are free, by the system's own word, and those that a new stack takes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from tutelage.deploy.local.launches import HOST, BrokerPlace, RegistryPlace
from tutelage.deploy.local.programs import StackError


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


def planned_ports(
    brokers: int,
    kafka_port: int | None,
    registry_port: int | None,
    proxied: Callable[[list[int]], list[int]] | None,
) -> tuple[tuple[BrokerPlace, ...], RegistryPlace]:
    """Where the brokers and the registry of a new stack listen."""
    for port in (kafka_port, registry_port):
        if port is not None and not is_free(port):
            raise StackError(
                f"port {port} is taken by another program; name another port, or 0 for a free one"
            )
    free = free_ports(3 * brokers + 2)
    ports = [kafka_port if index == 0 and kafka_port else free.pop() for index in range(brokers)]
    advertised = ports if proxied is None else proxied(ports)
    places = (
        BrokerPlace(
            port=port,
            controller=free.pop(),
            advertised=told,
            internal=free.pop() if proxied else None,
        )
        for port, told in zip(ports, advertised, strict=True)
    )
    return tuple(places), RegistryPlace(port=registry_port or free.pop(), management=free.pop())


def _can_be_bound(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
