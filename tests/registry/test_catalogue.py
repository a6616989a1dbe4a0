"""The registry: its schema, its hashes, and what it refuses."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from kit import registry
from kit.errors import RegistryError
from kit.registry import catalogue, places

CONTENT = b"forty-two states\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def entry(**changes: object) -> str:
    values: dict[str, object] = {
        "file": "states.bin",
        "url": "embedded:states.bin",
        "sha256": SHA256,
        "size": len(CONTENT),
        "licence": "MIT",
        "kind": "states",
        "description": "forty-two states",
    }
    values |= changes
    lines = (f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in values.items())
    return "\n".join(["[states]", *lines, ""])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry with one embedded file, and a cache of its own."""
    monkeypatch.setattr(catalogue, "REGISTRY_PATH", tmp_path / "registry.toml")
    monkeypatch.setattr(places, "RESOURCES", tmp_path)
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "registry.toml").write_text(entry())
    (tmp_path / "states.bin").write_bytes(CONTENT)
    return tmp_path


def test_an_embedded_file_is_returned_when_it_verifies(home: Path) -> None:
    assert registry.fetch("states") == home / "states.bin"
    assert registry.entries()["states"].scheme == "embedded"


def test_a_tampered_file_is_refused_at_the_next_use(home: Path) -> None:
    registry.fetch("states")
    tampered = CONTENT.replace(b"two", b"six")
    (home / "states.bin").write_bytes(tampered)
    digest = hashlib.sha256(tampered).hexdigest()
    with pytest.raises(RegistryError, match=f"states: SHA-256 is {digest}, .*registry.toml says {SHA256}.*not used"):
        registry.fetch("states")


def test_a_truncated_file_is_refused_by_its_size(home: Path) -> None:
    (home / "states.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(RegistryError, match=f"size is {len(CONTENT) - 1} bytes, .* says {len(CONTENT)}"):
        registry.fetch("states")


def test_a_missing_resource_is_told(home: Path) -> None:
    (home / "states.bin").unlink()
    with pytest.raises(RegistryError, match=r"own file .*states\.bin is missing; install the kit again"):
        registry.fetch("states")


@pytest.mark.usefixtures("home")
def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(RegistryError, match="no 'stats'; the nearest are states"):
        registry.fetch("stats")


def test_a_file_of_the_network_can_be_put_in_place_by_hand(home: Path) -> None:
    (home / "registry.toml").write_text(entry(url="https://example.org/states.bin"))
    place = home / "cache" / "files" / SHA256[:12] / "states.bin"
    with pytest.raises(RegistryError, match=f"(?s)not supported yet.*https://example.org/states.bin.*{place}"):
        registry.fetch("states")
    assert not place.parent.exists()
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert registry.fetch("states") == place
    place.write_bytes(CONTENT[::-1])
    with pytest.raises(RegistryError, match="delete the file and download it again"):
        registry.fetch("states")


def test_an_unknown_scheme_is_refused(home: Path) -> None:
    (home / "registry.toml").write_text(entry(url="gopher://example.org/states.bin"))
    with pytest.raises(RegistryError, match="scheme of 'gopher://example.org/states.bin' is unknown"):
        registry.fetch("states")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sha256": "abc"}, r"\[states\].*sha256: String should match pattern"),
        ({"size": 0}, "size: Input should be greater than 0"),
        ({"kind": "stuff"}, "kind: Input should be 'states', 'weights'"),
        ({"file": "../states.bin", "url": "embedded:../states.bin"}, "file: String should match pattern"),
        ({"file": "/etc/passwd", "url": "embedded:/etc/passwd"}, "file: String should match pattern"),
        ({"url": "embedded:other.bin"}, "url of an embedded file is embedded:states.bin"),
        ({"licence": ""}, "licence: String should have at least 1"),
        ({"colour": "blue"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused(home: Path, changes: dict[str, object], match: str) -> None:
    (home / "registry.toml").write_text(entry(**changes))
    with pytest.raises(RegistryError, match=match):
        registry.entries()


def test_a_registry_that_is_not_toml_is_refused(home: Path) -> None:
    (home / "registry.toml").write_text("[states\n")
    with pytest.raises(RegistryError, match="not valid TOML"):
        registry.entries()


def test_the_cache_is_where_the_variable_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.cache_dir() == home / "cache"
    monkeypatch.delenv("KIT_CACHE")
    assert registry.cache_dir().name == "aurora-finetune-kit"


@pytest.mark.parametrize("name", [name for name, entry in registry.entries().items() if entry.scheme == "embedded"])
def test_what_the_package_carries_verifies(name: str) -> None:
    assert registry.fetch(name).is_file()


def test_the_real_files_are_listed_with_whom_to_credit() -> None:
    real = [entry for entry in registry.entries().values() if not entry.synthetic]
    assert {entry.dataset for entry in real} >= {"era5-europe-2020-01-01", "era5-western-usa-2025-01"}
    assert all("Copernicus" in entry.licence for entry in real if entry.kind in {"states", "source", "statistics"})
    assert all("Microsoft" in entry.licence for entry in real if entry.kind in {"weights", "statics"})
    assert all(url.endswith(entry.file) for entry in real for url in entry.urls)


def test_the_root_of_the_repository_points_at_the_one_list() -> None:
    link = Path(__file__).parents[2] / "data-registry.toml"
    assert link.is_symlink()
    assert link.resolve() == catalogue.REGISTRY_PATH.resolve()
