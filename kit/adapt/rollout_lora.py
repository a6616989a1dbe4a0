"""Upstream's own roll-out LoRA, trained (``aurora/model/lora.py``, ``aurora/model/swin3d.py``).

Beside ``qkv`` and ``proj`` of every attention of the backbone upstream can have LoRA of rank 8 and alpha 8, which its
constructors do not let one choose: one pair of matrices for all steps of a roll-out (``single``), one from the second
step on (``from_second``), or one for each step (``all``).

Weights that have one go on with it; others get a fresh one, whose B is zero, so that the model predicts what it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aurora import Aurora

from kit.adapt.method import Attached
from kit.adapt.settings import AdaptSettings, RolloutMode
from kit.io.errors import SettingsError
from kit.models.spec import ModelSpec
from kit.models.weights.load import Weights

__all__ = ["attach", "mode_of", "spec_for"]

_METHOD = "rollout-lora"
_MODE, _STEPS = "lora_mode", "lora_steps"


def attach(model: Aurora, settings: AdaptSettings, steps: int | None) -> Attached:  # noqa: ARG001
    """Let a model's roll-out LoRA train, and nothing else; the model is built from what ``spec_for`` gives."""
    assert model.use_lora, "built without a roll-out LoRA"
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".loras." in name)
    return Attached()


def mode_of(spec: ModelSpec) -> RolloutMode:
    """The mode of a model's roll-out LoRA."""
    mode: RolloutMode = spec.arguments.get(_MODE, spec.upstream.default(_MODE))
    return mode


def _steps_of(spec: ModelSpec) -> int:
    """Steps of a roll-out after which upstream leaves its LoRA out."""
    steps: int = spec.arguments.get(_STEPS, spec.upstream.default(_STEPS))
    return steps


def spec_for(
    spec: ModelSpec, weights: Weights | None, settings: AdaptSettings, graded: Sequence[int], *, merge: bool = False
) -> ModelSpec:
    """The model that a method needs: with a roll-out LoRA where one is to train, without one that can be merged.

    Args:
        spec: of the model as far as data and weights decide it.
        weights: what training starts from.
        settings: of the method.
        graded: steps of the roll-out that have a loss, counted from 1; the last one is the roll-out's.
        merge: ``model.rollout_lora`` asks for the weights' own to be merged.

    Raises:
        SettingsError: the weights have one in another mode, or the roll-out would leave some of it without a gradient.
    """
    if settings.method != _METHOD:
        return _without_merged(spec, weights)
    own = _own(spec, weights)
    if own is not None and merge:
        msg = (
            f"model.rollout_lora merge and adapt.method {_METHOD} exclude each other: training goes on with the "
            "roll-out LoRA that the weights have; leave model.rollout_lora out"
        )
        raise SettingsError(msg)
    mode = settings.mode or (mode_of(own) if own else "single")
    if own is not None and mode != mode_of(own):
        msg = (
            f"adapt.mode {mode}: the weights have a roll-out LoRA in mode {mode_of(own)}, with which training goes "
            f"on; use --adapt.mode {mode_of(own)}, or leave it out"
        )
        raise SettingsError(msg)
    _refuse_roll_out(mode, graded, _steps_of(own) if own else None)
    steps = {_STEPS: len(graded)} if mode == "all" else {}
    return replace(spec, rollout_lora="kept", arguments={**spec.arguments, _MODE: mode, **steps})


def _own(spec: ModelSpec, weights: Weights | None) -> ModelSpec | None:
    """The model that the weights' own roll-out LoRA belongs to, if they have one."""
    if weights is None:
        return None
    if weights.spec is None:
        return spec if spec.upstream.has_rollout_lora else None
    return weights.spec if weights.spec.rollout_lora == "kept" else None


def _without_merged(spec: ModelSpec, weights: Weights | None) -> ModelSpec:
    """Other methods start from a trained LoRA as from any other: merged, if it is the same at every step."""
    adapter = None if weights is None else weights.adapter
    trained = adapter is not None and adapter["settings"]["method"] == _METHOD
    return replace(spec, rollout_lora="merged") if trained and mode_of(spec) == "single" else spec


def _refuse_roll_out(mode: RolloutMode, graded: Sequence[int], held: int | None) -> None:
    """Refuse a roll-out in which some of the LoRA's parameters, or some loss, would have no gradient.

    Args:
        mode: of the LoRA.
        graded: steps of the roll-out that have a loss.
        held: steps that the weights' own LoRA has, if they have one.

    Raises:
        SettingsError: says which steps to train on.
    """
    last = max(graded)
    if mode == "single":
        return
    if last == 1:
        why, remedy = "rollout.steps is 1: there would be nothing to train", "--rollout.steps 2 or more"
    elif mode == "from_second" and 1 in graded:
        why, remedy = "the first step, which rollout.graded all grades, has none", "--rollout.graded last"
    elif mode == "all" and len(graded) < last:
        why, remedy = "rollout.graded last would train that of the last step alone", "--rollout.graded all"
    elif mode == "all" and held is not None and held != last:
        why, remedy = f"the weights have it for {held} steps, rollout.steps is {last}", f"--rollout.steps {held}"
    else:
        return
    owner = "a LoRA of its own for each step" if mode == "all" else "a LoRA from the second step of a roll-out on"
    msg = f"adapt.mode {mode} is {owner}, and {why}; use {remedy}, or --adapt.mode single"
    raise SettingsError(msg)
