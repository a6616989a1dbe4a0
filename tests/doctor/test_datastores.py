"""What the doctor says of the key to the data stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.doctor.network import check_key
from tests.data_stores import KEY


@pytest.mark.parametrize(
    ("content", "mode", "status", "detail"),
    [
        (None, 0o600, "skipped", "only --source cds needs one"),
        (f"url: https://cds.climate.copernicus.eu/api\nkey: {KEY}\n", 0o600, "ok", "a key in "),
        (f"key: {KEY}\n", 0o644, "warning", "can be read by other users"),
        (f"key: 1:{KEY}\n", 0o600, "warning", "of the old form UID:KEY"),
        ("", 0o600, "warning", "holds no line `key: ...`"),
    ],
)
def test_the_key(content: str | None, mode: int, status: str, detail: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / ".cdsapirc").write_text(content)
        (tmp_path / ".cdsapirc").chmod(mode)
    found = check_key({}, tmp_path)
    assert (found.status, detail in found.detail, KEY in found.detail) == (status, True, False)
    assert bool(found.remedy) == (status == "warning")


def test_a_key_in_the_environment(tmp_path: Path) -> None:
    assert check_key({"ECMWF_DATASTORES_KEY": KEY}, tmp_path).detail == "a key in ECMWF_DATASTORES_KEY"
