"""Finds the proxy for a URL, from a setting or HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY.

The registry's HTTP client follows these variables by itself, and users may not know that they are
set: errors name the proxy. Sends nothing.
"""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies


def proxy_of(url: str, setting: object = None) -> tuple[str, str] | None:
    """Return the proxy for a URL and the setting or variable that names it.

    Args:
        url: The URL of a request.
        setting: The client's own `proxy` setting, which takes precedence over the environment.

    Returns:
        The proxy's `HOST:PORT`, without user and password, and the name; None without a proxy.
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
    """Return users and passwords of all proxies that are set."""
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
    """Whether NO_PROXY names a host, by the HTTP client's rules: names also match subdomains."""
    for entry in (part.strip().lower() for part in excepted.split(",")):
        name = entry.rpartition("://")[2]
        if name == "*" or name in (host, address, f"[{host}]"):
            return True
        name = name.removeprefix("*")
        suffix = name if name.startswith(".") else f".{name}"
        if name and host.endswith(suffix):
            return True
    return False
