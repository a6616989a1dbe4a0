"""Hosts that files and weights come from, and the key to Copernicus' data stores."""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kit import registry
from kit.data.sources.cds.access import find_access, key_file
from kit.doctor.diagnosis import Diagnosis, ok, skipped, warning
from kit.io.errors import RegistryError, SettingsError
from kit.io.secrets import scrub

_HUB = "https://huggingface.co"
_SECONDS = 5.0
_OTHERS = 0o077
"""Permission bits of everybody but the owner."""


@dataclass(frozen=True)
class Reply:
    """Outcome of an attempt to reach a host.

    Attributes:
        address: Scheme and host.
        code: Code of the HTTP reply; None if there was none.
        trouble: Kind of failure: ``name``, ``proxy``, ``certificate``, ``time`` or ``connection``.
        message: Message of the failure, without secrets.
    """

    address: str
    code: int | None = None
    trouble: str = ""
    message: str = ""


_REMEDIES = {
    "name": "its name is not known here: see the machine's DNS, or set HTTPS_PROXY if this network needs a proxy",
    "proxy": "see the address in HTTPS_PROXY, and whether the proxy lets this host through",
    "certificate": "a proxy that inspects traffic needs its certificate in REQUESTS_CA_BUNDLE; see the clock too",
    "time": "a firewall swallows what is sent: ask for the host to be let through, or set HTTPS_PROXY",
    "connection": "ask for the host to be let through, or set HTTPS_PROXY",
}


def addresses(entries: Iterable[registry.Entry], environment: Mapping[str, str]) -> list[str]:
    """List scheme and host of everything that the registry's files can come from, and of the model hub."""
    urls = [url for entry in entries for url in entry.urls if url.startswith(("http://", "https://"))]
    found: dict[str, None] = {}
    for url in (*urls, environment.get("HF_ENDPOINT") or _HUB):
        parts = urlsplit(url)
        # Without a user name and password.
        found[f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"] = None
    return list(found)


def examine_network(*, asked: bool) -> list[Diagnosis]:
    """Try every host, all at once, for a few seconds.

    Args:
        asked: Whether the user asked for it; without that, no host is tried.
    """
    if not asked:
        return [skipped("network", "not tried; --network does")]
    try:
        hosts = addresses(registry.entries().values(), os.environ)
    except RegistryError:
        return [skipped("network", "the registry, which names the hosts, cannot be read")]
    # One after the other, hosts behind a firewall would take five seconds each.
    with ThreadPoolExecutor(len(hosts)) as pool:
        return list(map(check_reply, pool.map(reach, hosts)))


def reach(address: str, method: str = "HEAD") -> Reply:
    """Ask a host for anything at all; any HTTP reply means that it can be reached."""
    import requests

    failures = requests.exceptions
    try:
        reply = requests.request(method, address, timeout=_SECONDS, allow_redirects=False)
    except failures.RequestException as failure:
        trouble = "connection"
        # The first three are kinds of ConnectionError, too.
        if isinstance(failure, failures.ProxyError):
            trouble = "proxy"
        elif isinstance(failure, failures.SSLError):
            trouble = "certificate"
        elif isinstance(failure, failures.Timeout):
            trouble = "time"
        elif "NameResolutionError" in repr(failure):
            trouble = "name"
        return Reply(address, None, trouble, scrub(str(failure)))
    return Reply(address, reply.status_code)


def check_reply(reply: Reply) -> Diagnosis:
    """Judge whether a host can be reached, and what is in the way."""
    name = f"host {urlsplit(reply.address).netloc}"
    if reply.code is None:
        # The kit trains without a network; only what is not in the cache yet needs it.
        remedy = f"{_REMEDIES[reply.trouble]}; or fetch elsewhere and copy the cache (KIT_CACHE)"
        message = reply.message
        if len(message) >= 300:
            message = f"{message[:150]} ... {message[-140:]}"
        return warning(name, f"cannot be reached: {message}", remedy, trouble=reply.trouble)
    if reply.code >= 500:
        remedy = "the host is there but out of order, or a proxy answers for it: try again later"
        return warning(name, f"answers with {reply.code}", remedy, code=reply.code)
    # Every other answer, 404 among them, shows that the host can be reached.
    if reply.code == 407:
        return warning(name, "the proxy wants a name and password", _REMEDIES["proxy"], code=reply.code)
    return ok(name, "can be reached", code=reply.code)


def check_key(environment: Mapping[str, str], home: Path) -> Diagnosis:
    """Look for the key to Copernicus' data stores, which ``--source cds`` needs; nobody is asked.

    Args:
        environment: Environment variables of the process.
        home: Home folder of the user.
    """
    name = "data stores"
    file = key_file(environment, home)
    if file is None and not environment.get("ECMWF_DATASTORES_KEY"):
        return skipped(name, "no key to the Climate or the Atmosphere Data Store; only --source cds needs one")
    try:
        access = find_access("CDS", environment, home)
    except SettingsError as failure:
        return warning(name, str(failure), "write url and key anew, as docs/cds.md shows")
    if file is not None and access.where == str(file) and file.stat().st_mode & _OTHERS:
        return warning(name, f"the key in {file} can be read by other users", f"chmod 600 {file}")
    return ok(name, f"a key in {access.where}")
