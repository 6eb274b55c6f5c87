"""The command, the environment and the settings of each process of the stack.

All of it is built from ports and paths. `is_launched_as` recognizes a process by its command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
REGISTRY = "registry"
_BROKER_CLASS = "kafka.Kafka"
_REGISTRY_JAR = "quarkus-run.jar"

#: The registry keeps its schemas in a file of the database H2. With its schemas in Kafka, as in the
#: compose file, it takes three times as long to start.
REGISTRY_STORAGE = {
    # The path is relative to the registry's working directory, so that no character of the folder's
    # path can change the meaning of this URL. By default H2 writes half a second later: after a
    # kill, 12 of 20 ids were given to other schemas.
    "APICURIO_DATASOURCE_URL": "jdbc:h2:file:./registry/schemas;WRITE_DELAY=0",
    # A new id follows the highest stored one. If deleted schemas were cleaned up, their ids could
    # be given again after a restart.
    "APICURIO_STORAGE_ORPHAN_CLEANUP_EVERY": "off",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokerPorts:
    """The ports of a broker; `advertised` is the one that it tells clients."""

    port: int
    controller: int
    advertised: int
    # The port for the other brokers, if there are proxies between the brokers and the clients.
    internal: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryPorts:
    """The ports of the registry: for clients, and for its health and metrics."""

    port: int
    management: int


def broker_name(index: int) -> str:
    """The name of a broker's process, data folder and files."""
    return f"kafka-{index + 1}"


def broker_properties(index: int, ports: Sequence[BrokerPorts], data: Path) -> str:
    """The text of a broker's properties file.

    Args:
        index: Which of the brokers, from 0.
        ports: The ports of all brokers.
        data: The broker's data folder.
    """
    own = ports[index]
    listeners = f"PLAINTEXT://{HOST}:{own.port},CONTROLLER://{HOST}:{own.controller}"
    advertised = f"PLAINTEXT://{HOST}:{own.advertised}"
    protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
    between: dict[str, object] = {}
    if own.internal is not None:
        listeners += f",INTERNAL://{HOST}:{own.internal}"
        advertised += f",INTERNAL://{HOST}:{own.internal}"
        protocols += ",INTERNAL:PLAINTEXT"
        between = {"inter.broker.listener.name": "INTERNAL"}
    replicas = len(ports)
    settings: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": index + 1,
        "controller.quorum.voters": ",".join(
            f"{n + 1}@{HOST}:{each.controller}" for n, each in enumerate(ports)
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
        # A killed broker is detected within seconds.
        settings |= {"broker.session.timeout.ms": 3000, "replica.lag.time.max.ms": 5000}
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def kafka_command(java: str, jars: Path, logging: Path, *, brokers: int) -> list[str]:
    """The beginning of a Kafka program's command. A main class and its arguments follow."""
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
    """A broker's command; `kafka` is the beginning that `kafka_command` makes."""
    return [*kafka, _BROKER_CLASS, str(settings)]


def registry_command(java: str, home: Path) -> list[str]:
    """The registry's command."""
    return [java, "-Xmx384m", "-XX:+UseSerialGC", "-jar", str(home / _REGISTRY_JAR)]


def is_launched_as(name: str, command: Sequence[str]) -> bool:
    """Whether a command line starts the process of this name, in any version and any folder."""
    if len(command) < 3:
        return False
    program, file = command[-2], Path(command[-1]).name
    return (program, file) == (
        ("-jar", _REGISTRY_JAR) if name == REGISTRY else (_BROKER_CLASS, f"{name}.properties")
    )


def registry_environment(ports: RegistryPorts) -> Mapping[str, str]:
    """The registry's settings, as environment variables: its two ports and its storage."""
    return {
        "QUARKUS_HTTP_HOST": HOST,
        "QUARKUS_HTTP_PORT": str(ports.port),
        "QUARKUS_MANAGEMENT_HOST": HOST,
        "QUARKUS_MANAGEMENT_PORT": str(ports.management),
        **REGISTRY_STORAGE,
    }
