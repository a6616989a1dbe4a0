"""The list of files: its schema, what it refuses, and the user's own list over the package's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from kit import registry
from kit.io.errors import RegistryError
from kit.registry import catalogue

CONTENT = b"forty-two states\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def entry(name: str = "states", **changes: object) -> str:
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
    given = {key: value for key, value in values.items() if value is not None}
    lines = (f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in given.items())
    return "\n".join([f"[{name}]", *lines, ""])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry with one embedded file, and a cache of its own."""
    monkeypatch.setattr(catalogue, "REGISTRY_PATH", tmp_path / "registry.toml")
    monkeypatch.setattr(registry.entry, "RESOURCES", tmp_path)
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KIT_REGISTRY", raising=False)
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
    with pytest.raises(RegistryError, match=f"states: SHA-256 is {digest}, the registry says {SHA256}.*not used"):
        registry.fetch("states")


def test_a_truncated_file_is_refused_by_its_size(home: Path) -> None:
    (home / "states.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(RegistryError, match=f"size is {len(CONTENT) - 1} bytes, the registry says {len(CONTENT)}"):
        registry.fetch("states")


def test_a_missing_resource_is_told(home: Path) -> None:
    (home / "states.bin").unlink()
    with pytest.raises(RegistryError, match=r"own file .*states\.bin is missing; install the kit again"):
        registry.fetch("states")


@pytest.mark.usefixtures("home")
def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(RegistryError, match="no 'stats'; the nearest are states"):
        registry.fetch("stats")


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
        ({"url": "gopher://example.org/states.bin"}, "url: .*scheme of 'gopher://example.org/states.bin' is unknown"),
        ({"url": "states.bin"}, "url: .*scheme of 'states.bin' is unknown; expected one of embedded, http, https, hub"),
        ({"url": "https://"}, "url: .*expected https://HOST/PATH"),
        ({"url": "https://me:secret@example.org/a"}, "address with a password"),
        ({"url": "hub:someone/model@main/a.ckpt"}, "a branch or a tag can move"),
        ({"url": f"hub:someone/model@{'0' * 40}/../a.ckpt"}, "expected hub:OWNER/REPO@REVISION/PATH"),
        ({"url": f"hub:model@{'0' * 40}/a.ckpt"}, "expected hub:OWNER/REPO@REVISION/PATH"),
        ({"url": []}, "url: "),
        ({"url": ["https://example.org/a", "embedded:states.bin"]}, "url of an embedded file is"),
        ({"sha256": None, "git_blob": "abc"}, "git_blob: String should match pattern"),
        ({"sha256": None, "url": "embedded:states.bin"}, "an embedded file has a hash"),
        ({"size": None}, "an entry with a sha256 has a size"),
        ({"dataset": "../up"}, "dataset: String should match pattern"),
        ({"colour": "blue"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused(home: Path, changes: dict[str, Any], match: str) -> None:
    (home / "registry.toml").write_text(entry(**changes))
    with pytest.raises(RegistryError, match=match):
        registry.entries()


def test_a_registry_that_is_not_toml_is_refused(home: Path) -> None:
    (home / "registry.toml").write_text("[states\n")
    with pytest.raises(RegistryError, match="not valid TOML"):
        registry.entries()


REMOTE = {"url": "https://example.org/states.bin"}
OWN = entry("own", **REMOTE)


@pytest.fixture
def mine(home: Path) -> Path:
    """The user's own list, not there yet."""
    (home / "cache").mkdir()
    return home / "cache" / "registry.toml"


def test_a_list_of_ones_own_adds_entries(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(registry.entries()) == ["states"]
    mine.write_text(OWN)
    assert list(registry.entries()) == ["states", "own"]
    monkeypatch.setenv("KIT_REGISTRY", str(mine.with_name("other.toml")))
    with pytest.raises(RegistryError, match=r"no 'own'.*KIT_REGISTRY names .*other\.toml, which is not there"):
        registry.fetch("own")
    mine.rename(mine.with_name("other.toml"))
    assert registry.entries()["own"].urls == ("https://example.org/states.bin",)


def test_a_list_of_ones_own_adds_pins(home: Path, mine: Path) -> None:
    (home / "registry.toml").write_text(entry(**REMOTE, sha256=None, size=None))
    assert registry.entries()["states"].hash is None
    mine.write_text(f'[states]\nsha256 = "{SHA256}"\nsize = {len(CONTENT)}\n')
    assert registry.entries()["states"].hash == SHA256
    mine.write_text(f'[states]\ngit_blob = "{"0" * 40}"\n')
    assert registry.entries()["states"].hash == "0" * 40


def test_a_pin_that_says_the_same_as_the_kit_is_no_contradiction(mine: Path) -> None:
    mine.write_text(f'[states]\nsha256 = "{SHA256}"\nsize = {len(CONTENT)}\n')
    assert registry.entries()["states"].sha256 == SHA256


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (f'[states]\nsha256 = "{"0" * 64}"\n', f"states. says sha256 0000.*own list says sha256 {SHA256}.*remove that"),
        (f'[states]\ngit_blob = "{"0" * 40}"\n', "states. says git_blob 0000.*the kit's holds"),
        ("[states]\nsize = 3\n", "states. says size 3"),
        ('[states]\nlicence = "mine"\n', "is an entry of the kit; expected only sha256, git_blob, size .*got licence"),
        (entry(), "is an entry of the kit; .*Give an entry of your own another name"),
        ("states = 3\n", "is an entry of the kit"),
        (f'[gone]\nsha256 = "{SHA256}"\nsize = 3\n', "pins .gone., but the registry has no such entry; remove"),
        (entry("own"), "own.: embedded files are the package's own"),
        (entry("own", **REMOTE, file="../../x"), "own. does not fit the schema: file"),
        (entry('"../up"', **REMOTE), "does not fit the schema: name: String should match pattern"),
        ("own = 3\n", "own. does not fit the schema"),
        ("[own\n", "not valid TOML"),
        ("own = '\udcff'", "not valid TOML"),
    ],
)
def test_a_list_of_ones_own_that_does_not_fit_is_refused(mine: Path, text: str, match: str) -> None:
    mine.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RegistryError, match=f"cache/registry.toml: .*{match}"):
        registry.entries()


def test_a_list_that_cannot_be_read_is_told(mine: Path) -> None:
    mine.mkdir()
    with pytest.raises(RegistryError, match="the registry cannot be read: Is a directory"):
        registry.entries()


def test_a_data_set_is_all_its_files_in_order() -> None:
    names = [entry.name for entry in registry.dataset("era5-western-usa-2025-01")]
    assert [name.removeprefix("era5-western-usa-2025-01-") for name in names] == [
        "surface-01", "surface-08", "levels-01", "levels-08", "surface-statistics",
    ]  # fmt: skip
    assert registry.dataset("nothing") == []
    assert [entry.name for entry in registry.chosen([names[2], "era5-western-usa-2025-01"])] == [
        names[2], *names[:2], *names[3:],
    ]  # fmt: skip


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
