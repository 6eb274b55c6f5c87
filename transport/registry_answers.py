"""Answers of a registry: limits their size, and translates its client's errors without secrets."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tutelage.schemas.errors import AccessDenied, RegistryUnavailable, SchemaError, TutelageError
from tutelage.transport.hiding import hiding

if TYPE_CHECKING:
    from confluent_kafka.schema_registry.error import SchemaRegistryError

#: The largest answer that is read. A schema may have 1 MiB (`Limits.schema_bytes`), and its JSON
#: escapes add to that.
MOST_BYTES = 16 << 20

_NOT_FOUND_STATUS = 404
_DENIED_STATUS = (401, 403)
_PROXY_DENIED_STATUS = 407
_FAILED_STATUS = 500
# A server's message may be long, or a page of HTML: only this many characters are shown.
_SHOWN = 200


def limit_size(response: Any, name: str) -> None:
    """Make reading an HTTP response's body fail beyond `MOST_BYTES`.

    Args:
        response: A response of the registry client's HTTP library. Its body has not been read.
        name: The registry's name, for the error.

    Raises:
        RegistryUnavailable: The body is compressed although that was not requested: a few bytes
            could become gigabytes.
    """
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise RegistryUnavailable(
            f"{name} sent a compressed answer ({encoding[:20]!r}), which was not requested"
        )
    # The library's name has changed before. Its responses accept only streams of its own class.
    library = importlib.import_module(type(response).__module__.partition(".")[0])
    whole = response.stream

    # Known only at run time.
    class Bounded(library.SyncByteStream):  # type: ignore[misc, name-defined]
        """The body, up to the limit."""

        def __iter__(self) -> Iterator[bytes]:
            seen = 0
            for chunk in whole:
                seen += len(chunk)
                if seen > MOST_BYTES:
                    raise RegistryUnavailable(
                        f"{name} sent an answer of more than {MOST_BYTES >> 20} MiB; is it a "
                        "registry?"
                    )
                yield chunk

        def close(self) -> None:
            whole.close()

    response.stream = Bounded()


class NotFound(SchemaError):
    """The registry answered that it has no such subject or schema."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request to a registry, as its error messages need it.

    Attributes:
        name: The registry's name.
        action: What was requested; stands behind "to".
        proxy: A note on the proxy; empty without one.
    """

    name: str
    action: str
    proxy: str

    def error_of(self, error: Exception) -> TutelageError:
        """Translate an error of the client."""
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        if isinstance(error, SchemaRegistryError):
            return self._status_error(error)
        said = hiding.hidden(str(error) or type(error).__name__)[:_SHOWN]
        # The client passes its HTTP library's errors on, and that library has changed before.
        if "CERTIFICATE_VERIFY_FAILED" in said:
            return AccessDenied(
                f"{self.name} has a certificate that this client does not trust ({said}): "
                f"schema.registry.ssl.ca.location names the authority to trust{self.proxy}"
            )
        if (
            isinstance(error, (ValueError, KeyError, TypeError, AttributeError))
            or "Decoding" in type(error).__name__
        ):
            # The client could not read the answer: a page of HTML, for example.
            return RegistryUnavailable(
                f"{self.name} was asked to {self.action}, but what answered is not a registry "
                f"({said}); "
                f"is this its address, with its path?{self.proxy}"
            )
        what = (
            "did not answer in time" if "Timeout" in type(error).__name__ else "cannot be reached"
        )
        return RegistryUnavailable(
            f"{self.name} {what} to {self.action} ({said}); is it running, and is this its "
            f"address?{self.proxy}"
        )

    def _status_error(self, error: SchemaRegistryError) -> TutelageError:
        """Translate an answer with an error status."""
        status, said = error.http_status_code, hiding.hidden(str(error.error_message))[:_SHOWN]
        if status == _PROXY_DENIED_STATUS:
            return AccessDenied(
                f"a proxy on the way to {self.name} requires a user and password (HTTP "
                f"{status}){self.proxy}"
            )
        if status in _DENIED_STATUS:
            return AccessDenied(
                f"{self.name} does not let this client {self.action} (HTTP {status}): check "
                "schema.registry.basic.auth.user.info or schema.registry.bearer.auth.* "
                f"(docs/security.md){self.proxy}"
            )
        if status >= _FAILED_STATUS:
            return RegistryUnavailable(
                f"{self.name} failed to {self.action}: {said} (HTTP {status}){self.proxy}"
            )
        if not _is_registry_error(error):
            return RegistryUnavailable(
                f"{self.name} was asked to {self.action}, but what answered is not a registry "
                f"(HTTP {status}: {said}); "
                f"is this its address, with its path?{self.proxy}"
            )
        kind = NotFound if status == _NOT_FOUND_STATUS else SchemaError
        return kind(f"{self.name} refused to {self.action}: {said} (HTTP {status})")


def _is_registry_error(error: SchemaRegistryError) -> bool:
    """Whether an error comes from a registry: those have an error code of their own in JSON."""
    return isinstance(error.error_code, int) and error.error_code > 0
