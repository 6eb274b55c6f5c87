"""Finds free ports on this machine, and chooses those of a new stack."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from tutelage.deploy.local.command_lines import HOST, BrokerPorts, RegistryPorts
from tutelage.deploy.local.programs import StackError


def free_ports(count: int) -> list[int]:
    """Find free ports. All are bound at the same time, so that they differ."""
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind((HOST, 0))
        return [int(each.getsockname()[1]) for each in held]
    finally:
        for each in held:
            each.close()


def is_free(port: int, *, within_s: float = 0.0) -> bool:
    """Whether a port is free now, or becomes free within a time."""
    deadline = time.monotonic() + within_s
    while not _can_be_bound(port):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def plan_ports(
    brokers: int,
    kafka_port: int | None,
    registry_port: int | None,
    proxied: Callable[[list[int]], list[int]] | None,
) -> tuple[tuple[BrokerPorts, ...], RegistryPorts]:
    """Choose the ports of a new stack. The arguments are those of `Stack.up`."""
    for port in (kafka_port, registry_port):
        if port is not None and not is_free(port):
            raise StackError(
                f"port {port} is taken by another program; name another port, or 0 for a free one"
            )
    free = free_ports(3 * brokers + 2)
    ports = [kafka_port if index == 0 and kafka_port else free.pop() for index in range(brokers)]
    advertised = ports if proxied is None else proxied(ports)
    places = (
        BrokerPorts(
            port=port,
            controller=free.pop(),
            advertised=shown,
            internal=free.pop() if proxied else None,
        )
        for port, shown in zip(ports, advertised, strict=True)
    )
    return tuple(places), RegistryPorts(port=registry_port or free.pop(), management=free.pop())


def _can_be_bound(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
