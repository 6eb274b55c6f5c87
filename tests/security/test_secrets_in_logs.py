"""No log shows a secret: not the HTTP client's, not the Kafka client's, however much of them is asked for."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest

PASSWORD = "hunter2-4711"
SPELLINGS = (PASSWORD, base64.b64encode(f"me:{PASSWORD}".encode()).decode())


def tutelage(tmp_path: Path, properties: str, *arguments: str) -> str:
    """What a command prints that is given these settings in a protected file."""
    file = tmp_path / "client.properties"
    file.write_text(properties)
    file.chmod(0o600)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("tutelage")), *arguments, "-F", str(file)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode
    return done.stdout + done.stderr


@pytest.mark.parametrize("verbose", [0, 1, 2])
@pytest.mark.parametrize(
    "url",
    [f"http://me:{PASSWORD}@127.0.0.1:1/apis", f"http://127.0.0.1:1/apis?apikey={PASSWORD}"],
    ids=["user", "query"],
)
def test_a_registry_s_url_shows_without_its_secrets(tmp_path: Path, url: str, verbose: int) -> None:
    # A command would ask the brokers first.
    code = (
        "import sys; from tutelage.cli.kafka_flags import kafka_settings; from pathlib import Path;"
        "from tutelage.cli.main import configure_log; configure_log(int(sys.argv[2]));"
        "kafka_settings(None, None, Path(sys.argv[1]), None).registry.prepare('t-value')"
    )
    file = tmp_path / "client.properties"
    file.write_text(f"schema.registry.url={url}\nschema.registry.max.retries=0\n")
    file.chmod(0o600)
    done = subprocess.run(
        [sys.executable, "-c", code, str(file), str(verbose)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode and "127.0.0.1:1/apis" in said
    if verbose == 2:
        assert "connect_tcp" in said
    assert not any(spelling in said for spelling in SPELLINGS)


def test_the_kafka_client_s_debug_log_shows_no_password(tmp_path: Path) -> None:
    said = tutelage(
        tmp_path,
        "bootstrap.servers=127.0.0.1:1\nsecurity.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.username=me\n"
        f"sasl.password={PASSWORD}\ndebug=all\nschema.registry.basic.auth.user.info=me:{PASSWORD}\n",
        "-vv",
        "inspect",
        "t",
        "--timeout",
        "1",
    )
    assert "sasl.password" in said or "SASL" in said
    assert not any(spelling in said for spelling in SPELLINGS)


def test_a_traceback_in_a_log_shows_no_secret() -> None:
    code = (
        "import logging; from tutelage.cli.main import configure_log; from tutelage.transport.hiding import hiding;"
        f"hiding.add([{PASSWORD!r}]); configure_log(0)\n"
        f"try: raise ValueError('it was {PASSWORD}')\n"
        "except ValueError: logging.getLogger('somebody.else').exception('no')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "ValueError: it was ***" in done.stderr and PASSWORD not in done.stderr
