"""Forecasts in GRIB: members by number, in one file or one each, score as the same forecast in Zarr does."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.io.errors import StoreError
from kit.verification.forecast_files import open_forecast
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings
from tests.data.sources import grib_files
from tests.verification.forecasts import STEPS, Forecast, ensemble_for

_PARAMS = {"2t": 167, "t": 130}
_MEMBERS = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Forecast:
    chosen: dict[str, Any] = {"surface": ("2t",), "atmospheric": ("t",), "height": 8, "width": 16}
    return ensemble_for(tmp_path_factory.mktemp("grib"), members=_MEMBERS, **chosen)


def messages(made: Forecast, member: int, **keys: Any) -> Iterator[bytes]:
    """All messages of a member's temperatures, as a centre with numbers of perturbations writes them."""
    of_member = {"productDefinitionTemplateNumber": 1, "perturbationNumber": member} | keys
    grid = made.store.latitude, made.store.longitude
    for name in sorted(_PARAMS.keys() & made.fields.keys()):
        values = made.fields[name]
        levels: list[int | None] = [None]
        if name == "t":
            levels = [int(level) for level in made.store.levels]
        for start, step, place in np.ndindex(len(made.starts), STEPS, len(levels)):
            field = values[member, start, step] if name == "2t" else values[member, start, step, place]
            yield grib_files.message(
                field.astype(np.float64),
                param=_PARAMS[name],
                level=levels[place],
                time=f"{made.starts[start]:%Y-%m-%dT%H}",
                edition=2,
                grid=grid,
                bitsPerValue=24,
                **of_member,
                step=6 * (step + 1),
            )


def written(path: Path, *parts: Iterator[bytes]) -> Path:
    path.write_bytes(b"".join(content for part in parts for content in part))
    return path


def scored(made: Forecast, file: Path, **changes: Any) -> dict[str, Any]:
    raw = {"forecast_file": file, "data": {"store": str(made.store.path)}, **changes}
    return evaluate(EvaluateSettings.model_validate(raw)).to_dict()


def test_members_score_as_they_do_in_zarr(made: Forecast, tmp_path: Path) -> None:
    one = written(tmp_path / "all.grib2", *(messages(made, member) for member in range(_MEMBERS)))
    folder = tmp_path / "members"
    folder.mkdir()
    for member in range(_MEMBERS):
        written(folder / f"member_{member}.grib2", messages(made, member))
    found = scored(made, one)
    assert found["members"] == _MEMBERS
    assert found["left_out"] == {"starts": 0, "states": 0}
    assert scored(made, folder)["ensemble"] == found["ensemble"]
    expected = scored(made, made.own(tmp_path / "own.zarr"))
    for lead in ("006h", "024h"):
        for name in ("2t", "t_500"):
            row, own = (result["ensemble"][lead][name] for result in (found, expected))
            # Values of 24 bits.
            assert row["crps"] == pytest.approx(own["crps"], rel=1e-4)
            assert row["spread"] == pytest.approx(own["spread"], rel=1e-4)


def test_a_single_forecast_is_read_too(made: Forecast, tmp_path: Path) -> None:
    file = written(tmp_path / "one.grib2", messages(made, 1))
    with open_forecast(file, made.store) as forecast:
        assert (forecast.members, forecast.levels("t")) == (0, tuple(sorted(made.store.levels)))
        state = forecast.read("t", (made.starts[1], 12.0), made.store.levels)
    np.testing.assert_allclose(state, made.fields["t"][1, 1, 1], rtol=1e-6)
    alone = replace(made, fields={name: values[1] for name, values in made.fields.items()})
    expected = scored(made, alone.own(tmp_path / "own.nc"))
    found = scored(made, file)
    assert "ensemble" not in found
    assert found["leads"]["012h"]["2t"]["rmse"] == pytest.approx(expected["leads"]["012h"]["2t"]["rmse"], rel=1e-4)


def test_what_is_no_whole_ensemble_is_refused(made: Forecast, tmp_path: Path) -> None:
    lacking = list(messages(made, 1))[:-1]
    file = written(tmp_path / "hole.grib2", messages(made, 0), iter(lacking))
    with pytest.raises(StoreError, match=r"t_\d+hPa is missing in 1 of 2 members x 8 states, first in member 1"):
        scored(made, file)
    file = written(tmp_path / "twice.grib2", messages(made, 1), messages(made, 1))
    with pytest.raises(StoreError, match="both hold 2t of member 1 .* members with numbers"):
        scored(made, file)
    file = written(tmp_path / "unknown.grib2", messages(made, 1))
    with pytest.raises(StoreError, match="states the initial times; leave it out"):
        scored(made, file, start="2020-01-01T00")
    cut = tmp_path / "cut.grib2"
    cut.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(StoreError, match="cannot be read"):
        scored(made, cut)
