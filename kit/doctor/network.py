"""Whether the hosts that files and weights come from can be reached; asked only when the user asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kit import registry
from kit.data.sources.cds.access import find_access, key_file
from kit.doctor.finding import Finding, error, ok, skipped, warning
from kit.io.errors import RegistryError, SettingsError
from kit.io.secrets import scrub

__all__ = ["Reply", "addresses", "check_environment", "check_key", "check_reply", "examine_network", "reach"]

_HUB = "https://huggingface.co"
_SECONDS = 5.0
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_OFFLINE = ("HF_HUB_OFFLINE", "KIT_OFFLINE")
_TRUE = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class Reply:
    """What came of an attempt to reach a host.

    Attributes:
        address: scheme and host.
        code: of the HTTP reply; None if there was none.
        trouble: the kind of failure: ``name``, ``proxy``, ``certificate``, ``time`` or ``connection``.
        told: in the words of who failed.
    """

    address: str
    code: int | None = None
    trouble: str = ""
    told: str = ""


_REMEDIES = {
    "name": "its name is not known here: see the machine's DNS, or set HTTPS_PROXY if this network needs a proxy",
    "proxy": "see the address in HTTPS_PROXY, and whether the proxy lets this host through",
    "certificate": "a proxy that inspects traffic needs its certificate in REQUESTS_CA_BUNDLE; see the clock too",
    "time": "a firewall swallows what is sent: ask for the host to be let through, or set HTTPS_PROXY",
    "connection": "ask for the host to be let through, or set HTTPS_PROXY",
}


def addresses(entries: Iterable[registry.Entry], environment: Mapping[str, str]) -> list[str]:
    """Scheme and host of everything that the registry's files can come from, and of the model hub."""
    hub = environment.get("HF_ENDPOINT") or _HUB
    urls = [url for entry in entries for url in entry.urls]
    found = [url for url in urls if url.startswith(("http://", "https://"))] + [hub]
    parts = [urlsplit(url) for url in found]
    return list(dict.fromkeys(f"{part.scheme}://{part.netloc.rpartition('@')[2]}" for part in parts))


def examine_network(*, asked: bool) -> list[Finding]:
    """Try every host, all at once, for a few seconds."""
    found = check_environment(os.environ)
    if not asked:
        return [*found, skipped("network", "not tried; --network does")]
    try:
        wanted = addresses(registry.entries().values(), os.environ)
    except RegistryError:
        return [*found, skipped("network", "the registry, which names the hosts, cannot be read")]
    with ThreadPoolExecutor(len(wanted)) as pool:
        return [*found, *(check_reply(reply) for reply in pool.map(reach, wanted))]


def reach(address: str, method: str = "HEAD") -> Reply:
    """Ask a host for anything at all; any HTTP reply means that it can be reached."""
    import requests

    try:
        reply = requests.request(method, address, timeout=_SECONDS, allow_redirects=False)
    except requests.exceptions.RequestException as failure:
        return Reply(address, None, _kind(failure), scrub(str(failure)))
    return Reply(address, reply.status_code)


def _kind(failure: Exception) -> str:
    import requests

    if isinstance(failure, requests.exceptions.ProxyError):
        return "proxy"
    if isinstance(failure, requests.exceptions.SSLError):
        return "certificate"
    if isinstance(failure, requests.exceptions.Timeout):
        return "time"
    return "name" if "NameResolutionError" in repr(failure) else "connection"


def check_reply(reply: Reply) -> Finding:
    """Say whether a host can be reached, and what is in the way."""
    name = f"host {urlsplit(reply.address).netloc}"
    if reply.code is None:
        # The kit trains without a network; only what is not in the cache yet needs it.
        remedy = f"{_REMEDIES[reply.trouble]}; or fetch elsewhere and copy the cache (KIT_CACHE)"
        return warning(name, f"cannot be reached: {_short(reply.told)}", remedy, trouble=reply.trouble)
    if reply.code >= 500:
        remedy = "the host is there but out of order, or a proxy answers for it: try again later"
        return warning(name, f"answers with {reply.code}", remedy, code=reply.code)
    if reply.code == 407:
        return warning(name, "the proxy wants a name and password", _REMEDIES["proxy"], code=reply.code)
    return ok(name, "can be reached", code=reply.code)


def _short(told: str) -> str:
    return told if len(told) < 300 else f"{told[:150]} ... {told[-140:]}"


def check_environment(environment: Mapping[str, str]) -> list[Finding]:
    """Tell of proxies, tokens and offline mode, without any secret."""
    found = []
    proxies = {name: scrub(value) for name in _PROXIES if (value := _either(environment, name))}
    for name, value in proxies.items():
        if name != "NO_PROXY" and not urlsplit(value if "//" in value else f"//{value}").hostname:
            found.append(error("proxy", f"{name}={value} is no address", "set it to http://HOST:PORT", proxies=proxies))
    told = ", ".join(f"{name}={value}" for name, value in proxies.items()) or "none is set"
    found += [] if found else [ok("proxy", told, proxies=proxies)]
    token = any(environment.get(name) for name in _TOKENS)
    found.append(ok("hub token", "set; it is never shown" if token else "none, public files need none", present=token))
    offline = [name for name in _OFFLINE if environment.get(name, "").lower() in _TRUE]
    if offline:
        told = f"{' and '.join(offline)} set: only what is in the cache can be used"
        found.append(warning("offline", told, f"unset {' and '.join(offline)} to fetch files", variables=offline))
    return found


def _either(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.lower()) or ""


# Whether there is a key to Copernicus' data stores, and whether it can be one; nobody is asked.

_NAME = "data stores"
_OTHERS = 0o077


def check_key(environment: Mapping[str, str], home: Path) -> Finding:
    """Look for the key that ``--source cds`` needs.

    Args:
        environment: of the process.
        home: of the user.
    """
    file = key_file(environment, home)
    if file is None and not environment.get("ECMWF_DATASTORES_KEY"):
        return skipped(_NAME, "no key to the Climate or the Atmosphere Data Store; only --source cds needs one")
    try:
        access = find_access("CDS", environment, home)
    except SettingsError as error:
        return warning(_NAME, str(error), "write url and key anew, as docs/cds.md shows")
    if access.where == str(file) and file is not None and file.stat().st_mode & _OTHERS:
        return warning(_NAME, f"the key in {file} can be read by other users", f"chmod 600 {file}")
    return ok(_NAME, f"a key in {access.where}")
