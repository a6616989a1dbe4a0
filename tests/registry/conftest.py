"""A registry of its own for each test, and a server for its files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session

from kit import registry
from kit.io.progress import ProgressCallback
from kit.io.retry import Limits
from kit.registry import Entry, entries
from kit.registry.entry import place
from kit.registry.partial_download import PartialDownload
from tests.servers import Server, serving

CONTENT = hashlib.sha256(b"forty-two states").digest() * 1000
"""32,000 bytes of which none repeats for long."""
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Limits(connect=2.0, read=0.5, attempts=3, backoff=0.001, longest=0.05)

Register = Callable[..., Entry]


class Notes(ProgressCallback):
    """Remembers what was told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.starts: list[int] = []
        self.ends = 0

    def started(self, name: str, host: str, done: int, total: int | None) -> None:
        self.starts.append(done)

    def said(self, text: str) -> None:
        self.texts.append(text)

    def ended(self) -> None:
        self.ends += 1


def fetch(name: str = "states", notes: Notes | None = None) -> Path:
    """Fetch without much patience."""
    return registry.fetch(name, watch=notes or Notes(), limits=QUICK)


def left_over(cache: Path) -> list[str]:
    """What lies in the cache besides locks."""
    files = (path for path in (cache / "files").rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    return sorted(path.name for path in files)


def leave_part(entry: Entry, content: bytes, etag: str | None) -> PartialDownload:
    """Leave a part as a download that was cut would."""
    path = place(entry)
    assert path is not None
    path.parent.mkdir(parents=True)
    part = PartialDownload(path)
    part.path.write_bytes(content)
    quoted = "null" if etag is None else f'"{etag.replace(chr(34), chr(92) + chr(34))}"'
    part.note.write_text(f'{{"url": "{entry.urls[0]}", "etag": {quoted}, "modified": null, "total": {len(CONTENT)}}}')
    return part


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, with nothing of the user's surroundings."""
    for name in (
        "KIT_REGISTRY",
        "KIT_OFFLINE",
        "HF_HUB_OFFLINE",
        "HF_TOKEN",
        "HF_ENDPOINT",
        "http_proxy",
        "HTTP_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    # Its client asks the hub for more than it is told to, once a day.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    # It is made once for each process, with the proxies of that moment.
    close_session()
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def register(cache: Path) -> Register:
    """Put an entry into the user's registry."""

    def add(url: str | list[str], name: str = "states", **changes: str | int | None) -> Entry:
        values: dict[str, str | int | list[str] | None] = {
            "file": "states.bin",
            "url": url,
            "sha256": SHA256,
            "size": len(CONTENT),
            "licence": "MIT; credit Nobody",
            "kind": "source",
            "description": "forty-two states",
        }
        values |= changes
        lines = [f"{key} = {value!r}".replace("'", '"') for key, value in values.items() if value is not None]
        with (cache / "registry.toml").open("a") as stream:
            stream.write("\n".join([f'["{name}"]', *lines, "", ""]))
        return entries()[name]

    return add
