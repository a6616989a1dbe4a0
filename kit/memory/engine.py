"""The memory engine: the settings of memory, applied to a model without renaming anything in it.

It replaces ``forward`` on instances. Classes, module names and parameters stay upstream's.
"""

from functools import partial
from itertools import chain

import torch
from aurora import Aurora
from aurora.model.swin3d import PatchMerging3D, PatchSplitting3D, Swin3DTransformerBlock

from kit.io.errors import SettingsError
from kit.memory.block_tiling import BlockForward, BlockWork, Segment, compiled_residual, residual
from kit.memory.encoder_decoder_tiling import BandedDecoder, BandedEncoder
from kit.memory.recompute import InputKeeper, Recomputation
from kit.memory.settings import MemorySettings
from kit.memory.tiling import run_bands

# What upstream's configure_activation_checkpointing recomputes: every one of these, inside each other.
_UPSTREAM = (
    "Basic3DDecoderLayer",
    "Basic3DEncoderLayer",
    "LinearPatchReconstruction",
    "Perceiver3DDecoder",
    "Perceiver3DEncoder",
    "Swin3DTransformerBackbone",
    "Swin3DTransformerBlock",
)


def install(model: Aurora, settings: MemorySettings) -> None:
    """Make a model run its forward and backward pass as the settings say.

    Args:
        model: Model with adapters in place and everything marked that trains.
        settings: Settings of memory; what they leave alone stays upstream's.
    """
    # cuDNN's attention, PyTorch's first choice on Hopper, returns NaN as the gradient of queries for some lengths of
    # masked windows (PyTorch issue 196678; upstream's issue 119 met NaN too). Flash attention runs where there is no
    # mask, the memory-efficient kernel where there is one; neither keeps the scores.
    torch.backends.cuda.enable_cudnn_sdp(False)
    keeper = InputKeeper(settings)
    recomputed = Recomputation(keeper)
    if settings.frozen_weights == "bf16":
        # Only where autocast would round the weights of linear layers to bf16 at each use anyway.
        rounded = [part for part in ("encoder", "backbone", "decoder") if getattr(model, f"autocast_{part}")]
        for module in chain.from_iterable(getattr(model, part).modules() for part in rounded):
            # Subclasses, such as 4-bit layers, have a precision of their own.
            if type(module) is torch.nn.Linear and not any(p.requires_grad for p in module.parameters()):
                module.to(torch.bfloat16)
    if settings.recompute == "upstream":
        for module in model.modules():
            if type(module).__name__ in _UPSTREAM:
                module.forward = partial(recomputed, module, module.forward)
        return
    _install_backbone(model, settings, keeper)
    if settings.latitude_bands > 1:
        model.encoder.forward = BandedEncoder(model.encoder, settings.latitude_bands, recomputed)
        model.decoder.forward = BandedDecoder(model.decoder, settings.latitude_bands, keeper)


def _install_backbone(model: Aurora, settings: MemorySettings, keeper: InputKeeper) -> None:
    """Have the blocks of the backbone's first stages run in bands, or recomputed; upstream's stay as they are.

    Raises:
        SettingsError: there are not so many stages.
    """
    recomputed = Recomputation(keeper)
    if settings.recompute == "blocks" or settings.window_bands > 1:
        segment: Segment = partial(_in_bands, keeper)
    elif settings.recompute == "selective":
        segment = partial(_selectively, Recomputation(keeper, selective=True))
    elif settings.compile:
        segment = BlockWork.whole
    else:
        return
    found = len(model.backbone.encoder_layers)
    if settings.stages is not None and settings.stages > found:
        msg = f"memory.stages is {settings.stages}, but the backbone has {found}; leave it out to reach them all"
        raise SettingsError(msg)
    add = compiled_residual if settings.compile else residual
    # The decoder comes back through the stages in the opposite order.
    layers = [*model.backbone.encoder_layers[: settings.stages]]
    layers += [*reversed(model.backbone.decoder_layers)][: settings.stages]
    for layer in layers:
        for module in layer.modules():
            if isinstance(module, Swin3DTransformerBlock):
                module.forward = BlockForward(module, settings.window_bands, segment, add)
            elif isinstance(module, PatchMerging3D | PatchSplitting3D) and settings.recompute == "blocks":
                module.forward = partial(recomputed, module, module.forward)


def _selectively(recomputed: Recomputation, work: BlockWork, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return recomputed(work.module, work.whole, x, c)


def _in_bands(keeper: InputKeeper, work: BlockWork, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    # The noise of an ensemble is each token's own; otherwise a sample's context is all its tokens'.
    if c.ndim == 3:
        (out,) = run_bands(work, keeper, (x, c))
    else:
        (out,) = run_bands(work, keeper, (x,), (c,))
    return out
