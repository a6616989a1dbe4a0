"""Ensembles: every member is what its name says, whoever makes it, in whatever order, however often that is killed."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

import kit
from kit.cli.main import main
from kit.forecasting.ensemble import ensemble
from kit.forecasting.ensemble_folder import folder_of
from kit.forecasting.ensemble_settings import EnsembleSettings
from kit.forecasting.forecast import forecast
from kit.forecasting.settings import ForecastSettings
from kit.io.errors import CheckpointError, KitError, SettingsError, StoreError
from tests.batches import small_spec
from tests.checkpoints import LEVELS, SPEC, store_for, write_delta, write_whole
from tests.everyday import one_in
from tests.forecasting.ensembles import COMMAND, hashes
from tests.processes import Python

START = "2020-01-02T12"
# A process that kills itself right before the n-th call of a method, or of a function of a module.
DYING = """
import os, signal, sys
from importlib import import_module
module, owner, name, calls = sys.argv[1:5]
place = getattr(import_module(module), owner, import_module(module))
plain, left = getattr(place, name), int(calls)
def dying(*arguments, **keywords):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*arguments, **keywords)
setattr(place, name, dying)
from kit.cli.main import main
sys.exit(main(["ensemble", *sys.argv[5:]]))
"""
FOLDER, WRITING = "kit.forecasting.ensemble_folder", "kit.forecasting.writing"
Death = tuple[str, str, str, int, int]
DEATHS: tuple[Death, ...] = (
    (FOLDER, "EnsembleFolder", "writer", 1, 0),
    (WRITING, "ZarrWriter", "write", 5, 0),
    (FOLDER, "EnsembleFolder", "record", 1, 0),
    (FOLDER, "EnsembleFolder", "record", 3, 2),
    (WRITING, "ZarrWriter", "write", 20, 3),
    (FOLDER, "EnsembleFolder", "publish", 1, 8),
    (FOLDER, "-", "publish", 1, 8),
)
"""Before which call a process dies, and how many passes are done then: before any chunk is there, with some of a pass,
with all of it, between passes, and at the end."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A store, two whole models, and a delta on one."""
    folder = tmp_path_factory.mktemp("ensemble")
    store = store_for(folder / "store", times=16)
    base, other = write_whole(folder / "base", store), write_whole(folder / "other", store, seed=5)
    delta = write_delta(folder / "delta", base, store)
    return SimpleNamespace(folder=folder, store=store, base=base, other=other, delta=delta)


@pytest.fixture(scope="module")
def stochastic(made: SimpleNamespace) -> Path:
    """A model that reads noise, with random weights."""
    spec = replace(SPEC, arguments={**SPEC.arguments, "stochastic": True})
    return write_whole(made.folder / "stochastic", made.store, spec=spec)


def settings(out: Path, *checkpoints: Path, **changes: Any) -> EnsembleSettings:
    raw = {"checkpoint": checkpoints, "out": out, "device": "cpu", "steps": 2, "start": (START,), **changes}
    return EnsembleSettings.model_validate(raw)


def run(out: Path, *checkpoints: Path, **changes: Any) -> dict[str, Any]:
    return ensemble(settings(out, *checkpoints, **changes)).to_dict()


def opened(out: Path) -> xr.Dataset:
    dataset: xr.Dataset = xr.open_zarr(out)
    with dataset:
        return dataset.load()


def alone(out: Path, checkpoint: Path, **changes: Any) -> xr.Dataset:
    """The deterministic forecast."""
    raw = {"checkpoint": (checkpoint,), "out": out, "device": "cpu", "steps": 2, "start": (START,), **changes}
    forecast(ForecastSettings.model_validate(raw))
    return opened(out)


def assert_equal(one: xr.Dataset, other: xr.Dataset) -> None:
    assert set(one.data_vars) == set(other.data_vars)
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=str(name))


def test_without_perturbations_each_checkpoint_is_a_member(made: SimpleNamespace, tmp_path: Path) -> None:
    """A whole model and a delta on another, whose bases differ."""
    result = run(tmp_path / "e.zarr", made.other, made.delta, perturb="none")
    dataset = opened(tmp_path / "e.zarr")
    assert dataset.sizes["member"] == result["members"] == 2
    assert dataset.member.attrs["standard_name"] == "realization"
    for member, checkpoint in enumerate((made.other, made.delta)):
        assert_equal(dataset.isel(member=member), alone(tmp_path / f"{member}.zarr", checkpoint))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.zarr", "1.zarr", "e.zarr"]


@pytest.mark.slow
def test_members_are_shared_among_checkpoints_in_turn(made: SimpleNamespace, tmp_path: Path) -> None:
    """Members 0 and 2 are of the first, 1 and 3 of the second; the second pair starts a step earlier."""
    run(tmp_path / "e.zarr", made.base, made.other, perturb="lagged", members=4)
    dataset = opened(tmp_path / "e.zarr")
    for member, checkpoint in enumerate((made.base, made.other, made.base, made.other)):
        late = member < 2
        start = START if late else "2020-01-02T06"
        expected = alone(tmp_path / f"{member}.zarr", checkpoint, start=(start,), steps=2 if late else 3)
        expected = expected.isel(lead_time=slice(None) if late else slice(1, 3))
        assert_equal(dataset.isel(member=member), expected)
        np.testing.assert_array_equal(dataset.valid_time[0], expected.valid_time[0])


def test_lagged_members_go_through_the_model_together(made: SimpleNamespace, tmp_path: Path) -> None:
    run(tmp_path / "one.zarr", made.base, perturb="lagged", members=3)
    run(tmp_path / "all.zarr", made.base, perturb="lagged", members=3, members_per_pass=3)
    one, together = opened(tmp_path / "one.zarr"), opened(tmp_path / "all.zarr")
    for name in one.data_vars:
        values = one[name].values
        far = np.abs(together[name].values - values).max()
        assert far <= 2e-5 * values.std() + 4 * np.spacing(np.abs(values).max()), name


@pytest.mark.slow
def test_states_may_come_from_a_netcdf_file(made: SimpleNamespace, tmp_path: Path) -> None:
    """Errors are then of the checkpoint's own store; the file is known by its bytes, wherever it lies."""
    states = xr.open_zarr(made.store.path).isel(time=slice(5, 7))
    states = states.rename(static_lsm="lsm", static_slt="slt", static_z="orography")
    states.attrs.clear()
    states.drop_encoding().to_netcdf(tmp_path / "initial.nc")
    asked: dict[str, Any] = {"perturb": "gaussian", "members": 2, "error_dates": 3}
    data = {"store": str(tmp_path / "initial.nc")}
    result = run(tmp_path / "file.zarr", made.base, **asked, data=data, start=None)
    assert (result["starts"], result["store"]) == (["2020-01-02T12:00"], data["store"])
    run(tmp_path / "store.zarr", made.base, **asked)
    assert_equal(opened(tmp_path / "file.zarr"), opened(tmp_path / "store.zarr"))
    (tmp_path / "initial.nc").rename(tmp_path / "moved.nc")
    data = {"store": str(tmp_path / "moved.nc")}
    assert run(tmp_path / "file.zarr", made.base, **asked, data=data, start=None)["members"] == 2


def test_lagged_members_need_the_earlier_states(made: SimpleNamespace, tmp_path: Path) -> None:
    message = r"no initial state at 2020-01-01T00:00, where the member that lags 6 step\(s\) behind 2020-01-02T12:00"
    with pytest.raises(StoreError, match=message):
        run(tmp_path / "e.zarr", made.base, perturb="lagged", members=8)
    assert list(tmp_path.iterdir()) == []


def test_noise_goes_by_seed_and_member(stochastic: Path, tmp_path: Path) -> None:
    run(tmp_path / "e.zarr", stochastic, perturb="noise", members=3, seed=4)
    dataset = opened(tmp_path / "e.zarr")
    assert_equal(dataset.isel(member=0), alone(tmp_path / "0.zarr", stochastic, seed=4))
    assert (dataset["2t"].std("member", ddof=1) > 0).all()
    run(tmp_path / "other.zarr", stochastic, perturb="noise", members=3, seed=5)
    assert not np.array_equal(opened(tmp_path / "other.zarr")["2t"], dataset["2t"])


def test_members_of_louder_noise_are_further_apart(stochastic: Path, tmp_path: Path) -> None:
    spreads = []
    for amplitude in (0.5, 1.0, 2.0):
        run(tmp_path / f"{amplitude}.zarr", stochastic, perturb="noise", members=3, steps=1, amplitude=amplitude)
        spreads.append(float(opened(tmp_path / f"{amplitude}.zarr")["2t"].std("member").mean()))
    assert spreads == sorted(spreads)
    assert spreads[2] > 1.2 * spreads[0]
    # What is there was made of other noise.
    with pytest.raises(KitError, match="amplitude"):
        run(tmp_path / "2.0.zarr", stochastic, perturb="noise", members=3, steps=1)


def test_a_member_alone_is_what_it_is_among_all(stochastic: Path, tmp_path: Path) -> None:
    """In passes of another size products of matrices are summed up in another order, which the last bits show."""
    run(tmp_path / "all.zarr", stochastic, perturb="noise", members=4)
    run(tmp_path / "pairs.zarr", stochastic, perturb="noise", members=4, members_per_pass=2)
    run(tmp_path / "alone.zarr", stochastic, perturb="noise", members=4, only_members=(3,))
    everyone, one = opened(tmp_path / "all.zarr"), opened(tmp_path / "alone.zarr")
    assert one.member.values.tolist() == [3]
    assert_equal(one, everyone.sel(member=[3]))
    together = opened(tmp_path / "pairs.zarr")
    for name in everyone.data_vars:
        values = everyone[name].values
        far = np.abs(together[name].values - values).max()
        assert far <= 5e-6 * values.std() + 4 * np.spacing(np.abs(values).max()), name


def test_a_model_that_reads_no_noise_is_told(
    made: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "e.zarr", made.base, perturb="noise", members=2, steps=1)
    assert "base was not trained to read noise, so that its members are all alike" in caplog.text
    assert (opened(tmp_path / "e.zarr")["2t"].std("member") == 0).all()


def arguments(out: Path, checkpoint: Path, *more: str) -> tuple[str, ...]:
    given = ["--checkpoint", str(checkpoint), "--out", str(out), "--device", "cpu", "--steps", "2", "--members", "4"]
    return (*given, "--start", "2020-01-02T12/2020-01-02T18", "--perturb", "noise", *more)


@pytest.fixture(scope="module")
def expected(stochastic: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of what one process makes at once."""
    out = tmp_path_factory.mktemp("one") / "e.zarr"
    assert main(["ensemble", *arguments(out, stochastic)]) == 0
    return hashes(out)


@pytest.mark.slow
def test_two_processes_make_the_same_bytes(stochastic: Path, expected: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "e.zarr"
    pair = [Python(COMMAND, *arguments(out, stochastic), output=tmp_path / f"{number}.txt") for number in range(2)]
    for process in pair:
        assert process.wait() == 0
    assert hashes(out) == expected


@pytest.mark.slow
@pytest.mark.parametrize("deaths", (DEATHS[2:4], DEATHS), ids=("some", "all"))
def test_killed_processes_make_the_same_bytes(
    stochastic: Path, expected: dict[str, str], tmp_path: Path, deaths: tuple[Death, ...]
) -> None:
    out, log = tmp_path / "e.zarr", tmp_path / "out.txt"
    done = folder_of(out) / "done"
    before: dict[str, int] = {}
    for *moment, count in deaths:
        status = Python(DYING, *map(str, moment), *arguments(out, stochastic), output=log).wait()
        assert status == -signal.SIGKILL, log.with_suffix(".err").read_text()
        assert not out.exists()
        kept = {file.name: file.stat().st_mtime_ns for file in done.iterdir()}
        assert len(kept) == count
        assert before.items() <= kept.items()
        before = kept
    assert main(["ensemble", *arguments(out, stochastic)]) == 0
    assert hashes(out) == expected
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_what_is_done_is_not_made_again(stochastic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure on the way keeps what is done, and says where."""
    from kit.forecasting import ensemble as room
    from kit.forecasting.rolling import check_prediction

    made: list[str] = []

    def fail(prediction: Any, space: Any, step: int, member: str) -> None:
        made.append(member)
        if len(made) == 3:
            prediction.surf_vars["msl"].view(-1)[0] = np.nan
        check_prediction(prediction, space, step, member)

    monkeypatch.setattr(room, "check_prediction", fail)
    message = r"member\(s\) 1 from 2020-01-02T12:00 breaks down at step 1 .* holds NaN or Inf in msl"
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path / "e.zarr", stochastic, perturb="noise", members=3)
    assert [file.name for file in (folder_of(tmp_path / "e.zarr") / "done").iterdir()] == ["checkpoint0-start0-member0"]
    run(tmp_path / "e.zarr", stochastic, perturb="noise", members=3)
    assert [member[10] for member in made] == ["0", "0", "1", "1", "1", "2", "2"]
    assert [path.name for path in tmp_path.iterdir()] == ["e.zarr"]


def test_the_members_of_a_pass_are_those_that_it_began_with(made: SimpleNamespace, tmp_path: Path) -> None:
    """Chosen anew, on a machine with other memory, they could be others."""
    asked: dict[str, Any] = {"checkpoint": (made.base,), "out": tmp_path / "e.zarr", "device": "cpu", "steps": 1}
    asked |= {"perturb": "lagged", "members": 3, "start": (START,)}
    first = kit.ensemble(**asked, members_per_pass=2)
    assert (first.members, first.members_per_pass) == (3, 2)
    assert kit.ensemble(**asked) == first


def test_the_same_command_again_finds_it_done(made: SimpleNamespace, tmp_path: Path) -> None:
    first = run(tmp_path / "e.zarr", made.base, made.other, perturb="none")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "e.zarr").rglob("*")}
    assert run(tmp_path / "e.zarr", made.base, made.other, perturb="none") == first
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "e.zarr").rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["e.zarr"]


@pytest.mark.parametrize("finished", one_in(2, (True, False)))
def test_other_settings_are_refused_by_name(
    made: SimpleNamespace, stochastic: Path, tmp_path: Path, finished: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "e.zarr"
    asked: dict[str, Any] = {"perturb": "noise", "members": 2, "members_per_pass": 1, "steps": 1}
    run(out, stochastic, **asked)
    if not finished:
        # As if it had been killed before the end.
        plan = json.loads(str(xr.open_zarr(out).attrs["ensemble_plan"]))
        folder = folder_of(out)
        for name in ("done", "claims"):
            (folder / name).mkdir(parents=True)
        (folder / "done" / "checkpoint0-start0-member0").touch()
        (folder / "plan.json").write_text(json.dumps(plan))
        out.rename(folder / "forecasts")
    place = out if finished else folder_of(out)
    before = hashes(place)
    changes: tuple[tuple[str, dict[str, Any]], ...] = (
        (r"steps \(1 there, 2 here\)", {"steps": 2}),
        (r"seed \(0 there, 1 here\)", {"seed": 1}),
        (r"members \(2 there, 3 here\); only_members \(\[0, 1\] there, \[0, 1, 2\] here\)", {"members": 3}),
        (r'perturb \("noise" there, "lagged" here\)', {"perturb": "lagged"}),
        (r"members_per_pass \(1 there, 2 here\)", {"members_per_pass": 2}),
        (r'start \(\["2020-01-02T12:00"\] there, \["2020-01-02T18:00"\] here\)', {"start": ("2020-01-02T18",)}),
        (r'precision \("fp32" there, "bf16" here\)', {"precision": "bf16"}),
    )
    for message, change in changes:
        with pytest.raises(SettingsError, match=rf"{place.name}: another ensemble is there, .* differ in {message}"):
            run(out, stochastic, **{**asked, **change})
    with pytest.raises(SettingsError, match=r"They differ in checkpoint \(\[\"\w+"):
        run(out, made.base, **asked)
    longer = store_for(tmp_path / "longer", times=20)
    with pytest.raises(SettingsError, match=r"They differ in store \(\"\w+"):
        run(out, stochastic, **asked, data={"store": str(longer.path)})
    assert hashes(place) == before


def test_what_is_no_ensemble_is_not_written_over(made: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "e.zarr").mkdir()
    with pytest.raises(SettingsError, match="exists already; choose another place with --out"):
        run(tmp_path / "e.zarr", made.base, perturb="lagged", members=2)
    alone(tmp_path / "f.zarr", made.base)
    with pytest.raises(SettingsError, match="exists already; choose another place with --out"):
        run(tmp_path / "f.zarr", made.base, perturb="lagged", members=2)
    assert list((tmp_path / "e.zarr").iterdir()) == []


def test_checkpoints_of_other_layouts_are_refused(made: SimpleNamespace, tmp_path: Path) -> None:
    fewer = write_whole(tmp_path / "fewer", made.store, spec=small_spec("small", levels=(300, 500)))
    message = r"base and .*fewer differ in levels \(in one alone: 850\), and one ensemble has one layout"
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path / "e.zarr", made.base, fewer, perturb="none")
    assert [path.name for path in tmp_path.iterdir()] == ["fewer"]


def test_another_commands_members_are_not_read_from_the_environment(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KIT_MEMBERS", "each")
    monkeypatch.setenv("KIT_PERTURB", "lagged")
    out = tmp_path / "e.zarr"
    given = ["--checkpoint", str(made.base), "--out", str(out), "--members", "2", "--steps", "1", "--start", START]
    assert main(["ensemble", *given, "--device", "cpu", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["members"], result["perturb"], result["starts"]) == (2, "lagged", ["2020-01-02T12:00"])
    assert result["members_per_pass"] == 1
    assert (result["grid"], result["levels"]) == ([16, 32], list(LEVELS))
    assert result["bytes"] > 0
