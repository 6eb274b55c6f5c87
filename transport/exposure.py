"""Client settings -> one warning for each that exposes secrets or data on the network."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import urlsplit

from tutelage.transport.registry_url import RegistryUrl

log = logging.getLogger(__name__)

_FALSE = ("false", "f", "0", "no", "off")
_TLS, _SASL = ("ssl", "sasl_ssl"), ("sasl_plaintext", "sasl_ssl")
_CREDENTIALS_OVER_HTTP = "basic.auth.user.info", "bearer.auth.token", "bearer.auth.client.secret"

# A program's clients often have the same settings; each warning is logged once.
_warned: set[str] = set()


def warn_once(lines: Iterable[str]) -> None:
    """Log each line as a warning, once in this process."""
    for line in lines:
        if line not in _warned:
            _warned.add(line)
            log.warning("%s", line)


def kafka_exposures(servers: str, options: Mapping[str, object]) -> Iterator[str]:
    """Yield a warning for each unsafe option of librdkafka.

    Args:
        servers: The brokers' addresses, for the messages.
        options: librdkafka's options; values may be text.
    """
    given = {name: str(value).lower() for name, value in options.items()}
    protocol = given.get("security.protocol", "plaintext")
    where = f"the brokers at {servers}"
    if protocol in _TLS:
        if given.get("enable.ssl.certificate.verification") in _FALSE:
            yield (
                f"{where}: enable.ssl.certificate.verification=false: anyone on the network path "
                "can impersonate a broker; "
                "name the authority to trust in ssl.ca.location instead"
            )
        elif given.get("ssl.endpoint.identification.algorithm") == "none":
            yield (
                f"{where}: ssl.endpoint.identification.algorithm=none: whoever has a certificate "
                "of the same authority "
                "can impersonate a broker"
            )
    if protocol == "sasl_plaintext":
        yield (
            f"{where}: security.protocol=SASL_PLAINTEXT: credentials and data travel unencrypted; "
            "SASL_SSL encrypts them"
        )
    unused = [name for name in options if name.startswith("sasl.") and protocol not in _SASL]
    if unused:
        yield (
            f"{where}: {unused[0]} is given, but security.protocol is {protocol.upper()}, which "
            "does not use it: no login "
            f"takes place{'' if protocol == 'ssl' else ', and data travels unencrypted'}; set "
            "security.protocol=SASL_SSL"
        )
    unused = [name for name in options if name.startswith("ssl.") and protocol not in _TLS]
    if unused:
        yield (
            f"{where}: {unused[0]} is given, but security.protocol is {protocol.upper()}, which "
            "does not use it: data travels "
            "unencrypted; set security.protocol=SSL or SASL_SSL"
        )
    yield from _unencrypted_tokens(options, "sasl.oauthbearer.token.endpoint.url", where)


def registry_exposures(
    url: RegistryUrl, settings: Mapping[str, object], proxy: tuple[str, str] | None
) -> Iterator[str]:
    """Yield a warning for each unsafe setting of a registry client.

    Args:
        url: Where the registry is.
        settings: Settings of confluent-kafka's registry client.
        proxy: The proxy in use and the setting or variable that names it; None without one.
    """
    where = f"the registry at {url.shown}"
    schemes = {urlsplit(each).scheme for each in url.shown.split(",")}
    secrets = [name for name in _CREDENTIALS_OVER_HTTP if settings.get(name)]
    if url.queries:
        secrets.append("the query of its URL")
    if "http" in schemes and secrets:
        yield f"{where}: {secrets[0]} travels unencrypted; use https://"
    if "https" in schemes and settings.get("ssl.ca.location") is False:
        yield (
            f"{where}: ssl.ca.location=False: certificates are not verified, and anyone on the "
            "network path can impersonate "
            "the registry; name the authority to trust"
        )
    yield from _unencrypted_tokens(settings, "bearer.auth.issuer.endpoint.url", where)
    if proxy is not None:
        host, by = proxy
        yield f"requests to {where} go through the proxy {host}, which {by} names"


def _unencrypted_tokens(settings: Mapping[str, object], name: str, where: str) -> Iterator[str]:
    if str(settings.get(name, "")).lower().startswith("http://"):
        yield (
            f"{where}: {name} is an http:// address: the client's secret travels unencrypted; "
            "use https://"
        )
