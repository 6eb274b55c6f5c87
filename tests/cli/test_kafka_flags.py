"""Where Kafka's settings come from, which of them wins, and that secrets come in by no door that others can look through."""

from __future__ import annotations

from pathlib import Path

import pytest

from tutelage.cli.kafka_flags import KafkaSettings, kafka_settings
from tutelage.cli.secrets import is_secret
from tutelage.schemas.errors import ConfigurationError

SECRET = "hunter2-4711"


def settings(
    tmp_path: Path, text: str, *options: str, mode: int = 0o600, registry: str | None = None
) -> KafkaSettings:
    """What a file of this text and these -X come to."""
    file = tmp_path / "client.properties"
    file.write_text(text)
    file.chmod(mode)
    return kafka_settings(None, registry, file, list(options))


def test_flags_are_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "client.properties"
    file.write_text(
        "# mine\nbootstrap.servers = file:1\nschema.registry.url=http://file\nsecurity.protocol=SSL\nclient.id=a\n"
    )
    given = kafka_settings(None, None, file, ["client.id=b"])
    assert (given.bootstrap_servers, given.options) == (
        "file:1",
        {"security.protocol": "SSL", "client.id": "b"},
    )
    assert "http://file" in repr(given.registry)
    assert kafka_settings("flag:1", "http://flag", file, None).bootstrap_servers == "flag:1"
    assert kafka_settings(None, None, None, None).bootstrap_servers == "localhost:9092"


def test_options_win_over_the_file(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        "bootstrap.servers=b:1\nlinger.ms=1\n# no\n! nor this\n\nacks = all\n",
        "linger.ms=7",
    )
    assert found.bootstrap_servers == "b:1"
    assert found.options == {"linger.ms": "7", "acks": "all"}


def test_values_come_from_files_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text(SECRET + "\n")
    monkeypatch.setenv("KAFKA_USER", "alice")
    found = settings(
        tmp_path,
        f"sasl.username=${{env:KAFKA_USER}}\nsasl.password=@{tmp_path}/password\nclient.rack=@@home\n",
        "client.id=of-${env:KAFKA_USER}-1",
        mode=0o644,
    )
    assert found.options == {
        "sasl.username": "alice",
        "sasl.password": SECRET,
        "client.rack": "@home",
        "client.id": "of-alice-1",
    }
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    "line",
    [
        f"sasl.password={SECRET}",
        f"schema.registry.basic.auth.user.info=me:{SECRET}",
        f"ssl.key.password={SECRET}",
        f"schema.registry.url=https://me:{SECRET}@host/apis",
        f"sasl.password=pa${{{SECRET}",
        f"sasl.oauthbearer.assertion.private.key.passphrase={SECRET}",
    ],
)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_with_a_secret_that_others_may_read_is_refused(
    tmp_path: Path, line: str, mode: int
) -> None:
    with pytest.raises(ConfigurationError, match="others may read it; chmod 600") as told:
        settings(tmp_path, line + "\n", mode=mode)
    assert SECRET not in str(told.value)
    settings(tmp_path, line + "\n", mode=0o600)


def test_a_secret_on_the_command_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"-X sasl\.password: on the command line everybody.*sasl\.password=@FILE",
    ) as told:
        settings(tmp_path, "", f"sasl.password={SECRET}")
    assert SECRET not in str(told.value)


@pytest.mark.parametrize(
    "url", ["https://me:{}@registry:8081/apis", "http://registry/apis?tenant=1&apikey={}"]
)
def test_a_registry_s_url_with_a_secret_is_refused_as_a_flag_and_taken_from_the_environment(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url.format(SECRET)
    with pytest.raises(
        ConfigurationError, match="everybody on this machine can read a command line"
    ) as told:
        settings(tmp_path, "", registry=url)
    assert SECRET not in str(told.value)
    monkeypatch.setenv("TUTELAGE_REGISTRY", url)
    # The flag's value, as typer takes it from the environment.
    assert SECRET not in repr(settings(tmp_path, "", registry=url))


@pytest.mark.parametrize(
    "key",
    [
        "schema.registry.url=https://me:{}@host",
        "schema.registry.url=https://host/apis?apikey={}",
        "sasl.oauthbearer.assertion.private.key.pem={}",
        "sasl.password=pa${{{}",
        # What is written with @@ is a text that begins with an @, not a file.
        "sasl.password=@@{}",
    ],
)
def test_secrets_in_less_usual_places_are_refused_on_the_command_line_too(
    tmp_path: Path, key: str
) -> None:
    with pytest.raises(ConfigurationError, match="on the command line everybody") as told:
        settings(tmp_path, "", key.format(SECRET))
    assert SECRET not in str(told.value)


def test_what_is_missing_is_named_and_its_value_never(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"client\.properties: sasl\.password: /nowhere/password cannot be read: No such file",
    ):
        settings(tmp_path, "sasl.password=@/nowhere/password\n")
    with pytest.raises(
        ConfigurationError,
        match=r"-X: sasl\.password: there is no environment variable NOT_SET_ANYWHERE",
    ):
        settings(tmp_path, "", "sasl.password=${env:NOT_SET_ANYWHERE}")
    with pytest.raises(ConfigurationError, match="line 2: not key=value"):
        settings(tmp_path, "a=b\nnonsense\n")
    with pytest.raises(ConfigurationError, match="-X nonsense: options are given as key=value"):
        settings(tmp_path, "", "nonsense")


def test_places_are_no_secrets() -> None:
    assert not any(
        is_secret(key)
        for key in (
            "ssl.key.location",
            "ssl.ca.location",
            "sasl.oauthbearer.token.endpoint.url",
            "sasl.username",
        )
    )
    assert all(
        is_secret(key)
        for key in (
            "sasl.oauthbearer.client.secret",
            "ssl.key.pem",
            "bearer.auth.token",
            "sasl.jaas.config",
        )
    )


def test_whether_schemas_are_registered_is_the_registry_s_and_not_the_client_s(
    tmp_path: Path,
) -> None:
    assert (
        "auto.register.schemas" not in settings(tmp_path, "auto.register.schemas=false\n").options
    )
    with pytest.raises(
        ConfigurationError, match=r"auto\.register\.schemas=maybe: it is true or false"
    ):
        settings(tmp_path, "", "auto.register.schemas=maybe")


def test_every_address_says_who_named_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("TUTELAGE_BOOTSTRAP_SERVER", "TUTELAGE_REGISTRY"):
        monkeypatch.delenv(variable, raising=False)
    in_file = "bootstrap.servers=file:1\nschema.registry.url=http://file\n"

    def origins(found: KafkaSettings) -> tuple[str, str]:
        return found.bootstrap_servers.with_origin, found.registry._name

    default = "the default: neither"
    assert all(default in origin for origin in origins(kafka_settings(None, None, None, None)))
    servers, registry = origins(settings(tmp_path, in_file))
    assert servers == f"file:1 (bootstrap.servers in {tmp_path}/client.properties)"
    assert (
        registry
        == f"HttpRegistry('http://file') (schema.registry.url in {tmp_path}/client.properties)"
    )
    monkeypatch.setenv("TUTELAGE_BOOTSTRAP_SERVER", "env:1")
    file = tmp_path / "client.properties"
    # The command line gives what it found in the environment as the flag.
    assert (
        origins(kafka_settings("env:1", None, file, None))[0]
        == "env:1 (environment variable TUTELAGE_BOOTSTRAP_SERVER)"
    )
    assert (
        origins(kafka_settings("env:1", None, file, ["bootstrap.servers=x:1"]))[0]
        == "x:1 (-X bootstrap.servers)"
    )
    assert (
        origins(kafka_settings("flag:1", None, file, ["bootstrap.servers=x:1"]))[0]
        == "flag:1 (flag --bootstrap-server)"
    )
    assert (
        origins(kafka_settings(None, "http://flag", file, None))[1]
        == "HttpRegistry('http://flag') (flag --registry)"
    )


def test_a_registry_s_key_is_a_secret_of_the_file(tmp_path: Path) -> None:
    found = settings(tmp_path, f"schema.registry.url=http://a/apis?apikey={SECRET}\n")
    assert repr(found.registry) == "HttpRegistry('http://a/apis')"
    assert SECRET not in repr(found)
    with pytest.raises(ConfigurationError, match="others may read it; chmod 600") as told:
        settings(
            tmp_path, f"schema.registry.url=http://a/apis?tenant=1&apikey={SECRET}\n", mode=0o644
        )
    assert SECRET not in str(told.value)
