"""The check that what was to train does train, and that nothing else changes.

Gradients are looked at by hooks on the parameters, weights by fingerprints from before the first step.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from aurora import Aurora

from kit.adapt.trainable_report import ForwardObserver
from kit.io.errors import KitError
from kit.models.space import Fields
from kit.models.variants import drop_names, keep_names

# Steps by which gradients have come through layers that start at zero: behind one of them in the second step, behind
# two, such as LoRA in a new model's backbone, in the third.
_SETTLED = 3
# What is no weight and yet a parameter that may change: AdaLoRA's count of the ranks that it keeps.
_MOVES_BY_ITSELF = re.compile(r"\.ranknum\.")
# What AdaLoRA prunes by setting it to zero, which is also where it starts.
_PRUNED = re.compile(r"\.lora_E\.")
_SHOWN = 5


class UntrainedError(KitError):
    """Something that was to train does not, or something that was to stay has changed."""


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        step: after which it was made.
        moved: parameters that had a gradient and have changed.
        zeros: names of the parameters without a gradient that could move them, by the reason for that.
        waiting: names of parameters of which it was too early to say: in the first steps, or in the warm-up.
        still: parameters and buffers that were to stay, and are what they were to the last bit.
    """

    step: int
    moved: int
    zeros: dict[str, list[str]]
    waiting: list[str]
    still: int

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "step": self.step,
            "moved": self.moved,
            "structural_zeros": self.zeros,
            "too_early": self.waiting,
            "unchanged": self.still,
        }

    def text(self) -> str:
        """Render the verdict as a sentence."""
        zeros = sum(map(len, self.zeros.values()))
        parts = [f"{self.moved} parameters had gradients and moved"]
        if zeros:
            parts.append(f"{zeros} have none for a reason ({', '.join(self.zeros)})")
        if self.waiting:
            parts.append(f"of {len(self.waiting)} it is too early to say")
        parts.append(f"{self.still} others, buffers among them, are unchanged to the last bit")
        return f"check after step {self.step}: {'; '.join(parts)}"


class TrainingCheck:
    """Watches a model from before its first step.

    Make it before anything else takes gradients away: hooks run in the order in which they were made, and those that
    keep memory low free the gradient.

    Args:
        model: on its device, as it will be trained.
        parameters: what trains.
        unscored: variables that weigh nothing in the loss.
    """

    def __init__(
        self, model: torch.nn.Module, parameters: Mapping[str, torch.nn.Parameter], *, unscored: Collection[str] = ()
    ) -> None:
        self._model = model
        self._names = list(parameters)
        self._declared = frozenset(parameters)
        # Of Aurora alone parts may be without a gradient for a reason.
        self._observer = ForwardObserver(model, unscored) if isinstance(model, Aurora) else None
        self._watching = True
        device = next(iter(parameters.values())).device
        # On the device, so that no step waits for the answer.
        self._reached = torch.zeros(len(parameters), dtype=torch.bool, device=device)
        self._reasons: dict[str, str] = {}
        self._handles = [
            parameter.register_post_accumulate_grad_hook(partial(self._note, index))  # type: ignore[no-untyped-call]
            for index, parameter in enumerate(parameters.values())
        ]
        self._start: dict[str, tuple[int, int]] = {}
        self._begun = 0

    def see(self, target: Fields) -> None:
        """Look at what a loss is taken against, in training space; every loss of a step has to be seen."""
        if self._observer is not None:
            self._observer.note_target(target)

    def begin(self, step: int = 0) -> None:
        """Take the fingerprints of all parameters and buffers.

        Args:
            step: after which the run goes on.
        """
        self._begun = step
        self._start = fingerprints(self._everything())

    def due(self, after: int) -> int:
        """Compute the step after which a check may be made: the one asked for, or the first with an answer."""
        return self._begun + max(after, _SETTLED)

    @property
    def watching(self) -> bool:
        """Whether gradients are being looked at, which ends with the first verdict."""
        return self._watching

    def judge(self, step: int, *, warmup: int, final: bool) -> Verdict:
        """Judge what has moved, and look at no more gradients.

        Args:
            step: that has been taken.
            warmup: steps of the longest warm-up; what had a gradient may be too slow to move before its end.
            final: whether the run ends here.

        Raises:
            UntrainedError: something that was to train does not, without a reason; or something else has changed.
        """
        self._stop_observing()
        now = fingerprints(self._everything())
        changed = {name for name, start in self._start.items() if now.get(name) != start}
        still = drop_names(now, self._declared)
        unexpected = [name for name in keep_names(still, changed) if not _MOVES_BY_ITSELF.search(name)]
        if unexpected:
            msg = (
                f"{len(unexpected)} parameters or buffers were to stay as they were and have changed: "
                f"{_listed(unexpected)}. This is a defect of the kit or of the machine: start again, and report it if "
                "it comes back"
            )
            raise UntrainedError(msg)
        reached = dict(zip(self._names, self._reached.tolist(), strict=True))
        zeros: dict[str, list[str]] = {}
        waiting: list[str] = []
        silent: list[str] = []
        stuck: list[str] = []
        for name in self._names:
            if reached[name] and name in changed:
                continue
            reason = self._reasons.get(name)
            if reason is None and _PRUNED.search(name) and not bool(self._model.get_parameter(name).any()):
                reason = "AdaLoRA has pruned all of its parts"
            if reason is not None:
                zeros.setdefault(reason, []).append(name)
            elif step - self._begun < _SETTLED or (reached[name] and step < warmup and not final):
                waiting.append(name)
            elif reached[name]:
                stuck.append(name)
            else:
                silent.append(name)
        if silent or stuck:
            raise UntrainedError(_untrained(step, silent, stuck))
        moved = len(self._names) - sum(map(len, zeros.values())) - len(waiting)
        return Verdict(step, moved, zeros, waiting, len(now) - len(self._names))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values."""
        return {
            "start": {name: list(sums) for name, sums in self._start.items()},
            "begun": self._begun,
            "reached": self._reached.tolist(),
            "reasons": dict(self._reasons),
            "watching": self.watching,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state, after the weights have been loaded."""
        self._start = {name: (a, b) for name, (a, b) in state["start"].items()}
        self._begun = state["begun"]
        self._reached.logical_or_(torch.tensor(state["reached"], device=self._reached.device))
        if not state["watching"]:
            self._stop_observing()
        # Last: the end of observation overwrites them.
        self._reasons = dict(state["reasons"])

    def _everything(self) -> dict[str, torch.Tensor]:
        return dict(self._model.named_parameters()) | dict(self._model.named_buffers())

    @torch.no_grad()
    def _note(self, index: int, parameter: torch.nn.Parameter) -> None:
        assert parameter.grad is not None, "the check has to be made before what takes gradients away"
        # In place on the device: an answer on the host would have every step wait for the GPU.
        self._reached[index].logical_or_(parameter.grad.any())

    def _stop_observing(self) -> None:
        """Take the hooks away, and keep the reasons that they found."""
        if not self._watching:
            return
        self._watching = False
        for handle in self._handles:
            handle.remove()
        if self._observer is None:
            return
        self._observer.close()
        reasons = zip(self._names, map(self._observer.reason, self._names), strict=True)
        self._reasons = {name: reason for name, reason in reasons if reason is not None}
        self._observer = None


def _untrained(step: int, silent: list[str], stuck: list[str]) -> str:
    kinds = {"had no gradient": silent, "had gradients and have not moved": stuck}
    parts = [f"{len(names)} have {what}: {_listed(names)}" for what, names in kinds.items() if names]
    return (
        f"after step {step}, {len(silent) + len(stuck)} parameters that were to train do not, and no reason for that "
        f"is known. {'; '.join(parts)}. Choose what trains with adapt.*, raise optim.lr where they cannot move, or "
        "turn the check off with --train.check_after none"
    )


def _listed(names: list[str]) -> str:
    listed = ", ".join(names[:_SHOWN])
    if len(names) > _SHOWN:
        listed += f" and {len(names) - _SHOWN} more"
    return listed


# Fingerprints of tensors, made where the tensors are, by which any later change shows.
#
# A tensor is read as a row of integers, its own bits. Each is multiplied by an odd number that depends on where it
# stands, and all are added up modulo 2^64; two such sums, with other numbers, make a fingerprint. One value that
# changes always changes both sums, because an odd number has an inverse modulo 2^64; changes of several values cancel
# in both with a chance of about 2^-128.

Fingerprint = tuple[int, int]

# Values that are read at a time: a few times 8 bytes each is all the memory that this takes.
_CHUNK = 2**19
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SEEDS = (0x0123_4567_89AB_CDEF, 0x7EDC_BA98_7654_3210)
# Constants of SplitMix64 (Steele, Lea, Flood 2014), as signed integers.
_STEP, _MIX, _MIX_AGAIN = (
    value - 2**64 for value in (0x9E37_79B9_7F4A_7C15, 0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB)
)


@torch.no_grad()
def fingerprints(tensors: Mapping[str, torch.Tensor]) -> dict[str, Fingerprint]:
    """Fingerprint tensors of any type and size, on any devices, waiting for each device once.

    Args:
        tensors: by name; they have to have memory. Equal bits have equal fingerprints on every device.
    """
    multipliers: dict[torch.device, torch.Tensor] = {}
    sums: dict[torch.device, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        device = tensor.device
        if device not in multipliers:
            multipliers[device] = _multipliers(device)
        sums.setdefault(device, {})[name] = _sums(tensor, multipliers[device])
    found: dict[str, Fingerprint] = {}
    for own in sums.values():
        found |= {name: (a, b) for name, (a, b) in zip(own, torch.stack(list(own.values())).tolist(), strict=True)}
    return {name: found[name] for name in tensors}


def _multipliers(device: torch.device) -> torch.Tensor:
    """Odd numbers without a pattern, [2, chunk]."""
    position = torch.arange(1, _CHUNK + 1, device=device)
    rows = []
    for seed in _SEEDS:
        x = position * _STEP + seed
        x = (x ^ (x >> 30)) * _MIX
        x = (x ^ (x >> 27)) * _MIX_AGAIN
        rows.append((x ^ (x >> 31)) | 1)
    return torch.stack(rows)


def _sums(tensor: torch.Tensor, multipliers: torch.Tensor) -> torch.Tensor:
    """The two sums of one tensor, [2]."""
    plain = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    bits = plain.reshape(-1).view(_BITS[plain.element_size()])
    total = torch.zeros(2, dtype=torch.int64, device=bits.device)
    for chunk in torch.split(bits, _CHUNK):
        # What was before is multiplied by an odd number too, so that chunks cannot change places.
        total = total * _STEP + (multipliers[:, : len(chunk)] * chunk.to(torch.int64)).sum(1)
    return total
