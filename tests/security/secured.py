"""One broker with every kind of lock: TLS, mutual TLS, SCRAM and OAuth listeners, and ACLs; whoever is not named may do nothing."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from security.authority import Authority
from security.tokens import AUDIENCE, ISSUER, Tokens
from support.brokers import HOST, Broker

from tutelage.deploy.local.ports import free_ports

PASSWORDS = {name: f"pw-of-{name}-7d1f" for name in ("admin", "teacher1", "student", "stranger")}
CLIENT_SECRETS = {"oauth-teacher": "oauth-secret-51c9"}
SECRETS = (*PASSWORDS.values(), *CLIENT_SECRETS.values())


@dataclass(kw_only=True)
class Secured:
    """Where it listens, whom to trust, and the files of its clients."""

    broker: Broker
    authority: Authority
    tokens: Tokens
    ports: dict[str, int]
    folder: Path
    admin: AdminClient = field(init=False)

    def address(self, listener: str) -> str:
        """Where a listener is."""
        return f"{HOST}:{self.ports[listener]}"

    def tls(self) -> dict[str, str]:
        """Options to speak TLS."""
        return {"security.protocol": "SSL", "ssl.ca.location": str(self.authority.ca)}

    def mutual_tls(self, name: str, *, expired: bool = False) -> dict[str, str]:
        """Options to speak TLS as somebody."""
        certificate, key = self.authority.issue(name, expired=expired)
        return {
            **self.tls(),
            "ssl.certificate.location": str(certificate),
            "ssl.key.location": str(key),
        }

    def scram(self, user: str, password: str | None = None) -> dict[str, str]:
        """Options to come in by name and password."""
        return {
            **self.tls(),
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": PASSWORDS[user] if password is None else password,
        }

    def oauth(self, client: str, secret: str | None = None) -> dict[str, str]:
        """Options to come in by a token."""
        return {
            **self.tls(),
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "OAUTHBEARER",
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.client.id": client,
            "sasl.oauthbearer.client.secret": CLIENT_SECRETS[client] if secret is None else secret,
            "sasl.oauthbearer.token.endpoint.url": self.tokens.url,
        }

    def allow(
        self,
        user: str,
        kind: ResourceType,
        name: str,
        *operations: AclOperation,
        prefixed: bool = False,
    ) -> None:
        """Give a user rights."""
        pattern = ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL
        acls = [
            AclBinding(kind, name, pattern, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
            for operation in operations
        ]
        for future in self.admin.create_acls(acls, request_timeout=10).values():
            future.result(15)

    def deny(self, user: str, topic: str) -> None:
        """Take a user's rights to a topic away."""
        acl = AclBinding(
            ResourceType.TOPIC,
            topic,
            ResourcePatternType.LITERAL,
            f"User:{user}",
            "*",
            AclOperation.ALL,
            AclPermissionType.DENY,
        )
        for future in self.admin.create_acls([acl], request_timeout=10).values():
            future.result(15)

    def close(self) -> None:
        """End it."""
        self.tokens.close()
        self.broker.end()


def secured(folder: Path) -> Secured:
    """Start it."""
    authority = Authority(folder / "ca")
    certificate, key = authority.issue("broker", host=True)
    store = folder / "broker.pem"
    store.write_bytes(key.read_bytes() + certificate.read_bytes())
    tokens = Tokens(CLIENT_SECRETS)
    jwks = folder / "jwks.json"
    jwks.write_text(tokens.jwks)
    names = ("tls", "mtls", "scram", "oauth")
    *clients, internal, controller = free_ports(len(names) + 2)
    ports = dict(zip(names, clients, strict=True))
    listeners = {**ports, "internal": internal}
    said = ",".join(f"{name.upper()}://{HOST}:{port}" for name, port in listeners.items())
    properties: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "listeners": f"{said},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": said,
        "listener.security.protocol.map": "TLS:SSL,MTLS:SSL,SCRAM:SASL_SSL,OAUTH:SASL_SSL,INTERNAL:SSL,CONTROLLER:SSL",
        "inter.broker.listener.name": "INTERNAL",
        "controller.listener.names": "CONTROLLER",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": store,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": authority.ca,
        "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
        **{f"listener.name.{name}.ssl.client.auth": "required" for name in ("mtls", "internal", "controller")},
        "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.scram.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.oauth.oauthbearer.sasl.jaas.config": "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;",
        "listener.name.oauth.oauthbearer.sasl.server.callback.handler.class":
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler",
        "listener.name.oauth.oauthbearer.sasl.oauthbearer.jwks.endpoint.url": jwks.as_uri(),
        "listener.name.oauth.oauthbearer.sasl.oauthbearer.expected.audience": AUDIENCE,
        "listener.name.oauth.oauthbearer.sasl.oauthbearer.expected.issuer": ISSUER,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:broker;User:admin",
        "log.dirs": folder / "data",
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "offsets.topic.num.partitions": 1,
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": 0,
    }  # fmt: skip
    users = [
        f"--add-scram=SCRAM-SHA-512=[name={name},password={password}]"
        for name, password in PASSWORDS.items()
    ]
    broker = Broker(folder / "broker")
    broker.start(
        properties, list(listeners.values()), format_flags=users,
        jvm=[f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={jwks.as_uri()}"],
    )  # fmt: skip
    made = Secured(broker=broker, authority=authority, tokens=tokens, ports=ports, folder=folder)
    # A client that outlives its broker has nothing to say that anybody wants to read.
    quiet = logging.getLogger("security-tests-admin")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    made.admin = AdminClient(
        {"bootstrap.servers": made.address("scram"), **made.scram("admin")}, logger=quiet
    )
    return made
