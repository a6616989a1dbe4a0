"""Keys to the data stores: where they are looked for, and what is wrong with them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from kit.data.sources.cds.products import STORES
from kit.io.documents import DocumentError, read_text
from kit.io.errors import SettingsError
from kit.io.secrets import remember_secret

_FILES = (("ECMWF_DATASTORES_RC_FILE", ".ecmwfdatastoresrc"), ("CDSAPI_RC", ".cdsapirc"))
"""Variables that name a file of a key, and where it lies by default: the new client's, then the old one's."""
_COPERNICUS = ("cds.climate.copernicus.eu", "ads.atmosphere.copernicus.eu", "ewds.climate.copernicus.eu")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Access:
    """How to enter a data store.

    Attributes:
        url: of its interface.
        key: of the user; never shown.
        where: the key was found, for messages.
    """

    url: str
    key: str = field(repr=False)
    where: str

    @property
    def host(self) -> str:
        """Of the data store."""
        return urlsplit(self.url).netloc

    @property
    def site(self) -> str:
        """Address of its pages."""
        return f"{urlsplit(self.url).scheme}://{self.host}"


def key_file(environment: Mapping[str, str], home: Path) -> Path | None:
    """Find the first file that may hold a key; None if there is none."""
    for variable, name in _FILES:
        file = Path(environment.get(variable) or home / name).expanduser()
        if file.is_file():
            return file
    return None


def find_access(store: str, environment: Mapping[str, str] | None = None, home: Path | None = None) -> Access:
    """Find the key to a data store as its own client does: in the environment, then in a file.

    A file for one of Copernicus' data stores serves the others too, at their own addresses: an account is of ECMWF,
    not of one of them. Any other address, such as a mirror's, stands.

    Args:
        store: of ``STORES``.
        environment: by default this process's.
        home: by default the user's.

    Raises:
        SettingsError: there is no key, or what there is cannot be one.
    """
    # In the order of the new client, then the file of the old one (cdsapi).
    environment = os.environ if environment is None else environment
    file = key_file(environment, home or Path.home())
    lines = {} if file is None else _read_lines(file)
    where, key = "ECMWF_DATASTORES_KEY", environment.get("ECMWF_DATASTORES_KEY", "").strip()
    if not key:
        where, key = str(file), lines.get("key", "")
    if not key:
        site = STORES[store].removesuffix("/api")
        found = f"{file} holds no line `key: ...`" if file else "there is none yet"
        msg = (
            f"--source cds needs your key to the data stores ({found}). Make an account at {site}, copy the key from "
            f"{site}/profile, and write two lines into ~/.ecmwfdatastoresrc:\n  url: {STORES[store]}\n  key: YOUR-KEY\n"
            "or set ECMWF_DATASTORES_KEY; ~/.cdsapirc of the older client is read as well"
        )
        raise SettingsError(msg)
    # The key itself stays out of the messages.
    if ":" in key:
        msg = f"the key in {where} is of the old form UID:KEY; the data stores want what comes after the colon alone"
        raise SettingsError(msg)
    if not key.isascii() or not key.isprintable() or " " in key:
        msg = f"the key in {where} holds characters that no key has; copy it anew from your profile's page"
        raise SettingsError(msg)
    remember_secret(key)
    url = (environment.get("ECMWF_DATASTORES_URL") or lines.get("url", "")).strip().rstrip("/")
    return Access(_checked_address(url, store), key, where)


def _read_lines(file: Path) -> dict[str, str]:
    """Read the lines ``name: value`` of a file."""
    try:
        text = read_text(file)
    except (OSError, DocumentError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        msg = f"{file}: the file of the key cannot be read ({why})"
        raise SettingsError(msg) from error
    lines = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            lines[name.strip()] = value.strip().strip("'\"")
    return lines


def _checked_address(url: str, store: str) -> str:
    """Return the address of a data store: its own, or another one to which a key may be shown."""
    parts = urlsplit(url)
    if not url or parts.hostname in _COPERNICUS:
        return STORES[store]
    # The address is noted beside each request.
    if parts.username is not None or parts.query or parts.fragment:
        msg = f"the data store's address must be a plain one, as it is recorded; got {url}"
        raise SettingsError(msg)
    # The key goes along in a header of each request.
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        shown = f"{parts.scheme}://{parts.hostname}" if parts.hostname else "what is given"
        msg = f"the data store's address must begin with https://, or the key would be readable on the way; got {shown}"
        raise SettingsError(msg)
    return url
