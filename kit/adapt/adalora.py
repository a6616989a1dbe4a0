"""AdaLoRA (Zhang et al. 2023): pruning of adapters during training, and the loss term that keeps their parts apart.

Each adapter starts as ``rank`` parts, one row of A, one entry of E and one column of B each. For ``tinit`` steps all
train. Then, every ``interval`` steps, the least important parts of all adapters together are pruned, by setting their
entries of E to zero, until after ``steps - tfinal`` of them ``target_rank`` parts are left on average; a pruned part
can come back until then. The scores of importance and the budget, which falls as a cubic, are PEFT's.
"""

from collections.abc import Callable
from typing import Any

import torch

from kit.adapt.settings import AdaptSettings, Budget
from kit.io.errors import SettingsError


def pruning(settings: AdaptSettings, steps: int | None) -> Budget:
    """Schedule pruning over a run: by default its first tenth is left alone, and its last three tenths.

    Args:
        settings: of ``adalora``.
        steps: of the run; None where nothing will train, and any schedule will do.

    Returns:
        The budget with every default filled in.

    Raises:
        SettingsError: nothing is left of the run to prune in.
    """
    budget = settings.budget
    if steps is None:
        return budget._replace(tinit=0, tfinal=0, interval=1)
    tinit = steps // 10 if budget.tinit is None else budget.tinit
    tfinal = 3 * steps // 10 if budget.tfinal is None else budget.tfinal
    interval = budget.interval or max(1, steps // 100)
    if tinit + tfinal >= steps:
        msg = (
            f"adapt.tinit ({tinit}) and adapt.tfinal ({tfinal}) leave no step to prune in: expected less than the "
            f"run's {steps} steps together; lower them, leave them out, or raise train.steps"
        )
        raise SettingsError(msg)
    between = steps - tinit - tfinal
    if interval > between:
        msg = (
            f"adapt.interval: expected at most {between}, the steps between adapt.tinit ({tinit}) and adapt.tfinal "
            f"({tfinal}) of {steps}, got {interval}; lower it, or leave it out"
        )
        raise SettingsError(msg)
    return budget._replace(tinit=tinit, tfinal=tfinal, interval=interval)


class Allocation:
    """Prunes after each step of the optimiser, while its gradients are there.

    It departs from PEFT's own loop in one thing: what is pruned is held at zero between two allocations too, not only
    after the last, so that a checkpoint from in between predicts what the model in training does.

    Args:
        model: with adapters of AdaLoRA.
        name: of the adapter in PEFT.
    """

    def __init__(self, model: torch.nn.Module, name: str) -> None:
        from peft.tuners.adalora.layer import RankAllocator

        self._model = model
        self._config: Any = model.peft_config[name]  # type: ignore[index]
        self._allocator: Any = RankAllocator(model, self._config, name)  # type: ignore[no-untyped-call]
        # Rows of A, entries of E and columns of B: the parts that are scored and pruned.
        ends = tuple(f".lora_{part}.{name}" for part in "ABE")
        self._parameters = {
            own: parameter
            for own, parameter in model.named_parameters()
            if parameter.requires_grad and own.endswith(ends)
        }

    @property
    def pattern(self) -> dict[str, list[bool]] | None:
        """Which parts of each adapter are left, by the name of its E; None before the first allocation."""
        found: dict[str, list[bool]] | None = self._config.rank_pattern
        return found

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """Score the parts of all adapters, allocate ranks and prune.

        Args:
            step: counted from 1.
        """
        # The step after which ranks stay as they are.
        last = self._config.total_step - self._config.tfinal
        if step <= last:
            for parameter in self._parameters.values():
                # A layer that the loss does not see, such as the head of a variable that is left out, has none.
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            # On a GPU only the position that kthvalue gives is not deterministic; PEFT reads the value alone.
            deterministic = torch.are_deterministic_algorithms_enabled()
            warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
            torch.use_deterministic_algorithms(False)
            try:
                _, pattern = self._allocator.update_and_allocate(self._model, step, force_mask=step == last)
            finally:
                torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            self._config.rank_pattern = pattern or self._config.rank_pattern
        if step == last:
            self._allocator.reset_ipt()
        # At every step, not only at an allocation: a checkpoint in between leaves out what was pruned.
        if self._config.rank_pattern:
            self._allocator.mask_using_rank_pattern(self._model, self._config.rank_pattern)

    def state_dict(self) -> dict[str, Any]:
        """Return the running scores, what is left, and all parts of the adapters: files leave the pruned ones out."""
        return {
            "importance": dict(self._allocator.exp_avg_ipt),
            "uncertainty": dict(self._allocator.exp_avg_unc),
            "pattern": self.pattern,
            "parameters": {name: parameter.detach() for name, parameter in self._parameters.items()},
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state, after the parameters have been loaded."""
        for name, parameter in self._parameters.items():
            parameter.copy_(state["parameters"][name])
        for kind, running in (("importance", "exp_avg_ipt"), ("uncertainty", "exp_avg_unc")):
            scores = {name: value.to(self._parameters[name].device) for name, value in state[kind].items()}
            setattr(self._allocator, running, scores)
        # Overwritten at each step before it is read; its keys say which parameters have running scores.
        self._allocator.ipt = dict.fromkeys(state["importance"])
        self._config.rank_pattern = state["pattern"]


def orthogonality(model: torch.nn.Module, name: str, weight: float) -> Callable[[], torch.Tensor]:
    """Make the loss term by which the parts of an adapter stay apart, as singular vectors are.

    Args:
        model: with adapters of AdaLoRA.
        name: of the adapter in PEFT.
        weight: of the term.

    Returns:
        Computes ``weight`` x mean over all A and B of |A A^T - I| and |B^T B - I|, Frobenius norms. That is PEFT's
        term, and that of the authors' code; the paper has squares.
    """
    # The rows of each: A has the parts as rows, B as columns.
    named = list(model.named_parameters())
    downs = [value for key, value in named if key.endswith(f".lora_A.{name}")]
    ups = [value for key, value in named if key.endswith(f".lora_B.{name}")]

    def penalty() -> torch.Tensor:
        grams = [down @ down.T for down in downs] + [up.T @ up for up in ups]
        # How far rows are from orthonormal.
        departures = [torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)) for gram in grams]
        return weight * torch.stack(departures).mean()

    return penalty
