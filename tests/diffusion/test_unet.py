"""The U-Net: sides of any length, columns around the globe, recomputation, precision, conditions, size."""

from dataclasses import replace

import pytest
import torch

from kit.diffusion.network import DiffusionModel
from kit.diffusion.unet import UNet, UNetLayout
from tests.diffusion import networks

SMALL = UNetLayout(channels=3, conditions=2, width=8, multiples=(1, 2, 2), blocks=1, stem=2)


def woken(layout: UNetLayout) -> DiffusionModel:
    torch.manual_seed(0)
    return networks.called(networks.woken(UNet(layout), 0.05), layout)


def inputs(layout: UNetLayout, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return networks.drawn_inputs(layout.channels, layout.conditions, rows, columns)


@pytest.mark.parametrize(("rows", "columns"), [(8, 16), (9, 17), (13, 11), (1, 8)])
def test_sides_of_any_length_keep_theirs(rows: int, columns: int) -> None:
    state, label, condition = inputs(SMALL, rows, columns)
    predicted = woken(SMALL)(state, label, condition)
    assert predicted.shape == state.shape
    assert predicted.isfinite().all()


def test_features_of_any_width_attend() -> None:
    layout = replace(SMALL, width=88, multiples=(1, 4))
    assert woken(layout)(*inputs(layout, 4, 8)).isfinite().all()


def test_it_predicts_nothing_at_first() -> None:
    assert not networks.called(UNet(SMALL), SMALL)(*inputs(SMALL, 8, 16)).any()


def test_what_lies_around_the_globe_is_seen() -> None:
    layout = replace(SMALL, circular=True)
    network, (state, label, condition) = woken(layout), inputs(SMALL, 8, 16)
    # Turned by as many columns as the coarsest level has points of, nothing but the place changes.
    turned = (torch.roll(field, 8, -1) for field in (state, condition))
    found = network(next(turned), label, next(turned))
    torch.testing.assert_close(found, torch.roll(network(state, label, condition), 8, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("levels", [1, 3])
def test_recomputation_changes_no_gradient(levels: int) -> None:
    gradients = []
    for recomputed in (0, levels):
        network = woken(replace(SMALL, recomputed=recomputed))
        (network(*inputs(SMALL, 8, 16)) ** 2).mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(
        one is not None and other is not None and torch.equal(one, other) for one, other in zip(*gradients, strict=True)
    )


def test_every_parameter_learns() -> None:
    network = woken(SMALL)
    (network(*inputs(SMALL, 8, 16)) ** 2).mean().backward()
    assert [
        name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ] == []


def test_an_absent_condition_is_none_of_zeros() -> None:
    network, (state, label, condition) = woken(SMALL), inputs(SMALL, 8, 16)
    absent, zeros = network(state, label), network(state, label, torch.zeros_like(condition))
    assert not torch.equal(absent, zeros)


def test_levels_and_samples_differ_and_do_not_mix() -> None:
    network, (state, label, condition) = woken(SMALL), inputs(SMALL, 8, 16)
    together = network(state, label, condition)
    alone = network(state[1:], label[1:], condition[1:])
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(network(state, label.flip(0), condition), together)


def test_half_precision_is_near_single_precision() -> None:
    network, given = woken(SMALL), inputs(SMALL, 32, 64)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = network(*given)
    wide = network(*given)
    # Eight bits, through some thirty layers.
    assert (narrow.float() - wide).std() < 0.03 * wide.std()


@pytest.mark.parametrize(
    ("layout", "millions"),
    [
        (UNetLayout(channels=7, conditions=9, width=88, multiples=(1, 2, 4, 4), stem=4), (48, 52)),
        (UNetLayout(channels=7, conditions=9, width=152, multiples=(1, 2, 4, 4), stem=4), (145, 155)),
    ],
)
def test_sizes_for_hrrr_are_those_that_were_planned(layout: UNetLayout, millions: tuple[int, int]) -> None:
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in UNet(layout).parameters()) / 1e6
    assert millions[0] < size < millions[1]
