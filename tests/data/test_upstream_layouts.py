"""Files in the layouts that upstream's examples download: each builds into a store on which its variant trains.

The layouts are those of the notebooks in ``docs/`` of https://github.com/microsoft/aurora (``example_era5``,
``example_cams``, ``example_hres_t0``, ``example_hres_0.1``, ``example_wave``, ``example_v1p5``): files, names,
dimensions, coordinates and attributes are as there; grids are coarser, values follow from a formula.
"""

import dataclasses
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr

from kit.cli import main as cli
from kit.data.store.reader import Store
from kit.data.variables import ATMOSPHERIC, STATIC, SURFACE
from kit.models import variants
from tests.batches import SMALL
from tests.data.sources.grib_files import message
from tests.data_stores import values
from tests.everyday import one_in

LEVELS = (1000, 850, 500)
WEATHER = {"2t": "t2m", "10u": "u10", "10v": "v10", "msl": "msl"}
ALOFT = ("t", "u", "v", "q", "z")
"""Files of ERA5 and CAMS name these as Aurora does."""
POLLUTANTS = ("pm1", "pm2p5", "pm10", "tcco", "tc_no", "tcno2", "gtco3", "tcso2")
POLLUTANTS_ALOFT = ("co", "no", "no2", "go3", "so2")
LONG_NAMES = {
    "2t": "2m_temperature", "10u": "10m_u_component_of_wind", "10v": "10m_v_component_of_wind",
    "msl": "mean_sea_level_pressure", "t": "temperature", "u": "u_component_of_wind", "v": "v_component_of_wind",
    "q": "specific_humidity", "z": "geopotential",
}  # fmt: skip
"""Names in WeatherBench 2."""
WAVES = (
    "swh", "pp1d", "mwp", "mwd", "shww", "mdww", "mpww", "shts", "mdts", "mpts", "swh1", "mwd1", "mwp1", "swh2", "mwd2",
    "mwp2", "dwi", "wind",
)  # fmt: skip
OF_V1P5 = WEATHER | {
    "2d": "d2m", "tcwv": "tcwv", "tcc": "tcc", "100u": "u100", "100v": "v100", "sp": "sp", "lcc": "lcc", "mcc": "mcc",
    "hcc": "hcc", "skt": "skt", "stl1": "stl1", "swvl1": "swvl1", "ci": "siconc", "sd": "sd",
}  # fmt: skip
NEAR_GROUND = {"2d": ("2t", -5), "skt": ("2t", 1), "stl1": ("2t", 0.5), "sp": ("msl", -3000)}
"""Variables that follow another one, and by how much they differ from it."""
HISTORY = "2025-05-07T12:25 GRIB to CDM+CF via cfgrib-0.9.15.0/ecCodes-2.41.0 with {'source': 'tmp/data.grib'}"
GLOBAL = {
    "GRIB_centre": "ecmf",
    "GRIB_centreDescription": "European Centre for Medium-Range Weather Forecasts",
    "GRIB_subCentre": 0,
    "Conventions": "CF-1.7",
    "institution": "European Centre for Medium-Range Weather Forecasts",
    "history": HISTORY,
}
UNITS = {"kg kg-1": "kg kg**-1", "m s-1": "m s**-1", "m2 s-2": "m**2 s**-2", "kg m-3": "kg m**-3", "1": "(0 - 1)"}
"""ECMWF's spellings."""


def globe(spacing: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Latitudes of both poles southwards, and longitudes from Greenwich eastwards."""
    return np.arange(90, -90 - spacing / 2, -spacing), np.arange(0, 360, spacing)


def hours(first: str, count: int, step: int) -> npt.NDArray[np.datetime64]:
    return np.datetime64(first, "ns") + np.arange(count) * np.timedelta64(step, "h")


def formula(name: str, level: float | None, time: np.datetime64, grid: Sequence[npt.NDArray[Any]]) -> Any:
    """Values of a variable, [H, W]: a wave that travels, within what is plausible."""
    variable = SURFACE[name] if level is None else ATMOSPHERIC[name]
    moment = time.astype("datetime64[s]").item()
    if level is None and name in NEAR_GROUND:
        like, offset = NEAR_GROUND[name]
        return values(SURFACE[like], None, moment, *grid) + offset
    return values(variable, level, moment, *grid)


def field(name: str, times: Iterable[Any], grid: Any, levels: Sequence[float] = ()) -> npt.NDArray[np.float32]:
    """Values of a variable, [T, H, W] or [T, C, H, W]."""
    if not levels:
        return np.array([formula(name, None, time, grid) for time in times], dtype=np.float32)
    columns = [[formula(name, level, time, grid) for level in levels] for time in times]
    return np.array(columns, dtype=np.float32)


def static(name: str, grid: Any) -> npt.NDArray[np.float32]:
    """Values of a static variable, [H, W]: ground, mask and soil of the same land; all others are 0 or 1."""
    land = np.sin(np.deg2rad(2 * grid[1][None] + 10)) * np.cos(np.deg2rad(grid[0][:, None]))
    known = {"lsm": land > 0, "slt": 2.0 * (land > 0), "z": 20000 * np.maximum(land, 0)}
    if name in known:
        return np.asarray(known[name], dtype=np.float32)
    phase = sum(map(ord, name))
    wave = np.sin(np.deg2rad(grid[1][None] + 2 * grid[0][:, None]) + phase)
    return np.asarray(wave > 0, dtype=np.float32)


def of_cds(name: str, short: str, kind: str = "an") -> dict[str, Any]:
    """Attributes of a variable in a NetCDF file of the data stores."""
    tables = (SURFACE, ATMOSPHERIC, STATIC)
    variable = next(table[name] for table in tables if name in table)
    return {
        "GRIB_paramId": variable.param_ids[0],
        "GRIB_dataType": kind,
        "GRIB_stepUnits": 1,
        "GRIB_stepType": "instant",
        "GRIB_gridType": "regular_ll",
        "GRIB_uvRelativeToGrid": 0,
        "GRIB_NV": 0,
        "GRIB_cfVarName": short,
        "GRIB_shortName": name,
        "GRIB_missingValue": 3.4028234663852886e38,
        "long_name": variable.long_name,
        "units": UNITS.get(variable.units, variable.units),
        "standard_name": "unknown",
    }


def cds_dataset(fields: dict[str, tuple[str, Any]], times: Any, grid: Any) -> xr.Dataset:
    """A NetCDF file of the Climate Data Store since 2024; fields are given as [T, H, W] or [T, C, H, W]."""
    data = {}
    for short, (name, array) in fields.items():
        dims = ("valid_time", *["pressure_level"] * (array.ndim - 3), "latitude", "longitude")
        data[short] = (dims, array, of_cds(name, short))
    pressure = {"long_name": "pressure", "units": "hPa", "positive": "down", "standard_name": "air_pressure"}
    coords = {
        "number": ((), 0, {"standard_name": "realization", "units": "1"}),
        "valid_time": ("valid_time", times, {"standard_name": "time", "long_name": "time"}),
        "pressure_level": ("pressure_level", np.array(LEVELS, dtype=np.float64), pressure),
        "latitude": ("latitude", grid[0], {"units": "degrees_north", "standard_name": "latitude"}),
        "longitude": ("longitude", grid[1], {"units": "degrees_east", "standard_name": "longitude"}),
        "expver": ("valid_time", np.full(len(times), "0001")),
    }
    dataset = xr.Dataset(data, coords, GLOBAL)
    if not any("pressure_level" in array.dims for array in dataset.data_vars.values()):
        dataset = dataset.drop_vars("pressure_level")
    dataset["valid_time"].encoding = {"units": "seconds since 1970-01-01", "dtype": "int64"}
    return dataset


def era5_static(path: Path, grid: Any) -> None:
    """Static fields as the examples ask the Climate Data Store for them: of one time, beside ``valid_time``."""
    fields = {name: (name, static(name, grid)[None]) for name in ("z", "lsm", "slt")}
    cds_dataset(fields, hours("2023-01-01", 1, 1), grid).to_netcdf(path)


def era5(folder: Path, grid: Any, surface: dict[str, str] = WEATHER, days: int = 5) -> None:
    """``example_era5`` and ``example_v1p5``: two files a day."""
    for day in range(days):
        times = hours("2023-01-01", 4, 6) + day * np.timedelta64(24, "h")
        name = str(times[0])[:10]
        fields = {short: (own, field(own, times, grid)) for own, short in surface.items()}
        if "siconc" in fields:
            own, ice = fields["siconc"]
            fields["siconc"] = (own, np.where(static("lsm", grid) > 0.5, np.nan, ice))
        cds_dataset(fields, times, grid).to_netcdf(folder / f"{name}-surface-level.nc")
        aloft = {own: (own, field(own, times, grid, LEVELS)) for own in ALOFT}
        cds_dataset(aloft, times, grid).to_netcdf(folder / f"{name}-atmospheric.nc")


def cams(folder: Path, grid: Any, leads: Sequence[int] = (0,), days: int = 10) -> None:
    """``example_cams``: a zip a day with a file for each kind, reference times along leads."""
    for day in range(days):
        starts = hours("2022-06-11", 2, 12) + day * np.timedelta64(24, "h")
        ahead = np.array(leads) * np.timedelta64(1, "h")
        name = str(starts[0])[:10]
        with zipfile.ZipFile(folder / f"{name}-cams.nc.zip", "w") as archive:
            for member, surface in (("data_sfc.nc", True), ("data_plev.nc", False)):
                copy = folder / f"{name}-cams-{'surface-level' if surface else 'atmospheric'}.nc"
                _cams_member(copy, starts, ahead, grid, surface=surface)
                archive.write(copy, member)
                # The example unpacks both beside the zip; here those of the first day stay.
                if day:
                    copy.unlink()


def _cams_member(path: Path, starts: Any, ahead: Any, grid: Any, *, surface: bool) -> None:
    names = dict(zip((*ALOFT, *POLLUTANTS_ALOFT), (*ALOFT, *POLLUTANTS_ALOFT), strict=True))
    levels: Sequence[float] = LEVELS
    if surface:
        names, levels = WEATHER | {name: name for name in POLLUTANTS}, ()
    dims = ["forecast_period", "forecast_reference_time", "latitude", "longitude"]
    coords: dict[str, Any] = {
        "forecast_period": ("forecast_period", ahead, {"standard_name": "forecast_period"}),
        "forecast_reference_time": (
            "forecast_reference_time", starts, {"standard_name": "forecast_reference_time"},
        ),
        "latitude": ("latitude", grid[0], {"units": "degrees_north"}),
        "longitude": ("longitude", grid[1], {"units": "degrees_east"}),
        "valid_time": (("forecast_reference_time", "forecast_period"), starts[:, None] + ahead[None]),
    }  # fmt: skip
    if levels:
        dims.insert(2, "pressure_level")
        coords["pressure_level"] = ("pressure_level", np.array(LEVELS, dtype=np.float64), {"units": "hPa"})
    data = {}
    for own, short in names.items():
        array = np.stack([field(own, starts + lead, grid, levels) for lead in ahead])
        data[short] = (dims, array, of_cds(own, short, "fc"))
    dataset = xr.Dataset(data, coords, GLOBAL)
    dataset["forecast_period"].encoding = {"units": "hours", "dtype": "int64"}
    dataset["forecast_reference_time"].encoding = {"units": "seconds since 1970-01-01", "dtype": "int64"}
    dataset["valid_time"].encoding = {"units": "seconds since 1970-01-01", "dtype": "int64"}
    dataset.to_netcdf(path)


def pickled_statics(path: Path, names: Sequence[str], grid: Any) -> None:
    """Static fields as upstream publishes them: a dictionary from names to arrays on the globe."""
    path.write_bytes(pickle.dumps({name: static(name, grid) for name in names}))


def weatherbench(folder: Path, grid: Any, days: int = 5) -> None:
    """``example_hres_t0``: days of WeatherBench 2 saved as NetCDF, rows northwards, levels as bare numbers."""
    north = (grid[0][::-1], grid[1])
    for day in range(days):
        times = hours("2022-05-11", 4, 6) + day * np.timedelta64(24, "h")
        name = str(times[0])[:10]
        for ending, names, levels in (("surface-level", WEATHER, ()), ("atmospheric", ALOFT, sorted(LEVELS))):
            dims = ("time", *["level"] * bool(levels), "latitude", "longitude")
            data = {}
            for own in names:
                attributes = {"long_name": LONG_NAMES[own].replace("_", " "), "short_name": WEATHER.get(own, own)}
                data[LONG_NAMES[own]] = (dims, field(own, times, north, levels), attributes)
            coords: dict[str, Any] = {"time": times, "latitude": north[0], "longitude": north[1]}
            if levels:
                coords["level"] = np.array(levels)
            xr.Dataset(data, coords).to_netcdf(folder / f"{name}-{ending}.nc")


OD: dict[str, Any] = {"setLocalDefinition": 1, "marsClass": "od", "marsType": "an", "bitsPerValue": 24}


def gaussian(number: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A regular Gaussian grid of ECMWF: nodes of Legendre's polynomial, and four times ``number`` columns."""
    nodes, _ = np.polynomial.legendre.leggauss(2 * number)
    return np.rad2deg(np.arcsin(nodes))[::-1], np.arange(4 * number) * 90 / number


def research_archive(folder: Path, number: int, levels: Sequence[int] = (*LEVELS, 10)) -> None:
    """``example_hres_0.1``: analyses of the Research Data Archive, a GRIB file for each variable and day or time."""
    grid = gaussian(number)
    keys = OD | {"gridType": "regular_gg", "N": number}
    for number_of_day in range(5):
        day = f"2022-05-{11 + number_of_day}"
        times = hours(day, 4, 6)
        stamps = [str(time)[:13] for time in times]
        for own in (*WEATHER, "z", "slt", "lsm"):
            content = []
            for time, stamp in zip(times, stamps, strict=True):
                if own in WEATHER:
                    array, param = formula(own, None, time, grid), SURFACE[own].param_ids[0]
                else:
                    array, param = static(own, grid), STATIC[own].param_ids[0]
                content.append(message(array, param=param, time=stamp, grid=grid, **keys))
            (folder / f"surf_{own}_{day}.grib").write_bytes(b"".join(content))
            # cfgrib leaves an index beside each file that it opens, a pickle.
            (folder / f"surf_{own}_{day}.grib.5b7b6.idx").write_bytes(pickle.dumps({"index": own}))
        for own in ALOFT:
            for time, stamp in zip(times, stamps, strict=True):
                content = []
                for level in levels:
                    array, param = formula(own, level, time, grid), ATMOSPHERIC[own].param_ids[0]
                    content.append(message(array, param=param, level=level, time=stamp, grid=grid, **keys))
                (folder / f"atmos_{own}_{day}_{stamp[-2:]}.grib").write_bytes(b"".join(content))


def wave_stream(folder: Path, grid: Any, days: int = 5) -> None:
    """``example_wave``: HRES-WAM of MARS, one GRIB file a day, without values over land and ice."""
    land = static("lsm", grid) > 0.5
    for day in range(days):
        times = hours("2022-05-11", 4, 6) + day * np.timedelta64(24, "h")
        content = []
        for time in times:
            for own in WAVES:
                array = np.where(land, np.nan, formula(own, None, time, grid))
                keys = OD | {"marsStream": "wave"}
                stamp = str(time)[:13]
                content.append(message(array, param=SURFACE[own].param_ids[0], time=stamp, grid=grid, **keys))
        (folder / f"{str(times[0])[:10]}-wave.grib").write_bytes(b"".join(content))


# From files to a store to two steps, by the commands that the manual shows.

PAGE = Path(__file__).parents[2] / "docs" / "your-data.md"


def shown_commands() -> dict[str, list[str]]:
    """The builds that the manual shows for these files, as arguments, by the name of the folder that they read."""
    section = PAGE.read_text().partition("## Files of Aurora's own examples")[2].partition("\n## ")[0]
    found = {}
    for line in re.findall(r"^kit (data build .*)$", section, flags=re.MULTILINE):
        folder = re.search(r"--path downloads/(\S+)", line)
        assert folder is not None
        found[folder[1]] = line.split()
    return found


def make_era5(folder: Path, grid: Any) -> None:
    era5_static(folder / "static.nc", grid)
    era5(folder, grid)


def make_hres_t0(folder: Path, grid: Any) -> None:
    era5_static(folder / "static.nc", grid)
    weatherbench(folder, grid)


def make_wave(folder: Path, grid: Any) -> None:
    wave_stream(folder, grid)
    weatherbench(folder, grid)


@dataclasses.dataclass(frozen=True)
class Example:
    """One of upstream's examples, on a coarse grid.

    Attributes:
        variant: Model that it runs.
        make: Writes its files.
        spacing: Degrees between the grid's points.
        surface: Surface variables that the store must hold.
        aloft: Variables on levels.
    """

    variant: str
    make: Callable[[Path, Any], None]
    spacing: float = 5.625
    surface: tuple[str, ...] = tuple(WEATHER)
    aloft: tuple[str, ...] = ALOFT


EXAMPLES = {
    "era5": Example("pretrained", make_era5),
    "cams": Example(
        "air-pollution", cams, 7.5, surface=(*WEATHER, *POLLUTANTS), aloft=(*ALOFT, *POLLUTANTS_ALOFT)
    ),
    "hres_t0": Example("hres-finetuned", make_hres_t0),
    "hres_0.1": Example("highres", lambda folder, _: research_archive(folder, 32), 2.25),
    "wave": Example("wave", make_wave, surface=(*WEATHER, *WAVES)),
    "era5_v1p5": Example("v1p5", lambda folder, grid: era5(folder, grid, OF_V1P5), surface=tuple(OF_V1P5)),
}  # fmt: skip


# The first stays in the everyday suite.
_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in EXAMPLES if name != "era5"]


@pytest.fixture(scope="module", params=["era5", *_SLOW])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Store]:
    """The store that the manual's command makes of an example's files."""
    example, folder = EXAMPLES[request.param], tmp_path_factory.mktemp("example")
    grid, downloads = globe(example.spacing), folder / "downloads" / request.param
    downloads.mkdir(parents=True)
    example.make(downloads, grid)
    command = shown_commands()[request.param]
    # Grids are coarser here and levels fewer, and nothing is fetched.
    coarser = {"0.1": str(example.spacing), "50,100,150,200,250,300,400,500,600,700,850,925,1000": "500,850,1000"}
    command = [coarser.get(argument, argument) for argument in command]
    if "--statics_from" in command:
        position = command.index("--statics_from") + 1
        command[position] += ".pickle"
        pickled_statics(folder / command[position], variants.VARIANTS[example.variant].static, grid)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(command) == 0
    return request.param, Store.open(folder / command[command.index("--out") + 1])


def test_the_manual_shows_all_examples() -> None:
    assert shown_commands().keys() == EXAMPLES.keys()


def test_values_are_those_of_the_files(built: tuple[str, Store]) -> None:
    name, store = built
    example = EXAMPLES[name]
    assert len(store.times) == 20
    assert (set(store.surface), set(store.atmospheric)) == (set(example.surface), set(example.aloft))
    assert store.levels == tuple(sorted(LEVELS))
    if name == "hres_0.1":
        check_interpolated(store, gaussian(32))
        return
    grid = (store.latitude, store.longitude)
    for variable in example.surface:
        check(store, variable, expected_at_surface(variable, store.times, grid))
    for variable in example.aloft:
        check(store, variable, field(variable, store.times, grid, store.levels))
    assert set(store.static) == set(variants.VARIANTS[example.variant].static)
    for variable in store.static:
        np.testing.assert_array_equal(store.read_static(variable), static(variable, grid))


@pytest.mark.parametrize(
    ("flags", "hours", "lead"), one_in(3, (((), (0, 12, 24, 36), 0), (("--lead", "6h"), (6, 18, 30, 42), 6),
     (("--lead", "0h/6h"), (0, 6, 12, 18, 24, 30, 36, 42), [0, 6]))),
)  # fmt: skip
def test_leads_of_cams(flags: tuple[str, ...], hours: tuple[int, ...], lead: Any, tmp_path: Path) -> None:
    """Files with later leads too: analyses by default, others by choice."""
    grid = globe(22.5)
    cams(tmp_path, grid, leads=(0, 6), days=2)
    command = ["data", "build", "--source", "netcdf", "--path", str(tmp_path), "--out", str(tmp_path / "store")]
    assert cli.main([*command, "--statics", "coslat", "--variables", "pm10,2t,go3", *flags]) == 0
    store = Store.open(tmp_path / "store")
    ahead = (store.times - np.datetime64("2022-06-11", "s")) / np.timedelta64(1, "h")
    assert tuple(ahead.tolist()) == hours
    assert store.variable_attributes("pm10")["lead_hours"] == lead
    for name in ("pm10", "2t"):
        check(store, name, field(name, store.times, grid))
    check(store, "go3", field("go3", store.times, grid, store.levels))


def test_without_static_fields_the_file_that_upstream_publishes_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cams(tmp_path, globe(22.5), days=1)
    command = ["data", "build", "--source", "netcdf", "--path", str(tmp_path), "--out", str(tmp_path / "store")]
    assert cli.main(command) == 2
    assert "file with --statics_from, such as aurora-0.25-static" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def expected_at_surface(name: str, times: Any, grid: Any) -> npt.NDArray[np.float32]:
    """Values of a surface variable with what is missing over land, and what the manual's command fills there."""
    expected = field(name, times, grid)
    if name in WAVES:
        expected = np.where(static("lsm", grid) > 0.5, np.float32(np.nan), expected)
    if name == "ci":
        expected = np.where(static("lsm", grid) > 0.5, np.float32(0), expected)
    return expected


def check(store: Store, name: str, expected: Any) -> None:
    """Compare all values of a variable, relative to the largest."""
    tolerance = 1e-6 * np.nanmax(np.abs(expected))
    np.testing.assert_allclose(store.read(name, slice(None)), expected, rtol=0, atol=tolerance, err_msg=name)


def check_interpolated(store: Store, grid: Any) -> None:
    """Compare rows between the first and the last of a Gaussian grid with what xarray makes of the formula there."""
    rows = np.abs(store.latitude) <= grid[0][0]
    for name in (*WEATHER, *ALOFT):
        levels = store.levels if name in ALOFT else ()
        dims = ("time", *["level"] * bool(levels), "latitude", "longitude")
        given = field(name, store.times, grid, levels).astype(np.float64)
        # Around the circle: the first column comes once more after the last.
        given = np.concatenate([given, given[..., :1]], axis=-1)
        array = xr.DataArray(given, {"latitude": grid[0], "longitude": np.append(grid[1], 360.0)}, dims)
        expected = array.interp(latitude=store.latitude[rows], longitude=store.longitude).values
        found = store.read(name, slice(None))[..., rows, :]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max(), err_msg=name)


@pytest.mark.slow
def test_the_variant_trains_two_steps(
    built: tuple[str, Store], run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The variant's class with all its variables, in a small architecture from random weights."""
    name, store = built
    variant = EXAMPLES[name].variant
    small = dataclasses.replace(variants.VARIANTS[variant], arguments=SMALL)
    monkeypatch.setattr(variants, "VARIANTS", {**variants.VARIANTS, variant: small})
    command = [
        "finetune", "--data.store", str(store.path), "--model.variant", variant, "--model.weights", "random",
        "--train.steps", "2", "--train.device", "cpu", "--run.dir", str(run_dir), "--run.name", "example", "--json",
    ]  # fmt: skip
    if variant == "v1p5":
        # Without these the run is refused, with one message after the other.
        for flags, said in (
            (["--model.statistics", "upstream"], "or take upstream's with model.statistics upstream"),
            (["--data.variables", ",".join((*OF_V1P5, *ALOFT))], "name those to train on with data.variables"),
        ):
            assert cli.main(command) == 2
            assert said in capsys.readouterr().err
            command += flags
    assert cli.main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == 2
    assert np.isfinite([result["loss"]["first"], result["loss"]["last"]]).all()
