"""What trains, as a table."""

from __future__ import annotations

import torch

from kit.adapt.trainable_report import GroupSchedule, TrainableRow, report


class Parts(torch.nn.Module):
    """Two values in ``a.b``, six in ``a.c``, three in ``d``."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.ModuleDict({"b": torch.nn.Linear(1, 1), "c": torch.nn.Linear(2, 2)})
        self.d = torch.nn.ModuleDict({"x": torch.nn.Linear(2, 1)})


def test_every_parameter_is_in_one_row() -> None:
    fast, slow = GroupSchedule(1e-3, 0.0), GroupSchedule(3e-4, 0.1)
    found = report(Parts(), {"a.c.weight": slow, "d.x.weight": slow, "d.x.bias": fast}, new={"d.x.bias"})
    assert found.rows == (
        TrainableRow("a.b", 0, 2, 0.0, None, None, new=False),
        TrainableRow("a.c", 4, 6, 4 / 6, 3e-4, 0.1, new=False),
        TrainableRow("d.x", 2, 2, 1.0, 3e-4, 0.1, new=False),
        TrainableRow("d.x", 1, 1, 1.0, 1e-3, 0.0, new=True),
    )
    assert (found.trains, found.parameters, found.share) == (7, 11, 7 / 11)
    dumped = found.as_dict()
    assert dumped["groups"][1] == {
        "group": "a.c", "trains": 4, "parameters": 6, "share": 4 / 6, "learning_rate": 3e-4, "weight_decay": 0.1,
        "new": False,
    }  # fmt: skip
    assert (dumped["trainable_parameters"], dumped["total_parameters"], dumped["share"]) == (7, 11, 7 / 11)
    lines = found.text().splitlines()
    assert lines[1].split() == ["a.b", "0", "2", "frozen"]
    assert lines[4].split() == ["d.x", "1", "1", "100", "%", "0.001", "0", "new"]
    assert lines[5].split() == ["all", "7", "11", "63.6", "%"]


def test_a_byte_of_four_bit_weights_counts_as_two() -> None:
    model = Parts()
    model.a["b"].weight = torch.nn.Parameter(torch.zeros(5, dtype=torch.uint8), requires_grad=False)
    assert report(model, {"d.x.bias": GroupSchedule(1.0, 0.0)}, ()).rows[0].parameters == 11
