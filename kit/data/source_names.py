"""Recognition of variables by the names that sources give them, compared without case.

ERA5's and CAMS's names are in the table of variables; those of other sources and CF standard names are here, written
after CMIP's tables, WRF's registry, GFS as wgrib2 (``TMP_2maboveground``), NOMADS' OpenDAP (``tmp2m``) and THREDDS
(``Temperature_isobaric``) spell it, NCEP's reanalyses (``air``), and CF's standard name table, version 85. What is no
exact counterpart is absent: ``snd`` is snow as deep as it lies, not its water; CMIP's ``rsds`` is a rate.
"""

import re

from kit.data.variables import ATMOSPHERIC, STATIC, SURFACE, Kind, Variable

_WINDOW = re.compile(r"_(\d+)hr?$")
"""How names end that state a window: WeatherBench 2's ``total_precipitation_6hr``."""
_OF_NCL = re.compile(r"_p\d+_l\d+_g[a-z0-9]+$")
"""How NCL's ``ncl_convert2nc`` ends names: ``TMP_P0_L100_GLL0`` is a temperature on isobaric surfaces (``L100``)."""
_PRESSURE = re.compile(r"_(\d+(?:d\d+)?)(?:mb|hpa)$")
"""How names end that state a pressure: wgrib2's ``TMP_500mb``, and ``HGT_0D4mb``, in which D is the decimal point."""

NAMES: dict[Kind, dict[str, str]] = {
    "surface": {
        "2t": "tas tmp2m tmp_2maboveground temperature_2m",
        "2d": "tdps dpt2m dpt_2maboveground dewpoint_2m",
        "10u": "uas ugrd10m ugrd_10maboveground u_10m",
        "10v": "vas vgrd10m vgrd_10maboveground v_10m",
        "100u": "ugrd100m ugrd_100maboveground u_100m",
        "100v": "vgrd100m vgrd_100maboveground v_100m",
        "10si": "sfcwind",
        "msl": "psl slp prmslmsl prmsl_meansealevel pressure_reduced_to_msl_msl",
        "sp": "ps psfc pressfc pres_surface pressure_surface",
        "skt": "ts tsk tmpsfc tmp_surface temperature_surface",
        "sst": "tos",
        "ci": "sic icecsfc icec_surface ice_cover_surface",
        "tcc": "clt tcdcclm tcdc_entireatmosphere",
        "tcwv": "prw pwatclm pwat_entireatmosphere_consideredasasinglelayer_ "
        "precipitable_water_entire_atmosphere_single_layer",
        "blh": "hpbl hpblsfc hpbl_surface planetary_boundary_layer_height_surface",
        "cape": "capesfc cape_surface",
        "cin": "cinsfc cin_surface",
        "tp": "apcp apcpsfc apcp_surface",
    },
    "atmospheric": {
        "z": "hgt hgtprs geopotential_height_isobaric",
        "t": "tmp air tmpprs temperature_isobaric",
        "u": "ugrd uwnd ugrdprs u-component_of_wind_isobaric",
        "v": "vgrd vwnd vgrdprs v-component_of_wind_isobaric",
        "q": "spfh shum spfhprs specific_humidity_isobaric",
        "w": "vvel omega vvelprs vertical_velocity_pressure_isobaric",
        "r": "rh rhum rhprs relative_humidity_isobaric",
        "o3": "o3mr o3mrprs ozone_mixing_ratio_isobaric",
        "clwc": "clwmr clwmrprs",
        "ciwc": "icmr icmrprs",
    },
    "static": {
        "z": "hgt hgtsfc hgt_surface geopotential_height_surface",
        "lsm": "landmask landsfc land_surface land_cover_0__sea_1__land_surface",
    },
}
"""Names by the store's, in lower case."""

STANDARD_NAMES: dict[Kind, dict[str, str]] = {
    "surface": {
        "air_pressure_at_sea_level": "msl",
        "precipitation_amount": "tp",
        "mass_concentration_of_pm1_ambient_aerosol_particles_in_air": "pm1",
        "mass_concentration_of_pm2p5_ambient_aerosol_particles_in_air": "pm2p5",
        "mass_concentration_of_pm10_ambient_aerosol_particles_in_air": "pm10",
        "atmosphere_mass_content_of_carbon_monoxide": "tcco",
        "atmosphere_mass_content_of_nitrogen_monoxide": "tc_no",
        "atmosphere_mass_content_of_nitrogen_dioxide": "tcno2",
        "atmosphere_mass_content_of_ozone": "gtco3",
        "atmosphere_mass_content_of_sulfur_dioxide": "tcso2",
        "sea_surface_wind_wave_significant_height": "shww",
        "sea_surface_swell_wave_significant_height": "shts",
    },
    "atmospheric": {
        "geopotential_height": "z",
        "vertical_air_velocity_expressed_as_tendency_of_pressure": "w",
        "ertel_potential_vorticity": "pv",
        "cloud_area_fraction_in_atmosphere_layer": "cc",
        "mass_fraction_of_cloud_ice_in_air": "ciwc",
        "mass_fraction_of_cloud_liquid_water_in_air": "clwc",
        "mass_fraction_of_carbon_monoxide_in_air": "co",
        "mass_fraction_of_nitrogen_monoxide_in_air": "no",
        "mass_fraction_of_nitrogen_dioxide_in_air": "no2",
        "mass_fraction_of_sulfur_dioxide_in_air": "so2",
    },
    "static": {"surface_altitude": "z", "land_area_fraction": "lsm"},
}
"""Standard names beside those that the table of variables writes into stores."""

# These are given to several quantities: layers of soil, gusts over various times, parcels of air, radar at any height.
# Snow is as deep as it lies, or as its water is.
AMBIGUOUS = frozenset({"stl1", "i10fg", "cape", "cin", "refc", "sd", "sf"})
"""Variables that neither a standard name nor a description alone tells from others."""
HEIGHTS = frozenset(
    "gh geopotential_height zg orography orog zs hgt hgtprs hgtsfc hgt_surface geopotential_height_isobaric "
    "geopotential_height_surface surface_altitude".split()
)
"""Names, standard names among them, of geopotential as a height: metres are their unit."""

_ALIASES: dict[tuple[Kind, str], Variable] = {}
_PARAM_IDS: dict[tuple[Kind, int], Variable] = {}
_DESCRIBED: dict[tuple[Kind, str], Variable] = {}
"""Variables by CF standard name and by what they are described as, where that stands for one of them alone."""
for _variable in (*SURFACE.values(), *ATMOSPHERIC.values(), *STATIC.values()):
    _ALIASES |= dict.fromkeys([(_variable.kind, alias) for alias in (_variable.name, *_variable.aliases)], _variable)
    _PARAM_IDS |= dict.fromkeys([(_variable.kind, number) for number in _variable.param_ids], _variable)


def _described_as(text: str) -> str:
    """Bring a description to the form of a standard name: ``2 metre temperature`` is ``2_metre_temperature``."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _index_names() -> None:
    shared: set[tuple[Kind, str]] = set()
    for variable in (*SURFACE.values(), *ATMOSPHERIC.values(), *STATIC.values()):
        if variable.name in AMBIGUOUS:
            continue
        texts = {_described_as(variable.long_name)}
        # A standard name alone does not tell 2 m from 10 m or 100 m.
        if variable.standard_name is not None and variable.height is None:
            texts.add(variable.standard_name)
        for text in texts:
            key = (variable.kind, text)
            if key in _DESCRIBED:
                shared.add(key)
            _DESCRIBED[key] = variable
    for key in shared:
        del _DESCRIBED[key]
    tables: dict[Kind, dict[str, Variable]] = {"surface": SURFACE, "atmospheric": ATMOSPHERIC, "static": STATIC}
    for kind, table in tables.items():
        for standard_name, name in STANDARD_NAMES[kind].items():
            _DESCRIBED[kind, standard_name] = table[name]
        for name, spellings in NAMES[kind].items():
            for spelling in spellings.split():
                _ALIASES[kind, spelling] = table[name]


_index_names()


def find(source_name: str, *, on_levels: bool) -> Variable | None:
    """Recognise a source's variable by any of its names.

    Args:
        source_name: Name in the file; case does not count.
        on_levels: Whether it has pressure levels. Without them ``z`` is the surface geopotential, a static.
    """
    name = _OF_NCL.sub("", source_name.lower())
    if on_levels:
        name = _PRESSURE.sub("", name)
    # Surface variables first: a static one of the same name is taken where there is no such surface variable.
    for kind in _kinds(on_levels):
        if (kind, name) in _ALIASES:
            return _ALIASES[kind, name]
    # Accumulations alone are named with their window.
    ending = _WINDOW.search(name)
    if ending is not None:
        variable = find(name[: ending.start()], on_levels=on_levels)
        if variable is not None and variable.accumulated:
            return variable
    return None


def find_described(text: str, *, on_levels: bool) -> Variable | None:
    """Recognise a variable by its CF standard name or by its description (``long_name``).

    Args:
        text: Standard name or description; case does not count.
        on_levels: Whether it has pressure levels.

    Returns:
        The variable; None where the text stands for none or for several, as ``air_temperature`` without a level does.
    """
    for kind in _kinds(on_levels):
        if (kind, _described_as(text)) in _DESCRIBED:
            return _DESCRIBED[kind, _described_as(text)]
    return None


def find_at_height(text: str, metres: float) -> Variable | None:
    """Recognise a variable at a height above ground by what it is called on levels, or by its CF standard name.

    Args:
        text: ``t``, ``UGRD``, ``air_temperature``, ``dew_point_temperature``.
        metres: Height above ground.

    Returns:
        ``2t`` for a temperature at 2 m; None where the table has nothing at that height.
    """
    on_levels = find(text, on_levels=True) or find_described(text, on_levels=True)
    standard_name = _described_as(text)
    if on_levels is not None and on_levels.standard_name is not None:
        standard_name = on_levels.standard_name
    for variable in SURFACE.values():
        if variable.height == metres and variable.standard_name == standard_name:
            return variable
    return None


def window(source_name: str) -> int | None:
    """Read from a variable's name over how many hours it is accumulated: 6 for ``total_precipitation_6hr``."""
    ending = _WINDOW.search(source_name.lower())
    variable = find(source_name, on_levels=False)
    if ending is None or variable is None or not variable.accumulated:
        return None
    return int(ending[1])


def pressure(source_name: str) -> float | None:
    """Read from a variable's name on which level in hPa it lies: 500 for ``TMP_500mb``."""
    ending = _PRESSURE.search(source_name.lower())
    if ending is None or find(source_name, on_levels=True) is None:
        return None
    return float(ending[1].replace("d", "."))


def find_param(number: int, *, on_levels: bool) -> Variable | None:
    """Recognise a variable by ECMWF's parameter number, as ``find`` does by a name."""
    for kind in _kinds(on_levels):
        if (kind, number) in _PARAM_IDS:
            return _PARAM_IDS[kind, number]
    return None


def _kinds(on_levels: bool) -> tuple[Kind, ...]:
    return ("atmospheric",) if on_levels else ("surface", "static")
