"""Training of upstream's own roll-out LoRA (``aurora/model/lora.py``, ``aurora/model/swin3d.py``).

Beside ``qkv`` and ``proj`` of every attention of the backbone upstream can have LoRA of rank 8 and alpha 8, which its
constructors do not let one choose: one pair of matrices for all steps of a roll-out (``single``), one from the second
step on (``from_second``), or one for each step (``all``).

Weights that have one go on with it; others get a fresh one, whose B is zero, so that the model predicts what it did.
"""

from collections.abc import Sequence
from dataclasses import replace

from aurora import Aurora

from kit.adapt.settings import AdaptSettings, RolloutMode
from kit.io.errors import SettingsError
from kit.models.spec import ModelSpec
from kit.models.weights.load import Weights

_METHOD = "rollout-lora"
_MODE, _STEPS = "lora_mode", "lora_steps"


def attach(model: Aurora, settings: AdaptSettings) -> None:  # noqa: ARG001
    """Let a model's roll-out LoRA train, and nothing else; the model is built from what ``spec_for`` gives."""
    assert model.use_lora, "built without a roll-out LoRA"
    # Upstream's modules LoRARollout hold theirs in a list of that name.
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".loras." in name)


def mode_of(spec: ModelSpec) -> RolloutMode:
    """Look up the mode of a model's roll-out LoRA."""
    mode: RolloutMode = spec.argument(_MODE)
    return mode


def spec_for(
    spec: ModelSpec, weights: Weights | None, settings: AdaptSettings, loss_steps: Sequence[int], *, merge: bool = False
) -> ModelSpec:
    """Describe the model that a method needs: with a roll-out LoRA where one trains, without one that can be merged.

    Args:
        spec: of the model as far as data and weights decide it.
        weights: what training starts from.
        settings: of the method.
        loss_steps: steps of the roll-out that have a loss, counted from 1; the last one is the roll-out's.
        merge: ``model.rollout_lora`` asks for the weights' own to be merged.

    Raises:
        SettingsError: the weights have one in another mode, or the roll-out would leave some of it without a gradient.
    """
    if settings.method != _METHOD:
        adapter = None if weights is None else weights.adapter
        if adapter is None or adapter["settings"]["method"] != _METHOD or mode_of(spec) != "single":
            return spec
        # Other methods start from a trained LoRA as from any other: merged, if it is the same at every step.
        return replace(spec, rollout_lora="merged")
    # The model that the weights' own roll-out LoRA belongs to, if they have one.
    own = None
    if weights is not None and weights.spec is None and spec.upstream.has_rollout_lora:
        own = spec
    elif weights is not None and weights.spec is not None and weights.spec.rollout_lora == "kept":
        own = weights.spec
    mode: RolloutMode = settings.mode or "single"
    own_steps = None
    if own is not None:
        if merge:
            msg = (
                f"model.rollout_lora merge and adapt.method {_METHOD} exclude each other: training goes on with the "
                "roll-out LoRA that the weights have; leave model.rollout_lora out"
            )
            raise SettingsError(msg)
        # Weights that have one go on with it, in its own mode.
        mode = settings.mode or mode_of(own)
        if mode != mode_of(own):
            msg = (
                f"adapt.mode {mode}: the weights have a roll-out LoRA in mode {mode_of(own)}, with which training goes "
                f"on; use --adapt.mode {mode_of(own)}, or leave it out"
            )
            raise SettingsError(msg)
        own_steps = own.argument(_STEPS)
    _check_rollout(mode, loss_steps, own_steps)
    arguments = {**spec.arguments, _MODE: mode}
    if mode == "all":
        # Upstream's 40 would be mostly steps that never train.
        arguments[_STEPS] = len(loss_steps)
    return replace(spec, rollout_lora="kept", arguments=arguments)


def _check_rollout(mode: RolloutMode, loss_steps: Sequence[int], own_steps: int | None) -> None:
    """Check that no parameter of the LoRA, and no loss, is without a gradient in a roll-out.

    Args:
        mode: of the LoRA.
        loss_steps: steps of the roll-out that have a loss.
        own_steps: steps that the weights' own LoRA has, if they have one.

    Raises:
        SettingsError: says which steps to train on.
    """
    last = max(loss_steps)
    if mode == "single":
        return
    # Each mode wants the roll-out in which all of it trains, and in which every loss has something that trains.
    owner = "a LoRA of its own for each step" if mode == "all" else "a LoRA from the second step of a roll-out on"
    if last == 1:
        why, remedy = "rollout.steps is 1: there would be nothing to train", "--rollout.steps 2 or more"
    elif mode == "from_second" and 1 in loss_steps:
        why, remedy = "the first step, which rollout.graded all grades, has none", "--rollout.graded last"
    elif mode == "all" and len(loss_steps) < last:
        why, remedy = "rollout.graded last would train that of the last step alone", "--rollout.graded all"
    elif mode == "all" and own_steps is not None and own_steps != last:
        why, remedy = (
            f"the weights have it for {own_steps} steps, rollout.steps is {last}",
            f"--rollout.steps {own_steps}",
        )
    else:
        return
    msg = f"adapt.mode {mode} is {owner}, and {why}; use {remedy}, or --adapt.mode single"
    raise SettingsError(msg)
