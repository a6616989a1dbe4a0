"""A grammar of hostile inputs: each rule makes files that attack a reader, and the command that reads them.

A rule takes a random generator, an empty folder, and sound examples; it returns the words of a command, which must end
with one message and the exit code 2. Whatever could be executed would make the file ``canary`` in the folder.
"""

from __future__ import annotations

import bz2
import gzip
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import torch

from tests.data.malformed import GRIB, bomb, states
from tests.hostile import Command

__all__ = ["RULES", "Sound"]


@dataclass(frozen=True)
class Sound:
    """Examples that hostile ones are made from.

    Attributes:
        store: A store of the kit's.
        source: A Zarr store in version 2, packed by zlib.
        whole: A checkpoint of a whole model.
        delta: A checkpoint of a delta on it.
    """

    store: Path
    source: Path
    whole: Path
    delta: Path


Rule = Callable[[random.Random, Path, Sound], list[str]]
RULES: dict[str, Rule] = {}


def rule(make: Rule) -> Rule:
    RULES[make.__name__] = make
    return make


def build(source: str, path: Path, *options: str) -> list[str]:
    out = str(path.parent / "out")
    words = ["data", "build", "--source", source, "--path", str(path), "--out", out, "--statics", "coslat"]
    return [*words, "--train", "1900-01-01/2100-01-01", *options]


def canary(folder: Path) -> Command:
    return Command(f"touch {folder / 'canary'}")


def write_json(path: Path, content: Any) -> None:
    """Write JSON, sometimes with numbers that are longer than any."""
    path.write_text(json.dumps(content))


# Zarr.


def edit_arrays(store: Path, change: Callable[[str, dict[str, Any]], None]) -> None:
    """Change the descriptions of a store's arrays, wherever they are repeated."""
    for name in (".zmetadata", "zarr.json"):
        root = store / name
        if root.exists():
            content = json.loads(root.read_text())
            metadata = content["metadata"] if name == ".zmetadata" else content["consolidated_metadata"]["metadata"]
            for key, described in metadata.items():
                if name == "zarr.json" or key.endswith(".zarray"):
                    change(key.removesuffix("/.zarray"), described)
            root.write_text(json.dumps(content))
    for file in (*store.glob("*/.zarray"), *store.glob("*/zarr.json")):
        content = json.loads(file.read_text())
        change(file.parent.name, content)
        file.write_text(json.dumps(content))


def chunk_of(store: Path, name: str) -> Path:
    """The first chunk of an array."""
    found = [file for file in sorted((store / name).rglob("*")) if file.is_file() and "z" not in file.name]
    return found[0]


def read_zarr(dice: random.Random, store: Path) -> list[str]:
    """A command that reads a store that is not the kit's."""
    if dice.random() < 0.2:
        archive = store.with_suffix(".zip")
        with zipfile.ZipFile(archive, "w") as members:
            for file in sorted(store.rglob("*")):
                members.write(file, file.relative_to(store))
        return build("zarr", archive)
    return build("zarr", store)


CODECS = ("pickle", "json2", "msgpack2", "vlen-utf8", "vlen-bytes", "vlen-array", "categorize", "base64", "imagecodecs")


@rule
def zarr_object_codecs(dice: random.Random, folder: Path, sound: Sound) -> list[str]:
    """Object codecs as filters, before and behind others, of any array, with a pickle in its chunk."""
    store = Path(shutil.copytree(sound.source, folder / "store"))
    name, codec = dice.choice(("t2m", "latitude", "time")), dice.choice(CODECS)
    around = [{"id": other} for other in dice.sample(["shuffle", "vlen-utf8", "crc32", "json2"], dice.randrange(3))]
    at = dice.randrange(len(around) + 1)
    filters = [*around[:at], {"id": codec}, *around[at:]]

    def change(array: str, described: dict[str, Any]) -> None:
        if array == name:
            packer = {"id": codec} if dice.random() < 0.3 else None
            described.update(dtype="|O", filters=filters, compressor=packer, fill_value=None)

    edit_arrays(store, change)
    chunk_of(store, name).write_bytes(pickle.dumps(canary(folder)))
    return read_zarr(dice, store)


@rule
def zarr_3_codecs(dice: random.Random, folder: Path, sound: Sound) -> list[str]:
    """Codecs of version 3 that are not in the list, also inside shards, of a store of the kit's."""
    store = Path(shutil.copytree(sound.store, folder / "store"))
    codec = {"name": dice.choice(("numcodecs.", "")) + dice.choice(CODECS), "configuration": {}}
    options = {"codecs": [{"name": "bytes"}, codec], "chunk_shape": [1, 2, 2], "index_codecs": [{"name": "bytes"}]}
    inner = {"name": "sharding_indexed", "configuration": options}
    name = dice.choice(("2t", "latitude"))

    def change(array: str, described: dict[str, Any]) -> None:
        if array == name:
            described["codecs"] = [inner] if dice.random() < 0.5 and name == "2t" else [*described["codecs"], codec]

    edit_arrays(store, change)
    scored = ["evaluate", "--checkpoint", str(sound.whole), "--data.store", str(store)]
    examined = [["data", "qa", str(store), "--fresh"], ["data", "verify", str(store)]]
    return dice.choice((*examined, build("zarr", store), scored))


@rule
def zarr_bombs(dice: random.Random, folder: Path, sound: Sound) -> list[str]:
    """Chunks that unpack to gigabytes."""
    store = Path(shutil.copytree(sound.source, folder / "store"))
    size = dice.choice((2**31 - 1, 2**30, 2**33))
    small = min(size, 2**32 - 1)
    zeros = zlib.compressobj(9)
    # One block of zeros after the other, each of 16 MiB, the first behind the header.
    first = zeros.compress(bytes(2**24)) + zeros.flush(zlib.Z_FULL_FLUSH)
    deflated = first + (zeros.compress(bytes(2**24)) + zeros.flush(zlib.Z_FULL_FLUSH)) * 100
    frame = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", small)
    blocks = b"".join(struct.pack("<I", 2**17 << 3 | 1 << 1 | (n == 9999))[:3] + b"\0" for n in range(10000))
    bombs = {
        "blosc": b"\x02\x01\x21\x04" + struct.pack("<III", small, 2**18, 40) + bytes(24),
        "zstd": dice.choice((frame + blocks, b"\x28\xb5\x2f\xfd\x00\x58" + blocks)),
        "lz4": struct.pack("<I", 2**31 - 1) + bytes(50),
        "zlib": deflated,
        "gzip": gzip.compress(bytes(2**24), 9, mtime=0) * dice.choice((60, 100_000)),
        "bz2": bz2.compress(bytes(2**22), 9) * dice.choice((60, 100_000)),
    }
    codec = dice.choice(sorted(bombs))
    name = dice.choice(("t2m", "latitude", "time"))
    filters = dice.choice((None, [{"id": "shuffle", "elementsize": 4}]))

    def change(array: str, described: dict[str, Any]) -> None:
        if array == name:
            described.update(compressor={"id": codec}, filters=filters)

    edit_arrays(store, change)
    for file in (store / name).iterdir():
        if not file.name.startswith("."):
            file.write_bytes(bombs[codec])
    return read_zarr(dice, store)


@rule
def zarr_descriptions(dice: random.Random, folder: Path, sound: Sound) -> list[str]:
    """Shapes, chunks and types that cannot be."""
    store = Path(shutil.copytree(dice.choice((sound.source, sound.store)), folder / "store"))
    mine = (store / "zarr.json").exists()
    name = "2t" if mine else "t2m"
    sizes = dice.choice(([10**9], [1, 10**9, 10**9], [1, -4, 4], [0, 0, 0], [2**70, 3, 4], [1.5, 3, 4], "all", None))
    part = dice.choice(("shape", "chunks", "type", "grid"))

    def change(array: str, described: dict[str, Any]) -> None:
        if array == dice.choice((name, name, "time")) or (array == name and part != "grid"):
            if part == "chunks" and mine:
                described["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": sizes}}
            elif part == "type":
                described["data_type" if mine else "dtype"] = dice.choice(("|O", "O8", [["a", "<f4"]], 7, "<f99999999"))
            else:
                described["shape" if part == "grid" else part] = sizes
        if array == name and part == "grid":
            described["shape"] = [6, 10**5, 10**5]

    edit_arrays(store, change)
    return ["data", "qa", str(store), "--fresh"] if mine and dice.random() < 0.5 else build("zarr", store)


@rule
def zarr_files(dice: random.Random, folder: Path, sound: Sound) -> list[str]:
    """Descriptions and chunks that are pipes, devices, deep, or endless numbers."""
    store = Path(shutil.copytree(sound.source, folder / "store"))
    target = dice.choice((store / ".zmetadata", chunk_of(store, "t2m"), chunk_of(store, "latitude")))
    target.unlink()
    kind = dice.randrange(4)
    if kind == 0:
        os.mkfifo(target)
    elif kind == 1:
        target.symlink_to("/dev/zero")
    elif kind == 2:
        target.write_bytes(b"[" * 10**6)
    else:
        with target.open("wb") as stream:
            stream.truncate(2**33)
    return build("zarr", store)


# Pickles.


def op(dice: random.Random, folder: Path) -> bytes:
    """Instructions that would run something, or take memory or time without end."""
    command = f"touch {folder / 'canary'}".encode()
    call = b"cposix\nsystem\n", b"cbuiltins\neval\n", b"cnumpy.f2py.diagnose\nrun\n", b"ctorch.hub\nload\n"
    return dice.choice(
        (
            dice.choice(call) + b"(X" + struct.pack("<I", len(command)) + command + b"tR.",
            b"(S'" + command + b"'\niposix\nsystem\n.",
            b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c" + bytes([len(command)]) + command + b"\x85R.",
            b"(cposix\nsystem\nX" + struct.pack("<I", len(command)) + command + b"o.",
            b"]r\xff\xff\xff\x7f.",
            b"]r\x00\x00\x00\x40" * 3 + b".",
            b"\x80\x04\x8e" + struct.pack("<Q", 2 ** dice.randrange(33, 62)) + b"x.",
            b"B\xff\xff\xff\x7fx.",
            b"I" + b"9" * dice.choice((6000, 10**6)) + b"\n.",
            b"\x8b" + struct.pack("<I", 2**31 - 1) + b"\xff.",
            b"]" * 6_000_000 + b".",
            b"(" * 6_000_000 + b".",
            b"cnumpy._core.multiarray\n_reconstruct\n(N}X\x0c\x00\x00\x00__defaults__K\x01s\x86b.",
            b"cnumpy\ndtype\n(]" + b"2" * 40 + b"tR.",
            b"cnumpy\ndtype\n(" + b"]2" * 30 + b"tR.",
            b"\x82\x01.",
            b"Pcanary\n.",
            b"ctorch.storage\n_load_from_bytes\n(C\x04PK\x03\x04tR.",
            b"cdatetime\ntimedelta\n(I" + b"9" * 30 + b"\ntR.",
        )
    )


@rule
def pickles(dice: random.Random, folder: Path, sound: Sound) -> list[str]:
    """Pickles as a source, as static fields, as weights."""
    path = folder / dice.choice(("x.pickle", "x.ckpt", "x.pt"))
    kind = dice.randrange(5)
    if kind == 0:
        path.write_bytes(pickle.dumps(states(**{"2t": canary(folder)}), dice.randrange(6)))
    elif kind == 1:
        wide = torch.zeros(1).expand(dice.choice((10**5, 10**4)), 10**5)
        path.write_bytes(pickle.dumps({"2t": wide, "latitude": wide, "longitude": wide, "time": wide}))
    else:
        path.write_bytes(op(dice, folder))
    if path.suffix == ".pickle":
        command = build("pickle", path)
        if dice.random() < 0.3:
            command = [*build("zarr", sound.source), "--statics_from", str(path)]
        return command
    return ["finetune", "--model.weights", str(path), "--model.variant", "small", "--run.dir", str(folder / "runs")]


@rule
def torch_files(dice: random.Random, folder: Path, sound: Sound) -> list[str]:
    """Files of PyTorch whose members are packed, lie over each other, or whose tensors have no end."""
    path = folder / "x.ckpt"
    kind = dice.randrange(6)
    state: dict[str, Any] = {"backbone.a.bias": torch.zeros(4)}
    if kind == 0:
        state = {f"backbone.{n}.bias": torch.zeros(1).expand(2**20, 2**12) for n in range(3)}
    elif kind == 1:
        state = {"state_dict": {"backbone.a.bias": torch.zeros(3)}, "hyper_parameters": canary(folder)}
    elif kind == 2:
        state = {"backbone.a.bias": torch.sparse_coo_tensor(torch.zeros(2, 1), torch.ones(1), (2**20, 2**20))}
    elif kind == 3:
        state = {"backbone.a.bias": torch.empty(2**20, 2**20, device="meta")}
    torch.save(state, path, _use_new_zipfile_serialization=dice.random() < 0.7)
    if kind == 4:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x/data.pkl", b"]" * 2**20)
            archive.writestr("x/version", b"3")
            archive.writestr("x/data/0", bytes(2**28))
    elif kind == 5:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("x/data.pkl", dice.choice((b"]" * 2**24, op(dice, folder))))
            archive.writestr("x/version", b"3")
    return ["finetune", "--model.weights", str(path), "--model.variant", "small", "--run.dir", str(folder / "runs")]


# NetCDF and GRIB.


@rule
def netcdf_claims(dice: random.Random, folder: Path, _: Sound) -> list[str]:
    """Coordinates, states and chunks of billions of values, packed or never written."""
    path = folder / "x.nc"
    count = dice.choice((10**9, 10**8, 2**40))
    written = dice.random() < 0.5
    with netCDF4.Dataset(path, "w") as dataset:
        kind = dice.choice(("latitude", "chunk", "state", "group"))
        group = dataset.createGroup("fields") if kind == "group" else dataset
        sides = {"time": 2, "latitude": 3, "longitude": 4}
        if kind in ("latitude", "group"):
            sides["latitude"] = count
        elif kind == "state":
            sides |= {"latitude": 50_000, "longitude": 50_000}
        for name, side in sides.items():
            group.createDimension(name, None if kind == "chunk" else side)
            piece = (min(side, 2**20),)
            variable = group.createVariable(name, "f8", (name,), zlib=True, chunksizes=piece)
            if side < 10**5:
                variable[:] = np.linspace(10, 20, side)
            elif written:
                variable[: 2**20] = 0.0
            if name == "time":
                variable.units = "hours since 2020-01-01"
        chunks = {"chunk": (1, 30_000, 30_000), "state": (1, 5_000, 5_000)}.get(kind, (1, 3, 4))
        field = group.createVariable("t2m", "f4", tuple(sides), zlib=True, chunksizes=chunks)
        field.units = "K"
    return build("netcdf", path, *(["--group", "fields"] if kind == "group" else []))


@rule
def netcdf_files(dice: random.Random, folder: Path, sound: Sound) -> list[str]:
    """Zip bombs, sparse files, pipes and devices in the place of NetCDF."""
    path = folder / "x.nc"
    kind = dice.randrange(5)
    if kind == 0:
        path = folder / "x.zip"
        bomb(path)
    elif kind == 1:
        # One latitude for each of 2**30 doubles, all of which lie in a hole of the file.
        path.write_bytes(
            b"CDF\x02" + struct.pack(">I", 0)
            + struct.pack(">II", 10, 1) + struct.pack(">I", 3) + b"lat\0" + struct.pack(">I", 2**30)
            + struct.pack(">II", 0, 0)
            + struct.pack(">II", 11, 1) + struct.pack(">I", 3) + b"lat\0" + struct.pack(">II", 1, 0)
            + struct.pack(">IIIIQ", 0, 0, 6, 2**32 - 1, 200)
        )  # fmt: skip
        with path.open("r+b") as stream:
            stream.truncate(200 + 2**33)
    elif kind == 2:
        os.mkfifo(path)
    elif kind == 3:
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + dice.randbytes(3000))
    if dice.random() < 0.3:
        return [*build("zarr", sound.source), "--regrid_like", str(path)]
    return build("netcdf", path)


@rule
def grib(dice: random.Random, folder: Path, _: Sound) -> list[str]:
    """Messages with lengths and counts that cannot be."""
    refused = [case for case, (_, expected) in GRIB.items() if not expected.startswith("qa") and "|qa" not in expected]
    make = GRIB[dice.choice(refused)][0]
    make(folder / "x.grib")
    return build("grib", folder / "x.grib")


# Checkpoints.


def read_checkpoint(dice: random.Random, checkpoint: Path, sound: Sound) -> list[str]:
    out = str(checkpoint.parent / "out")
    store = ["--data.store", str(sound.store)]
    return dice.choice(
        (
            ["evaluate", "--checkpoint", str(checkpoint), *store],
            ["forecast", "--checkpoint", str(checkpoint), "--out", f"{out}.nc", *store],
            ["export", "--checkpoint", str(checkpoint), "--out", out],
            ["finetune", "--model.weights", str(checkpoint), "--model.variant", "small", "--run.dir", out, *store],
        )
    )


def unseal(folder: Path, content: dict[str, Any]) -> None:
    """Write a description as versions did that kept no hashes; a stranger can also make these right."""
    kept = {key: value for key, value in content.items() if key not in ("files", "sha256")}
    write_json(folder / "kit.json", kept)


@rule
def descriptions(dice: random.Random, folder: Path, sound: Sound) -> list[str]:
    """Values in ``kit.json`` that no model has."""
    checkpoint = Path(shutil.copytree(dice.choice((sound.whole, sound.delta)), folder / "checkpoint"))
    content = json.loads((checkpoint / "kit.json").read_text())
    model = content["model"]
    depths = dice.choice(([10**6], [10**6, 2], [-1, 2], [200, 200, 200, 200], [2, 2.5], "2", []))
    kind = dice.randrange(6)
    if kind == 0:
        model["arguments"][dice.choice(("encoder_depths", "decoder_depths", "encoder_num_heads", "window_size"))] = (
            depths
        )
    elif kind == 1:
        keys = (
            "embed_dim",
            "patch_size",
            "latent_levels",
            "num_heads",
            "enc_depth",
            "mlp_ratio",
            "surf_vars",
            "lora_steps",
        )
        model["arguments"][dice.choice(keys)] = dice.choice((10**9, -1, 0.5, "x", None, [1]))
    elif kind == 2:
        key = dice.choice(
            ("surface", "static", "atmospheric", "levels", "history", "timestep_hours", "statistics", "variant")
        )
        model[key] = dice.choice((10**9, -1, float("nan"), float("inf"), "x" * 500, [{}], {"a": [1, 2, 3]}, None))
    elif kind == 3:
        model["surface"] = [f"v{n}" for n in range(10**5)]
    elif kind == 4:
        del content[dice.choice(("model", "format"))]
    else:
        model["arguments"] |= {"embed_dim": 16384, "encoder_depths": [64, 64], "decoder_depths": [64, 64]}
    unseal(checkpoint, content)
    return read_checkpoint(dice, checkpoint, sound)


@rule
def documents(dice: random.Random, folder: Path, sound: Sound) -> list[str]:
    """JSON beside tensors that is deep, endless, or none."""
    checkpoint = Path(shutil.copytree(sound.delta, folder / "checkpoint"))
    name = dice.choice(("kit.json", "adapter_config.json"))
    if name == "adapter_config.json":
        unseal(checkpoint, json.loads((checkpoint / "kit.json").read_text()))
    file = checkpoint / name
    text = file.read_text()
    file.unlink()
    kind = dice.randrange(7)
    if kind == 0:
        os.mkfifo(file)
    elif kind == 1:
        file.symlink_to("/dev/zero")
    else:
        pattern = {"rank_pattern": {"a": [True] * 10**5}}
        file.write_text(
            (
                text.replace("{", '{"x": ' + "[" * 5000, 1),
                text.replace("{", '{"x": ' + "9" * 6000 + ", ", 1),
                "[" + "[]," * 3_000_000 + "1]",
                text[: len(text) // 2],
                json.dumps(pattern if name == "adapter_config.json" else [1]),
            )[kind - 2]
        )
    return read_checkpoint(dice, checkpoint, sound)


@rule
def lineages(dice: random.Random, folder: Path, sound: Sound) -> list[str]:
    """Deltas that belong to themselves, or to each other."""
    count = dice.choice((1, 2, 3))
    folders = [Path(shutil.copytree(sound.delta, folder / f"delta{n}")) for n in range(count)]
    for n, checkpoint in enumerate(folders):
        content = json.loads((checkpoint / "kit.json").read_text())
        after = folders[(n + 1) % count]
        content["adapter"]["base"] |= {"name": str(after), "relative": f"../{after.name}"}
        unseal(checkpoint, content)
    return read_checkpoint(dice, folders[0], sound)


@rule
def headers(dice: random.Random, folder: Path, sound: Sound) -> list[str]:
    """Headers of safetensors that are long, deep, or claim what is not there."""
    path = folder / "x.safetensors"
    header: bytes = dice.choice(
        (
            b'{"a":' + b"[" * 10**6,
            b'{"a":{"dtype":"F32","shape":[' + b"9" * 6000 + b'],"data_offsets":[0,4]}}',
            b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
            b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            b'{"__metadata__":{"kit":"' + b"[" * 10**5 + b'"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            b'{"__metadata__":{"kit":"{}"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            b"{" + b'"a":1,' * 10**6 + b'"b":1}',
        )
    )
    length = dice.choice((len(header), len(header), 2**40, 90_000_000))
    path.write_bytes(struct.pack("<Q", length) + header + bytes(4))
    return ["finetune", "--model.weights", str(path), "--model.variant", "small", "--run.dir", str(folder / "runs")]


# Settings and the registry.


@rule
def texts(dice: random.Random, folder: Path, _: Sound) -> list[str]:
    """TOML that is deep, endless, dotted, or no file, as settings and as the registry."""
    path = folder / "x.toml"
    kind = dice.randrange(9)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path = Path("/dev/zero")
    else:
        path.write_bytes(
            (
                b"a" + b".a" * dice.choice((2000, 10**6)) + b" = 1",
                b"x = " + b"[" * 10**5,
                b"optim.lr = " + b"9" * 6000,
                b"[optim]\nlr = " + dice.choice((b"nan", b"inf", b"-inf")),
                b"x = 1\n" * 10**6,
                dice.randbytes(1000),
            )[kind - 3]
        )
    if kind != 6 and dice.random() < 0.5:
        return [f"KIT_REGISTRY={path}", "data", "list"]
    return ["finetune", "--config", str(path), "--run.dir", str(folder / "runs")]
