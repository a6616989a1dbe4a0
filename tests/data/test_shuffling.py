"""The order of training: every pair once in an epoch, the same from any position, shared between processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.data.loader import ProcessShare, ShuffledPairs
from kit.io.errors import SettingsError
from tests import processes


def batches(start: int = 0, share: ProcessShare | None = None, pairs: int = 5, **changes: int) -> list[list[int]]:
    options = {"batch_size": 2, "seed": 0, "batches": 9, "start": start, **changes}
    return list(ShuffledPairs(pairs, share=share, **options))


def test_an_epoch_holds_every_pair_once_in_an_order_of_its_own() -> None:
    order = batches()
    epochs = [order[0:3], order[3:6], order[6:9]]
    for epoch in epochs:
        assert sorted(index for batch in epoch for index in batch) == [0, 1, 2, 3, 4]
    assert epochs[0] != epochs[1] != epochs[2]
    assert batches(seed=1) != order


@pytest.mark.parametrize("share", (None, ProcessShare(1, 2)))
@pytest.mark.parametrize("start", range(10))
def test_beginning_anywhere_goes_on_as_if_from_the_start(start: int, share: ProcessShare | None) -> None:
    assert batches(start, share) == batches(0, share)[start:]


def test_a_batch_larger_than_an_epoch_is_refused() -> None:
    with pytest.raises(SettingsError, match="data.batch_size is 9, but the training period holds only 5 pairs"):
        batches(batch_size=9)


def test_processes_share_every_batch_of_one_that_trains_alone() -> None:
    """12 pairs in batches of 6: each of three processes has two of each batch."""
    alone = batches(pairs=12, batch_size=6, batches=4)
    shares = [batches(share=ProcessShare(rank, 3), pairs=12, batch_size=6, batches=4) for rank in range(3)]
    for place, whole in enumerate(alone):
        assert [len(share[place]) for share in shares] == [2, 2, 2]
        assert sorted(index for share in shares for index in share[place]) == sorted(whole)


def test_what_cannot_be_shared_is_left_out_other_pairs_in_each_epoch() -> None:
    """Of 7 pairs two processes have 3 each: batches of 4 and 2 together."""
    shares = [batches(share=ProcessShare(rank, 2), pairs=7, batch_size=4, batches=8) for rank in range(2)]
    assert [len(batch) for batch in shares[0]] == [len(batch) for batch in shares[1]] == [2, 1] * 4
    seen = [{i for share in shares for batch in share[k : k + 2] for i in batch} for k in range(0, 8, 2)]
    assert [len(epoch) for epoch in seen] == [6] * 4
    assert len({frozenset(range(7)) - epoch for epoch in map(frozenset, seen)}) > 1


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(SettingsError, match="data.batch_size is 4, which 3 processes cannot share .* a multiple of 3"):
        batches(share=ProcessShare(0, 3), pairs=12, batch_size=4)


_SHARES = """
import sys, torch
from kit.data.loader import ProcessShare
torch.distributed.init_process_group("gloo", init_method=sys.argv[1], rank=int(sys.argv[2]), world_size=2)
print(ProcessShare.of_process())
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_know_their_shares(tmp_path: Path) -> None:
    assert ProcessShare.of_process() == ProcessShare(0, 1)
    started = [
        processes.Python(
            _SHARES,
            f"file://{tmp_path}/group",
            str(rank),
            output=tmp_path / f"{rank}.txt",
            variables={"GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(2)
    ]
    assert [process.wait(60) for process in started] == [0, 0]
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == [
        "ProcessShare(rank=0, ranks=2)\n",
        "ProcessShare(rank=1, ranks=2)\n",
    ]
