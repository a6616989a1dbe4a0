"""The climate behind the embedded sample: a spectral primitive-equation model of an idealised planet.

The dynamical core is dinosaur's (Kochkov et al. 2024, "Neural general circulation models for weather and
climate", Nature 632), at T21 on sigma levels, driven by the thermal relaxation and surface drag of Held and
Suarez (1994, BAMS 75, 1825-1830). To that benchmark this module adds

- continents and mountains of our own making, so that land, sea and orography mean something;
- a daily cycle of heating over land that follows the sun (perpetual equinox, as in Held and Suarez);
- a reduced planet: the primitive equations stay the same when a planet shrinks by a factor X while its rotation,
  forcing and clock run X times as fast (Wedi and Smolarkiewicz 2009, J. Comput. Phys. 228). The run has the Earth's
  size; its states are those of a planet half that size, whose hour is two of the run's. Weather there moves as far
  in six hours as it does on Earth in twelve, so that six hours matter at this resolution;
- a water tracer, the saturation fraction r = q / q_sat, that the core advects like any other tracer: it
  rises in ascending air, is topped up by the surface and capped by condensation. It does not act back on
  the flow (no latent heat), so the dynamics stay those of the dry benchmark.

Shapes name their axes: L sigma layers, X longitude (eastward from 0), Y Gaussian latitude (northward), as
dinosaur orders them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dinosaur import (
    coordinate_systems,
    held_suarez,
    primitive_equations,
    primitive_equations_states,
    scales,
    sigma_coordinates,
    spherical_harmonic,
    time_integration,
)
from numpy.typing import NDArray

__all__ = ["CLIMATES", "GRAVITY", "LAYERS", "Climate", "Planet", "integrate", "make_planet", "solar_forcing"]

Array = NDArray[np.float64]

units = scales.units

LAYERS = 20
"""Sigma layers, equally spaced: the top one is centred at 25 hPa, the lowest at 975 hPa (about 200 m)."""
TIME_STEP_MINUTES = 30
REDUCTION = 2
"""How many times smaller, and faster, the planet is than the Earth-sized one that is integrated."""
GRAVITY = float(scales.GRAVITY_ACCELERATION.magnitude)
"""Acceleration due to gravity in the run, m s-2."""

DIFFUSION_ORDER = 4
DIFFUSION_HOURS = 3
"""Time in which the diffusion, Laplacian to the power above, damps the shortest wave by a factor of e."""

# Latent heat of vaporisation over the gas constant of vapour, K (Bolton 1980 agrees to 1 %).
LATENT_OVER_VAPOUR = 5423.0


@dataclasses.dataclass(frozen=True)
class Climate:
    """What makes the weather of one planet unlike that of another.

    Held and Suarez take 60 K, 10 K, 40 days and 4 days. A steeper, less stable and more strongly held equilibrium
    makes livelier storms, so that six hours matter.
    """

    continents: tuple[tuple[float, float, float, float], ...]
    """Longitude, latitude and half-widths, degrees."""
    mountains: tuple[tuple[float, float, float, float, float], ...]
    """The same, with a height in metres."""
    meridional_contrast: float
    """Of the equilibrium temperature between equator and poles, K."""
    vertical_contrast: float
    """Of the equilibrium's potential temperature over one scale height at the equator, K."""
    relaxation_aloft: float
    """Time in which temperatures relax to the equilibrium, days of the Earth-sized run."""
    relaxation_surface: float
    """The same at the surface."""
    solar_heating: float
    """Heating of the lowest air over land under an overhead sun, K per day; its daily mean is taken out."""

    @property
    def relaxation(self) -> dict[str, Any]:
        """Arguments of Held and Suarez's forcing."""
        return {
            "dTy": self.meridional_contrast * units.degK,
            "dThz": self.vertical_contrast * units.degK,
            "ka": 1 / (self.relaxation_aloft * units.day),
            "ks": 1 / (self.relaxation_surface * units.day),
        }


CLIMATES: Mapping[str, Climate] = {
    "sample": Climate(
        continents=(
            (100.0, 42.0, 55.0, 26.0),
            (25.0, 2.0, 26.0, 32.0),
            (262.0, 44.0, 34.0, 22.0),
            (300.0, -16.0, 24.0, 28.0),
        ),
        mountains=(
            (85.0, 36.0, 22.0, 12.0, 3200.0),
            (250.0, 44.0, 11.0, 20.0, 2200.0),
            (292.0, -20.0, 9.0, 22.0, 2400.0),
            (30.0, -4.0, 12.0, 18.0, 1100.0),
        ),
        meridional_contrast=70,
        vertical_contrast=5,
        relaxation_aloft=10,
        relaxation_surface=2,
        solar_heating=30,
    ),
    "other": Climate(
        continents=(
            (60.0, -40.0, 45.0, 24.0),
            (150.0, 12.0, 30.0, 30.0),
            (225.0, -30.0, 28.0, 26.0),
            (320.0, 46.0, 40.0, 20.0),
        ),
        mountains=(
            (50.0, -38.0, 18.0, 14.0, 2600.0),
            (140.0, 18.0, 10.0, 22.0, 2000.0),
            (218.0, -28.0, 9.0, 20.0, 2800.0),
            (330.0, 50.0, 20.0, 10.0, 1500.0),
        ),
        meridional_contrast=60,
        vertical_contrast=10,
        relaxation_aloft=15,
        relaxation_surface=3,
        solar_heating=20,
    ),
}
"""That of the embedded sample; and a milder one, with the land elsewhere, whose weather is another to learn."""


@dataclasses.dataclass(frozen=True)
class Planet:
    """The grid, the physical constants and the surface that the run sees."""

    climate: Climate
    coords: coordinate_systems.CoordinateSystem
    specs: primitive_equations.PrimitiveEquationsSpecs
    land_XY: Array
    """Land fraction, 0 to 1."""
    height_XY: Array
    """Surface height as the run has it, that is after spectral truncation, m."""
    modal_orography: jax.Array
    """The same height, nondimensional, as spectral coefficients."""

    @property
    def longitude_X(self) -> Array:
        """Degrees east."""
        return np.rad2deg(np.asarray(self.coords.horizontal.nodal_axes[0], np.float64))

    @property
    def latitude_Y(self) -> Array:
        """Degrees north, increasing."""
        return np.rad2deg(np.arcsin(np.asarray(self.coords.horizontal.nodal_axes[1], np.float64)))


def make_planet(climate: Climate) -> Planet:
    """Lay continents and mountains on a T21 grid (32 Gaussian latitudes, 64 longitudes)."""
    coords = coordinate_systems.CoordinateSystem(
        horizontal=spherical_harmonic.Grid.T21(),
        vertical=sigma_coordinates.SigmaCoordinates.equidistant(LAYERS),
    )
    specs = primitive_equations.PrimitiveEquationsSpecs.from_si()
    blobs = [_blob(coords, *place) for place in climate.continents]
    land_XY = 1 / (1 + np.exp(-12 * (np.max(blobs, axis=0) - 0.5)))
    peaks_XY = np.max([height * _blob(coords, *place) for *place, height in climate.mountains], axis=0)
    height = specs.nondimensionalize(land_XY * peaks_XY * units.m)
    modal = primitive_equations.truncated_modal_orography(jnp.asarray(height, jnp.float32), coords)
    nodal = np.asarray(coords.horizontal.to_nodal(modal), np.float64)
    height_XY = specs.dimensionalize(nodal, units.m).magnitude
    return Planet(climate, coords, specs, land_XY, height_XY, modal)


def integrate(planet: Planet, *, spin_up_days: int, states: Iterable[int], seed: int = 0) -> Iterator[dict[str, Array]]:
    """Run the model and keep a state every six of the reduced planet's hours after the spin-up, a piece at a time.

    The first state of a piece is at 00 UTC, and the sun stands accordingly.

    Args:
        planet: the surface.
        spin_up_days: whole days of the Earth-sized run before the first state; an even number of them, so that the
            reduced planet's clock starts at midnight.
        states: how many states each piece has: whole days of the reduced planet, but for the last one.
        seed: of the bump in the surface pressure that the run starts from.

    Yields:
        On sigma layers, in SI units: ``u v t r z`` of shape [states, L, X, Y] (z is the geopotential that
        the run's temperature and orography imply hydrostatically) and ``sp`` of shape [states, 1, X, Y].
    """
    step = _time_step(planet)
    state = jax.jit(time_integration.repeated(step, spin_up_days * 24 * 60 // TIME_STEP_MINUTES))(
        _initial_state(planet, seed)
    )
    per_six_hours = REDUCTION * 6 * 60 // TIME_STEP_MINUTES
    records: dict[int, Callable[..., Any]] = {}
    for count in states:
        if count not in records:
            trajectory = time_integration.trajectory_from_step(
                step, count, per_six_hours, start_with_input=True, post_process_fn=_nodal_fields(planet)
            )
            records[count] = jax.jit(trajectory)
        # All so far is a number of whole days there too; starting the clock again keeps float32 time exact.
        state, fields = records[count](dataclasses.replace(state, sim_time=jnp.zeros(())))
        yield _dimensional(planet, fields)


def solar_forcing(hours: Any, longitude: Any, latitude: Any) -> Any:
    """Cosine of the sun's zenith angle by day, 0 by night, less its mean over the day, at equinox.

    Args:
        hours: hours UTC of the reduced planet, whose day has 24.
        longitude: degrees east.
        latitude: degrees north.
    """
    hour_angle = jnp.deg2rad(15.0 * hours + longitude - 180.0)
    return jnp.cos(jnp.deg2rad(latitude)) * (jnp.maximum(0.0, jnp.cos(hour_angle)) - 1 / jnp.pi)


class LivelyForcing(held_suarez.HeldSuarezForcing):
    """Held and Suarez's forcing, with the sun over land and the sources of the water tracer."""

    def __init__(self, planet: Planet, reference_temperature: Array) -> None:
        """Set the forcing up for one planet."""
        super().__init__(planet.coords, planet.specs, reference_temperature, **planet.climate.relaxation)
        self.planet = planet
        self.boundary_layer_L = np.maximum(0, (self.sigma - self.sigma_b) / (1 - self.sigma_b))[:, None, None]

    def explicit_terms(self, state: primitive_equations.State) -> primitive_equations.State:
        """Return the tendencies of the forcing, spectral."""
        dry = super().explicit_terms(state)
        grid = self.coords.horizontal
        aux = primitive_equations.compute_diagnostic_state(state, self.coords)
        heating = grid.clip_wavenumbers(grid.to_modal(self._solar_heating(state.sim_time)))
        moistening = grid.clip_wavenumbers(grid.to_modal(self._moistening(aux)))
        return dataclasses.replace(
            dry, temperature_variation=dry.temperature_variation + heating, tracers={"r": moistening}, sim_time=0.0
        )

    def _solar_heating(self, sim_time: Any) -> jax.Array:
        """Heating of the boundary layer over land, [L, X, Y], nondimensional."""
        hours = sim_time / self.physics_specs.nondimensionalize(REDUCTION * units.hour)
        lon_X1, lat_Y = self.planet.longitude_X[:, None], self.planet.latitude_Y
        overhead = self.planet.climate.solar_heating * units.degK / units.day
        rate = self.physics_specs.nondimensionalize(overhead) * self.planet.land_XY
        return self.boundary_layer_L * rate * solar_forcing(hours, lon_X1, lat_Y)

    def _moistening(self, aux: primitive_equations.DiagnosticState) -> jax.Array:
        """Sources of the saturation fraction r, [L, X, Y], nondimensional.

        Lifting cools air and brings it nearer to saturation: along a dry-adiabatic path
        d ln q_sat / d ln p = kappa L / (R_v T) - 1, about 5, so r grows by r (kappa L / (R_v T) - 1)
        times -omega / p. The surface keeps the boundary layer moist, more so over the sea; mixing slowly
        pulls the free air towards 35 %, the stratosphere towards 5 %; what exceeds saturation rains out.
        """
        r = aux.tracers["r"]
        temperature = self.reference_temperature[:, None, None] + aux.temperature_variation
        lift = self.physics_specs.kappa * LATENT_OVER_VAPOUR / jnp.maximum(temperature, 180.0) - 1
        target, rate = self._moisture_relaxation()
        rain = jnp.maximum(r - 1, 0.0) / self.physics_specs.nondimensionalize(2 * units.hour)
        return -lift * jnp.clip(r, 0, 1) * self._omega_over_p(aux) + rate * (target - r) - rain

    def _moisture_relaxation(self) -> tuple[Array, Array]:
        """The saturation fraction that mixing pulls towards, and how fast, [L, X, Y]."""
        sigma = self.sigma[:, None, None]
        per_day = self.physics_specs.nondimensionalize(1 / units.day)
        stratosphere = 1 / (1 + np.exp((sigma - 0.18) / 0.03))
        surface = 0.85 - 0.3 * self.planet.land_XY
        target = 0.35 + (surface - 0.35) * self.boundary_layer_L**0.5
        target = target + (0.05 - target) * stratosphere
        return target, per_day * (0.15 + self.boundary_layer_L + 0.5 * stratosphere)

    def _omega_over_p(self, aux: primitive_equations.DiagnosticState) -> jax.Array:
        """Rate of change of ln p along the flow, [L, X, Y]: sigma-dot / sigma + d ln ps / dt."""
        convergence = aux.divergence + aux.u_dot_grad_log_sp
        column = sigma_coordinates.sigma_integral(convergence, self.coords.vertical)
        sigma_dot = jnp.pad(aux.sigma_dot_full, [(1, 1), (0, 0), (0, 0)])
        centred = 0.5 * (sigma_dot[1:] + sigma_dot[:-1])
        return centred / self.sigma[:, None, None] + aux.u_dot_grad_log_sp - column


def _blob(coords: coordinate_systems.CoordinateSystem, lon: float, lat: float, width: float, height: float) -> Array:
    """A smooth bump of height 1 on the globe; centre and half-widths in degrees; shape [X, Y]."""
    lons, sin_lats = coords.horizontal.nodal_mesh
    east = (np.rad2deg(lons) - lon + 180) % 360 - 180
    north = np.rad2deg(np.arcsin(sin_lats)) - lat
    bump: Array = np.exp(-np.log(2) * ((east / width) ** 2 + (north / height) ** 2))
    return bump


def _reference_temperature() -> Array:
    """Isothermal, which keeps the semi-implicit step stable (Simmons, Hoskins and Burridge 1978)."""
    return np.full(LAYERS, 288.0)


def _initial_state(planet: Planet, seed: int) -> primitive_equations.State:
    """Air at rest, in radiative equilibrium, with a bump in its surface pressure to break the symmetry."""
    random_state, _ = primitive_equations_states.isothermal_rest_atmosphere(
        planet.coords,
        planet.specs,
        p0=1.013e5 * units.pascal,
        p1=5e3 * units.pascal,
        surface_height=planet.height_XY * units.m,
    )
    state = random_state(jax.random.PRNGKey(seed))
    grid = planet.coords.horizontal
    forcing = LivelyForcing(planet, _reference_temperature())
    pressure = jnp.exp(grid.to_nodal(state.log_surface_pressure))
    warmth = forcing.equilibrium_temperature(pressure) - _reference_temperature()[:, None, None]
    moisture = jnp.asarray(forcing._moisture_relaxation()[0], jnp.float32)
    return dataclasses.replace(
        state,
        temperature_variation=grid.clip_wavenumbers(grid.to_modal(warmth)),
        tracers={"r": grid.clip_wavenumbers(grid.to_modal(moisture))},
        sim_time=jnp.zeros(()),
    )


def _time_step(planet: Planet) -> Callable[[primitive_equations.State], primitive_equations.State]:
    """One step of the forced, diffused equations."""
    dynamics = primitive_equations.PrimitiveEquations(
        _reference_temperature(), planet.modal_orography, planet.coords, planet.specs
    )
    forcing = LivelyForcing(planet, _reference_temperature())
    equations = time_integration.compose_equations([dynamics, forcing])
    dt = planet.specs.nondimensionalize(TIME_STEP_MINUTES * units.minute)
    diffusion = time_integration.horizontal_diffusion_step_filter(
        planet.coords.horizontal,
        dt,
        planet.specs.nondimensionalize(DIFFUSION_HOURS * units.hour),
        order=DIFFUSION_ORDER,
    )
    step = time_integration.step_with_filters(time_integration.imex_rk_sil3(equations, dt), [diffusion])
    return lambda state: time_integration.maybe_fix_sim_time_roundoff(step(state), dt)


def _nodal_fields(planet: Planet) -> Callable[[primitive_equations.State], dict[str, jax.Array]]:
    """Return the function that turns a spectral state into nondimensional fields on the grid."""
    grid = planet.coords.horizontal
    surface_geopotential = planet.specs.g * grid.to_nodal(planet.modal_orography)

    def fields(state: primitive_equations.State) -> dict[str, jax.Array]:
        u, v = spherical_harmonic.vor_div_to_uv_nodal(grid, state.vorticity, state.divergence, clip=False)
        t = grid.to_nodal(state.temperature_variation) + _reference_temperature()[:, None, None]
        thickness = primitive_equations.get_geopotential_diff(t, planet.coords.vertical, planet.specs.R)
        r = grid.to_nodal(state.tracers["r"])
        sp = jnp.exp(grid.to_nodal(state.log_surface_pressure))
        return {"u": u, "v": v, "t": t, "r": r, "z": surface_geopotential + thickness, "sp": sp}

    return fields


def _dimensional(planet: Planet, fields: dict[str, jax.Array]) -> dict[str, Array]:
    """Give nondimensional fields their SI units."""
    unit = {
        "u": units.m / units.s,
        "v": units.m / units.s,
        "t": units.degK,
        "r": units.dimensionless,
        "z": units.m**2 / units.s**2,
        "sp": units.pascal,
    }
    return {
        name: planet.specs.dimensionalize(np.asarray(field, np.float64), unit[name]).magnitude
        for name, field in fields.items()
    }
