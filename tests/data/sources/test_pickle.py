from __future__ import annotations

import dataclasses
import io
import os
import pickle
import sys
import types
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aurora import Batch, Metadata

from kit.data.sources.base import Request, SourceData
from kit.data.sources.pickle.source import open_source
from kit.io.errors import StoreError

START = datetime.fromisoformat("2020-01-01")
STEP = timedelta(hours=6)


def read(path: Path) -> SourceData:
    with open_source([path], Request()) as source:
        return source


def dump(content: Any, path: Path, protocol: int | None = None) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def arrays(times: int = 3) -> dict[str, Any]:
    random = np.random.default_rng(0)
    moments = np.datetime64("2020-01-01", "s") + np.arange(times) * np.timedelta64(6, "h")
    return {
        "time": moments,
        "latitude": np.array([20.0, 0.0, -20.0]),
        "longitude": np.array([0.0, 90.0, 180.0, 270.0]),
        "level": np.array([500, 850]),
        "2t": random.standard_normal((times, 3, 4)).astype(np.float32),
        "t": random.standard_normal((times, 2, 3, 4)).astype(np.float32),
        "static_z": random.standard_normal((3, 4)).astype(np.float32),
    }


# The dictionary of arrays.


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
def test_a_dictionary_of_arrays(tmp_path: Path, protocol: int) -> None:
    content = arrays()
    content["t"] = np.asfortranarray(content["t"])
    content["attributes"] = {"synthetic": True, "licence": "MIT"}
    source = read(dump(content, tmp_path / "a.pickle", protocol))
    assert sorted(source.fields) == ["2t", "static_z", "t"]
    for name in source.fields:
        np.testing.assert_array_equal(source.fields[name], content[name])
    np.testing.assert_array_equal(source.fields["t"]["time"], content["time"])
    assert source.fields["t"]["level"].values.tolist() == [500, 850]
    assert source.synthetic
    assert source.licence == "MIT"
    assert source.files[0]["size"] == (tmp_path / "a.pickle").stat().st_size


def test_coordinates_may_be_matrices(tmp_path: Path) -> None:
    latitude = np.array([[20.0, 21, 21, 20], [0, 1, 1, 0], [-20, -19, -19, -20]])
    longitude = np.array([[10.0, 11, 12, 13]] * 3) + np.array([[0.0], [0.5], [1]])
    content = arrays() | {"latitude": latitude, "longitude": longitude}
    source = read(dump(content, tmp_path / "a.pickle"))
    assert source.fields["t"].dims == ("time", "level", "y", "x")
    assert source.fields["static_z"].dims == ("y", "x")
    np.testing.assert_array_equal(source.fields["2t"]["longitude"], longitude)
    matrices = Metadata(*map(torch.from_numpy, (latitude, longitude)), (START,), (500, 850))
    states = Batch({"2t": torch.ones(1, 1, 3, 4)}, {"z": torch.ones(3, 4)}, {"t": torch.ones(1, 1, 2, 3, 4)}, matrices)
    later = dataclasses.replace(states, metadata=dataclasses.replace(matrices, time=(START + STEP,)))
    assert read(dump([(states, later)], tmp_path / "b.pickle")).fields["t"].dims == ("time", "level", "y", "x")


def test_big_endian_values_and_times_as_text(tmp_path: Path) -> None:
    content = arrays()
    content["2t"] = content["2t"].astype(">f4")
    content["time"] = np.array(["2020-01-01T00", "2020-01-01T06", "2020-01-01T12"])
    source = read(dump(content, tmp_path / "a.pickle"))
    np.testing.assert_array_equal(source.fields["2t"], content["2t"])
    np.testing.assert_array_equal(source.fields["2t"]["time"], arrays()["time"])


@pytest.mark.parametrize("shape", ((), (2,), (3, 2), (1, 2), (1, 2, 1, 1)))
def test_packed_values(tmp_path: Path, shape: tuple[int, ...]) -> None:
    content = arrays()
    content["t"] = content["t"].astype(np.float16)
    content["t.scale"] = 10 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    content["t.offset"] = 250 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    content["static_z"] = content["static_z"].astype(np.float16)
    content["static_z.scale"] = np.float32(100)
    field = read(dump(content, tmp_path / "a.pickle")).fields["t"]
    # The number that stands for time 2 and level 1: the last one.
    last = int(np.prod(shape)) - 1
    expected = content["t"][2, 1].astype(np.float64) * (10 + last) + 250 + last
    assert field.dtype == np.float32
    np.testing.assert_allclose(field.values[2, 1], expected, rtol=1e-6)


def change(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**arrays(), **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("content", "message"),
    (
        (change(time=None), r"the dictionary lacks time; it holds 2t, latitude, level"),
        (change(time=np.arange(3)), r"time holds int64.*expected datetime64 or ISO 8601"),
        (change(time=np.array(["a", "b", "c"])), "times are not ISO 8601"),
        (change(level=None), r"t has the shape \(3, 2, 3, 4\)"),
        (change(**{"2t": np.zeros((2, 3, 4))}), r"2t has the shape \(2, 3, 4\).*time has 3"),
        (change(**{"2t": np.zeros((3, 4))}), r"2t has the shape \(3, 4\)"),
        (change(**{"t.scale": np.zeros(5)}), r"t.scale has the shape \(5,\); expected none, \[C\], or \[3, 2\]"),
        (change(**{"2t": "warm"}), "'2t' holds a str, expected a NumPy array"),
        ({"time": np.zeros(0)}, "lacks latitude, longitude"),
        ("text", "holds a str, expected a dictionary"),
        ([], "holds a list, expected a dictionary"),
        ([(1, 2)], "holds a list, expected a dictionary"),
    ),
)
def test_other_contents_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        read(dump(content, tmp_path / "a.pickle"))


# The list of pairs.


def batch(states: np.ndarray[Any, Any], time: datetime, **static: Any) -> Batch:
    """A batch whose fields are the states' numbers; states' shape [T]."""
    fields = torch.tensor(states, dtype=torch.float32)[None, :, None, None] + torch.arange(12.0).view(3, 4) / 100
    return Batch(
        surf_vars={"2t": fields},
        static_vars={"lsm": static.get("lsm", torch.ones(3, 4))},
        atmos_vars={"t": torch.stack([fields, fields + 100], dim=2)},
        metadata=Metadata(
            lat=torch.tensor([20.0, 0.0, -20.0]),
            lon=torch.tensor([0.0, 90.0, 180.0, 270.0]),
            time=(time,),
            atmos_levels=(850, 500),
        ),
    )


def pairs(count: int = 3) -> list[tuple[Batch, Batch]]:
    return [
        (batch(np.array([i, i + 1]), START + (i + 1) * STEP), batch(np.array([i + 2]), START + (i + 2) * STEP))
        for i in range(count)
    ]


@pytest.mark.parametrize("protocol", (2, 4, 5))
def test_pairs_become_one_sequence(tmp_path: Path, protocol: int) -> None:
    source = read(dump(pairs(), tmp_path / "pairs.pkl", protocol))
    assert sorted(source.fields) == ["2t", "static_lsm", "t"]
    field = source.fields["2t"]
    assert field.values[:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    expected = np.datetime64("2020-01-01", "ns") + np.arange(5) * np.timedelta64(6, "h")
    np.testing.assert_array_equal(field["time"], expected)
    # Levels came in the order 850, 500 and lie in the order 500, 850.
    assert source.fields["t"]["level"].values.tolist() == [500, 850]
    assert source.fields["t"].values[1, :, 0, 0].tolist() == [101, 1]


def test_pairs_need_not_be_in_order_and_times_may_know_their_zone(tmp_path: Path) -> None:
    content = pairs()[::-1]
    for source, target in content:
        for part in (source, target):
            part.metadata.time = tuple(t.replace(tzinfo=UTC) for t in part.metadata.time)
    field = read(dump(content, tmp_path / "pairs.pkl")).fields["2t"]
    assert field.values[:, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_half_precision_and_slices_of_larger_tensors(tmp_path: Path) -> None:
    content = pairs()
    for source, target in content:
        for part in (source, target):
            part.surf_vars["2t"] = part.surf_vars["2t"].bfloat16()
            part.static_vars["lsm"] = torch.arange(30.0).view(5, 6)[1:4, 1:5]
            part.atmos_vars["t"] = part.atmos_vars["t"].double().requires_grad_()
    fields = read(dump(content, tmp_path / "pairs.pkl")).fields
    assert fields["2t"].values[:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert fields["static_lsm"].values.tolist() == torch.arange(30.0).view(5, 6)[1:4, 1:5].tolist()


def test_the_pair_class_of_vibe_kit_need_not_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("vibe_tune_aurora.custom_types")

    class SupervisedTrainingDataPair:
        __module__ = module.__name__
        __qualname__ = "SupervisedTrainingDataPair"

        def __init__(self, input_batch: Batch, target_batch: Batch) -> None:
            self.input_batch, self.target_batch = input_batch, target_batch

    vars(module)["SupervisedTrainingDataPair"] = SupervisedTrainingDataPair
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "vibe_tune_aurora", types.ModuleType("vibe_tune_aurora"))
        patch.setitem(sys.modules, module.__name__, module)
        path = dump([SupervisedTrainingDataPair(*pair) for pair in pairs()], tmp_path / "pairs.pkl")
    assert read(path).fields["2t"].sizes["time"] == 5


def conflicting_state() -> Any:
    content = pairs()
    content[2][0].surf_vars["2t"][0, 0] += 1
    return content


def conflicting_static() -> Any:
    content = pairs()
    content[1][1].static_vars["lsm"] = torch.zeros(3, 4)
    return content


def other_grid() -> Any:
    content = pairs()
    content[1][1].metadata.lat = torch.tensor([30.0, 0.0, -20.0])
    return content


def backward() -> Any:
    source, target = pairs()[0]
    return [(target, source)]


def empty_batch() -> Any:
    content = pairs()
    content[1][1].metadata = None
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    (
        (conflicting_state, "two batches hold 2t at 2020-01-01T12:00 with different values"),
        (conflicting_static, "static variable lsm of the batch at .* differs"),
        (other_grid, "the latitudes of the batch at .* differ from the first one's"),
        (backward, "the target of the input at 2020-01-01 12:00:00 is of 2020-01-01 06:00:00, not later"),
        (empty_batch, "a pair holds a PickledBatch where a whole aurora.Batch is expected"),
    ),
)
def test_pairs_that_cannot_be_reconciled(tmp_path: Path, content: Callable[[], Any], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        read(dump(content(), tmp_path / "pairs.pkl"))


def test_states_that_lack_a_variable(tmp_path: Path) -> None:
    source, target = pairs()[0]
    del target.surf_vars["2t"]
    with pytest.raises(StoreError, match=r"2020-01-01 12:00:00 holds \['t'\], 2020-01-01 00:00:00 holds \['2t', 't'\]"):
        read(dump([(source, target)], tmp_path / "pairs.pkl"))


# Pickles that would run something.


class Runs:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def touch(path: Path) -> Runs:
    return Runs(os.system, f"touch {path}")


@pytest.mark.parametrize("protocol", (0, 1, 2, 3, 4, 5))
@pytest.mark.parametrize("place", (lambda evil: evil, lambda evil: {**arrays(), "extra": evil}, lambda evil: [evil]))
def test_a_call_at_the_top_is_not_made(tmp_path: Path, protocol: int, place: Callable[[Any], Any]) -> None:
    evil = dump(place(touch(tmp_path / "executed")), tmp_path / "evil.pickle", protocol)
    with pytest.raises(StoreError, match=r"evil.pickle: refused: .*posix.system|_codecs|copy_reg") as caught:
        read(evil)
    assert "othing was executed" in str(caught.value)
    assert not (tmp_path / "executed").exists()


def storage_with(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


@pytest.mark.parametrize("wrap", (storage_with, pickle.dumps, lambda evil: pickle.dumps(evil, protocol=2)))
def test_a_call_inside_a_tensor_is_not_made(tmp_path: Path, wrap: Callable[[Any], bytes]) -> None:
    inner = wrap(touch(tmp_path / "executed"))
    content = pairs(1)
    content[0][0].surf_vars["2t"] = Runs(torch.storage._load_from_bytes, inner)
    evil = dump(content, tmp_path / "evil.pickle")
    with pytest.raises(StoreError, match=r"refused: the pickle asks for .* tensor.* Nothing was executed"):
        read(evil)
    assert not (tmp_path / "executed").exists()


def test_the_global_inside_a_tensor_is_named(tmp_path: Path) -> None:
    inner = storage_with(touch(tmp_path / "executed"))
    evil = dump([Runs(torch.storage._load_from_bytes, inner)], tmp_path / "evil.pickle")
    with pytest.raises(StoreError, match=r"posix.system inside a tensor"):
        read(evil)


@pytest.mark.parametrize(
    ("evil", "message"),
    (
        (lambda: Runs(eval, "1"), "builtins.eval"),
        (lambda: Runs(getattr, 1, "real"), "builtins.getattr"),
        (lambda: Runs(np.load, "x"), "numpy.load"),
        (lambda: Runs(torch.load, "x"), "torch.serialization.load"),
        (lambda: np.array([1, "a"], dtype=object), "an array of the type 'O8'"),
        (lambda: np.zeros(2, dtype=[("a", "f4"), ("b", "f4")]), "an array of the type 'V8'"),
        (lambda: Runs(torch.storage._load_from_bytes, storage_with({"a": 1})), "a tensor whose storage is a dict"),
        (lambda: datetime.now(UTC).astimezone().timetz(), "datetime.time"),
        (lambda: Path("x"), r"pathlib"),
    ),
)
def test_nothing_but_plain_data_passes(tmp_path: Path, evil: Callable[[], Any], message: str) -> None:
    path = dump({**arrays(), "extra": evil()}, tmp_path / "evil.pickle")
    with pytest.raises(StoreError, match=rf"refused: the pickle asks for .*{message}"):
        read(path)


def test_state_cannot_be_smuggled_into_a_dtype(tmp_path: Path) -> None:
    content = pickle.dumps(np.array(["2020-01-01"], dtype="M8[s]"), protocol=2)
    assert content.count(b"U\x01s") or content.count(b"X\x01\x00\x00\x00s")
    for old, new in ((b"U\x01s", b"U\x08s],O,M8["), (b"X\x01\x00\x00\x00s", b"X\x08\x00\x00\x00s],O,M8[")):
        content = content.replace(old, new)
    (tmp_path / "evil.pickle").write_bytes(content)
    with pytest.raises(StoreError, match=r"an array of times in 's\],O,M8\['"):
        read(tmp_path / "evil.pickle")


@pytest.mark.parametrize("content", (b"", b"no pickle at all", b"\x80\x05."))
def test_what_is_no_pickle(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pickle").write_bytes(content)
    with pytest.raises(StoreError, match=r"a.pickle: not a readable pickle \(.*nothing was executed"):
        read(tmp_path / "a.pickle")


def test_a_pickle_cut_short(tmp_path: Path) -> None:
    path = dump(arrays(), tmp_path / "a.pickle")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(StoreError, match="not a readable pickle"):
        read(path)


def test_a_folder_is_no_pickle(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="a pickle is one file"):
        read(tmp_path)
