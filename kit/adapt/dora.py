"""DoRA (Liu et al. 2024): a weight's direction is adapted by LoRA, the length of each of its rows by a vector.

Import this module only after ``kit.adapt.lora.import_packages``.
"""

from typing import Any

import torch
from peft.tuners.lora.dora import DoraLinearLayer
from torch._subclasses.fake_tensor import FakeTensor

from kit.io.errors import SettingsError


class Magnitude(DoraLinearLayer):
    """Lengths of the rows of ``W + scale B A``, which train, with what they change in a layer's output.

    The formula, the names and the file are PEFT's: m / |W + scale B A| x (W + scale B A), the norm without gradient
    (section 4.3 of the paper). Three things differ from the parent:

    - Norms are taken in fp32. The parent takes them in the precision of the input, so that under autocast a model
      would start up to 0.4 % off each row's length.
    - They are put together from the frozen rows' own, which are computed once, so that nothing of the weight's size
      is made for each pass, and the start is neutral to the last bit on any device.
    - One tensor of the output's size is kept for the backward pass instead of two.
    """

    squared: torch.Tensor
    """Squared lengths of the frozen rows, [out_features]."""

    def __init__(self, name: str, linear: torch.nn.Linear) -> None:
        super().__init__(fan_in_fan_out=False)  # type: ignore[no-untyped-call]
        squared = linear.weight.detach().float().square().sum(1)
        # A fake tensor, with which a step is planned, has no values to look at.
        if not (isinstance(squared, FakeTensor) or squared.all()):
            msg = (
                f"adapt.targets: {int((squared == 0).sum())} of {len(squared)} rows of {name} are zero, and DoRA "
                "adapts the direction of rows, which these have not; leave that layer out of adapt.targets, or use "
                "--adapt.method lora"
            )
            raise SettingsError(msg)
        self.weight = torch.nn.Parameter(squared.sqrt())
        self.register_buffer("squared", squared, persistent=False)

    def forward(
        self,
        x: torch.Tensor,
        *,
        lora_A: torch.nn.Linear,
        lora_B: torch.nn.Linear,
        scaling: float,
        base_layer: torch.nn.Linear,
        base_result: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Compute what is added to the frozen layer's output, [..., out_features]; called by PEFT's layer.

        Args:
            x: the layer's input, [..., in_features].
            lora_A: to the rank.
            lora_B: from the rank.
            scaling: alpha / rank.
            base_layer: frozen.
            base_result: its output.
        """
        assert base_result is not None, "PEFT passes none beside dropout, which the kit does not use"
        change = scaling * lora_B(lora_A(x))
        bias: torch.Tensor | None = base_layer._parameters["bias"]
        # PEFT scales what the weight gives, and leaves the bias alone.
        if bias is not None:
            base_result = base_result - bias.to(base_result.dtype)
        whole = change + base_result
        weight, down, up = base_layer.weight, lora_A.weight, lora_B.weight
        kind = weight.device.type
        with torch.no_grad():
            if torch.is_autocast_enabled(kind):
                # As the layer's product sees it, so that frozen weights may as well be held in that precision.
                weight = weight.to(torch.get_autocast_dtype(kind))
            # Lengths of the rows of W + s B A: |w + s b A|^2 = |w|^2 + 2 s w A^T b^T + s^2 b A A^T b^T.
            with torch.autocast(kind, enabled=False):
                cross = ((weight.to(down.dtype) @ down.T) * up).sum(1)
                own = ((up @ (down @ down.T)) * up).sum(1)
                squared = self.squared + 2 * scaling * cross + scaling**2 * own
                norm = squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()
        excess = self.weight / norm - 1
        added: torch.Tensor = excess.to(whole.dtype) * whole + change
        return added
