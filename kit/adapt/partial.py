"""Training a part of upstream's own parameters: ``full``, ``freeze`` and ``head``."""

from __future__ import annotations

from collections.abc import Collection

from aurora import Aurora

from kit.adapt import light
from kit.adapt.method import Attached
from kit.adapt.patterns import matching
from kit.adapt.settings import AdaptSettings
from kit.errors import SettingsError

__all__ = ["attach_freeze", "attach_full", "attach_head"]


def attach_full(model: Aurora, settings: AdaptSettings, steps: int | None) -> Attached:  # noqa: ARG001
    """Train every parameter but upstream's roll-out LoRA.

    That is part of the weights that training starts from: where it was kept, it stays as it is.
    """
    _train(model, _own(model))
    return Attached()


def attach_freeze(model: Aurora, settings: AdaptSettings, steps: int | None) -> Attached:  # noqa: ARG001
    """Train all but what ``adapt.freeze`` selects, or only what ``adapt.train_only`` selects.

    Raises:
        SettingsError: a pattern selects no parameter, or nothing is left to train, or nothing to freeze.
    """
    names = _own(model)
    setting = "freeze" if settings.freeze is not None else "train_only"
    patterns = settings.freeze or settings.train_only or ()
    chosen = {name for pattern in patterns for name in matching(names, pattern, f"adapt.{setting}")}
    trained = [name for name in names if (name in chosen) == (setting == "train_only")]
    if not 0 < len(trained) < len(names):
        what = "nothing to train" if not trained else "nothing frozen"
        msg = f"adapt.{setting}: {', '.join(patterns)} leaves {what}; choose other patterns, or --adapt.method full"
        raise SettingsError(msg)
    _train(model, trained)
    return Attached()


def attach_head(model: Aurora, settings: AdaptSettings, steps: int | None) -> Attached:  # noqa: ARG001
    """Train the decoder's heads and, if asked, the last stages of the backbone's decoder; or light decoders alone.

    Raises:
        SettingsError: more stages are asked for than there are.
    """
    if settings.decoder == "mlp":
        _train(model, [name for name in _own(model) if name.startswith(f"decoder.{light.NAME}.")])
        return Attached()
    stages = len(model.backbone.decoder_layers)
    asked = settings.decoder_stages or 0
    if asked > stages:
        msg = f"adapt.decoder_stages: expected at most {stages}, the stages of the backbone's decoder, got {asked}"
        raise SettingsError(msg)
    parts = ["decoder.surf_heads.", "decoder.atmos_heads."]
    parts += [f"backbone.decoder_layers.{index}." for index in range(stages - asked, stages)]
    _train(model, [name for name in _own(model) if name.startswith(tuple(parts))])
    return Attached()


def _own(model: Aurora) -> list[str]:
    return [name for name, _ in model.named_parameters() if ".loras." not in name]


def _train(model: Aurora, names: Collection[str]) -> None:
    chosen = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
