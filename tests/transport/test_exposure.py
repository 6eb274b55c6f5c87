"""Which settings leave secrets or data open to others, and that it is said once."""

from __future__ import annotations

import logging

import pytest

from tutelage.transport import exposure
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.exposure import kafka_exposures, registry_exposures, warn_once
from tutelage.transport.http_registry import HttpRegistry
from tutelage.transport.local_registry import LocalRegistry
from tutelage.transport.registry_url import parsed_url

SCRAM = {"sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "me", "sasl.password": "hunter2-4711"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"security.protocol": "SSL", "enable.ssl.certificate.verification": "false"},
            ["verification=false"],
        ),
        (
            {
                "security.protocol": "SASL_SSL",
                **SCRAM,
                "enable.ssl.certificate.verification": False,
            },
            ["verification=false"],
        ),
        (
            {"security.protocol": "ssl", "ssl.endpoint.identification.algorithm": "none"},
            ["identification.algorithm=none"],
        ),
        (
            {"security.protocol": "SASL_PLAINTEXT", **SCRAM},
            ["SASL_PLAINTEXT: credentials and data travel unencrypted"],
        ),
        (SCRAM, ["sasl.mechanism is given, but security.protocol is PLAINTEXT"]),
        (
            {"security.protocol": "SSL", **SCRAM},
            ["sasl.mechanism is given, but security.protocol is SSL"],
        ),
        (
            {"ssl.ca.location": "/ca.pem"},
            ["ssl.ca.location is given, but security.protocol is PLAINTEXT"],
        ),
        (
            {
                "security.protocol": "SASL_SSL",
                "sasl.oauthbearer.token.endpoint.url": "http://idp/token",
            },
            ["token.endpoint.url is an http:// address"],
        ),
        ({}, []),
        ({"security.protocol": "PLAINTEXT"}, []),
        ({"security.protocol": "SASL_SSL", **SCRAM, "ssl.ca.location": "/ca.pem"}, []),
        ({"security.protocol": "SSL", "ssl.endpoint.identification.algorithm": "https"}, []),
    ],
)
def test_kafka_options_that_leave_something_open_are_named(
    options: dict[str, object], words: list[str]
) -> None:
    lines = list(kafka_exposures("kafka:9092", options))
    assert len(lines) == len(words)
    for line, expected in zip(lines, words, strict=True):
        assert expected in line and "kafka:9092" in line and "hunter2" not in line


@pytest.mark.parametrize(
    ("url", "settings", "proxy", "words"),
    [
        (
            "http://r:8081",
            {"basic.auth.user.info": "me:hunter2-4711"},
            None,
            ["basic.auth.user.info travels unencrypted"],
        ),
        (
            "http://r:8081",
            {"bearer.auth.token": "hunter2-4711"},
            None,
            ["bearer.auth.token travels unencrypted"],
        ),
        (
            "https://a,http://b",
            {"bearer.auth.token": "hunter2-4711"},
            None,
            ["bearer.auth.token travels unencrypted"],
        ),
        ("http://r/?apikey=hunter2-4711", {}, None, ["the query of its URL travels unencrypted"]),
        ("https://r", {"ssl.ca.location": False}, None, ["certificates are not verified"]),
        (
            "https://r",
            {"bearer.auth.issuer.endpoint.url": "http://idp/token"},
            None,
            ["issuer.endpoint.url is an http:// address"],
        ),
        (
            "https://r",
            {},
            ("proxy:3128", "HTTPS_PROXY"),
            ["through the proxy proxy:3128, which HTTPS_PROXY names"],
        ),
        ("http://r", {}, None, []),
        (
            "https://r/?apikey=hunter2-4711",
            {"ssl.ca.location": "/ca.pem", "bearer.auth.token": "hunter2-4711"},
            None,
            [],
        ),
    ],
)
def test_registry_settings_that_leave_something_open_are_named(
    url: str, settings: dict[str, object], proxy: tuple[str, str] | None, words: list[str]
) -> None:
    lines = list(registry_exposures(parsed_url(url), settings, proxy))
    assert len(lines) == len(words)
    for line, expected in zip(lines, words, strict=True):
        assert expected in line and "hunter2" not in line


def test_each_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exposure, "_warned", set())
    caplog.set_level(logging.WARNING)
    warn_once(["one", "two"])
    warn_once(["two", "one"])
    assert [record.getMessage() for record in caplog.records] == ["one", "two"]


def test_clients_say_it_when_they_are_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exposure, "_warned", set())
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        connection = KafkaConnection(
            "127.0.0.1:1",
            registry=LocalRegistry(),
            options={"security.protocol": "SASL_PLAINTEXT", **SCRAM},
        )
        client = connection.admin()
        del client
        registry = HttpRegistry("https://127.0.0.1:1", settings={"ssl.ca.location": False})
        registry.connect()
        registry.close()
    said = [
        record.getMessage()
        for record in caplog.records
        if record.name == "tutelage.transport.exposure"
    ]
    assert len(said) == 3
    for words in (
        "SASL_PLAINTEXT",
        "certificates are not verified",
        "through the proxy proxy.example:3128",
    ):
        assert sum(words in line for line in said) == 1
