"""Denoising networks from checkpoints, and the check that an operator is theirs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kit.checkpoint.folder import Checkpoint, open_checkpoint
from kit.diffusion.drawing import DrawingSpace
from kit.diffusion.network import DiffusionModel, build_network
from kit.diffusion.space import DiffusionSpace
from kit.diffusion.spec import DiffusionSpec
from kit.io.errors import CheckpointError
from kit.models.spec import ModelSpec
from kit.models.weights.load import Weights, tensor_files
from kit.models.weights.locate import identify_weights


@dataclass(frozen=True)
class NetworkCheckpoint:
    """A checkpoint of a denoising network, whose files are as they were written.

    Attributes:
        checkpoint: Folder and description.
        spec: Description of the network.
    """

    checkpoint: Checkpoint
    spec: DiffusionSpec

    @classmethod
    def open(cls, folder: Path) -> "NetworkCheckpoint":
        """Open a checkpoint.

        Raises:
            CheckpointError: there is none, or it is a model's.
        """
        checkpoint = open_checkpoint(folder)
        if not checkpoint.is_network:
            msg = (
                f"{folder}: is no denoising network; --diffusion names a checkpoint of kit finetune --task.name "
                "denoise, and --checkpoint its operator"
            )
            raise CheckpointError(msg)
        return cls(checkpoint, DiffusionSpec.from_dict(checkpoint.description["diffusion"], folder))

    @property
    def guidance(self) -> Mapping[str, Any] | None:
        """Calibration of its guidance, with the curve; None where it has none."""
        found: Mapping[str, Any] | None = self.checkpoint.description.get("guidance")
        return found

    def check_operator(self, folder: Path) -> None:
        """Check that a checkpoint is the operator whose forecasts the network learned from, wherever it is now.

        Raises:
            CheckpointError: it is another.
        """
        operator = self.checkpoint.description.get("operator")
        if operator is None:
            return
        given = identify_weights(str(folder), [folder / name for name in tensor_files(folder) or ["model.safetensors"]])
        if given["sha256"] != operator["sha256"]:
            msg = (
                f"{self.checkpoint.path}: learned from forecasts of {operator['name']} (SHA-256 "
                f"{operator['sha256'][:12]}...), and {folder} is another model ({given['sha256'][:12]}...); give "
                "the operator that it was trained for, or train a network for this one with --model.weights"
            )
            raise CheckpointError(msg)

    def space(self, device: torch.device, *, autocast: bool) -> DiffusionSpace:
        """Build the network with its weights.

        Raises:
            CheckpointError: they are not those that the description is of.
        """
        model = network_with(self.checkpoint.tensors(), self.spec, self.checkpoint.path)
        return DiffusionSpace(model.to(device), self.spec, None, autocast=autocast)


def network_with(tensors: Mapping[str, torch.Tensor], spec: DiffusionSpec, where: object) -> DiffusionModel:
    """Build a network that no longer trains, on the CPU.

    Args:
        tensors: Its weights.
        spec: Description of it.
        where: Checkpoint that both come from, for messages.

    Raises:
        CheckpointError: the weights are not those that the description is of.
    """
    # Its shapes first: a description may be of more than the file, or any machine, holds.
    with torch.device("meta"):
        due = build_network(spec, 0).state_dict()
    theirs = {name: value.shape for name, value in tensors.items()}
    if theirs != {name: value.shape for name, value in due.items()}:
        msg = f"{where}: its tensors are not those of the network that its kit.json describes; take another copy of it"
        raise CheckpointError(msg)
    model = build_network(spec, 0)
    model.load_state_dict(dict(tensors))
    return model.requires_grad_(False).eval()


def operator_network(weights: Weights | None) -> DiffusionSpec | None:
    """Describe the network that an operator's weights are of; None where they are Aurora's.

    Raises:
        CheckpointError: the network has no forecast that it always makes.
    """
    if weights is None or weights.description is None or not weights.is_network:
        return None
    spec = DiffusionSpec.from_dict(weights.description["diffusion"], weights.base["name"])
    if spec.settings.of != "mean":
        msg = (
            f"model.weights {weights.base['name']}: draws the {spec.settings.of}, and an operator makes one forecast: "
            "take Aurora's weights, or a network of --diffusion.of mean"
        )
        raise CheckpointError(msg)
    return spec


def build_operator(
    weights: Weights | None, spec: DiffusionSpec, model: ModelSpec, device: torch.device, *, autocast: bool
) -> DrawingSpace:
    """Build a network for the forecasts of an operator.

    Args:
        weights: Its weights; None for random ones, in a plan.
        spec: Description of the network.
        model: Variables, levels and step of its states.
        device: Device that it forecasts on.
        autocast: Whether it runs in bf16.

    Raises:
        CheckpointError: the weights are not those that the description is of.
    """
    if weights is None:
        network = build_network(spec, 0).requires_grad_(False).eval()
    else:
        network = network_with(weights.state, spec, weights.base["name"])
    return DrawingSpace(DiffusionSpace(network.to(device), spec, None, autocast=autocast), model)
