"""Rain of a step is the rain that fell in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import xarray as xr

from kit.data.settings import Period
from kit.data.store.reader import Store
from kit.data.store.writer import write_store
from kit.data.windows import check_windows
from kit.io.errors import StoreError
from tests.factories import synthetic_dataset, synthetic_store


def hourly(path: Path, *, stated: bool = True) -> Store:
    dataset: xr.Dataset = synthetic_dataset(surface=("2t", "tp"), step_hours=1)
    if not stated:
        del dataset["tp"].attrs["accumulation_hours"]
    splits = {"train": Period.parse("2020-01-01/2020-01-02")}
    return write_store(dataset, path, splits=splits, attributes={"source": "s", "source_files": [], "licence": "n"})


def test_the_window_of_the_step_is_welcome(tmp_path: Path) -> None:
    check_windows(synthetic_store(tmp_path / "s", surface=("2t", "tp")), ("2t", "tp"), 6)
    check_windows(hourly(tmp_path / "h"), ("2t", "tp"), 1)


@pytest.mark.parametrize(
    ("hours", "told"),
    (
        (6, r"tp is accumulated over 1 h, but the model steps 6 h: .*--step 6h; or set model.timestep 1h"),
        (12, r"tp is accumulated over 1 h, but the model steps 12 h: .*--step 12h"),
    ),
)
def test_another_window_is_refused_with_how_to_build_it(tmp_path: Path, hours: float, told: str) -> None:
    with pytest.raises(StoreError, match=told):
        check_windows(hourly(tmp_path / "h"), ("2t", "tp"), hours)


def test_a_window_that_nobody_states_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="tp does not say over how many hours it is accumulated"):
        check_windows(hourly(tmp_path / "h", stated=False), ("tp",), 1)


def test_version_1p5_predicts_the_last_hour_whatever_its_step(tmp_path: Path) -> None:
    check_windows(hourly(tmp_path / "h"), ("tp",), 6, hourly=True)
    six = synthetic_store(tmp_path / "s", surface=("2t", "tp"))
    with pytest.raises(StoreError, match="predicts that of the last hour: build the store from hourly data, without"):
        check_windows(six, ("tp",), 6, hourly=True)
