"""The idealised planet: its months follow each other, seeds and climates differ, and its store says what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kit

# Only the sessions that make weather install the dynamical core.
pytest.importorskip("dinosaur")
import dycore
import make_sample
import planet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def at_rest() -> Any:
    """Start from the state that a spin-up would begin with, which has the same fields and takes no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_sample, "SPIN_UP_DAYS", 2)
        patch.setattr(planet, "MONTH_DAYS", 1)
        make_sample.compute_alike()
        yield


def weather(climate: str = "sample", days: int = 1, seed: int = 0) -> list[Any]:
    """States of some days, a day at a time."""
    return list(planet.months(dycore.make_planet(dycore.CLIMATES[climate]), days, seed))


def test_months_follow_each_other_as_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = weather(days=2)
    monkeypatch.setattr(planet, "MONTH_DAYS", 2)
    (whole,) = weather(days=2)
    assert [len(piece.time) for piece in (first, second, whole)] == [4, 4, 8]
    np.testing.assert_array_equal(np.concatenate([first.time, second.time]), whole.time)
    assert set(np.diff(whole.time)) == {np.timedelta64(6, "h")}
    for name in whole:
        one, other = np.concatenate([first[name], second[name]]), whole[name].values
        # Two programs of XLA round differently; what is a state further on differs by more.
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-2 * other.std(), err_msg=str(name))


def test_seeds_and_climates_give_other_weather() -> None:
    (here,), (again,) = weather(), weather()
    np.testing.assert_array_equal(here.msl, again.msl)
    (other_seed,), (other_climate,) = weather(seed=1), weather("other")
    assert abs(here.msl - other_seed.msl).max() > 0
    assert abs(here.t - other_climate.t).max() > 1


def test_a_planet_is_a_store_that_says_it_is_synthetic(tmp_path: Path) -> None:
    out = tmp_path / "planets" / "small"
    planet.main(["--days", "2", "--climate", "other", "--seed", "3", "--out", str(out)])
    store = kit.open_store(out)
    assert (len(store.times), store.surface, store.static) == (8, ("10u", "10v", "2t", "msl"), ("lsm", "slt", "z"))
    assert store.levels == tuple(map(float, make_sample.LEVELS_HPA))
    assert store.attributes["synthetic"]
    assert "climate other, seed 3" in store.attributes["description"]
    assert [path.name for path in out.parent.iterdir()] == ["small"]


def test_a_folder_that_exists_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        planet.main(["--out", str(tmp_path)])
    assert f"{tmp_path} exists" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
