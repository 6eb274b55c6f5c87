"""Which proxy stands between this program and an address, as HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY have it.

The registry's HTTP client follows these variables by itself. Whoever reads an error may not know that they are set.
"""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies


def proxy_of(url: str, setting: object = None) -> tuple[str, str] | None:
    """The proxy's `HOST:PORT`, without user and password, and what names it; None if requests for this URL go there directly.

    Args:
        url: What is asked for.
        setting: The client's own `proxy` setting, which is over the environment.
    """
    if isinstance(setting, str) and setting:
        return _host_of(setting), "schema.registry.proxy"
    proxies = getproxies()
    parts = urlsplit(url)
    if _is_excepted(parts.hostname or "", parts.netloc.rpartition("@")[2], proxies.get("no", "")):
        return None
    for scheme in (parts.scheme, "all"):
        if proxies.get(scheme):
            return _host_of(proxies[scheme]), f"{scheme.upper()}_PROXY"
    return None


def proxy_secrets(setting: object = None) -> list[str]:
    """Users and passwords of all proxies that are set."""
    found: list[str] = []
    for proxy in [*getproxies().values(), *([setting] if isinstance(setting, str) else [])]:
        user_info, at, _ = proxy.rpartition("://")[2].rpartition("@")
        if at:
            user, _, password = user_info.partition(":")
            found += [user_info, password or user]
    return [secret for secret in found if secret]


def _host_of(proxy: str) -> str:
    return proxy.rpartition("://")[2].rpartition("@")[2].partition("/")[0]


def _is_excepted(host: str, address: str, excepted: str) -> bool:
    """Whether NO_PROXY names a host, by the rules of the HTTP client: a name is for its subdomains too, and an address only for itself."""
    for entry in (part.strip().lower() for part in excepted.split(",")):
        name = entry.rpartition("://")[2]
        if name == "*" or name in (host, address, f"[{host}]"):
            return True
        name = name.removeprefix("*")
        suffix = name if name.startswith(".") else f".{name}"
        if name and host.endswith(suffix):
            return True
    return False
