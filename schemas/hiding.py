"""Keeps secrets that are known by their text out of errors and logs, other people's included.

An HTTP client logs each URL it asks for, and a server may answer with it: what is asked for carries the secret, what is shown does not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from urllib.parse import quote, quote_plus, unquote, unquote_plus

_SHOWN_INSTEAD = "***"
# A shorter text says too little to be a secret, and would be found in words that have nothing to do with it.
_SHORTEST = 4
# The HTTP client that the registry's client uses has had two names, and so has what does its work. A logger's filter is not its children's.
_CLIENT_LOGGERS = (
    *("httpx", "httpx2"),
    *(f"{core}.{part}" for core in ("httpcore", "httpcore2") for part in ("connection", "http11", "http2", "proxy", "socks")),
)


class Hiding(logging.Filter):
    """Replaces texts that must not be shown. One for the process, on the HTTP client's loggers."""

    def __init__(self) -> None:
        super().__init__()
        self._secrets: list[str] = []

    def add(self, secrets: Iterable[str]) -> None:
        """Hide these texts from now on, in each spelling that a URL may have them in."""
        known = set(self._secrets)
        for secret in secrets:
            decoded = {secret, unquote(secret), unquote_plus(secret)}
            spellings = decoded | {form(text, safe="") for text in decoded for form in (quote, quote_plus)}
            known |= {text for text in spellings if len(text) >= _SHORTEST}
        # The longest first: one may hold another.
        self._secrets = sorted(known, key=lambda text: (-len(text), text))
        for name in _CLIENT_LOGGERS:
            # Added once, however often this is done.
            logging.getLogger(name).addFilter(self)

    def hidden(self, text: str) -> str:
        """The text without what must not be shown."""
        for secret in self._secrets:
            text = text.replace(secret, _SHOWN_INSTEAD)
        return text

    def cause(self, error: BaseException) -> BaseException | None:
        """An error as the cause of another; None where it, or anything behind it, would show a secret in a traceback."""
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
        """Replace secrets in a line of the log; every line stays."""
        said = record.getMessage()
        shown = self.hidden(said)
        if shown != said:
            record.msg, record.args = shown, ()
        return True


hiding = Hiding()
