"""The simulated GPU: its precisions, the values that it makes up, and the process that it leaves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from aurora.model.swin3d import compute_3d_shifted_window_mask
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from kit.planning.simulation import cuda_autocast_on_cpu, simulated_gpu


@pytest.fixture
def autocast() -> Iterator[None]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield


NARROW = torch.ones(2, 4, dtype=torch.bfloat16)


@pytest.mark.usefixtures("autocast")
def test_what_cuda_runs_in_fp32_runs_in_fp32() -> None:
    norm = nn.LayerNorm(4)
    assert norm(NARROW).dtype is torch.bfloat16
    with cuda_autocast_on_cpu():
        for wide in (norm(NARROW), NARROW.exp(), NARROW**2, NARROW.sum(), F.softmax(NARROW, -1), NARROW.norm()):
            assert wide.dtype is torch.float32
        assert NARROW.sum(dtype=torch.bfloat16).dtype is torch.bfloat16
        assert torch.ones(3, dtype=torch.int64).sum().dtype is torch.int64
        # On no list: they keep the precision that they are given.
        assert F.gelu(NARROW).dtype is torch.bfloat16
        assert nn.Linear(4, 4)(torch.ones(2, 4)).dtype is torch.bfloat16
    assert norm(NARROW).dtype is torch.bfloat16


def test_without_autocast_nothing_is_widened() -> None:
    with cuda_autocast_on_cpu():
        assert NARROW.exp().dtype is torch.bfloat16


@pytest.mark.usefixtures("autocast")
def test_values_are_those_of_fp32_and_gradients_flow() -> None:
    x = torch.randn(2, 4, requires_grad=True)
    with cuda_autocast_on_cpu():
        wide = F.layer_norm(x.to(torch.bfloat16), (4,))
    wide.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(wide, F.layer_norm(x.to(torch.bfloat16).float(), (4,)))
    assert x.grad is not None


def test_values_are_made_up() -> None:
    with simulated_gpu():
        x = torch.empty(3)
        assert isinstance(x, FakeTensor)
        assert (x.sum().item(), (x > 5).all().item(), bool(torch.isfinite(x).all())) == (1.0, True, True)
        assert x.tolist() == [1.0] * 3
        assert x.numpy().tolist() == [1.0] * 3


def test_values_that_need_no_data_are_known() -> None:
    with simulated_gpu():
        assert [rate.item() for rate in torch.linspace(0, 0.5, 3)] == [0.0, 0.25, 0.5]
        assert torch.tensor(7).item() == 7


def test_values_of_real_tensors_are_read() -> None:
    real = torch.tensor([2.0, 3.0])
    with simulated_gpu():
        assert real.cpu().numpy().tolist() == [2.0, 3.0]


def test_a_simulated_module_moves_and_casts() -> None:
    with simulated_gpu():
        layer = nn.Linear(2, 3).to("cpu")
        weight = layer.weight
        assert layer.to("cpu").weight is weight
        layer.to(torch.bfloat16)
        assert layer.weight.dtype is torch.bfloat16
        assert isinstance(layer.weight, nn.Parameter)


def test_initialisation_ends() -> None:
    """PyTorch draws again until no value lies out of bounds, which of made-up values is never."""
    with simulated_gpu():
        nn.init.trunc_normal_(torch.empty(4), std=0.02)


def test_the_process_is_left_as_it_was() -> None:
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(3)
    expected = torch.rand(2)
    apply, available = vars(nn.Module)["_apply"], torch.cuda.is_available
    arguments = (4, 8, 16, (2, 4, 4), (1, 2, 2), torch.device("cpu"))
    torch.manual_seed(3)
    with simulated_gpu():
        torch.rand(100)
        assert isinstance(compute_3d_shifted_window_mask(*arguments)[0], FakeTensor)
        assert not torch.cuda.is_available()
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.rand(2), expected)
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert torch.cuda.is_available is available
    assert vars(nn.Module)["_apply"] is apply
    assert "numpy" not in vars(torch.Tensor)
    assert not isinstance(compute_3d_shifted_window_mask(*arguments)[0], FakeTensor)
    assert not isinstance(torch.empty(1), FakeTensor)


def test_codes_of_8_bit_optimisers_are_not_made_up_afterwards() -> None:
    from torchao.optim import subclass_8bit

    subclass_8bit.get_qmap_signed.cache_clear()
    with simulated_gpu():
        subclass_8bit.get_qmap_signed()
    codes = subclass_8bit.get_qmap_signed()
    assert (min(codes), max(codes), len(set(codes))) == (pytest.approx(-0.993, abs=1e-3), 1.0, 256)


def test_the_process_is_left_as_it_was_after_a_failure() -> None:
    with pytest.raises(ZeroDivisionError), simulated_gpu():
        _ = 1 / 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nn.LayerNorm(4)(NARROW).dtype is torch.bfloat16
    assert "numpy" not in vars(torch.Tensor)
