"""The windowed transformer: sides of any length, columns around the globe, reach, recomputation, size."""

from dataclasses import replace

import pytest
import torch

from kit.diffusion.network import DiffusionModel
from kit.diffusion.transformer import TransformerLayout, WindowedTransformer, _WindowAttention
from tests.diffusion import networks

SMALL = TransformerLayout(channels=3, conditions=2, width=16, depth=4, heads=2, patch=2, window=4)


def woken(layout: TransformerLayout) -> DiffusionModel:
    torch.manual_seed(0)
    return networks.called(networks.woken(WindowedTransformer(layout), 0.1), layout)


def inputs(layout: TransformerLayout, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return networks.drawn_inputs(layout.channels, layout.conditions, rows, columns)


@pytest.mark.parametrize(("rows", "columns"), [(8, 16), (9, 17), (13, 11), (1, 8)])
def test_sides_of_any_length_keep_theirs(rows: int, columns: int) -> None:
    state, label, condition = inputs(SMALL, rows, columns)
    predicted = woken(SMALL)(state, label, condition)
    assert predicted.shape == state.shape
    assert predicted.isfinite().all()


def test_it_predicts_nothing_at_first() -> None:
    assert not networks.called(WindowedTransformer(SMALL), SMALL)(*inputs(SMALL, 8, 16)).any()


def test_what_lies_around_the_globe_is_seen() -> None:
    layout = replace(SMALL, circular=True)
    network, (state, label, condition) = woken(layout), inputs(SMALL, 8, 32)
    # Turned by a window of tokens, nothing but the place changes.
    turned = [torch.roll(field, 8, -1) for field in (state, condition)]
    found = network(turned[0], label, turned[1])
    torch.testing.assert_close(found, torch.roll(network(state, label, condition), 8, -1), rtol=1e-4, atol=1e-5)


def test_shifted_windows_reach_beyond_their_own() -> None:
    state, label, condition = inputs(SMALL, 8, 32)
    other = state.clone()
    other[..., :8] += 1
    reach = []
    for depth in (1, 2, 4):
        network = woken(replace(SMALL, depth=depth))
        changed = (network(other, label, condition) - network(state, label, condition)).abs().amax((0, 1, 2)) > 0
        reach.append(int(changed.nonzero().max()))
    # The last column of the own window; of that across, half a window on; then a window's end, and half a one again.
    assert reach == [7, 11, 19]


def test_attention_goes_by_where_tokens_are_to_each_other() -> None:
    attention = _WindowAttention(16, 2, 4)
    vectors = torch.randn(1, 2, 1, 8).expand(1, 2, 16, 8)
    products = attention._turned(vectors) @ attention._turned(vectors).transpose(-1, -2)
    # Tokens 0 and 1, 5 and 6, 9 and 10 lie side by side; 0 and 4 below each other.
    torch.testing.assert_close(products[..., 0, 1], products[..., 5, 6])
    torch.testing.assert_close(products[..., 0, 1], products[..., 9, 10])
    assert not torch.allclose(products[..., 0, 1], products[..., 0, 4])


def test_recomputation_changes_no_gradient() -> None:
    gradients = []
    for is_recomputed in (False, True):
        network = woken(replace(SMALL, is_recomputed=is_recomputed))
        (network(*inputs(SMALL, 8, 16)) ** 2).mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
        assert one.any()


def test_an_absent_condition_is_none_of_zeros() -> None:
    network, (state, label, condition) = woken(SMALL), inputs(SMALL, 8, 16)
    assert not torch.equal(network(state, label), network(state, label, torch.zeros_like(condition)))


def test_its_size_for_hrrr_is_what_was_planned() -> None:
    with torch.device("meta"):
        network = WindowedTransformer(TransformerLayout(channels=7, conditions=9, depth=14))
    assert 60e6 < sum(parameter.numel() for parameter in network.parameters()) < 70e6
