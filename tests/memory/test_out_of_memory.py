"""Failures for want of memory: recognised, ascribed to a module, and told with what would help."""

from __future__ import annotations

import errno
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from aurora import Aurora

from kit.io.errors import KitError, OutOfMemoryError, SettingsError
from kit.memory import engine
from kit.memory.advice import Situation, explain_forecast, explain_training
from kit.memory.out_of_memory import Shortage, diagnose, readable
from kit.memory.settings import MemorySettings
from kit.models.space import TrainingSpace
from kit.train.settings import OptimSettings
from kit.train.updaters import build_updater
from tests.batches import small_spec, synthetic_batch

_CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
_CPU += "allocate 3221225472 bytes. Error code 12 (Cannot allocate memory)"
_CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.69 GiB of which 1.20 GiB is "
    "free. Including non-PyTorch memory, this process has 22.49 GiB memory in use. Of the allocated memory 18.00 GiB "
    "is allocated by PyTorch, and 4.00 GiB is reserved by PyTorch but unallocated."
)


class Space:
    """A small model whose parts can be made to fail."""

    def __init__(self, **memory: object) -> None:
        spec = small_spec("pretrained")
        torch.manual_seed(0)
        self.model: Aurora = spec.build()
        engine.install(self.model, MemorySettings.model_validate(memory))
        self._space = TrainingSpace(self.model, spec)
        self._inputs = self._space.inputs(synthetic_batch(spec))

    def loss(self) -> torch.Tensor:
        fields = self._space.predict_fields(self._inputs)
        return torch.stack([value.abs().mean() for value in (fields.surface | fields.atmospheric).values()]).sum()

    def fail_in(self, name: str, *, recomputing: bool) -> None:
        """Let a module run out of memory: at once, or when it is run again in the backward pass."""
        module = self.model.get_submodule(name)
        forward: Callable[..., torch.Tensor] = module.forward

        def failing(*args: object) -> torch.Tensor:
            if not recomputing or torch._C._current_graph_task_id() != -1:
                raise RuntimeError(_CPU)
            return forward(*args)

        module.forward = failing


def shortage_of(action: Callable[[], object], model: torch.nn.Module | None = None) -> Shortage:
    try:
        action()
    except (RuntimeError, MemoryError, OSError) as error:
        found = diagnose(error, model)
        assert found is not None
        return found
    raise AssertionError


@pytest.mark.parametrize(
    "name", ("encoder.level_agg", "backbone.decoder_layers.0.blocks.1.mlp", "decoder.level_decoder")
)
def test_the_forward_pass_names_the_module(name: str) -> None:
    space = Space()
    space.fail_in(name, recomputing=False)
    found = shortage_of(space.loss, space.model)
    # The module's own frame is the test's: the one around it is the innermost of the model.
    assert (found.phase, found.on_gpu, found.requested) == ("forward", False, 3 * 2**30)
    assert found.module is not None
    assert name.startswith(found.module) or found.module == name
    assert found.place == name.partition(".")[0]


@pytest.mark.parametrize(
    ("memory", "name"),
    (
        ({"recompute": "blocks", "window_bands": 2}, "backbone.encoder_layers.1.blocks.0.mlp"),
        ({"recompute": "selective"}, "backbone.encoder_layers.1.blocks.0.mlp"),
        ({"recompute": "upstream"}, "decoder.level_decoder"),
        ({"latitude_bands": 2}, "decoder.level_decoder"),
        ({"latitude_bands": 2}, "encoder.level_agg"),
    ),
)
def test_the_backward_pass_names_what_is_computed_again(memory: dict[str, object], name: str) -> None:
    space = Space(**memory)
    space.fail_in(name, recomputing=True)
    loss = space.loss()
    found = shortage_of(loss.backward, space.model)
    assert found.phase == "backward"
    assert found.module is not None
    assert name.startswith(found.module)
    assert found.module != name.partition(".")[0]


def test_the_backward_pass_of_a_plain_model_is_no_modules() -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    loss = parameter.sum()

    def fail(_: torch.Tensor) -> None:
        raise MemoryError

    loss.register_hook(fail)  # type: ignore[no-untyped-call]
    found = shortage_of(loss.backward, torch.nn.Linear(1, 1))
    assert (found.phase, found.module, found.requested) == ("backward", None, None)
    assert "in a part that PyTorch ran by itself and does not name: an unknown amount was asked of the host" in str(
        found
    )


def test_the_update_is_told_from_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = {"weight": torch.nn.Parameter(torch.ones(2))}
    updater = build_updater(parameters, OptimSettings().resolved("full"), MemorySettings(), steps=2)
    updater.begin(1)
    updater.backward(parameters["weight"].sum())

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(_CPU)

    monkeypatch.setattr("torch._fused_adamw_", fail)
    found = shortage_of(lambda: updater.update(1))
    assert found.phase == "update"
    assert "when the optimiser applied the gradients: 3.00 GiB was asked of the host" in str(found)


@pytest.mark.slow
def test_an_adapter_is_told_by_the_name_of_its_layer() -> None:
    from kit.adapt import trainable
    from kit.adapt.settings import AdaptSettings

    space = Space()
    trainable.select(space.model, AdaptSettings(method="lora"))
    name = "backbone.encoder_layers.0.blocks.0.attn.qkv"
    space.fail_in(f"{name}.lora_A.default", recomputing=False)
    assert shortage_of(space.loss, space.model).module == name


@pytest.mark.parametrize(
    ("error", "asked", "on_gpu"),
    (
        (torch.OutOfMemoryError(_CUDA), int(2.5 * 2**30), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), None, True),
        (RuntimeError("not enough memory: you tried to allocate 1024 bytes."), 1024, False),
        (RuntimeError("std::bad_alloc"), None, False),
        (RuntimeError("Caught MemoryError in DataLoader worker process 0."), None, False),
        (MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000000000,)"), int(7.45 * 2**30), False),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), None, False),
    ),
)
def test_what_libraries_say_is_understood(error: Exception, asked: int | None, on_gpu: bool) -> None:
    found = diagnose(error, None)
    assert found is not None
    assert (found.requested, found.on_gpu, found.phase) == (asked, on_gpu, "elsewhere")


@pytest.mark.parametrize(
    "error",
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), OSError(errno.ENOSPC, "No space left on device")),
)
def test_other_failures_are_left_as_they_are(error: Exception) -> None:
    assert diagnose(error, None) is None
    with pytest.raises(type(error)) as caught, readable(str):
        raise error
    assert caught.value is error
    with pytest.raises(SettingsError), readable(str):
        raise SettingsError


def test_a_gpu_tells_what_it_has_and_what_lies_in_pieces() -> None:
    found = diagnose(torch.OutOfMemoryError(_CUDA), None)
    assert found is not None
    assert "2.50 GiB was asked of the GPU, which has 1.20 GiB free of 23.69 GiB" in str(found)
    text = "\n".join(explain_training(found, Situation(MemorySettings(), "cuda", autocast=True)))
    assert "PyTorch holds 4.00 GiB in pieces" in text
    assert "expandable_segments:True" in text
    assert text.endswith("--memory.fit 23GiB")


def test_the_hosts_memory_of_a_run_on_a_gpu_is_saved_otherwise() -> None:
    found = diagnose(MemoryError(), None)
    assert found is not None
    now = Situation(MemorySettings(recompute="blocks", offload=("inputs", "optimizer")), "cuda", autocast=True)
    text = "\n".join(explain_training(found, now, workers=2))
    assert "--data.workers 0" in text
    assert "no --memory.offload inputs,optimizer" in text
    assert "latitude_bands" not in text


def test_a_forecast_gets_the_advice_of_forecasts() -> None:
    found = diagnose(torch.OutOfMemoryError(_CUDA), None)
    assert found is not None
    text = explain_forecast(found, Situation(MemorySettings(), "cuda", autocast=True, batch_size=2))
    assert (
        text.index("--batch_size 1") < text.index("--memory.latitude_bands 8") < text.index("--memory.window_bands 8")
    )
    assert "recompute" not in text


def test_what_failed_lets_go_of_its_tensors() -> None:
    seen: list[weakref.ref[object]] = []

    def step() -> None:
        held = np.ones(10)
        seen.append(weakref.ref(held))
        raise MemoryError

    with pytest.raises(OutOfMemoryError, match="out of memory in a library") as caught, readable(str):
        step()
    assert isinstance(caught.value, KitError)
    assert seen[0]() is None


def test_the_first_shortage_is_the_one_that_is_told() -> None:
    """Closing the run fails for want of memory too."""

    def run() -> None:
        try:
            with readable(lambda _: "first"):
                raise MemoryError
        finally:
            raise MemoryError

    with pytest.raises(OutOfMemoryError, match="first"), readable(lambda _: "second"):
        run()
