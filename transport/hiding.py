"""Redacts secrets in errors and logs of this package, its libraries and servers.

Secrets are recognized by their text, because an HTTP client logs the URL of each request and a
server may repeat it. Requests still carry the secrets.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, quote_plus, unquote, unquote_plus

_REPLACEMENT = "***"
# Shorter texts occur in ordinary words and are not redacted.
_SHORTEST = 4
# The HTTP client that the registry's client uses has had two names, and so has its core. A filter
# on a logger does not apply to its children, so each is listed.
_CLIENT_LOGGERS = (
    *("httpx", "httpx2"),
    *(
        f"{core}.{part}"
        for core in ("httpcore", "httpcore2")
        for part in ("connection", "http11", "http2", "proxy", "socks")
    ),
)
# Settings whose value grants access. A file's location (ssl.key.location) or a user name does not.
_SECRET_SETTING = re.compile(
    r"password|passphrase|secret|user\.info|jaas|auth\.token|key\.pem|oauthbearer\.config"
)
_USER_IN_URL = re.compile(r"://[^/\s]*@")
# A registry behind a gateway may expect its key in the URL's query.
_KEY_IN_URL = re.compile(
    r"://[^\s?]*\?(?:.*&)?[^=&]*(?:key|token|secret|password|auth|sig)[^=&]*=", re.IGNORECASE
)


def is_secret_setting(name: str) -> bool:
    """Whether a setting of the Kafka client or the registry is a secret, by its name."""
    return _SECRET_SETTING.search(name) is not None


def is_secret_url(url: str) -> bool:
    """Whether a URL holds a user, a password or a key."""
    return _USER_IN_URL.search(url) is not None or _KEY_IN_URL.search(url) is not None


def holds_secret(name: str, value: object) -> bool:
    """Whether a setting grants access: by its name, or as a URL that holds a user or a key."""
    return is_secret_setting(name) or (isinstance(value, str) and is_secret_url(value))


def secrets_in(settings: Mapping[str, object]) -> list[str]:
    """Return the texts in a client's settings that must not be shown."""
    found: list[str] = []
    for name, value in settings.items():
        if is_secret_setting(name) and isinstance(value, str):
            found += user_info_secrets(value) if name.endswith("user.info") else [value]
    return found


def user_info_secrets(user_info: str) -> list[str]:
    """Return what must not be shown of `USER:PASSWORD`: all of it, the password, base64."""
    user, _, password = user_info.partition(":")
    return [user_info, password or user, base64.b64encode(user_info.encode()).decode()]


class SecretFilter(logging.Filter):
    """Replaces secrets in texts and log records. One per process, on the HTTP client's loggers."""

    def __init__(self) -> None:
        super().__init__()
        self._secrets: list[str] = []

    def add(self, secrets: Iterable[str]) -> None:
        """Redact these texts from now on, in every spelling that a URL may have."""
        known = set(self._secrets)
        for secret in secrets:
            decoded = {secret, unquote(secret), unquote_plus(secret)}
            spellings = decoded | {
                form(text, safe="") for text in decoded for form in (quote, quote_plus)
            }
            known |= {text for text in spellings if len(text) >= _SHORTEST}
        # Longest first: one may contain another.
        self._secrets = sorted(known, key=lambda text: (-len(text), text))
        for name in _CLIENT_LOGGERS:
            # Adding a filter again has no effect.
            logging.getLogger(name).addFilter(self)

    def hidden(self, text: str) -> str:
        """Return the text with secrets replaced."""
        for secret in self._secrets:
            text = text.replace(secret, _REPLACEMENT)
        return text

    def cause(self, error: BaseException) -> BaseException | None:
        """Return an error for use in `raise ... from`.

        None if it, or an error in its chain, would show a secret in a traceback.
        """
        seen: list[BaseException] = []
        at: BaseException | None = error
        while at is not None and at not in seen:
            seen.append(at)
            shown = f"{at} {at!r}"
            if self.hidden(shown) != shown:
                return None
            at = at.__cause__ or at.__context__
        return error

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace secrets in a log record's message. Drops no record."""
        said = record.getMessage()
        shown = self.hidden(said)
        if shown != said:
            record.msg, record.args = shown, ()
        return True


hiding = SecretFilter()
