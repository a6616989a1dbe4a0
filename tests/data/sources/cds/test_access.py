"""Where the key to a data store is looked for, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.data.sources.cds.access import find_access, key_file
from kit.data.sources.cds.products import STORES
from kit.io.errors import SettingsError

KEY = "12345678-9abc-4def-8123-456789abcdef"
CDS = "url: https://cds.climate.copernicus.eu/api\n"


def test_the_environment_goes_before_files_and_the_new_file_before_the_old(tmp_path: Path) -> None:
    (tmp_path / ".cdsapirc").write_text(f"{CDS}key: old\n")
    assert find_access("CDS", {}, tmp_path).key == "old"
    (tmp_path / ".ecmwfdatastoresrc").write_text(f"{CDS}key: '{KEY}'\n")
    found = find_access("CDS", {}, tmp_path)
    assert (found.key, found.where) == (KEY, str(tmp_path / ".ecmwfdatastoresrc"))
    (tmp_path / "mine").write_text("key: mine\n")
    assert find_access("CDS", {"ECMWF_DATASTORES_RC_FILE": str(tmp_path / "mine")}, tmp_path).key == "mine"
    assert find_access("CDS", {"ECMWF_DATASTORES_KEY": "given"}, tmp_path).key == "given"
    assert KEY not in repr(found)


def test_a_key_file_of_one_data_store_serves_the_other(tmp_path: Path) -> None:
    (tmp_path / ".cdsapirc").write_text(f"url: https://cds.climate.copernicus.eu/api/v2\nkey: {KEY}\n")
    assert find_access("ADS", {}, tmp_path).url == STORES["ADS"]
    assert find_access("CDS", {}, tmp_path).url == STORES["CDS"]
    mirror = {"ECMWF_DATASTORES_URL": "https://mirror.example/api/"}
    assert find_access("ADS", mirror, tmp_path).url == "https://mirror.example/api"
    assert find_access("CDS", {"ECMWF_DATASTORES_URL": "http://127.0.0.1:8/api"}, tmp_path).host == "127.0.0.1:8"


@pytest.mark.parametrize(
    ("content", "environment", "expected"),
    [
        (None, {}, r"needs your key .*there is none yet.*\n  url: https://ads.*\n  key: YOUR-KEY"),
        (CDS, {}, "holds no line `key: ...`"),
        (f"key: 1234:{KEY}", {}, "of the old form UID:KEY"),
        ("key: se cret", {}, "characters that no key has"),
        (f"key: {KEY}", {"ECMWF_DATASTORES_URL": "http://example.org/api"}, "begin with https://.*got http://example"),
        (b"\xff\xfe", {}, "cannot be read .it is no text"),
    ],
)
def test_what_is_no_key(
    content: str | bytes | None, environment: dict[str, str], expected: str, tmp_path: Path
) -> None:
    if content is not None:
        place = tmp_path / ".ecmwfdatastoresrc"
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert key_file({}, tmp_path) == place
    with pytest.raises(SettingsError, match=expected) as caught:
        find_access("ADS", environment, tmp_path)
    assert KEY not in str(caught.value)
    assert "se cret" not in str(caught.value)
