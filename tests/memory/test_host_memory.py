"""Host memory is told apart from the device's, whether it is real or fake, and packed with little waste."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from kit.memory import host_memory as host
from kit.memory.host_memory import allocating_host, empty_host, empty_hosts, is_host, mark_host


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes, of every operation, whether it allocates for the host."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(allocating_host())
        return func(*args, **(kwargs or {}))


def test_a_storage_is_the_hosts_if_it_was_allocated_as_such() -> None:
    tensor = empty_host((3, 4), torch.bfloat16)
    assert (tensor.shape, tensor.dtype, tensor.device.type) == ((3, 4), torch.bfloat16, "cpu")
    assert is_host(tensor.untyped_storage())
    assert is_host(torch.nn.Parameter(tensor[1:]).untyped_storage())
    assert not is_host(torch.empty(3).untyped_storage())
    assert is_host(mark_host(torch.empty(3)).untyped_storage())


def test_marking_lasts_as_long_as_the_storage() -> None:
    gc.collect()
    before = len(host._storages)
    tensor = mark_host(torch.empty(3))
    view = tensor[1:]
    del tensor
    assert is_host(view.untyped_storage())
    assert len(host._storages) == before + 1
    del view
    assert len(host._storages) == before


def test_fake_tensors_are_told_apart_too() -> None:
    with FakeTensorMode():
        mine, other = empty_host((8,), torch.float32), torch.empty(8)
        assert is_host(mine.untyped_storage())
        assert is_host(mine[2:].untyped_storage())
        assert not is_host(other.untyped_storage())


def test_who_watches_operations_knows_an_allocation_as_it_happens() -> None:
    with Watch() as watch:
        empty_host((2,), torch.float32)
        torch.empty(2)
    assert watch.seen == [True, False]
    assert not allocating_host()


def test_tensors_share_slabs_without_sharing_elements() -> None:
    shapes = [(3, 5), (1,), (), (4, 4)]
    tensors = empty_hosts(shapes, torch.float32)
    assert [tuple(tensor.shape) for tensor in tensors] == shapes
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
    for value, tensor in enumerate(tensors):
        tensor.fill_(value)
        assert tensor.is_contiguous()
    assert [float(tensor.sum()) for tensor in tensors] == [0.0, 1.0, 2.0, 48.0]


def test_a_slab_is_never_larger_than_it_may_be_but_for_a_tensor_that_is(monkeypatch: Any) -> None:
    """Slabs of 256 bytes hold 64 floats; tensors of 40, 20, 100 and 16 take 48, 32, 112 and 16."""
    monkeypatch.setattr(host, "_SLAB", 256)
    tensors = empty_hosts([(40,), (20,), (100,), (16,)], torch.float32)
    sizes = [tensor.untyped_storage().nbytes() // 4 for tensor in tensors]
    assert sizes == [48, 32, 112, 16]
    assert empty_hosts([], torch.float32) == []
