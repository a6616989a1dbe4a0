"""Places of Zarr stores: a folder, a zip, or an address on a web server, in Google's or in Amazon's storage.

Addresses need the extra ``cloud``. Public buckets are read without credentials; whoever has some names them in fsspec's
own configuration (``FSSPEC_GS_TOKEN=google_default``), which is heeded here.
"""

import asyncio
import importlib.util
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync

from kit.data.zarr_guard import answer_limit
from kit.io.errors import SettingsError, StoreError, UnavailableError
from kit.io.retry import Limits, Pace, SourceError

_PACKAGES = {"gs": ("aiohttp", "gcsfs"), "http": ("aiohttp",), "https": ("aiohttp",), "s3": ("s3fs",)}
"""What fsspec needs to read addresses of each scheme."""


def is_address(path: str) -> bool:
    """Whether a path leads over the network."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


@contextmanager
def opened_store(place: str, limits: Limits) -> Iterator[Store]:
    """Open what holds the keys of a Zarr store; its connections are closed at the end.

    Args:
        place: a folder, a zip, or an address.
        limits: of waiting for a connection and for bytes.

    Raises:
        SettingsError: the address is of a kind that cannot be read, or a package for it is missing.
        StoreError: there is no such folder or zip.
        UnavailableError: the network is not to be used.
    """
    if is_address(place):
        filesystem, path = _filesystem(place, limits)
        try:
            yield zarr.storage.FsspecStore(filesystem, read_only=True, path=path)
        finally:
            # aiohttp warns of a session that is left open.
            session: Any = getattr(filesystem, "_session", None)
            if hasattr(session, "close"):
                sync(session.close())
        return
    folder = Path(place)
    if folder.is_dir():
        yield zarr.storage.LocalStore(folder, read_only=True)
        return
    if not folder.is_file():
        msg = f"{place}: no such folder; --path names a Zarr store: a folder, a zip, an address, or a registry's name"
        raise StoreError(msg)
    try:
        archive = zarr.storage.ZipStore(folder, mode="r", read_only=True)
        sync(archive._open())
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        msg = f"{folder}: neither a folder nor a zip that can be read ({error}); --path names a Zarr store"
        raise StoreError(msg) from error
    try:
        yield archive
    finally:
        archive.close()


def _filesystem(address: str, limits: Limits) -> tuple[Any, str]:
    """Open the file system of fsspec for an address; return it and the path there."""
    from kit.registry.fetching import offline

    parts = urlsplit(address)
    if parts.scheme not in _PACKAGES or not parts.hostname:
        msg = f"{address}: expected {', '.join(f'{s}://' for s in _PACKAGES)} and where the store lies, or a folder"
        raise SettingsError(msg)
    # The store's attributes record the address that it was built from.
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        msg = (
            f"{parts.scheme}://{parts.hostname}{parts.path}: an address with a password or a query in it would be "
            "recorded in the store; give a plain one"
        )
        raise SettingsError(msg)
    if offline():
        msg = f"{address}: is read over the network, and KIT_OFFLINE is set; unset it, or copy the store to a folder"
        raise UnavailableError(msg)
    for package in _PACKAGES[parts.scheme]:
        if importlib.util.find_spec(package) is None:
            msg = f'{address}: needs {package}: pip install "aurora-finetune-kit[cloud]"'
            if package == "s3fs":
                msg = (
                    f"{address}: Amazon's storage needs the package s3fs, which the kit does not bring: pip install "
                    "s3fs. A public bucket can also be read by its https:// address"
                )
            raise SettingsError(msg)
    import fsspec
    from fsspec.config import conf

    if parts.scheme == "s3":
        options = {"anon": True} | conf.get("s3", {})
        return fsspec.filesystem("s3", asynchronous=True, **options), address.removeprefix("s3://").rstrip("/")
    import aiohttp

    # No limit for a whole chunk: a large one takes its time, as long as it comes at a rate worth waiting for.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=limits.connect, sock_read=limits.read)
    client = {"timeout": timeout, "trust_env": True, "response_class": bounded_answers(limits)}
    if parts.scheme == "gs":
        options = {"token": "anon"} | conf.get("gs", {}) | conf.get("gcs", {})
        # Public buckets are read anonymously, unless fsspec's own configuration says otherwise.
        google = without_retries()
        system = google(asynchronous=True, skip_instance_cache=True, session_kwargs=client, **options)
        return system, address.removeprefix("gs://").rstrip("/")
    from fsspec.implementations.http import HTTPFileSystem

    return HTTPFileSystem(asynchronous=True, skip_instance_cache=True, client_kwargs=client), address.rstrip("/")


def bounded_answers(limits: Limits) -> Any:
    """Make a class of aiohttp's answers that end where more comes than was asked for, or too slowly.

    aiohttp collects whatever a server sends, and has no limit for the head of an answer.
    """
    import aiohttp

    class BoundedAnswer(aiohttp.ClientResponse):
        """An answer of which no more is read than ``answer_limit`` allows."""

        async def start(self, connection: Any) -> aiohttp.ClientResponse:
            return await asyncio.wait_for(super().start(connection), limits.connect + limits.read)

        async def read(self) -> bytes:
            if self._body is None:
                limit, pace = answer_limit.get(), Pace(limits)
                pieces: list[bytes] = []
                length = 0
                try:
                    async for piece in self.content.iter_any():
                        pieces.append(piece)
                        length += len(piece)
                        pace.advanced(len(piece))
                        if length > limit:
                            msg = f"it sends more than {limit} bytes, which are due at most"
                            raise SourceError(msg)
                except BaseException:
                    self.close()
                    raise
                self._body = b"".join(pieces)
                await self._wait_released()
            return self._body

    return BoundedAnswer


def without_retries() -> Any:
    """Make a class of Google's file system that asks once: our own retries tell what they wait for.

    gcsfs tries six times by itself, silently; five attempts of ours would be thirty of its.
    """
    from gcsfs.core import GCSFileSystem

    inner = getattr(GCSFileSystem._request, "__wrapped__", GCSFileSystem._request)
    return type("PlainGCSFileSystem", (GCSFileSystem,), {"_request": inner, "__module__": __name__})
