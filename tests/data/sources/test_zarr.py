from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.data.build import build
from kit.data.build_settings import BuildSettings
from tests.data.sources.zarr_files import arco, weatherbench, write


def make(path: Any, out: Path, **options: Any) -> Any:
    return build(BuildSettings(source="zarr", path=str(path), out=out, **options))


@pytest.mark.parametrize("form", (2, 3))
def test_weatherbench(tmp_path: Path, form: int) -> None:
    data = weatherbench()
    store = make(write(data, tmp_path / "wb.zarr", form=form, chunk=4), tmp_path / "out")
    assert store.surface == ("10u", "10v", "2t", "msl", "tp")
    assert store.levels == tuple(data["level"].values)
    print(store.attributes)


def test_arco(tmp_path: Path) -> None:
    data = arco()
    store = make(write(data, tmp_path / "a.zarr"), tmp_path / "out")
    print(store.attributes, store.times)
