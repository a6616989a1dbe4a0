"""Members that a network draws: each by its own name, at every step or at the start, and only of its operator."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kit.checkpoint.folder import open_checkpoint, write_description
from kit.forecasting.ensemble import ensemble
from kit.io.errors import CheckpointError, KitError
from tests.checkpoints import store_for, write_whole
from tests.diffusion.test_loading import write_network
from tests.forecasting.test_ensemble import alone, assert_equal, opened, settings

NEAR: dict[str, Any] = {"guidance": 1.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A store, two operators, and networks of the first."""
    folder = tmp_path_factory.mktemp("diffused")
    store = store_for(folder / "store", times=16)
    base, other = write_whole(folder / "base", store), write_whole(folder / "other", store, seed=5)
    networks = {
        "def": write_network(folder / "def", store, base, steps=4),
        "def-published": write_network(folder / "published", store, base, schedule="linear", steps=4),
        "residual": write_network(folder / "residual", store, base, of="residual", steps=4),
    }
    return SimpleNamespace(folder=folder, store=store, base=base, other=other, networks=networks)


def members(out: Path, made: SimpleNamespace, perturb: str, **changes: Any) -> xr.Dataset:
    network = made.networks[perturb]
    ensemble(settings(out, made.base, perturb=perturb, diffusion=network, **{"members": 3, **changes}))
    return opened(out)


@pytest.mark.parametrize("perturb", ["def", pytest.param("def-published", marks=pytest.mark.slow), "residual"])
def test_members_follow_from_their_names_alone(made: SimpleNamespace, tmp_path: Path, perturb: str) -> None:
    more = NEAR if perturb == "def" else {}
    whole = members(tmp_path / "whole.zarr", made, perturb, **more)
    assert all(np.isfinite(whole[name]).all() for name in whole.data_vars)
    one, two = (whole["2t"].isel(member=member).values for member in (0, 1))
    assert (one != two).mean() > 0.9
    # One of them by itself is what it is among all.
    single = members(tmp_path / "single.zarr", made, perturb, only_members=(1,), **more)
    for name in whole.data_vars:
        np.testing.assert_array_equal(single[name].values[0], whole[name].values[1], err_msg=str(name))
    together = members(tmp_path / "together.zarr", made, perturb, members_per_pass=3, **more)
    for name in whole.data_vars:
        far = np.abs(together[name].values - whole[name].values).max()
        assert far <= 1e-3 * whole[name].values.std(), name
    # Another seed draws others.
    reseeded = members(tmp_path / "reseeded.zarr", made, perturb, seed=1, **more)
    assert (reseeded["2t"].values != whole["2t"].values).mean() > 0.9


def test_initial_states_alone_are_perturbed_where_that_is_asked_for(made: SimpleNamespace, tmp_path: Path) -> None:
    start = members(tmp_path / "start.zarr", made, "def", at="start", **NEAR)
    steps = members(tmp_path / "steps.zarr", made, "def", **NEAR)
    # The first step is made from the same states, the second is not.
    first, second = (dataset.isel(lead_time=0) for dataset in (start, steps))
    np.testing.assert_array_equal(first["2t"].values, second["2t"].values)
    assert (start["2t"].isel(lead_time=1).values != steps["2t"].isel(lead_time=1).values).mean() > 0.9


def test_differences_of_samples_have_no_part_in_what_samples_have_in_common(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    single = alone(tmp_path / "alone.zarr", made.base)["2t"].isel(lead_time=0).values
    common = []
    for centred in (True, False):
        # Without its condition, no sample is near its state.
        drawn = members(tmp_path / f"{centred}.zarr", made, "def", members=8, at="start", guidance=0.0, centred=centred)
        values = drawn["2t"].isel(lead_time=0).values
        departure = np.sqrt(((values.mean(0) - single) ** 2).mean())
        common.append(departure / np.sqrt(values.var(0, ddof=1).mean()))
    # The mean of eight that are independent is a root of eight nearer.
    assert 0.25 < common[0] < 0.5
    assert common[1] > 0.8


def test_more_walks_lead_further(made: SimpleNamespace, tmp_path: Path) -> None:
    single = alone(tmp_path / "alone.zarr", made.base)
    distances = []
    for walks in (1, 4):
        drawn = members(tmp_path / f"{walks}.zarr", made, "def", walks=walks, **NEAR)
        distances.append(float(np.abs(drawn["2t"].values - single["2t"].values).mean()))
    assert 0 < distances[0] != distances[1]


def test_guidance_is_the_one_of_its_calibration(made: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="its guidance was not calibrated"):
        members(tmp_path / "none.zarr", made, "def")
    assert not (tmp_path / "none.zarr").exists()
    network = write_network(tmp_path / "network", made.store, made.base, steps=4)
    calibrated = {"guidance": 0.7, "spread": 0.1, "due": 0.1, "curve": [[0.0, 1.0], [0.7, 0.1], [1.0, 0.0]]}
    write_description(network, {**open_checkpoint(network).description, "guidance": calibrated})
    more = SimpleNamespace(base=made.base, networks={"def": network})
    by_default = members(tmp_path / "default.zarr", more, "def")
    assert_equal(by_default, members(tmp_path / "given.zarr", made, "def", guidance=0.7))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"perturb": "def"}, "needs a network that draws; name its checkpoint"),
    ({"perturb": "residual"}, "needs a network that draws; name its checkpoint"),
    ({"perturb": "gaussian", "diffusion": "def"}, "diffusion: has no effect with perturb gaussian"),
    ({"perturb": "noise", "walks": 2}, "walks: has no effect with perturb noise"),
    ({"perturb": "residual", "diffusion": "residual", "at": "start"}, "at: has no effect with perturb residual"),
    ({"perturb": "def-published", "diffusion": "def-published", "guidance": 1.0}, "guidance: has no effect"),
    ({"perturb": "def-published", "diffusion": "def-published", "centred": False}, "centred: has no effect"),
    ({"perturb": "def", "diffusion": "def", "guidance": 1.5}, "less than or equal to 1"),
    ({"perturb": "def", "diffusion": "def", "guidance": -0.5}, "greater than or equal to 0"),
    ({"perturb": "def", "diffusion": "def", "walks": 0}, "greater than or equal to 1"),
    ({"perturb": "def", "diffusion": "def", "at": "end"}, "'steps' or 'start'"),
    ({"perturb": "def", "diffusion": "def", "amplitude": 2.0}, "amplitude: has no effect with perturb def"),
    ({"perturb": "def", "diffusion": "residual", **NEAR}, "draws the residual, and --perturb def needs the state"),
    ({"perturb": "residual", "diffusion": "def"}, "draws the state, and --perturb residual needs the residual"),
    ({"perturb": "def-published", "diffusion": "def"}, "def-published is of linear and noise"),
    ({"perturb": "def", "diffusion": "base", **NEAR}, "is no denoising network"),
    ({"perturb": "def", "diffusion": "nowhere", **NEAR}, "expected a checkpoint folder"),
    ({"perturb": "def", "diffusion": "def", "checkpoint": "other", **NEAR}, "is another model"),
    ({"perturb": "def", "diffusion": "def", "checkpoint": "both", **NEAR}, "a network belongs to one operator"),
    ({"perturb": "def", "diffusion": "def", "members": None, **NEAR}, "say how many members"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=[str(given) for given, _ in BAD])
def test_bad_input_is_one_message(made: SimpleNamespace, tmp_path: Path, given: dict[str, Any], message: str) -> None:
    places = {**made.networks, "base": made.base, "other": made.other, "nowhere": tmp_path / "nowhere"}
    chosen = {"members": 3, **given}
    checkpoints = {"both": [made.base, made.other], "other": [made.other]}.get(
        chosen.pop("checkpoint", ""), [made.base]
    )
    if "diffusion" in chosen:
        chosen["diffusion"] = places[chosen["diffusion"]]
    with pytest.raises((KitError, ValueError), match=message):
        ensemble(settings(tmp_path / "out.zarr", *checkpoints, **chosen))
    assert list(tmp_path.iterdir()) == []
