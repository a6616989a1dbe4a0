"""Where a Zarr store lies: a folder, a zip, or an address on a web server, in Google's or in Amazon's storage.

Addresses need the extra ``cloud``. Public buckets are read without credentials; whoever has some names them in fsspec's
own configuration (``FSSPEC_GS_TOKEN=google_default``), which is heeded here.
"""

from __future__ import annotations

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

from kit.io.errors import SettingsError, StoreError, UnavailableError
from kit.io.retry import Limits

__all__ = ["is_address", "opened_store", "without_retries"]

_SCHEMES = ("gs", "http", "https", "s3")


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
    if not is_address(place):
        with _local(Path(place)) as store:
            yield store
        return
    filesystem, path = _filesystem(place, limits)
    try:
        yield zarr.storage.FsspecStore(filesystem, read_only=True, path=path)
    finally:
        session = getattr(filesystem, "_session", None)
        if session is not None and hasattr(session, "close"):
            sync(session.close())


@contextmanager
def _local(path: Path) -> Iterator[Store]:
    if path.is_dir():
        yield zarr.storage.LocalStore(path, read_only=True)
        return
    if not path.is_file():
        msg = f"{path}: no such folder; --path names a Zarr store: a folder, a zip, an address, or a registry's name"
        raise StoreError(msg)
    try:
        archive = zarr.storage.ZipStore(path, mode="r", read_only=True)
        sync(archive._open())
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        msg = f"{path}: neither a folder nor a zip that can be read ({error}); --path names a Zarr store"
        raise StoreError(msg) from error
    try:
        yield archive
    finally:
        archive.close()


def _filesystem(address: str, limits: Limits) -> tuple[Any, str]:
    """A file system of fsspec for an address, and the path there."""
    from kit.registry.fetching import offline

    parts = urlsplit(address)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        msg = f"{address}: expected {', '.join(f'{s}://' for s in _SCHEMES)} and where the store lies, or a folder"
        raise SettingsError(msg)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        msg = (
            f"{parts.scheme}://{parts.hostname}{parts.path}: an address with a password or a query in it would be "
            "recorded in the store; give a plain one"
        )
        raise SettingsError(msg)
    if offline():
        msg = f"{address}: is read over the network, and KIT_OFFLINE is set; unset it, or copy the store to a folder"
        raise UnavailableError(msg)
    if parts.scheme == "s3":
        return _s3(address)
    _need("aiohttp", address)
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=limits.connect, sock_read=limits.read)
    if parts.scheme == "gs":
        _need("gcsfs", address)
        options = {"token": "anon"} | _configured("gs", "gcs")
        return without_retries()(
            asynchronous=True,
            skip_instance_cache=True,
            session_kwargs={"timeout": timeout, "trust_env": True},
            **options,
        ), address.removeprefix("gs://").rstrip("/")
    from fsspec.implementations.http import HTTPFileSystem

    client = {"timeout": timeout, "trust_env": True}
    return HTTPFileSystem(asynchronous=True, skip_instance_cache=True, client_kwargs=client), address.rstrip("/")


def without_retries() -> Any:
    """Google's file system without patience of its own: ours tells what it waits for, and asks no oftener."""
    from gcsfs.core import GCSFileSystem

    inner = getattr(GCSFileSystem._request, "__wrapped__", GCSFileSystem._request)
    return type("PlainGCSFileSystem", (GCSFileSystem,), {"_request": inner, "__module__": __name__})


def _s3(address: str) -> tuple[Any, str]:
    if importlib.util.find_spec("s3fs") is None:
        msg = (
            f"{address}: Amazon's storage needs the package s3fs, which the kit does not bring: pip install s3fs. A "
            "public bucket can also be read by its https:// address"
        )
        raise SettingsError(msg)
    import fsspec

    options = {"anon": True} | _configured("s3")
    return fsspec.filesystem("s3", asynchronous=True, **options), address.removeprefix("s3://").rstrip("/")


def _configured(*protocols: str) -> dict[str, Any]:
    """What fsspec's own configuration says of a protocol."""
    from fsspec.config import conf

    return {key: value for protocol in protocols for key, value in conf.get(protocol, {}).items()}


def _need(package: str, address: str) -> None:
    if importlib.util.find_spec(package) is None:
        msg = f'{address}: needs {package}: pip install "aurora-finetune-kit[cloud]"'
        raise SettingsError(msg)
