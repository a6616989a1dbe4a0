"""Winds of NetCDF and Zarr files along projected and rotated grids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import xarray as xr

from kit.data.settings import BuildSettings
from kit.data.store.build import build_store
from kit.data.store.reader import Store
from kit.io.errors import StoreError
from tests.data.sources.zarr_files import write as write_zarr
from tests.everyday import one_in
from tests.real_data import real_data

LCC = {
    "grid_mapping_name": "lambert_conformal_conic",
    "standard_parallel": [30.0, 60.0],
    "longitude_of_central_meridian": -100.0,
    "latitude_of_projection_origin": 45.0,
    "earth_radius": 6371229.0,
}
POLAR = {
    "grid_mapping_name": "polar_stereographic",
    "straight_vertical_longitude_from_pole": 10.0,
    "latitude_of_projection_origin": -90.0,
    "standard_parallel": -71.0,
    "semi_major_axis": 6378137.0,
    "inverse_flattening": 298.257223563,
}
EUROPE = LCC | {"longitude_of_central_meridian": 5.0}
PLANES: dict[str, tuple[dict[str, Any], float, float]] = {"lcc": (LCC, 1.2e6, 0.0), "polar": (POLAR, 4e5, 2e6)}
PLANES |= {"greenwich": (EUROPE, -4.5e5, 0.0), "pole": (POLAR, -1.2e5, -1.2e5)}
"""Grid mappings, and the middles of grids on them."""


def grid_file(plane: str = "lcc", *, states: int = 4, **attributes: Any) -> tuple[xr.Dataset, Any, Any]:
    """A file with winds along its grid, and what they are to east and north, [T, H, W].

    Its rows go north. The angles are those between meridians and the y axis, from differences of PROJ's transformation.
    """
    mapping, x, y = PLANES[plane]
    projection = pyproj.Proj(pyproj.CRS.from_cf(mapping))
    xs, ys = np.meshgrid(x + 3e4 * np.arange(9), y + 3e4 * np.arange(8))
    longitude, latitude = projection(xs, ys, inverse=True)
    south, north = (projection(longitude, latitude + step) for step in (-1e-4, 1e-4))
    angle = -np.arctan2(north[0] - south[0], north[1] - south[1])
    random = np.random.default_rng(0)
    east, to_north = random.normal(0, 10, (2, states, *xs.shape))
    dims, grid = ("time", "y", "x"), ("y", "x")
    along_x = east * np.cos(angle) - to_north * np.sin(angle)
    along_y = to_north * np.cos(angle) + east * np.sin(angle)
    common = {"units": "m s-1", "grid_mapping": "crs"}
    data = {
        "u10": (dims, along_x, common | {"standard_name": "x_wind"} | attributes),
        "v10": (dims, along_y, common | {"standard_name": "y_wind"} | attributes),
        "t2m": (dims, 280 + random.random((states, *xs.shape)), {"units": "K", "grid_mapping": "crs"}),
        "crs": ((), 0, mapping),
    }
    coords = {
        "time": np.datetime64("2020-01-01", "ns") + np.arange(states) * np.timedelta64(6, "h"),
        "lat": (grid, latitude),
        "lon": (grid, longitude),
    }
    return xr.Dataset(data, coords), east, to_north


def stated(dataset: xr.Dataset, **attributes: Any) -> xr.Dataset:
    """The same file with other attributes of its winds; None takes one away."""
    result = dataset.copy()
    for name in ("u10", "v10"):
        changed = {**dataset[name].attrs, **attributes}
        result[name] = dataset[name].assign_attrs(changed)
        result[name].attrs = {key: value for key, value in changed.items() if value is not None}
    return result


def build(dataset: xr.Dataset, folder: Path, **options: Any) -> Store:
    if options.get("source") == "zarr":
        path = write_zarr(dataset, folder / "data.zarr", form=3)
    else:
        path = folder / "data.nc"
        dataset.to_netcdf(path)
    options = {"source": "netcdf", "statics": ("coslat",)} | options
    return build_store(BuildSettings(path=str(path), out=folder / "store", **options))


def check_winds(store: Store, east: Any, north: Any) -> None:
    """Rows of the file go north, those of the store south."""
    every = range(len(east))
    np.testing.assert_allclose(store.read("10u", every), east[:, ::-1], rtol=1e-6, atol=3e-6)
    np.testing.assert_allclose(store.read("10v", every), north[:, ::-1], rtol=1e-6, atol=3e-6)


def turned_by(store: Store, name: str = "10u") -> Any:
    return xr.open_zarr(store.path)[name].attrs.get("turned_from_grid")


def refusal(dataset: xr.Dataset, folder: Path, **options: Any) -> str:
    with pytest.raises(StoreError) as caught:
        build(dataset, folder, **options)
    assert [path.name for path in folder.iterdir() if path.name.startswith("store")] == []
    return str(caught.value)


COMPONENTS = [("x_wind", "y_wind"), ("grid_eastward_wind", "grid_northward_wind")]


@pytest.mark.parametrize("source", ["netcdf", "zarr"])
@pytest.mark.parametrize("plane", one_in(2, ["lcc", "polar"]))
@pytest.mark.parametrize("names", one_in(2, [(names,) for names in COMPONENTS]))
def test_winds_along_the_grid_are_turned(tmp_path: Path, source: str, plane: str, names: Any) -> None:
    dataset, east, north = grid_file(plane)
    for key, name in zip(("u10", "v10"), names, strict=True):
        dataset[key].attrs["standard_name"] = name
    store = build(dataset, tmp_path, source=source)
    check_winds(store, east, north)
    kind = PLANES[plane][0]["grid_mapping_name"]
    said = f"by the convergence of meridians in its {kind}"
    assert turned_by(store) == turned_by(store, "10v") == said
    assert f"10u and 10v turned from the grid's axes to east and north, {said}" in store.attributes["history"]
    assert turned_by(store, "2t") is None


@pytest.mark.slow
def test_a_store_of_ours_is_a_source_whose_winds_are_turned(tmp_path: Path) -> None:
    dataset, east, north = grid_file()
    store = build(dataset, tmp_path)
    again = build_store(BuildSettings(source="zarr", path=str(store.path), out=tmp_path / "again", statics=("coslat",)))
    np.testing.assert_array_equal(again.read("10u", range(4)), store.read("10u", range(4)))
    check_winds(again, east, north)


@pytest.mark.parametrize("source", one_in(2, ["netcdf", "zarr"]))
def test_one_component_alone_is_turned_with_the_other(tmp_path: Path, source: str) -> None:
    dataset, _, north = grid_file()
    store = build(dataset, tmp_path, source=source, variables=("10v", "2t"))
    assert sorted(store.surface) == ["10v", "2t"]
    np.testing.assert_allclose(store.read("10v", range(4)), north[:, ::-1], rtol=1e-6, atol=3e-6)


def test_a_region_of_the_grid(tmp_path: Path) -> None:
    dataset, east, _ = grid_file()
    middle = float(dataset["lat"][4, 4]), float(dataset["lon"][4, 4])
    region = (middle[0] + 0.3, middle[1] - 0.3, middle[0] - 0.3, middle[1] + 0.3)
    store = build(dataset, tmp_path, region=region)
    rows = np.flatnonzero(np.isin(dataset["lat"].values, store.latitude).any(axis=1))
    columns = np.flatnonzero(np.isin(dataset["lat"].values, store.latitude).any(axis=0))
    expected = east[:, rows][:, ::-1][:, :, columns]
    np.testing.assert_allclose(store.read("10u", range(4)), expected, rtol=1e-6, atol=3e-6)


@pytest.mark.parametrize("source", one_in(2, ["netcdf", "zarr"]))
@pytest.mark.parametrize("plane", one_in(2, ["lcc", "polar"]))
def test_columns_before_rows(tmp_path: Path, source: str, plane: str) -> None:
    """Latitudes fall along columns, too, and are still no rows."""
    dataset, east, north = grid_file(plane)
    store = build(dataset.transpose("time", "x", "y"), tmp_path, source=source)
    check_winds(store, east, north)


@pytest.mark.parametrize("source", one_in(2, ["netcdf", "zarr"]))
@pytest.mark.parametrize(
    ("plane", "region", "outside"),
    [("greenwich", (46, 0.3, 44, 3), (46, -2, 44, 3)), ("pole", (-88, 20, -89.4, 80), (-88, 0, -90, 360))],
)
def test_a_part_of_a_grid_that_has_no_order(tmp_path: Path, source: str, plane: str, region: Any, outside: Any) -> None:
    """The region is cut out before rows and columns are put in order."""
    dataset, east, north = grid_file(plane)
    store = build(dataset, tmp_path, source=source, region=region)
    latitude, longitude = dataset["lat"].values, dataset["lon"].values
    inside = (latitude <= region[0]) & (latitude >= region[2]) & (longitude >= region[1]) & (longitude <= region[3])
    rows, columns = (slice(int(side[0]), int(side[-1]) + 1) for side in map(np.unique, np.nonzero(inside)))
    assert store.latitude.shape == latitude[rows, columns].shape
    # Each point of the store is one of the file, whichever way the part was turned.
    apart = (latitude.ravel()[:, None] - store.latitude.ravel()) ** 2
    apart += (longitude.ravel()[:, None] % 360 - store.longitude.ravel()) ** 2
    for ours, truth in (("10u", east), ("10v", north), ("2t", dataset["t2m"].values)):
        expected = truth[1].ravel()[apart.argmin(axis=0)]
        np.testing.assert_allclose(store.read(ours, [1]).ravel(), expected, atol=3e-5)
    (tmp_path / "again").mkdir()
    for wanted in (None, outside):
        with pytest.raises(StoreError, match=r"a grid that holds a pole or crosses Greenwich cannot; .*--region"):
            build(dataset, tmp_path / "again", source="netcdf", region=wanted)


@pytest.mark.parametrize("source", one_in(2, ["netcdf", "zarr"]))
def test_winds_that_are_said_to_point_east_and_north_are_believed(tmp_path: Path, source: str) -> None:
    dataset, _, _ = grid_file()
    dataset["u10"].attrs["standard_name"], dataset["v10"].attrs["standard_name"] = "eastward_wind", "northward_wind"
    store = build(dataset, tmp_path, source=source)
    np.testing.assert_allclose(store.read("10u", range(4)), dataset["u10"].values[:, ::-1], rtol=1e-6)
    assert turned_by(store) is None


@pytest.mark.parametrize("source", one_in(2, ["netcdf", "zarr"]))
def test_winds_without_a_word_ask(tmp_path: Path, source: str) -> None:
    dataset, east, north = grid_file()
    silent = stated(dataset, standard_name=None)
    text = refusal(silent, tmp_path, source=source)
    assert "u10 is a component of a wind on a grid whose rows are no parallels, and nothing in the file says" in text
    assert "say so with --winds_are earth or --winds_are grid, or leave it out with --leave_out 10u" in text
    # What is not taken is not asked for.
    (tmp_path / "b").mkdir()
    assert list(build(silent, tmp_path / "b", source=source, variables=("2t",)).surface) == ["2t"]
    (tmp_path / "c").mkdir()
    check_winds(build(silent, tmp_path / "c", source=source, winds_are="grid"), east, north)
    (tmp_path / "d").mkdir()
    believed = build(silent, tmp_path / "d", source=source, winds_are="earth")
    np.testing.assert_allclose(believed.read("10u", range(4)), silent["u10"].values[:, ::-1], rtol=1e-6)


def test_without_a_projection_angles_come_from_the_points_where_they_are_asked_for(tmp_path: Path) -> None:
    dataset, east, north = grid_file()
    bare = stated(dataset, grid_mapping=None).drop_vars("crs")
    bare["t2m"].attrs.pop("grid_mapping")
    text = refusal(bare, tmp_path)
    assert "the file says nothing of them that the kit could turn it by" in text
    assert "Give --winds_are grid to take the axes from the latitudes and longitudes" in text
    (tmp_path / "b").mkdir()
    store = build(bare, tmp_path / "b", winds_are="grid")
    # Points are 30 km apart.
    np.testing.assert_allclose(store.read("10u", range(4)), east[:, ::-1], atol=1e-4)
    np.testing.assert_allclose(store.read("10v", range(4)), north[:, ::-1], atol=1e-4)
    assert str(turned_by(store)).startswith("by the directions of the rows")
    (tmp_path / "c").mkdir()
    assert "the last dimension of latitude and longitude does not run east" in refusal(
        bare.isel(x=slice(None, None, -1)), tmp_path / "c", winds_are="grid"
    )


def test_the_users_word_stands_over_the_files(tmp_path: Path) -> None:
    dataset, _, _ = grid_file()
    store = build(dataset, tmp_path, winds_are="earth")
    np.testing.assert_allclose(store.read("10u", range(4)), dataset["u10"].values[:, ::-1], rtol=1e-6)
    assert "10u taken as --winds_are earth says, though the file states the other" in store.attributes["history"]


def test_a_word_without_effect_is_refused(tmp_path: Path) -> None:
    dataset, _, _ = grid_file()
    text = refusal(dataset[["t2m", "crs"]], tmp_path, winds_are="grid")
    assert "--winds_are grid has no effect: no wind that is taken lies on a grid whose rows are no parallels" in text


def test_files_of_converted_grib_go_by_its_flag(tmp_path: Path) -> None:
    # As cfgrib writes them: names from a table, whatever the flag says.
    keys = {
        "GRIB_gridType": "lambert", "GRIB_uvRelativeToGrid": 1, "GRIB_Latin1InDegrees": 30.0,
        "GRIB_Latin2InDegrees": 60.0, "GRIB_LoVInDegrees": -100.0, "GRIB_LaDInDegrees": 45.0, "grid_mapping": None,
        "standard_name": "eastward_wind",
    }  # fmt: skip
    dataset, east, north = grid_file()
    converted = stated(dataset, **keys).drop_vars("crs")
    converted["t2m"].attrs.pop("grid_mapping")
    store = build(converted, tmp_path)
    check_winds(store, east, north)
    assert turned_by(store) == "by the convergence of meridians in its lambert_conformal_conic on a sphere"
    for folder, flag in (("earth", 0), ("silent", None)):
        (tmp_path / folder).mkdir()
        changed = stated(converted, GRIB_uvRelativeToGrid=flag)
        if flag is None:
            assert "nothing in the file says" in refusal(changed, tmp_path / folder)
        else:
            assert turned_by(build(changed, tmp_path / folder)) is None


def test_a_files_own_angles_come_first(tmp_path: Path) -> None:
    dataset, _, _ = grid_file()
    quarter = np.full(dataset["lat"].shape, np.pi / 2)
    attributes = {"standard_name": "angle_of_rotation_from_east_to_x", "units": "radian"}
    dataset["alpha"] = (("y", "x"), quarter, attributes)
    for source in ("netcdf", "zarr"):
        (tmp_path / source).mkdir()
        store = build(dataset, tmp_path / source, source=source)
        # The x axis points north, and the y axis west.
        np.testing.assert_allclose(store.read("10v", range(4)), dataset["u10"].values[:, ::-1], atol=1e-5)
        np.testing.assert_allclose(store.read("10u", range(4)), -dataset["v10"].values[:, ::-1], atol=1e-5)
        assert turned_by(store) == "by the file's alpha"


@pytest.mark.parametrize(
    ("change", "message"),
    one_in(3, [
        (lambda d: d.drop_vars("v10"), "10u is a component along the grid's own axes, and 10v, without which it"),
        (lambda d: d.assign(v10=d["v10"].assign_attrs(standard_name="northward_wind")),
         "10u points along the grid's axes, 10v as on parallels; give both of one kind"),
        (lambda d: d.assign(crs=d["crs"].assign_attrs(longitude_of_central_meridian=-60.0)),
         "its points do not lie on the grid of its grid mapping lambert_conformal_conic"),
    ]),
)  # fmt: skip
def test_what_cannot_be_turned(tmp_path: Path, change: Any, message: str) -> None:
    dataset, _, _ = grid_file()
    assert message in refusal(change(dataset), tmp_path)


@pytest.mark.slow
def test_components_of_other_files_and_times(tmp_path: Path) -> None:
    dataset, east, north = grid_file()
    (tmp_path / "in").mkdir()
    dataset.drop_vars("v10").to_netcdf(tmp_path / "in" / "u.nc")
    dataset[["v10", "crs"]].to_netcdf(tmp_path / "in" / "v.nc")
    options: dict[str, Any] = {"source": "netcdf", "path": str(tmp_path / "in"), "statics": ("coslat",)}
    check_winds(build_store(BuildSettings(out=tmp_path / "one", **options)), east, north)
    dataset[["v10", "crs"]].isel(time=slice(1, None)).to_netcdf(tmp_path / "in" / "v.nc")
    with pytest.raises(StoreError, match="10u and 10v are components along .* differ in their times"):
        build_store(BuildSettings(out=tmp_path / "two", **options))
    stated(dataset, standard_name="northward_wind")[["v10", "crs"]].isel(time=[0]).to_netcdf(tmp_path / "in" / "w.nc")
    with pytest.raises(StoreError, match="v.nc holds 10v along the grid's axes, w.nc along parallels"):
        build_store(BuildSettings(out=tmp_path / "three", **options))


def test_components_on_a_regular_grid_point_east_and_north(tmp_path: Path) -> None:
    dataset, _, _ = grid_file()
    coords = {"lat": ("y", np.linspace(50, 43, 8)), "lon": ("x", np.linspace(4, 12, 9))}
    regular = dataset.drop_vars(("lat", "lon")).assign_coords(coords).swap_dims(y="lat", x="lon").drop_vars("crs")
    store = build(regular, tmp_path)
    np.testing.assert_allclose(store.read("10u", range(4)), dataset["u10"].values, rtol=1e-6)


def test_degrees_around_a_rotated_pole_are_no_latitudes(tmp_path: Path) -> None:
    dataset, _, _ = grid_file()
    coords = {
        "lat": ("y", np.linspace(4, -3, 8), {"standard_name": "grid_latitude"}),
        "lon": ("x", np.linspace(4, 12, 9), {"standard_name": "grid_longitude"}),
    }
    rotated = dataset.drop_vars(("lat", "lon", "crs")).assign_coords(coords).swap_dims(y="lat", x="lon")
    assert "latitude is a grid_latitude, which counts along a rotated or projected grid" in refusal(rotated, tmp_path)


def test_a_real_looking_file_of_a_lambert_grid(tmp_path: Path) -> None:
    path = real_data("field-cases") / "s22b_cf_lcc.nc"
    store = build_store(BuildSettings(source="netcdf", path=str(path), out=tmp_path / "s", statics=("coslat",)))
    with xr.open_dataset(path) as file:
        # Its points are those of a sphere: Snyder's eq. 15-3.
        one, two = np.radians([30, 60])
        cone = np.log(np.cos(one) / np.cos(two)) / np.log(np.tan(np.pi / 4 + two / 2) / np.tan(np.pi / 4 + one / 2))
        angle = np.radians(cone * (file["lon"].values + 100))
        east = file["u10"].values * np.cos(angle) + file["v10"].values * np.sin(angle)
        north = file["v10"].values * np.cos(angle) - file["u10"].values * np.sin(angle)
    check_winds(store, east, north)
