"""Table of the variables that the kit knows: names, units, plausible ranges.

Keys are Aurora's short names, kept apart by kind because some mean different things: ``z`` on levels is
geopotential, ``z`` without a level is the surface's. ERA5's and CAMS's names (GRIB short name, NetCDF name, long name,
NCAR's ``VAR_2T``) are aliases here, those of other sources are in ``source_names``. GRIB goes by ECMWF's parameter
numbers (``paramId``) alone: short names there mean different things to different centres.
"""

import re
from dataclasses import dataclass
from functools import partial
from typing import Literal

_OF_HEIGHT = re.compile(r"(\d+)[a-z]+")
"""Names of variables at a height above ground: ``10u`` lies at 10 m."""

_TOLERANCE = 1e-5
"""Share of the plausible range that a value may lie beyond it: packing and differences of sums leave that much."""

Kind = Literal["surface", "atmospheric", "static"]


@dataclass(frozen=True)
class Variable:
    """One variable, in the units of the store."""

    name: str
    kind: Kind
    long_name: str
    units: str
    """UDUNITS spelling: ``m s-1``, ``1`` for what has none."""
    low: float
    """Smallest plausible value anywhere on Earth, with some margin."""
    high: float
    aliases: tuple[str, ...] = ()
    standard_name: str | None = None
    """CF standard name; ``air_temperature`` stands for several variables, at 2 m and on levels."""
    accumulated: bool = False
    """The value belongs to the hours that end at its time stamp, not to the moment."""
    param_ids: tuple[int, ...] = ()
    """ECMWF's parameter numbers of it in GRIB: ERA5's first, then the same quantity from others."""

    @property
    def non_negative(self) -> bool:
        """The quantity cannot be below zero."""
        return self.low == 0

    @property
    def is_water(self) -> bool:
        """Whether it is an amount of water, of which 1 kg m-2 stands 1 mm high."""
        return (self.name, self.kind) in _WATER

    @property
    def height(self) -> float | None:
        """Height above ground in metres of what lies at a height by its name; None for anything else."""
        found = _OF_HEIGHT.fullmatch(self.name)
        if self.kind != "surface" or found is None:
            return None
        return float(found[1])

    @property
    def margin(self) -> float:
        """How far beyond its plausible range a value may lie and still be taken for one at its edge."""
        return _TOLERANCE * (self.high - self.low)

    def attributes(self) -> dict[str, str]:
        """Return the CF attributes of the variable in a store."""
        attributes = {"long_name": self.long_name, "units": self.units}
        if self.standard_name:
            attributes["standard_name"] = self.standard_name
        return attributes


def _entry(
    kind: Kind,
    name: str,
    param_ids: int | tuple[int, ...],
    long_name: str,
    units: str,
    limits: tuple[float, float],
    *aliases: str,
    cf: str | None = None,
    accumulated: bool = False,
) -> Variable:
    # Most variables have one number.
    numbers = (param_ids,) if isinstance(param_ids, int) else param_ids
    return Variable(name, kind, long_name, units, *limits, aliases, cf, accumulated, numbers)


_surface = partial(_entry, "surface")
_level = partial(_entry, "atmospheric")
_static = partial(_entry, "static")


_WIND = (-120.0, 120.0)
_SHARE = (0.0, 1.0)
_ANGLE = (0.0, 360.0)
_SEA = (0.0, 35.0)
_PERIOD = (0.0, 40.0)
_ENERGY = (-4e7, 4e7)
_RAIN = "lwe_thickness_of_precipitation_amount"

_BASIC = (
    _surface("2t", 167, "2 metre temperature", "K", (150, 350), "t2m", "2m_temperature", "var_2t", "t2",
             cf="air_temperature"),
    _surface("2d", 168, "2 metre dewpoint temperature", "K", (130, 330), "d2m", "2m_dewpoint_temperature", "var_2d",
             cf="dew_point_temperature"),
    _surface("10u", 165, "10 metre U wind component", "m s-1", _WIND, "u10", "u10m", "10m_u_component_of_wind",
             "var_10u", cf="eastward_wind"),
    _surface("10v", 166, "10 metre V wind component", "m s-1", _WIND, "v10", "v10m", "10m_v_component_of_wind",
             "var_10v", cf="northward_wind"),
    _surface("100u", 228246, "100 metre U wind component", "m s-1", _WIND, "u100", "u100m", "100m_u_component_of_wind",
             "var_100u", cf="eastward_wind"),
    _surface("100v", 228247, "100 metre V wind component", "m s-1", _WIND, "v100", "v100m", "100m_v_component_of_wind",
             "var_100v", cf="northward_wind"),
    _surface("10si", 207, "10 metre wind speed", "m s-1", (0, 120), "si10", "10m_wind_speed", "ws10", cf="wind_speed"),
    _surface("i10fg", 228029, "Instantaneous 10 metre wind gust", "m s-1", (0, 150), "instantaneous_10m_wind_gust",
             cf="wind_speed_of_gust"),
    _surface("msl", (151, 260074, 260323), "Mean sea level pressure", "Pa", (85000, 110000), "mean_sea_level_pressure",
             "mslp", "prmsl", "mslma", cf="air_pressure_at_mean_sea_level"),
    _surface("sp", 134, "Surface pressure", "Pa", (45000, 111000), "surface_pressure", cf="surface_air_pressure"),
    _surface("skt", 235, "Skin temperature", "K", (150, 370), "skin_temperature", cf="surface_temperature"),
    _surface("sst", 34, "Sea surface temperature", "K", (260, 320), "sea_surface_temperature", "sstk",
             cf="sea_surface_temperature"),
    _surface("ci", 31, "Sea ice area fraction", "1", _SHARE, "siconc", "sea_ice_cover", cf="sea_ice_area_fraction"),
    _surface("tcc", (164, 228164), "Total cloud cover", "1", _SHARE, "total_cloud_cover", cf="cloud_area_fraction"),
    _surface("lcc", (186, 3073), "Low cloud cover", "1", _SHARE, "low_cloud_cover"),
    _surface("mcc", (187, 3074), "Medium cloud cover", "1", _SHARE, "medium_cloud_cover"),
    _surface("hcc", (188, 3075), "High cloud cover", "1", _SHARE, "high_cloud_cover"),
    _surface("tcw", 136, "Total column water", "kg m-2", (0, 150), "total_column_water"),
    _surface("tcwv", (137, 3054), "Total column water vapour", "kg m-2", (0, 120), "total_column_water_vapour", "pwat",
             cf="atmosphere_mass_content_of_water_vapor"),
    _surface("stl1", 139, "Soil temperature level 1", "K", (150, 350), "soil_temperature_level_1",
             cf="soil_temperature"),
    _surface("swvl1", 39, "Volumetric soil water layer 1", "m3 m-3", _SHARE, "volumetric_soil_water_layer_1"),
    _surface("sd", (141, 228141), "Snow depth", "m", (0, 30), "snow_depth", cf="lwe_thickness_of_surface_snow_amount"),
    _surface("blh", 159, "Boundary layer height", "m", (0, 10000), "boundary_layer_height",
             cf="atmosphere_boundary_layer_thickness"),
    _surface("cape", 59, "Convective available potential energy", "J kg-1", (0, 15000),
             "convective_available_potential_energy", cf="atmosphere_convective_available_potential_energy"),
    # ECMWF's is positive, and missing where there is none; NCEP's (HRRR, RAP) is negative or zero.
    _surface("cin", 228001, "Convective inhibition", "J kg-1", (-3000, 3000), "convective_inhibition",
             cf="atmosphere_convective_inhibition"),
    _surface("refc", 260390, "Composite radar reflectivity", "dBZ", (-40, 90), "composite_reflectivity",
             "maximum_composite_radar_reflectivity", cf="equivalent_reflectivity_factor"),
)  # fmt: skip

_ACCUMULATED = (
    _surface("tp", (228, 228228), "Total precipitation", "m", (0, 1), "total_precipitation", "tp_1h", cf=_RAIN,
             accumulated=True),
    _surface("cp", (143, 228143), "Convective precipitation", "m", (0, 1), "convective_precipitation",
             accumulated=True),
    _surface("lsp", (142, 3062), "Large-scale precipitation", "m", (0, 1), "large_scale_precipitation",
             accumulated=True),
    _surface("sf", (144, 228144), "Snowfall", "m", (0, 1), "snowfall", "sf_1h", cf="lwe_thickness_of_snowfall_amount",
             accumulated=True),
    _surface("e", 182, "Evaporation", "m", (-0.1, 0.1), "evaporation",
             cf="lwe_thickness_of_water_evaporation_amount", accumulated=True),
    _surface("pev", 228251, "Potential evaporation", "m", (-0.1, 0.1), "potential_evaporation", accumulated=True),
    _surface("ro", (205, 228205), "Runoff", "m", (0, 1), "runoff", accumulated=True),
    _surface("ssrd", 169, "Surface short-wave radiation downwards", "J m-2", (0, 4e7), "ssrd_1h",
             "surface_solar_radiation_downwards", cf="surface_downwelling_shortwave_flux_in_air", accumulated=True),
    _surface("ssr", 176, "Surface net short-wave radiation", "J m-2", _ENERGY, "surface_net_solar_radiation",
             accumulated=True),
    _surface("strd", 175, "Surface long-wave radiation downwards", "J m-2", (0, 4e7),
             "surface_thermal_radiation_downwards", accumulated=True),
    _surface("str", 177, "Surface net long-wave radiation", "J m-2", _ENERGY, "surface_net_thermal_radiation",
             accumulated=True),
    _surface("ttr", 179, "Top net long-wave radiation", "J m-2", _ENERGY, "ttr_1h", "top_net_thermal_radiation",
             accumulated=True),
    _surface("tisr", 212, "Top incident short-wave radiation", "J m-2", (0, 4e7), "toa_incident_solar_radiation",
             cf="toa_incoming_shortwave_flux", accumulated=True),
    _surface("tsr", 178, "Top net short-wave radiation", "J m-2", _ENERGY, "top_net_solar_radiation",
             accumulated=True),
    _surface("uvb", 57, "Downward UV radiation at the surface", "J m-2", (0, 4e7), "uvb_1h",
             "downward_uv_radiation_at_the_surface", accumulated=True),
    _surface("sshf", 146, "Surface sensible heat flux", "J m-2", _ENERGY, "surface_sensible_heat_flux",
             accumulated=True),
    _surface("slhf", 147, "Surface latent heat flux", "J m-2", _ENERGY, "surface_latent_heat_flux", accumulated=True),
)  # fmt: skip

_WAVES = (
    _surface("swh", (140229, 3100), "Significant height of combined wind waves and swell", "m", _SEA,
             "significant_height_of_combined_wind_waves_and_swell", cf="sea_surface_wave_significant_height"),
    _surface("mwd", 140230, "Mean wave direction", "degree", _ANGLE, "mean_wave_direction"),
    _surface("mwp", 140232, "Mean wave period", "s", _PERIOD, "mean_wave_period"),
    _surface("pp1d", 140231, "Peak wave period", "s", _PERIOD, "peak_wave_period"),
    _surface("shww", (140234, 3102), "Significant height of wind waves", "m", _SEA, "significant_height_of_wind_waves"),
    _surface("mdww", (140235, 3101), "Mean direction of wind waves", "degree", _ANGLE, "mean_direction_of_wind_waves"),
    _surface("mpww", (140236, 3103), "Mean period of wind waves", "s", _PERIOD, "mean_period_of_wind_waves"),
    _surface("shts", 140237, "Significant height of total swell", "m", _SEA, "significant_height_of_total_swell"),
    _surface("mdts", 140238, "Mean direction of total swell", "degree", _ANGLE, "mean_direction_of_total_swell"),
    _surface("mpts", 140239, "Mean period of total swell", "s", _PERIOD, "mean_period_of_total_swell"),
    _surface("swh1", 140121, "Significant wave height of first swell partition", "m", _SEA, "p140121",
             "significant_wave_height_of_first_swell_partition"),
    _surface("mwd1", 140122, "Mean wave direction of first swell partition", "degree", _ANGLE, "p140122",
             "mean_wave_direction_of_first_swell_partition"),
    _surface("mwp1", 140123, "Mean wave period of first swell partition", "s", _PERIOD, "p140123",
             "mean_wave_period_of_first_swell_partition"),
    _surface("swh2", 140124, "Significant wave height of second swell partition", "m", _SEA, "p140124",
             "significant_wave_height_of_second_swell_partition"),
    _surface("mwd2", 140125, "Mean wave direction of second swell partition", "degree", _ANGLE, "p140125",
             "mean_wave_direction_of_second_swell_partition"),
    _surface("mwp2", 140126, "Mean wave period of second swell partition", "s", _PERIOD, "p140126",
             "mean_wave_period_of_second_swell_partition"),
    _surface("wind", 140245, "10 metre neutral wind speed over waves", "m s-1", (0, 120),
             "ocean_surface_stress_equivalent_10m_neutral_wind_speed"),
    _surface("dwi", 140249, "10 metre neutral wind direction over waves", "degree", _ANGLE,
             "ocean_surface_stress_equivalent_10m_neutral_wind_direction"),
)  # fmt: skip

_AIR = (
    _surface("pm1", 210072, "Particulate matter below 1 um", "kg m-3", (0, 1e-4), "particulate_matter_1um"),
    _surface("pm2p5", 210073, "Particulate matter below 2.5 um", "kg m-3", (0, 1e-4), "particulate_matter_2.5um"),
    _surface("pm10", 210074, "Particulate matter below 10 um", "kg m-3", (0, 1e-3), "particulate_matter_10um"),
    _surface("tcco", 210127, "Total column carbon monoxide", "kg m-2", (0, 0.1), "total_column_carbon_monoxide"),
    _surface("tc_no", 218027, "Total column nitrogen monoxide", "kg m-2", (0, 0.01), "tcno",
             "total_column_nitrogen_monoxide"),
    _surface("tcno2", 210125, "Total column nitrogen dioxide", "kg m-2", (0, 0.01), "total_column_nitrogen_dioxide"),
    _surface("gtco3", (210206, 206), "Total column ozone", "kg m-2", (0, 0.05), "total_column_ozone", "tco3"),
    _surface("tcso2", 210126, "Total column sulphur dioxide", "kg m-2", (0, 0.1), "total_column_sulphur_dioxide"),
    _level("co", 210123, "Carbon monoxide mass mixing ratio", "kg kg-1", (0, 1e-4), "carbon_monoxide"),
    _level("no", 217027, "Nitrogen monoxide mass mixing ratio", "kg kg-1", (0, 1e-5), "nitrogen_monoxide"),
    _level("no2", 210121, "Nitrogen dioxide mass mixing ratio", "kg kg-1", (0, 1e-5), "nitrogen_dioxide"),
    _level("go3", 210203, "Ozone mass mixing ratio", "kg kg-1", (0, 1e-4), "ozone"),
    _level("so2", 210122, "Sulphur dioxide mass mixing ratio", "kg kg-1", (0, 1e-4), "sulphur_dioxide"),
)  # fmt: skip

_LEVELS = (
    _level("z", (129, 156), "Geopotential", "m2 s-2", (-8000, 600000), "geopotential", "gh", "geopotential_height",
           "zg",
           cf="geopotential"),
    _level("t", 130, "Temperature", "K", (130, 350), "temperature", "ta", cf="air_temperature"),
    _level("u", 131, "U component of wind", "m s-1", (-200, 200), "u_component_of_wind", "ua", cf="eastward_wind"),
    _level("v", 132, "V component of wind", "m s-1", (-200, 200), "v_component_of_wind", "va", cf="northward_wind"),
    _level("q", 133, "Specific humidity", "kg kg-1", (-1e-3, 0.05), "specific_humidity", "hus", cf="specific_humidity"),
    _level("w", 135, "Vertical velocity", "Pa s-1", (-50, 50), "vertical_velocity", "wap",
           cf="lagrangian_tendency_of_air_pressure"),
    _level("r", 157, "Relative humidity", "1", (-0.3, 2), "relative_humidity", "hur", cf="relative_humidity"),
    _level("o3", 203, "Ozone mass mixing ratio", "kg kg-1", (0, 1e-4), "ozone_mass_mixing_ratio"),
    _level("cc", 248, "Fraction of cloud cover", "1", _SHARE, "fraction_of_cloud_cover"),
    _level("ciwc", 247, "Specific cloud ice water content", "kg kg-1", (0, 0.05), "specific_cloud_ice_water_content"),
    _level("clwc", 246, "Specific cloud liquid water content", "kg kg-1", (0, 0.05),
           "specific_cloud_liquid_water_content"),
    _level("crwc", 75, "Specific rain water content", "kg kg-1", (0, 0.05), "specific_rain_water_content"),
    _level("cswc", 76, "Specific snow water content", "kg kg-1", (0, 0.05), "specific_snow_water_content"),
    _level("vo", 138, "Relative vorticity", "s-1", (-0.01, 0.01), "vorticity", cf="atmosphere_relative_vorticity"),
    _level("d", 155, "Divergence", "s-1", (-0.01, 0.01), "divergence", cf="divergence_of_wind"),
    _level("pv", 60, "Potential vorticity", "K m2 kg-1 s-1", (-0.1, 0.1), "potential_vorticity"),
)  # fmt: skip

_FIXED = (
    _static("z", (129, 228002), "Geopotential at the surface", "m2 s-2", (-8000, 90000), "geopotential",
            "geopotential_at_surface",
            "orography", "orog", "zs", "phis", cf="surface_geopotential"),
    _static("lsm", 172, "Land-sea mask", "1", _SHARE, "land_sea_mask", "land_binary_mask", "sftlf",
            cf="land_binary_mask"),
    _static("slt", 43, "Soil type", "1", (0, 7), "soil_type"),
    _static("anor", 162, "Angle of sub-gridscale orography", "radian", (-3.2, 3.2), "angle_of_sub_gridscale_orography"),
    _static("isor", 161, "Anisotropy of sub-gridscale orography", "1", _SHARE, "anisotropy_of_sub_gridscale_orography"),
    _static("slor", 163, "Slope of sub-gridscale orography", "1", _SHARE, "slope_of_sub_gridscale_orography"),
    _static("sdor", 160, "Standard deviation of orography", "m", (0, 3000), "standard_deviation_of_orography"),
    _static("sdfor", 74, "Standard deviation of filtered sub-gridscale orography", "m", (0, 1000),
            "standard_deviation_of_filtered_subgrid_orography"),
    _static("cvh", 28, "High vegetation cover", "1", _SHARE, "high_vegetation_cover"),
    _static("cvl", 27, "Low vegetation cover", "1", _SHARE, "low_vegetation_cover"),
    _static("tvh", 30, "Type of high vegetation", "1", (0, 20), "type_of_high_vegetation"),
    _static("tvl", 29, "Type of low vegetation", "1", (0, 20), "type_of_low_vegetation"),
    _static("cl", 26, "Lake cover", "1", _SHARE, "lake_cover"),
    _static("dl", 228007, "Lake total depth", "m", (0, 3000), "lake_depth", "lake_total_depth"),
    _static("wmb", 140219, "Model bathymetry", "m", (0, 12000), "model_bathymetry"),
    _static("lat_mask", (), "Latitudes of the wave model", "1", _SHARE),
    *(
        _static(f"static_{name}{log}", (), f"Mean emission of {long_name}{log and ', logarithm'}", "1", (-1e3, 1e3))
        for name, long_name in (
            ("ammonia", "ammonia"),
            ("co", "carbon monoxide"),
            ("nox", "nitrogen oxides"),
            ("so2", "sulphur dioxide"),
        )
        for log in ("", "_log")
    ),
    _static("coslat", (), "Cosine of latitude", "1", _SHARE),
    _static("sinlat", (), "Sine of latitude", "1", (-1, 1)),
    _static("coslon", (), "Cosine of longitude", "1", (-1, 1)),
    _static("sinlon", (), "Sine of longitude", "1", (-1, 1)),
)  # fmt: skip

SURFACE: dict[str, Variable] = {v.name: v for v in (*_BASIC, *_ACCUMULATED, *_WAVES, *_AIR) if v.kind == "surface"}
ATMOSPHERIC: dict[str, Variable] = {v.name: v for v in (*_LEVELS, *_AIR) if v.kind == "atmospheric"}
STATIC: dict[str, Variable] = {v.name: v for v in _FIXED}

_WATER = {
    *((name, "surface") for name in ("tp", "cp", "lsp", "sf", "e", "pev", "ro", "sd", "tcw", "tcwv")),
    *((name, "atmospheric") for name in ("q", "ciwc", "clwc", "crwc", "cswc")),
}
"""Names and kinds of variables that are amounts of water."""

WIND_SPEEDS = {"10ws": ("10u", "10v"), "100ws": ("100u", "100v"), "ws": ("u", "v")}
"""Speeds of the wind, in m s-1, by the names that scores have of them: the components that each is made of."""

_TABLES: dict[Kind, dict[str, Variable]] = {"surface": SURFACE, "atmospheric": ATMOSPHERIC, "static": STATIC}


def lookup(name: str, kind: Kind) -> Variable | None:
    """Look up a store's variable in the table; None where the table has none."""
    return _TABLES[kind].get(name)
