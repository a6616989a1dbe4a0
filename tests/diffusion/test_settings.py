"""Settings of diffusion: those without effect and those that exclude each other are refused, defaults are filled in."""

from typing import Any

import pytest

from kit.diffusion.settings import DiffusionSettings

BAD: list[tuple[dict[str, Any], str]] = [
    ({"of": "residual", "operator_share": 0.5}, "operator_share has no effect with diffusion.of residual"),
    ({"of": "next", "coarsen": 2}, "coarsen has no effect with diffusion.of next"),
    ({"of": "next", "spread": 0.1}, "spread has no effect with diffusion.of next"),
    ({"given": ("hour",)}, "the state itself is given and nothing else"),
    ({"of": "next", "given": ("forecast",)}, "diffusion.of next has no operator"),
    ({"of": "mean", "given": ("state", "forecast")}, "diffusion.of mean has no operator"),
    ({"of": "mean", "given": ("hour",)}, "give state too"),
    ({"of": "mean", "schedule": "linear"}, "schedule has no effect with diffusion.of mean"),
    ({"of": "mean", "sampler": "ddim"}, "sampler has no effect with diffusion.of mean"),
    ({"of": "mean", "drop": 0.1}, "drop has no effect with diffusion.of mean"),
    ({"of": "residual", "given": ("state", "state")}, "one is given twice"),
    ({"of": "next", "given": (), "drop": 0.1}, "drop has no effect where nothing is given"),
    ({"of": "next", "forecasts": "live"}, "no effect where there is no operator"),
    ({"operator_share": 0, "forecasts": "live"}, "no effect where there is no operator"),
    ({"operator_share": 1.5}, "less than or equal to 1"),
    ({"drop": 1}, "less than 1"),
    ({"schedule": "edm", "timesteps": 1000}, "timesteps has no effect with diffusion.schedule edm"),
    ({"schedule": "edm", "target": "v"}, "target v is for schedules that keep the variance"),
    ({"target": "edm"}, "target edm needs diffusion.schedule edm"),
    ({"sampler": "heun"}, "use ddpm, ddim or dpm\\+\\+"),
    ({"schedule": "edm", "sampler": "ddim"}, "use heun"),
    ({"steps": 1001}, "more than the schedule's 1000"),
    ({"timesteps": 20, "steps": 21}, "more than the schedule's 20"),
    ({"network": "flat", "multiples": (1, 2)}, "multiples has no effect with diffusion.network flat"),
    ({"network": "transformer", "stem": 2}, "stem has no effect"),
    ({"network": "unet", "patch": 4}, "patch has no effect"),
    ({"network": "unet2d", "stem": 2}, "stem has no effect"),
    ({"width": 4}, "greater than or equal to 8"),
    ({"width": 100_000}, "less than or equal to 4096"),
    ({"multiples": ()}, "at least 1 item"),
    ({"multiples": tuple(range(1, 10))}, "at most 8 items"),
    ({"network": "transformer", "window": 7}, "multiple of 2"),
    ({"network": "vit"}, "'unet', 'transformer', 'flat' or 'unet2d'"),
    ({"spread": 0}, "greater than 0"),
    ({"network": "flat", "details": 1}, "details has no effect with diffusion.network flat"),
    ({"crop": 4}, "greater than or equal to 8"),
    ({"overlap": 4}, "overlap has no effect without diffusion.crop"),
    ({"crop": 16, "overlap": 16}, "overlap 16: expected at most half of diffusion.crop 16, 8"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=[str(given) for given, _ in BAD])
def test_bad_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionSettings(**given)


@pytest.mark.parametrize("of", ["state", "next", "residual"])
@pytest.mark.parametrize("network", ["unet", "transformer", "flat", "unet2d"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "clipped-cosine", "edm"])
def test_resolved_settings_are_settings_again(of: Any, network: Any, schedule: Any) -> None:
    resolved = DiffusionSettings(of=of, network=network, schedule=schedule).resolved(600)
    assert DiffusionSettings(**resolved.model_dump()) == resolved
    assert resolved.resolved(600) == resolved
    assert resolved.stem == (4 if network == "unet" else None)
    assert resolved.steps == (10 if of == "state" else 25)


def test_a_regression_has_no_noise() -> None:
    resolved = DiffusionSettings(of="mean").resolved(600)
    assert (resolved.target, resolved.sampler, resolved.steps, resolved.timesteps, resolved.drop) == (None,) * 5
    assert DiffusionSettings(**resolved.model_dump()) == resolved


def test_the_stem_goes_by_what_is_read_at_a_time() -> None:
    resolved = DiffusionSettings(of="next", crop=256).resolved(1059)
    assert (resolved.stem, resolved.overlap, resolved.details) == (2, 64, 2)
    assert DiffusionSettings(of="next").resolved(128).details == 0
    assert DiffusionSettings(of="next", crop=256, overlap=0).resolved(1059).overlap == 0


def test_whether_an_operator_is_needed() -> None:
    assert DiffusionSettings(of="state").has_operator
    assert DiffusionSettings(of="residual").has_operator
    assert not DiffusionSettings(of="next").has_operator
    assert not DiffusionSettings(of="mean").has_operator
    assert not DiffusionSettings(operator_share=0).has_operator
