"""JSON to a server and back: one request at a time, with a limit of time and no redirects."""

from __future__ import annotations

import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from tutelage.schemas.errors import AccessDenied, TransportError
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)

_DENIED = (401, 403)
# A server that starts, or has too much to do.
_LATER = (429, 502, 503, 504)
_AGAIN_S = 0.5
# Of what a server says about an error.
_SHOWN = 400


class JsonRequests:
    """Sends requests to one address. No error or `repr` shows the token.

    Args:
        url: The address.
        token: Sent as a bearer token; none if empty.
        timeout_s: How long one request may take, in seconds, with all attempts.
    """

    def __init__(self, url: str, *, token: str, timeout_s: float) -> None:
        self._url = url
        self._token = token
        self._timeout_s = timeout_s
        self._opener = urllib.request.build_opener(_NoRedirects)

    def post(self, value: Mapping[str, Any]) -> Any:
        """Send a value, and return the answer. Asks again while the server starts or is too busy.

        Raises:
            AccessDenied: The server does not accept the token.
            TransportError: The server did not answer in time, or not in JSON.
        """
        wait = Wait(f"an answer of {self._url}", timeout_s=self._timeout_s, log=log)
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        asked = urllib.request.Request(self._url, json.dumps(value).encode(), headers)
        while True:
            left_s = self._timeout_s - wait.waited_s
            failure: TransportError
            try:
                with self._opener.open(asked, timeout=max(1.0, left_s)) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                with error:
                    said = error.read(_SHOWN).decode("utf-8", "replace")
                kind = AccessDenied if error.code in _DENIED else TransportError
                failure = kind(f"{self._url} answered HTTP {error.code}: {said}")
                again = error.code in _LATER
            except (OSError, ValueError) as error:
                failure = TransportError(f"{self._url} gave no answer in JSON: {error}")
                again = isinstance(error, OSError)
            if not again or left_s < _AGAIN_S:
                raise failure
            log.debug("asking again: %s", failure)
            time.sleep(_AGAIN_S)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves redirects to the caller: the token is for one server."""

    def redirect_request(self, *_: Any) -> None:
        return None
