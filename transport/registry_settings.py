"""Settings of the registry's client: converts and completes them, and derives a call's timeout."""

from __future__ import annotations

from collections.abc import Mapping

from tutelage.schemas.errors import ConfigurationError

#: At most this many attempts for each request.
ATTEMPTS = 3

# The pauses between the attempts, together.
_BACK_OFF_S = 1.0
_NUMBERS = frozenset(
    (
        "timeout",
        "max.retries",
        "retries.wait.ms",
        "retries.max.wait.ms",
        "cache.capacity",
        "cache.latest.ttl.sec",
    )
)


def completed_settings(given: Mapping[str, object]) -> dict[str, object]:
    """Convert numbers given as text, and add what the client requires beside a bearer token.

    A properties file has numbers as text. Logical cluster and identity pool are Confluent Cloud's;
    other registries ignore them.

    Raises:
        ConfigurationError: A setting that must be a number is not one.
    """
    settings = dict(given)
    for name in _NUMBERS & settings.keys():
        try:
            settings[name] = float(str(settings[name]))
        except ValueError:
            raise ConfigurationError(
                f"schema.registry.{name} is {settings[name]!r}; it must be a number"
            ) from None
    if not any(name.startswith("bearer.auth.") for name in settings):
        return settings
    source = (
        {"bearer.auth.credentials.source": "STATIC_TOKEN"}
        if "bearer.auth.token" in settings
        else {}
    )
    return {
        **source,
        "bearer.auth.logical.cluster": "none",
        "bearer.auth.identity.pool.id": "none",
        **settings,
    }


def call_timeout_s(settings: Mapping[str, object], addresses: int) -> float:
    """Seconds for one call: per address, the timeouts of all attempts and the pauses between."""
    attempts = float(str(settings["max.retries"])) + 1
    return addresses * (attempts * float(str(settings["timeout"])) + _BACK_OFF_S)
