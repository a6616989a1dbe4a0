"""Schema of one file of the registry (addresses, hash, licence, contents), and its path on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, model_validator

from kit.io.hashes import digest

EMBEDDED = "embedded"
"""Scheme of a package resource."""
HUB = "hub"
"""Scheme of a file of a model hub, at a commit."""
GOOGLE = "gs"
"""Scheme of a bucket in Google's storage."""
RESOURCES = Path(__file__).parents[1] / "resources"
"""Folder of the files of the embedded scheme."""
_SCHEMES = (EMBEDDED, "http", "https", HUB, GOOGLE)

# No separators and no leading dot: names become parts of paths, and those of the user's list are not the kit's.
_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
_HUB = re.compile(
    r"hub:(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)@(?P<revision>[0-9a-f]{40})/(?P<path>[\w.+-]+(?:/[\w.+-]+)*)"
)


def _check_address(url: str) -> str:
    """Check one address.

    Raises:
        ValueError: its scheme is unknown, or it is not written as its scheme wants it.
    """
    # Checked when the list is read, before any address is asked.
    scheme, colon, _ = url.partition(":")
    if scheme == HUB and colon:
        HubFile.of(url)
    parts = urlsplit(url) if scheme in ("http", "https", GOOGLE) else None
    msg = None
    if scheme not in _SCHEMES or not colon:
        msg = f"the scheme of {url!r} is unknown; expected one of {', '.join(_SCHEMES)}"
    elif parts and (parts.username is not None or parts.password is not None):
        msg = "an address with a password in it would be shown; put the password into ~/.netrc instead"
    elif parts and (not parts.hostname or re.search(r"\s", url)):
        msg = f"expected {scheme}://HOST/PATH, got {url!r}"
    if msg is not None:
        raise ValueError(msg)
    return url


Address = Annotated[str, AfterValidator(_check_address)]


class HubFile(BaseModel):
    """File that ``hub:OWNER/REPO@REVISION/PATH`` names."""

    model_config = ConfigDict(frozen=True)

    repo: str
    revision: str
    path: str

    @classmethod
    def of(cls, url: str) -> HubFile:
        """Read the address.

        Raises:
            ValueError: it is not of that form, or its revision is a branch or a tag, which can move.
        """
        match = _HUB.fullmatch(url)
        if match is None or ".." in match["path"].split("/"):
            msg = (
                f"expected hub:OWNER/REPO@REVISION/PATH, where REVISION is a commit of 40 hexadecimal digits (a branch "
                f"or a tag can move), got {url!r}"
            )
            raise ValueError(msg)
        return cls(repo=f"{match['owner']}/{match['name']}", revision=match["revision"], path=match["path"])


class Entry(BaseModel):
    """One file of the registry."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str = Field(pattern=_NAME)
    """The table's name: what ``data.store``, ``model.weights`` and ``fetch`` call it."""
    file: str = Field(pattern=_NAME)
    """The file's own name, without a folder."""
    url: Address | Annotated[tuple[Address, ...], Field(min_length=1)]
    """Where it comes from, or a list: the origin, then its mirrors in the order in which they are tried.
    ``embedded:FILE`` is a package resource; ``hub:OWNER/REPO@REVISION/PATH`` is a file of a model hub at a commit."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the file's bytes."""
    git_blob: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Git object id of the file, where nobody has published more: SHA-1 of ``blob SIZE``, a zero byte, the bytes."""
    size: PositiveInt | None = None
    """Length in bytes; may be missing where there is no SHA-256."""
    licence: str = Field(min_length=1)
    """Licence of the contents, and whom to credit."""
    kind: Literal["states", "weights", "source", "statics", "statistics", "map", "zarr", "climatology"]
    """``states`` can be built into a store by itself, ``source`` is one file among several of a data set,
    ``weights`` are a model's, ``statics`` its constant fields, ``statistics`` are numbers about a data set; ``zarr`` is
    a store of chunks that is read where it is, in parts, and never fetched: it has no hash. So is ``climatology``, a
    mean by day of the year."""
    dataset: str | None = Field(default=None, pattern=_NAME)
    """The set that the file belongs to, where there are several."""
    product: Literal["era5", "era5-land", "era5-daily", "cams", "ifs", "gfs", "hrrr"] | None = None
    """Product that the fields are of, which says over which hours accumulations add up; None for what has none."""
    description: str = Field(min_length=1)
    """What it holds."""
    synthetic: bool = False
    """True if a model made it rather than an observing system or a reanalysis."""

    @property
    def urls(self) -> tuple[str, ...]:
        """The origin, then its mirrors."""
        return (self.url,) if isinstance(self.url, str) else self.url

    @property
    def scheme(self) -> str:
        """Scheme of the origin's address, such as ``https``."""
        return self.urls[0].partition(":")[0]

    @property
    def hash(self) -> str | None:
        """The hash that names the file in the cache: SHA-256, else the git object id; None if it is not pinned."""
        return self.sha256 or self.git_blob

    @property
    def is_fetched(self) -> bool:
        """Whether the kit keeps a copy of it, known by its hash."""
        return self.kind not in ("zarr", "climatology")

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        schemes = {url.partition(":")[0] for url in self.urls}
        msg = None
        if not self.is_fetched and (self.scheme not in (GOOGLE, "http", "https") or len(self.urls) > 1):
            msg = f"url of a Zarr store is one address, {GOOGLE}://... or https://..., got {self.url!r}"
        elif not self.is_fetched and (self.hash is not None or self.size is not None):
            msg = "a Zarr store is read in parts where it is, and has neither a hash nor a size"
        elif self.is_fetched and GOOGLE in schemes:
            msg = f"{GOOGLE}:// leads to a Zarr store alone (kind zarr or climatology); give a file's https address"
        elif EMBEDDED in schemes and self.url != f"{EMBEDDED}:{self.file}":
            msg = f"url of an embedded file is {EMBEDDED}:{self.file}, got {self.url!r}"
        elif self.scheme == EMBEDDED and self.hash is None:
            msg = "an embedded file has a hash"
        elif self.sha256 is not None and self.size is None:
            msg = "an entry with a sha256 has a size"
        if msg is not None:
            raise ValueError(msg)
        return self


def shown(url: str) -> str:
    """Return an address as it may be shown: without its query, which may hold a signature or a key."""
    return url.split("?", 1)[0].split("#", 1)[0]


def host_of(url: str) -> str:
    """Name the place that an address leads to, for people."""
    scheme = url.partition(":")[0]
    if scheme == EMBEDDED:
        return "in the kit"
    return f"hub {HubFile.of(url).repo}" if scheme == HUB else urlsplit(url).netloc.rpartition("@")[2]


def mismatch(entry: Entry, path: Path) -> tuple[str, str] | None:
    """Compare a file with all that its entry says of it.

    Returns:
        What was found and what was expected, or None if the file is the one that the entry describes.
    """
    # The size first: it costs nothing, and finds every file that was cut.
    size = path.stat().st_size
    if entry.size is not None and size != entry.size:
        return f"size is {size} bytes", f"{entry.size}"
    if entry.sha256 is not None and (found := digest(path, "sha256")) != entry.sha256:
        return f"SHA-256 is {found}", entry.sha256
    if entry.git_blob is not None and (found := digest(path, "git_blob")) != entry.git_blob:
        return f"git object id is {found}", entry.git_blob
    return None


def cache_dir() -> Path:
    """Return the folder for fetched files and built stores: ``KIT_CACHE``, else the user's cache folder."""
    # pooch knows each system's place for caches.
    import pooch

    return Path(os.environ.get("KIT_CACHE") or pooch.os_cache("aurora-finetune-kit")).expanduser()


def user_registry() -> Path:
    """Return the file of the user's own entries and pins: ``KIT_REGISTRY``, else in the cache."""
    return Path(os.environ.get("KIT_REGISTRY") or cache_dir() / "registry.toml").expanduser()


def place(entry: Entry) -> Path | None:
    """Return the path that an entry's file has, or would have; None if it has no hash by which to know it."""
    if entry.scheme == EMBEDDED:
        return RESOURCES / entry.file
    # The hash is part of the path: files of one name, from two versions of an entry, do not replace each other.
    return None if entry.hash is None else cache_dir() / "files" / entry.hash[:12] / entry.file


def state(entry: Entry) -> dict[str, Any]:
    """Describe an entry for people and machines.

    Returns:
        Its fields, its ``scheme``, whether it is ``pinned`` by a hash, whether its file is here (``cached``; its bytes
        are not looked at), and whether it is ever ``fetched`` rather than read where it is.
    """
    path = place(entry)
    return {
        **entry.model_dump(),
        "scheme": entry.scheme,
        "pinned": entry.hash is not None,
        "cached": path is not None and path.is_file(),
        "fetched": entry.is_fetched,
    }
