"""Kinds of files that people meet, each in several forms: other products, names, numbers, orders and containers.

A case becomes a store with the values that xarray and NumPy read from the same file, or one message with what goes on.

| kind | cases here | more in |
| --- | --- | --- |
| fields by CF standard names | ``standard names`` | ``sources/test_fields.py``, ``test_variables.py`` |
| model levels | ``model levels`` | ``sources/test_levels.py``, ``sources/test_verticals.py`` |
| surface fields with a level | ``surface levels`` | ``sources/test_levels.py`` |
| dates that nobody means | ``dates`` | ``sources/test_dates.py``; GRIB: ``sources/grib`` |
| leads below zero | ``negative leads`` | GRIB: ``sources/grib`` |
| grids that hold a pole or cross Greenwich | none | ``sources/test_winds.py``; GRIB: ``sources/grib`` |
| streams on another grid | ``streams`` | ``sources/test_one_grid.py`` |
| ERA5 beside ERA5T | ``versions`` | ``sources/test_versions.py``, ``sources/test_netcdf.py`` |
| times in rounded numbers | ``rounded times`` | ``sources/test_dates.py`` |
| 0 and 360 degrees | ``seams`` | ``sources/test_meridians.py`` |
| forecasts with two dimensions of time | ``test_forecasts`` | ``sources/test_leads.py`` |
| statistics of days | ``days`` | ``sources/test_stated_windows.py`` |
| statistics of months | ``months`` | ``sources/test_stated_windows.py`` |
| groups | ``groups``, ``test_groups_by_name`` | ``sources/test_groups.py`` |
| WRF | none | ``sources/test_wrf.py`` |
| winds along a grid | none | ``sources/test_winds.py``, ``sources/test_projections.py`` |
| heights without units | ``heights`` | ``sources/test_geopotential.py`` |
| a variable twice | ``twice`` | ``sources/test_same_variable.py`` |
| a level as a number | ``scalar levels`` | ``sources/test_levels.py`` |
| no level | ``no levels`` | ``sources/test_levels.py`` |
| numbers that may be pressures | ``bare levels`` | ``sources/test_levels.py`` |
| CMIP's names | ``cmip`` | ``test_variables.py`` |
"""

import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr

from kit.data.store.build import build_store
from kit.data.store.reader import Store
from kit.io.errors import KitError
from tests.everyday import first_of_each, one_in

Values = npt.NDArray[np.floating]
GRAVITY = 9.80665
LATITUDE = 51.0 - 0.25 * np.arange(5)
LONGITUDE = 5.0 + 0.25 * np.arange(6)
LEVELS = (300.0, 700.0, 850.0)
HOURS = np.arange(4) * 6
START = np.datetime64("2021-03-01T00", "s")
# Sizes tell dimensions apart, whatever their names: 4 times, 3 levels, 5 rows, 6 columns.


def values_of(name: str, *shape: int, low: float = 280.0, width: float = 20.0) -> Values:
    """Values that no other name has, in single precision."""
    random = np.random.default_rng(list(name.encode()))
    return (low + width * random.random(shape)).astype(np.float32)


def made(
    flat: Mapping[str, Mapping[str, Any]] | None = None,
    upper: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    levels: Any = LEVELS,
    level: str = "level",
    describe: Mapping[str, Any] | None = None,
    time: str = "time",
    when: Any = None,
    low: float = 280.0,
) -> xr.Dataset:
    """A file with fields at the surface and on levels, by their names and attributes."""
    grid = {"latitude": LATITUDE, "longitude": LONGITUDE}
    data: dict[str, Any] = {}
    for name, attributes in (flat or {}).items():
        data[name] = ((time, *grid), values_of(name, 4, 5, 6, low=low), dict(attributes))
    for name, attributes in (upper or {}).items():
        data[name] = ((time, level, *grid), values_of(name, 4, len(levels), 5, 6, low=low), dict(attributes))
    coords: dict[str, Any] = dict(grid)
    coords[time] = (time, HOURS * 1.0, {"units": "hours since 2021-03-01"}) if when is None else when
    if upper:
        coords[level] = (level, np.asarray(levels), {"units": "hPa"} if describe is None else dict(describe))
    return xr.Dataset(data, coords)


def save(dataset: xr.Dataset, folder: Path, form: str) -> tuple[str, Path]:
    """Write a file; return the kind of the source and the path."""
    if form == "pickle":
        arrays = {str(name): array.values for name, array in dataset.variables.items()}
        if arrays["time"].dtype.kind != "M":
            arrays["time"] = START + HOURS * np.timedelta64(3600, "s")
        (folder / "a.pickle").write_bytes(pickle.dumps(arrays))
        return "pickle", folder / "a.pickle"
    encoding: dict[Any, Any] = {}
    if form == "packed":
        for key, array in dataset.data_vars.items():
            if array.ndim > 2:
                scale = float(np.ptp(array.values)) / 60000 or 1.0
                offset = float(array.values.mean())
                encoding[key] = {"dtype": "i2", "scale_factor": scale, "add_offset": offset, "_FillValue": -32767}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form.startswith("zarr"):
            version: Any = int(form[-1])
            dataset.to_zarr(folder / "a.zarr", zarr_format=version)
            return "zarr", folder / "a.zarr"
        kind: Any = "NETCDF3_64BIT" if form == "nc3" else "NETCDF4"
        dataset.to_netcdf(folder / "a.nc", format=kind, encoding=encoding)
    return "netcdf", folder / "a.nc"


def reread(dataset: xr.Dataset, source: str, path: Path) -> xr.Dataset:
    """Read a file with xarray alone; a pickle's values are those that went into it."""
    options: dict[str, Any] = {"decode_times": False, "decode_timedelta": False}
    if source == "zarr":
        found: xr.Dataset = xr.open_zarr(path, chunks=None, **options).load()
        return found
    if source == "netcdf" and path.is_file() and path.suffix == ".nc":
        with xr.open_dataset(path, **options) as opened:
            return opened.load()
    return dataset


def ordered(array: xr.DataArray) -> Values:
    """Transpose to times, levels, rows, columns, by their sizes."""
    order = sorted(range(array.ndim), key=lambda axis: (4, 3, 5, 6).index(array.shape[axis]))
    return array.values.astype(np.float64).transpose(order)


@dataclass(frozen=True)
class Case:
    """A file, and what must become of it.

    Attributes:
        kind: Kind of file, of the table above.
        dataset: The file.
        form: Container: ``nc3``, ``nc4``, ``packed``, ``zarr2``, ``zarr3``, ``pickle``.
        message: Pattern of the message with which it is refused.
        expected: Name in the file, scale, offset, and indices that are taken of it, by the store's name.
        options: Settings of the build.
        attributes: Attributes of variables of the store.
        times: Hours after the first of March at which states are valid.
        write: Writes the file in a way of its own.
    """

    kind: str
    dataset: xr.Dataset
    form: str = "nc4"
    message: str = ""
    expected: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    times: Any = None
    write: Callable[[xr.Dataset, Path], tuple[str, Path]] | None = None


def built(case: Case, folder: Path) -> tuple[Store, xr.Dataset]:
    (folder / "in").mkdir()
    if case.write is not None:
        source, path = case.write(case.dataset, folder / "in")
    else:
        source, path = save(case.dataset, folder / "in", case.form)
    options = {"statics": ("coslat",), "train": "1800/2299"} | dict(case.options)
    store = build_store(source=source, path=path, out=folder / "out" / "store", **options)
    return store, reread(case.dataset, source, path)


def check(case: Case, folder: Path) -> None:
    (folder / "out").mkdir()
    if case.message:
        with pytest.raises(KitError, match=f"(?s){case.message}"):
            built(case, folder)
        assert not list((folder / "out").iterdir())
        return
    store, opened = built(case, folder)
    for ours, (theirs, scale, offset, *indices) in case.expected.items():
        truth = ordered(opened[theirs]) * scale + offset
        truth = truth[tuple(indices)] if indices else truth
        if ours.startswith("static_"):
            found = store.read_static(ours.removeprefix("static_"))
        else:
            found = store.read(ours, slice(None))
        np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-9, err_msg=ours)
    for name, stated in case.attributes.items():
        for key, value in stated.items():
            assert store.variable_attributes(name).get(key) == value, (name, key)
    if case.times is not None:
        hours = (store.times - START) / np.timedelta64(1, "h")
        np.testing.assert_array_equal(hours, case.times)


K, MPS, PA, METRES, POTENTIAL = ({"units": text} for text in ("K", "m s-1", "Pa", "m", "m**2 s**-2"))
SAME = (1.0, 0.0)
DOWN = slice(None, None, -1)
ALL = slice(None)
T2 = {"t2m": K}


def named(**names: str) -> dict[str, dict[str, str]]:
    """Attributes with standard names and units, by name: ``a="air_temperature|K"``."""
    return {key: dict(zip(("standard_name", "units"), text.split("|"), strict=True)) for key, text in names.items()}


CF = named(f1="air_temperature|K", f2="eastward_wind|m s-1", f3="specific_humidity|g kg-1", f4="geopotential_height|m")
NAMES = (
    Case("standard names", made({}, CF, level="isobaric"), "zarr2", expected={
        "t": ("f1", *SAME), "u": ("f2", *SAME), "q": ("f3", 1e-3, 0), "z": ("f4", GRAVITY, 0)}),
    Case("standard names", made({}, CF, levels=LEVELS[::-1], level="lev").transpose(), "nc3", expected={
        "t": ("f1", *SAME, ALL, DOWN), "z": ("f4", GRAVITY, 0, ALL, DOWN)}),
    Case("standard names", made(named(x="air_pressure_at_mean_sea_level|mb", y="surface_air_pressure|hPa",
                                      w="sea_surface_temperature|degree_C")), "packed", expected={
        "msl": ("x", 100, 0), "sp": ("y", 100, 0), "sst": ("w", 1, 273.15)}),
    Case("standard names", made(named(x="air_temperature|degK", y="eastward_wind|m/s")).assign_coords(
        height=((), 2.0, METRES)), "zarr3", options={"variables": ("2t",)}, expected={"2t": ("x", *SAME)}),
    Case("standard names", made({}, named(w="lagrangian_tendency_of_air_pressure|Pa s**-1",
                                          r="relative_humidity|%")), "nc4", expected={
        "w": ("w", *SAME), "r": ("r", 1e-2, 0)}),
)  # fmt: skip

HYBRID = {"standard_name": "atmosphere_hybrid_sigma_pressure_coordinate", "formula_terms": "a: a b: b ps: ps"}
MODEL = tuple(
    Case("model levels", made(T2, {"t": K, "q": {"units": "kg kg-1"}}, levels=levels, level=level, describe=described),
         form, message=message, options=options)
    for level, levels, described, form, message, options in (
        ("hybrid", (1.0, 2.0, 3.0), {}, "zarr3", "[tq] lies on 3 model levels.*interpolate", {}),
        ("lev", (0.99, 0.5, 0.1), HYBRID, "nc3", "[tq] lies on 3 model levels.*interpolate", {}),
        ("sigma", (100.0, 500.0, 900.0), {}, "zarr2", "[tq] lies on 3 model levels.*interpolate", {}),
        ("level", (105.0, 120.0, 137.0), {"long_name": "hybrid level number", "units": "hPa"}, "packed",
         "[tq] lies on 3 model levels.*interpolate", {}),
        ("model_level_number", (1, 70, 137), {"units": "1"}, "nc4", "q lies on 3 model levels", {"variables": ("q",)}),
    )
)  # fmt: skip
MODEL += (
    Case("model levels", made(T2, {"t": K}, level="hybrid", describe={}), "zarr2", options={"variables": ("2t",)},
         expected={"2t": ("t2m", *SAME)}),
)  # fmt: skip

SURFACE_LEVELS = (
    Case("surface levels", made(T2).expand_dims(level=[-1]).squeeze("level"), "zarr3", expected={
        "2t": ("t2m", *SAME)}),
    Case("surface levels", made(T2 | {"sp": PA}).assign_coords(lev=0), "nc3", expected={
        "2t": ("t2m", *SAME), "sp": ("sp", *SAME)}),
    Case("surface levels", made({"t": K}).assign_coords(heightAboveGround=((), 2.0, METRES)), "zarr2", expected={
        "2t": ("t", *SAME)}),
    Case("surface levels", made({"u": MPS, "v": MPS}).assign_coords(height=((), 100.0, METRES)), "nc4", expected={
        "100u": ("u", *SAME), "100v": ("v", *SAME)}),
    Case("surface levels", made({"msl": PA}).assign_coords(meanSea=0.0), "packed", expected={"msl": ("msl", *SAME)}),
)  # fmt: skip


def dated(numbers: Any, units: str, **attributes: Any) -> xr.Dataset:
    return made(T2, when=("time", np.asarray(numbers), {"units": units, **attributes}))


def of_year(year: int) -> xr.Dataset:
    times = np.datetime64(f"{year:04d}-03-01T00", "s") + HOURS * np.timedelta64(3600, "s")
    return made({"2t": {}}, when=("time", times))


DATES = (
    Case("dates", dated(HOURS + 0.0, "hours since 1754-08-30"), "nc3", message="1754-08-30.*--times"),
    Case("dates", dated(HOURS, "hours since 2999-01-01"), "zarr3", message="2999-01-01.*--times"),
    Case("dates", dated(HOURS, "hours since 1600-01-01", calendar="noleap"), "nc4", message="calendar 'noleap'"),
    Case("dates", of_year(9999), "pickle", message="in 9999-03-01.*--times"),
    Case("dates", dated([0, 6, 12, 10**12], "hours since 1970-01-01"), "zarr2", message="a.zarr.*mend"),
    Case("dates", dated(HOURS, "hours since 1066-10-14", calendar="proleptic_gregorian"), "nc4",
         options={"times": "1066-10-14/1066-10-15", "train": "1066/1066"}, expected={"2t": ("t2m", *SAME)}),
)  # fmt: skip


def with_leads(leads: Any, units: str = "hours", reference: str = "time", lead: str = "step") -> xr.Dataset:
    """Two reference times by two leads, a field at the surface and one on levels; valid times at 0, 6, 12, 18 h."""
    shape = (2, 2, 5, 6)
    dims = (reference, lead, "latitude", "longitude")
    upper = (reference, lead, "isobaricInhPa", "latitude", "longitude")
    return xr.Dataset(
        {"t2m": (dims, values_of("t2m", *shape), K), "t": (upper, values_of("t", 2, 2, 3, 5, 6), K)},
        {
            reference: (reference, [0, 12], {"units": "hours since 2021-03-01"}),
            lead: (lead, np.asarray(leads), {"units": units} if units else {}),
            "isobaricInhPa": ("isobaricInhPa", np.asarray(LEVELS)),
            "latitude": LATITUDE,
            "longitude": LONGITUDE,
        },
    )


NEGATIVE = (
    Case("negative leads", with_leads([-6, 6]), "nc4", message="-6, 6 h ahead.*--lead 6h$"),
    Case("negative leads", with_leads([-28587, 0]), "zarr3", times=[0, 12], options={"lead": "0h"}),
    Case(
        "negative leads",
        with_leads([-1, -2], "days", "init_time", "lead_time"),
        "nc3",
        message="-48, -24 h ahead.*no forecast goes back in time: mend the reference times",
    ),
)


def ahead(dataset: xr.Dataset, index: int) -> xr.Dataset:
    """The states of one lead, as the store holds them."""
    return dataset.isel({dataset["t2m"].dims[1]: index})


CAMS = ("forecast_reference_time", "forecast_period")
VALID = (CAMS, np.array([[0, 6], [12, 18]]), {"units": "hours since 2021-03-01", "standard_name": "time"})
SECONDS = np.array([0, 21600], "i4")


def check_forecast(dataset: xr.Dataset, form: str, folder: Path, lead: str | None) -> None:
    source, path = save(dataset, folder, form)
    options: dict[str, Any] = {"statics": ("coslat",), "train": "2021/2021"}
    store = build_store(source=source, path=path, out=folder / "store", lead=lead, **options)
    names = [name for name in dataset["t"].dims if dataset.sizes[name] == 2]
    dims = sorted(names, key=lambda name: dataset[name].values[1] != 12)
    first = np.asarray([0, 12]) + (0 if lead in (None, "0h/6h") else 6)
    hours = sorted({*first.tolist(), 6, 18}) if lead == "0h/6h" else first.tolist()
    assert ((store.times - START) / np.timedelta64(1, "h")).tolist() == hours
    for ours, theirs in (("2t", "t2m"), ("t", "t")):
        truth = dataset[theirs].transpose(*dims, ..., "latitude", "longitude").values
        flat = truth.reshape(4, *truth.shape[2:])
        index = {"0h/6h": [0, 1, 2, 3], None: [0, 2], "6h": [1, 3]}[lead]
        np.testing.assert_allclose(store.read(ours, slice(None)), flat[index], rtol=1e-6)
    stated = {"0h/6h": [0, 6], None: 0, "6h": 6}[lead]
    assert store.variable_attributes("t")["lead_hours"] == stated


@pytest.mark.parametrize("lead", (None, "6h", "0h/6h"))
@pytest.mark.parametrize(
    ("dataset", "form"),
    one_in(2, (
        (with_leads([0, 6], "hours", *CAMS).assign_coords(valid_time=VALID), "zarr3"),
        (with_leads(SECONDS, "seconds", "init_time", "prediction_timedelta"), "zarr2"),
        (with_leads([0, 0.25], "days", "initial_time", "lead_time"), "nc3"),
        (with_leads([0, 360], "minutes", *CAMS).transpose(..., "forecast_period"), "nc4"),
    )),
)  # fmt: skip
def test_forecasts(dataset: xr.Dataset, form: str, lead: str | None, tmp_path: Path) -> None:
    check_forecast(dataset, form, tmp_path, lead)


def files(parts: Mapping[str, xr.Dataset], *, packed_as: str = "") -> Callable[[xr.Dataset, Path], tuple[str, Path]]:
    """Write several files into a folder, or into a zip."""

    def write(_: xr.Dataset, folder: Path) -> tuple[str, Path]:
        for name, part in parts.items():
            part.to_netcdf(folder / f"{name}.nc", format="NETCDF3_64BIT" if name.endswith("3") else "NETCDF4")
        if not packed_as:
            return "netcdf", folder
        with zipfile.ZipFile(folder / packed_as, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in parts:
                archive.write(folder / f"{name}.nc", f"{name}.nc")
                (folder / f"{name}.nc").unlink()
        return "netcdf", folder / packed_as

    return write


def coarse(**attributes: Mapping[str, Any]) -> xr.Dataset:
    """Fields on every other point."""
    return made(attributes).isel(latitude=slice(None, None, 2), longitude=slice(None, None, 2))


BOTH = {"data_stream-oper": made(T2 | {"u10": MPS}), "data_stream-wave": coarse(swh=METRES, mwd={"units": "degrees"})}
STREAMS = (
    Case("streams", BOTH["data_stream-oper"], message="stream-wave.*swh, mwd.*stream-oper.*--leave_out swh,mwd",
         write=files(BOTH)),
    Case("streams", BOTH["data_stream-oper"], write=files(BOTH, packed_as="a.zip"),
         options={"leave_out": ("swh", "mwd")}, expected={"2t": ("t2m", *SAME), "10u": ("u10", *SAME)}),
    Case("streams", made(T2), write=files({"a3": made(T2), "waves3": coarse(pp1d={"units": "s"})}, packed_as="a.zip"),
         message="waves3.nc has 3 latitudes.*for pp1d; .*a3.nc has 5 latitudes.*--leave_out pp1d"),
    Case("streams", made(T2), write=files({"a": made(T2), "b": made({"sp": PA}).assign_coords(
        longitude=LONGITUDE + 0.125)}), message="b.nc has 6 longitudes from 5.125.*--leave_out sp"),
    Case("streams", made(T2), write=files({"a": made(T2), "b": coarse(t2m=K)}),
         message="give files of one grid alone, as 2t lies on several"),
)  # fmt: skip


def version(number: Any, states: slice, extra: float = 0.0) -> xr.Dataset:
    part = made(T2).isel(time=states)
    part["t2m"] = (part["t2m"] + extra).assign_attrs(K)
    return part.assign_coords(expver=number)


def along_times(number: str, states: slice, extra: float = 0.0) -> xr.Dataset:
    part = version(number, states, extra)
    return part.drop_vars("expver").assign(expver=("time", [number] * part.sizes["time"]))


VERSIONS = tuple(
    Case("versions", made(T2), write=files(parts), expected={"2t": ("t2m", *SAME)})
    for parts in (
        {"a": version(5, slice(1, 3), 9.0), "b": version(1, slice(0, 4))},
        {"new3": version(1, slice(0, 4)), "old3": version(5, slice(0, 2), -4.0)},
        {"1": along_times("0005", slice(0, 4), 3.0), "2": along_times("0001", slice(0, 2)),
         "3": along_times("0001", slice(2, 4))},
    )
)  # fmt: skip
VERSIONS += (
    Case("versions", made(T2), write=files({"a": version(1, slice(0, 4)), "b": version(1, slice(3, 4), 1.0)}),
         message="a.nc and .*b.nc|b.nc and a.nc both hold 2t at 2021-03-01T18"),
)  # fmt: skip

DAYS_SINCE_1900 = (np.datetime64("2021-03-01", "D") - np.datetime64("1900-01-01", "D")).astype(int)
ROUNDED = tuple(
    Case("rounded times", dated(numbers, units), form, expected={"2t": ("t2m", *SAME)}, times=hours)
    for numbers, units, form, hours in (
        (np.round(np.array([1, 2, 4, 5]) / 24, 6), "days since 2021-03-01", "zarr3", [1, 2, 4, 5]),
        ((DAYS_SINCE_1900 + HOURS / 24).astype("f4"), "days since 1900-01-01", "nc3", HOURS),
        (np.round(np.array([1, 2, 4, 5]) / 3, 4), "hours since 2021-03-01", "zarr2", [1 / 3, 2 / 3, 4 / 3, 5 / 3]),
        (DAYS_SINCE_1900 * 86400.0 + 3600 * HOURS - 0.004, "seconds since 1900-01-01", "nc4", HOURS),
    )
)  # fmt: skip


def around(longitude: Any, apart: float) -> xr.Dataset:
    """Five meridians and the first of them again."""
    dataset = made(T2).assign_coords(longitude=np.asarray(longitude, dtype=np.float64))
    dataset["t2m"][..., -1] = dataset["t2m"][..., 0] + apart
    return dataset


GLOBE, WEST = (0, 72, 144, 216, 288, 360), (-180, -108, -36, 36, 108, 180)
SEAMS = (
    Case("seams", around(GLOBE, 5.0), "zarr3", message="at 0 and at 360 degrees.*differs by up to 5 .*--region"),
    Case("seams", around(WEST, -1.0), "nc3", message="at -180 and at 180 degrees.*differs by up to 1 .*--region"),
    Case("seams", around(GLOBE, 0.5), "packed", message="differs by up to 0.5"),
    Case("seams", around(GLOBE, 2.0).rename(t2m="2t"), "pickle", message="at 0 and at 360 degrees"),
    Case("seams", around(GLOBE, 0.0), "zarr2", expected={"2t": ("t2m", *SAME, ALL, ALL, slice(0, 5))}),
    Case("seams", around(GLOBE, 5.0), "nc4", options={"region": (90, 72, -90, 288)},
         expected={"2t": ("t2m", *SAME, ALL, ALL, slice(1, 5))}),
)  # fmt: skip

DAILY_TIMES = ("valid_time", np.arange(4), {"units": "days since 2021-03-01"})
FROM_GRIB = {"GRIB_stepType": "instant", "cell_methods": "valid_time: mean"}
OF_RAIN = {"GRIB_stepType": "accum", "cell_methods": "valid_time: sum (interval: 1 hour)", "units": "mm"}


def daily(title: str = "", **fields: Mapping[str, Any]) -> xr.Dataset:
    time = "valid_time" if "valid_time" in str(fields) else "time"
    dataset = made(fields, time=time, when=(time, *DAILY_TIMES[1:]))
    return dataset.assign_attrs(title=title) if title else dataset


def bounded(dataset: xr.Dataset, before: float, after: float) -> xr.Dataset:
    days = dataset["time"].values[:, None] + np.array([[-before, after]])
    dataset["time"].attrs["bounds"] = "time_bnds"
    return dataset.assign(time_bnds=(("time", "nv"), days))


DAY = 24 * np.arange(1, 5)
MEAN, SUM = {"averaging_hours": 24.0}, {"accumulation_hours": 24}
CDS_TITLE = "ERA5 post-processed daily statistics on single levels from 1940 to present"
DAYS = (
    Case("days", daily(t2m=K | FROM_GRIB, tp=OF_RAIN), "zarr2", expected={"2t": ("t2m", *SAME), "tp": ("tp", 1e-3, 0)},
         attributes={"2t": MEAN, "tp": SUM}, times=DAY),
    Case("days", daily(CDS_TITLE, t2m=K | {"cell_methods": "time: mean"}, tp={"units": "m"}), "nc3",
         expected={"2t": ("t2m", *SAME), "tp": ("tp", *SAME)}, attributes={"2t": MEAN, "tp": SUM}, times=DAY),
    Case("days", bounded(daily(t2m=K | {"cell_methods": "time: mean"}), 0.5, 0.5), "nc4", times=DAY - 12,
         expected={"2t": ("t2m", *SAME)}, attributes={"2t": MEAN}),
    Case("days", bounded(daily(tp={"units": "m", "cell_methods": "area: mean time: sum"}), 1, 0), "zarr3",
         times=DAY - 24, expected={"tp": ("tp", *SAME)}, attributes={"tp": SUM}),
    Case("days", daily(tp={"units": "m", "cell_methods": "time: sum"}), "zarr3", message="--window tp=24h-after"),
    Case("days", daily(tp={"units": "m", "cell_methods": "time: sum"}), "packed", options={"window": "tp=24h"},
         expected={"tp": ("tp", *SAME)}, attributes={"tp": SUM}, times=DAY - 24),
    Case("days", daily(t2m=K | {"cell_methods": "time: mean"}), "zarr2", options={"window": "2t=24h-after"},
         expected={"2t": ("t2m", *SAME)}, attributes={"2t": MEAN}, times=DAY),
    Case("days", daily(t2m=K | FROM_GRIB | {"cell_methods": "valid_time: maximum"}), "nc4",
         message="a statistic over time .maximum."),
    # States of the midnights stand beside the days that end there.
    Case("days", daily(t2m=K | FROM_GRIB, sp=PA), "nc4", expected={
        "2t": ("t2m", *SAME, slice(0, 3)), "sp": ("sp", *SAME, slice(1, 4))}, times=DAY[:-1]),
)  # fmt: skip

MONTHS = tuple(
    Case("months", made(fields, when=("time", np.array([0, 31, 61, 92]), {"units": "days since 2021-03-01"})), form,
         message=message)
    for fields, form, message in (
        ({"t2m": K | {"GRIB_stepType": "avgua"}}, "zarr3", "a mean over many days"),
        ({"tp": {"units": "m", "GRIB_stepType": "avgid"}}, "nc3", "a mean over many days"),
        ({"tas": K | {"cell_methods": "area: time: mean"}}, "zarr2", "tas is a mean over time, .*; leave it out"),
        ({"tp": {"units": "m", "cell_methods": "time: sum"}}, "nc4", "sums of whole days .*; leave it out"),
    )
)  # fmt: skip


def grouped(*names: str, root: xr.Dataset | None = None) -> Callable[[xr.Dataset, Path], tuple[str, Path]]:
    def write(dataset: xr.Dataset, folder: Path) -> tuple[str, Path]:
        path = folder / "a.nc"
        (root if root is not None else xr.Dataset(attrs={"title": "groups"})).to_netcdf(path)
        for name in names:
            dataset.to_netcdf(path, group=name, mode="a")
        return "netcdf", path

    return write


GROUPS = (
    Case("groups", made(T2), write=grouped("forecast/surface"), message="lie in groups, forecast/surface;.*--group"),
    Case("groups", made(T2), write=grouped("a", "b"), message="lie in groups, a, b;"),
    Case("groups", made(T2), write=grouped("a"), options={"group": ("b",)}, message="no group 'b'; its groups are a"),
)  # fmt: skip


@pytest.mark.parametrize("group", ("data", "forecast/surface/analysis", "b"))
def test_groups_by_name(group: str, tmp_path: Path) -> None:
    dataset = made(T2)
    root = made({"sp": PA}) if group == "b" else None
    source, path = grouped(group, root=root)(dataset, tmp_path)
    store = build_store(source=source, path=path, out=tmp_path / "store", group=(group,), statics=("coslat",))
    assert store.surface == ("2t",)
    np.testing.assert_allclose(store.read("2t", slice(None)), dataset["t2m"].values, rtol=1e-6)


def height(**fields: Any) -> xr.Dataset:
    """Fields without times, from their lowest and highest value."""
    data = {
        name: (("latitude", "longitude"), np.linspace(ends[0], ends[1], 30, dtype=np.float32).reshape(5, 6), attributes)
        for name, (ends, attributes) in fields.items()
    }
    return made(T2).assign(data)


STATICS: dict[str, Any] = {"statics": None}
HEIGHTS = (
    Case("heights", height(orog=((0, 900), {})), "zarr3", options=STATICS, message="orog states no units.*--leave_out"),
    Case("heights", height(HGT=((-50, 4000), {})), "nc3", options=STATICS, message="HGT states no units"),
    Case("heights", height(zs=((5, 60), {})), "zarr2", options=STATICS, message="zs states no units.*ncatted"),
    Case("heights", height(phis=((-20, 40000), {})), "nc4", options=STATICS, expected={"static_z": ("phis", *SAME)}),
    Case("heights", height(orography=((0, 900), METRES)), "packed", options=STATICS,
         expected={"static_z": ("orography", GRAVITY, 0)}),
    Case("heights", height(z=((0, 900), {"units": "dam"})), "zarr3", options=STATICS,
         expected={"static_z": ("z", 10 * GRAVITY, 0)}),
)  # fmt: skip


def twofold(name: str, units: str, factor: float, extra: float = 0.0) -> xr.Dataset:
    dataset = made({}, {"z": POTENTIAL}, low=20000.0)
    return dataset.assign({name: (dataset["z"] / factor + extra).assign_attrs(units=units)})


TWICE = (
    Case("twice", twofold("gh", "gpm", GRAVITY), "zarr3", expected={"z": ("z", *SAME)}),
    Case("twice", twofold("hgt", "dam", 10 * GRAVITY), "packed", expected={"z": ("z", *SAME)}),
    Case("twice", twofold("zg", "m", GRAVITY, 1.0), "nc3", message="z and zg are both z.*differ by up to.*-x -v zg"),
    Case("twice", twofold("gh", "gpm", GRAVITY, -7.0), "zarr2", message="z and gh are both z.*differ by up to"),
    Case("twice", made({"t2m": K, "tas": K}), "nc4", message="are both 2t.*differ by up to"),
)  # fmt: skip

ONE = {"t": K, "u": MPS}
SCALARS = tuple(
    Case("scalar levels", made(T2 | ONE).assign_coords({name: ((), number, attributes)}), form,
         expected={"2t": ("t2m", *SAME), "t": ("t", *SAME, ALL, None), "u": ("u", *SAME, ALL, None)})
    for name, number, attributes, form in (
        ("level", 500, {"units": "millibars"}, "zarr3"), ("isobaricInhPa", 500.0, {}, "nc3"),
        ("plev", 50000.0, {"units": "Pa"}, "zarr2"), ("pressure", 500.0, {"units": "mb"}, "nc4"),
    )
)  # fmt: skip

NO_LEVELS = (
    Case("no levels", made(T2 | ONE), "zarr3", message="t is a field on pressure levels.*--at_level 850"),
    Case("no levels", made({"ta": K, "ua": MPS}), "nc3", message="ta is a field on pressure levels.*--at_level"),
    Case("no levels", made({"temperature": K}), "zarr2", options={"at_level": 250.0},
         expected={"t": ("temperature", *SAME, ALL, None)}),
    Case("no levels", made(T2 | {"q": {"units": "g/kg"}}), "packed", options={"at_level": 1000.0},
         expected={"2t": ("t2m", *SAME), "q": ("q", 1e-3, 0, ALL, None)}),
)  # fmt: skip

BARE = tuple(
    Case("bare levels", made({}, {"t": K}, levels=levels, level=name, describe=attributes), form, message=message)
    for levels, name, attributes, form, message in (
        ((60, 96, 137), "level", {}, "zarr3", "level 60, 96, 137; .*model levels.*--levels_are pressure"),
        ((10, 20, 30), "lev", {"units": "1"}, "nc3", "10, 20, 30; .*--levels_are pressure"),
        ((1, 2, 3), "levelist", {"long_name": "level"}, "zarr2", "1, 2, 3; .*model levels"),
        ((250, 333, 900), "level", {}, "nc4", "250, 333, 900; .*--levels_are pressure"),
    )
)  # fmt: skip
BARE += tuple(
    Case("bare levels", made({}, {"t": K}, levels=levels, describe={}), form, options=options,
         expected={"t": ("t", *SAME)})
    for levels, form, options in (
        ((10, 20, 30), "zarr2", {"levels_are": "pressure"}), ((200, 500, 850), "nc3", {}),
    )
)  # fmt: skip

CMIP = (
    Case("cmip", made({"tas": {"units": "degC"}, "uas": MPS, "psl": {"units": "hPa"}, "ts": K},
                      {"ta": K, "hus": {"units": "1"}, "zg": METRES, "wap": {"units": "Pa s-1"}},
                      level="plev", levels=(85000.0, 50000.0, 20000.0), describe={"units": "Pa"}), "zarr3",
         expected={"2t": ("tas", 1, 273.15), "10u": ("uas", *SAME), "msl": ("psl", 100, 0), "skt": ("ts", *SAME),
                   "t": ("ta", *SAME, ALL, DOWN), "q": ("hus", *SAME, ALL, DOWN), "z": ("zg", GRAVITY, 0, ALL, DOWN),
                   "w": ("wap", *SAME, ALL, DOWN)}),
    Case("cmip", made({"tdps": K, "ps": PA, "clt": {"units": "%"}, "prw": {"units": "kg m-2"}, "vas": MPS,
                       "sfcWind": MPS}), "nc3",
         expected={"2d": ("tdps", *SAME), "sp": ("ps", *SAME), "tcc": ("clt", 1e-2, 0), "tcwv": ("prw", *SAME),
                   "10v": ("vas", *SAME), "10si": ("sfcWind", *SAME)}),
    Case("cmip", height(orog=((0, 4000), METRES), sftlf=((0, 100), {"units": "%"})), "zarr2", options=STATICS,
         expected={"static_z": ("orog", GRAVITY, 0), "static_lsm": ("sftlf", 1e-2, 0)}),
)  # fmt: skip

CASES = (
    *NAMES, *MODEL, *SURFACE_LEVELS, *DATES, *NEGATIVE, *STREAMS, *VERSIONS, *ROUNDED, *SEAMS, *DAYS, *MONTHS, *GROUPS,
    *HEIGHTS, *TWICE, *SCALARS, *NO_LEVELS, *BARE, *CMIP,
)  # fmt: skip


def names_of(cases: Sequence[Case]) -> Iterator[str]:
    """Name cases by their kind, their number among those of the kind, and the form of their file."""
    counts = dict.fromkeys([case.kind for case in cases], 0)
    for case in cases:
        counts[case.kind] += 1
        yield f"{case.kind} {counts[case.kind]} {case.form}"


@pytest.mark.parametrize("case", first_of_each([case.kind for case in CASES], CASES, names_of(CASES)))
def test_kinds(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def test_every_kind_has_three_cases() -> None:
    for kind in {case.kind for case in CASES}:
        assert sum(case.kind == kind for case in CASES) >= 3, kind
