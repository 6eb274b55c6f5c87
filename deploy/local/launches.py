"""What each process of the stack is started with: its command, its environment and, for a broker, its file of settings.

All of it is built from ports and places; `is_launched_as` tells by a process's command line whether it was started so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
REGISTRY = "registry"
_BROKER_CLASS = "kafka.Kafka"
_REGISTRY_JAR = "quarkus-run.jar"

#: The registry keeps its schemas in its folder, in H2's own file. (In Kafka, as compose has it, it takes three times as long to start.)
REGISTRY_STORAGE = {
    # Relative to the folder the registry runs in, so that no character of a path can change what the address means.
    # By default H2 writes half a second later: of a registry that was killed, 12 of 20 ids were given to other schemas.
    "APICURIO_DATASOURCE_URL": "jdbc:h2:file:./registry/schemas;WRITE_DELAY=0",
    # Ids go on behind the highest one that is stored. If deleted schemas were cleaned up, a restart could give their ids again.
    "APICURIO_STORAGE_ORPHAN_CLEANUP_EVERY": "off",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokerPlace:
    """Where a broker listens, and the port that it tells clients."""

    port: int
    controller: int
    advertised: int
    # Where brokers talk to each other if something stands between them and the clients.
    internal: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryPlace:
    """Where the registry listens: for clients, and for its own health and metrics."""

    port: int
    management: int


def broker_name(index: int) -> str:
    """The name of a broker's process, of its data folder and of its files."""
    return f"kafka-{index + 1}"


def broker_properties(index: int, places: Sequence[BrokerPlace], data: Path) -> str:
    """The settings of one broker of a cluster, as a properties file."""
    place = places[index]
    listeners = f"PLAINTEXT://{HOST}:{place.port},CONTROLLER://{HOST}:{place.controller}"
    advertised = f"PLAINTEXT://{HOST}:{place.advertised}"
    protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
    between: dict[str, object] = {}
    if place.internal is not None:
        listeners += f",INTERNAL://{HOST}:{place.internal}"
        advertised += f",INTERNAL://{HOST}:{place.internal}"
        protocols += ",INTERNAL:PLAINTEXT"
        between = {"inter.broker.listener.name": "INTERNAL"}
    replicas = len(places)
    settings: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": index + 1,
        "controller.quorum.voters": ",".join(
            f"{n + 1}@{HOST}:{each.controller}" for n, each in enumerate(places)
        ),
        "listeners": listeners,
        "advertised.listeners": advertised,
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": protocols,
        **between,
        "log.dirs": data,
        "default.replication.factor": replicas,
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": max(1, replicas - 1),
        "min.insync.replicas": max(1, replicas - 1),
        "offsets.topic.num.partitions": 4,
        "group.initial.rebalance.delay.ms": 0,
        "auto.create.topics.enable": "false",
    }
    if replicas > 1:
        # A killed broker is noticed within seconds, as a test or a person expects.
        settings |= {"broker.session.timeout.ms": 3000, "replica.lag.time.max.ms": 5000}
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def kafka_command(java: str, jars: Path, logging: Path, *, brokers: int) -> list[str]:
    """What every program of Kafka's begins with; a main class and its arguments follow."""
    heap = "-Xmx512m" if brokers == 1 else "-Xmx384m"
    return [
        java,
        heap,
        "-XX:+UseSerialGC",
        f"-Dlog4j.configuration=file:{logging}",
        "-cp",
        f"{jars}/*",
    ]


def broker_command(kafka: Sequence[str], settings: Path) -> list[str]:
    """A broker's command; `kafka` is what every program of Kafka's begins with."""
    return [*kafka, _BROKER_CLASS, str(settings)]


def registry_command(java: str, home: Path) -> list[str]:
    """The registry's command."""
    return [java, "-Xmx384m", "-XX:+UseSerialGC", "-jar", str(home / _REGISTRY_JAR)]


def is_launched_as(name: str, command: Sequence[str]) -> bool:
    """Whether a command line is that of the stack's process of this name, of whatever version and in whatever folder."""
    if len(command) < 3:
        return False
    what, last = command[-2], Path(command[-1]).name
    return (what, last) == (
        ("-jar", _REGISTRY_JAR) if name == REGISTRY else (_BROKER_CLASS, f"{name}.properties")
    )


def registry_environment(place: RegistryPlace) -> Mapping[str, str]:
    """The registry's settings: its two ports, and where it keeps its schemas."""
    return {
        "QUARKUS_HTTP_HOST": HOST,
        "QUARKUS_HTTP_PORT": str(place.port),
        "QUARKUS_MANAGEMENT_HOST": HOST,
        "QUARKUS_MANAGEMENT_PORT": str(place.management),
        **REGISTRY_STORAGE,
    }
