"""Attention: what is measured, and what is said of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from kit.doctor.attention import AttentionMeasurement, check_attention, examine_attention, measure

attend = torch.nn.functional.scaled_dot_product_attention


def test_this_machines_attention_is_right() -> None:
    found = examine_attention("cpu")
    assert [one.name for one in found] == ["attention cpu chosen", "attention cpu math", "attention cpu flash"]
    assert {one.status for one in found} == {"ok"}
    assert all(0 < one.evidence["masked"]["backward"] < 1e-5 for one in found)


def broken(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: Any) -> torch.Tensor:
    return attend(q, k, v, attn_mask=attn_mask) * 1.01


def silent(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: Any) -> torch.Tensor:
    return attend(q, k, v) if attn_mask is None else attend(q, k, v) + 0 * q


def poisoned(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: Any) -> torch.Tensor:
    """Right values, and NaN for gradients."""
    moved = q.clone()
    moved.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[no-untyped-call]
    return attend(moved, k, v, attn_mask=attn_mask)


def refused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: Any) -> torch.Tensor:
    import warnings

    warnings.warn("Flash attention has been runtime disabled. (Triggered internally)", stacklevel=2)
    msg = "No available kernel. Aborting execution.\nmore"
    raise RuntimeError(msg)


def test_wrong_numbers_are_an_error() -> None:
    one = measure("cpu", "chosen", masked=False, attention=broken)
    assert one.forward == pytest.approx(0.01, rel=0.01)
    [found] = check_attention("cpu", [one])
    assert found.status == "error"
    assert "wrong in fp32" in found.detail


def test_a_mask_that_is_ignored_is_an_error() -> None:
    plain, masked = (measure("cpu", "flash", masked=masked, attention=silent) for masked in (False, True))
    assert not plain.wrong
    assert masked.wrong
    assert check_attention("cpu", [plain, masked])[0].status == "error"


def test_nan_in_the_gradients_is_an_error() -> None:
    one = measure("cpu", "math", masked=False, attention=poisoned)
    assert one.forward < 1e-5
    assert math.isnan(one.backward)
    assert check_attention("cpu", [one])[0].status == "error"


def test_a_refusal_is_told_with_its_reason() -> None:
    one = measure("cpu", "flash", masked=False, attention=refused)
    assert one.refusal == "No available kernel. Aborting execution; Flash attention has been runtime disabled."
    [found] = check_attention("cpu", [one])
    assert (found.status, found.remedy) == ("skipped", "")
    # What PyTorch takes by itself must work.
    [found] = check_attention("cpu", [measure("cpu", "chosen", masked=False, attention=refused)])
    assert found.status == "error"


def on_gpu(backend: str, *, masked: bool = False, refusal: str = "") -> AttentionMeasurement:
    return AttentionMeasurement("cuda:0", backend, "bf16", masked, refusal, 3e-3, 4e-3)


def test_a_gpu_whose_flash_attention_takes_no_mask() -> None:
    runs = [on_gpu("chosen"), on_gpu("flash"), on_gpu("flash", masked=True, refusal="does not support masks")]
    chosen, flash = check_attention("cuda:0", runs)
    assert (chosen.status, flash.status) == ("ok", "ok")
    assert "with a mask PyTorch takes another" in flash.detail


def test_a_gpu_without_any_fused_attention() -> None:
    runs = [on_gpu("chosen"), on_gpu("math"), on_gpu("flash", refusal="sm_75"), on_gpu("cudnn", refusal="sm_75")]
    *_, last = check_attention("cuda:0", runs)
    assert (last.name, last.status) == ("attention cuda:0", "warning")


@pytest.mark.gpu
def test_a_gpus_attention_is_right() -> None:
    found = examine_attention("cuda:0")
    assert found[0].status == "ok"
    assert all(one.status in ("ok", "skipped") for one in found)
