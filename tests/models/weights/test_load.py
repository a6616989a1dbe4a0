"""Weights: every form that is read, and what is refused."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kit.io.errors import CheckpointError
from kit.models.variants import VARIANTS
from kit.models.weights.convert import merge_rollout_lora, split_rollout_lora
from kit.models.weights.load import install, load
from tests.batches import SMALL, small_spec, synthetic_batch
from tests.hostile import Command

HRES = VARIANTS["hres-finetuned"]


def upstream_checkpoint(path: Path, *, prefix: str = "") -> dict[str, torch.Tensor]:
    """A checkpoint with upstream's roll-out LoRA, as upstream's class saves it, with random LoRA weights."""
    torch.manual_seed(1)
    model = small_spec("hres-finetuned", rollout_lora="kept").build()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for name, value in state.items():
        if "lora_" in name:
            torch.nn.init.normal_(value, std=0.05)
        elif name.endswith((".ln_modulation.1.weight", ".modulation.1.weight")):
            torch.nn.init.normal_(value, std=0.02)
    torch.save({prefix + name: value for name, value in state.items()}, path)
    return state


def test_merged_lora_predicts_what_kept_lora_predicts(tmp_path: Path) -> None:
    upstream_checkpoint(tmp_path / "a.ckpt", prefix="net.")
    loaded = load(str(tmp_path / "a.ckpt"), HRES)
    assert loaded is not None
    predictions = []
    for choice in ("kept", "merged"):
        spec = small_spec("hres-finetuned", rollout_lora=choice)
        model = spec.build()
        install(model, spec, loaded)
        with torch.no_grad():
            predictions.append(model(synthetic_batch(spec)).surf_vars["2t"])
    torch.testing.assert_close(*predictions, rtol=1e-5, atol=1e-4)


def test_merging_adds_the_product_of_the_factors() -> None:
    """W = 0, B = [[1], [2]], A = [[3, 4]]: the merged weight is [[3, 4], [6, 8]]."""
    model = torch.nn.ModuleDict({"block": torch.nn.ModuleDict({"attn": torch.nn.ModuleDict()})})
    model.get_submodule("block.attn").add_module("qkv", torch.nn.Linear(2, 2, bias=False))
    state = {
        "block.attn.qkv.weight": torch.zeros(2, 2),
        "block.attn.lora_qkv.loras.0.lora_A": torch.tensor([[3.0, 4.0]]),
        "block.attn.lora_qkv.loras.0.lora_B": torch.tensor([[1.0], [2.0]]),
    }
    loras, others = split_rollout_lora(state)
    assert others.keys() == {"block.attn.qkv.weight"}
    model.load_state_dict(others)
    merge_rollout_lora(model, loras)
    assert model.get_parameter("block.attn.qkv.weight").tolist() == [[3, 4], [6, 8]]


def test_one_lora_for_each_step_cannot_be_merged() -> None:
    state = {f"a.lora_qkv.loras.{k}.lora_{m}": torch.zeros(1, 1) for k in (0, 1) for m in "AB"}
    with pytest.raises(CheckpointError, match="one LoRA for each roll-out step"):
        merge_rollout_lora(torch.nn.ModuleDict({"a": torch.nn.ModuleDict({"qkv": torch.nn.Linear(1, 1)})}), state)


def test_safetensors_under_upstreams_names_are_read(tmp_path: Path) -> None:
    spec = small_spec("small")
    model = spec.build()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    loaded = load(str(tmp_path / "w.safetensors"), VARIANTS["small"])
    assert loaded is not None
    assert loaded.spec is None
    other = spec.build()
    install(other, spec, loaded)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_longer_history_keeps_the_old_part_and_adds_zeros(tmp_path: Path) -> None:
    spec = small_spec("small")
    save_file(spec.build().state_dict(), tmp_path / "w.safetensors")
    loaded = load(str(tmp_path / "w.safetensors"), VARIANTS["small"])
    assert loaded is not None
    longer = dataclasses.replace(spec, history=3)
    model = longer.build()
    install(model, longer, loaded)
    embedding = model.encoder.surf_token_embeds.weights["2t"]
    assert torch.equal(embedding[:, :, :2], loaded.state["encoder.surf_token_embeds.weights.2t"])
    assert embedding[:, :, 2].eq(0).all()


def test_random_weights_are_none() -> None:
    assert load("random", HRES) is None


def test_a_pickle_that_runs_a_command_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    torch.save({"a": torch.zeros(1), "b": Command(f"touch {witness}")}, tmp_path / "bad.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Command(f"touch {witness}")))
    for name in ("bad.ckpt", "plain.ckpt"):
        with pytest.raises(CheckpointError, match="nothing in it was executed"):
            load(str(tmp_path / name), HRES)
    assert not witness.exists()


@pytest.mark.parametrize("content", (b"", b"not a checkpoint at all", b"PK\x03\x04 cut short"))
@pytest.mark.parametrize("name", ("w.ckpt", "w.safetensors"))
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        load(str(tmp_path / name), HRES)


def test_a_missing_file_names_what_is_beside_it(tmp_path: Path) -> None:
    (tmp_path / "there.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"nothing is at .*; beside it are .*there.ckpt"):
        load(str(tmp_path / "absent.ckpt"), HRES)


@pytest.mark.parametrize("variant", ("air-pollution", "v1p5", "wave", "small"))
def test_weights_of_another_variant_are_no_defect_of_ours(tmp_path: Path, variant: str) -> None:
    """Upstream's adapters for old checkpoints assert, and look names up."""
    spec = small_spec(variant)
    state = {
        "encoder.surf_token_embeds.weight": torch.zeros(4, 6, 2, 4, 4),
        "encoder.surf_token_embeds.weights.2t": torch.zeros(4),
        "backbone.x": torch.zeros(1),
    }
    torch.save(state, tmp_path / "w.ckpt")
    loaded = load(str(tmp_path / "w.ckpt"), VARIANTS[variant])
    assert loaded is not None
    with pytest.raises(CheckpointError, match=f"do not fit variant '{variant}': upstream's adapter .* fails"):
        install(spec.build(), spec, loaded)


def test_adapting_old_names_twice_gives_the_same(tmp_path: Path) -> None:
    """The air-pollution model's adapter adds one bias to another in place."""
    spec = small_spec("air-pollution", levels=(500, 850))
    model = spec.build()
    state = {f"net.{name}": value.clone() for name, value in model.state_dict().items()}
    for level in spec.upstream.default("level_condition"):
        state[f"net.encoder.atmos_token_embeds_new.layers.{level}.bias"] = torch.ones(SMALL["embed_dim"])
    torch.save(state, tmp_path / "w.ckpt")
    loaded = load(str(tmp_path / "w.ckpt"), VARIANTS["air-pollution"])
    assert loaded is not None
    name = "encoder.atmos_token_embeds.layers.500.bias"
    for _ in range(2):
        install(model, spec, loaded)
        assert torch.equal(model.state_dict()[name], loaded.state[name] + 1)


def test_numbered_variables_are_the_variants_own_where_others_were_added(tmp_path: Path) -> None:
    """Version 1.5's adapter counts the model's variables, of which there are more now than in the checkpoint."""
    spec = small_spec("v1p5")
    state = {name: value.clone() for name, value in spec.build().state_dict().items()}
    names = (*spec.surface, *spec.static)
    embeddings = [state.pop(f"encoder.surf_token_embeds.weights.{name}") for name in names]
    state["encoder.surf_token_embeds.weight"] = torch.cat(embeddings, dim=1)
    torch.save(state, tmp_path / "w.ckpt")
    loaded = load(str(tmp_path / "w.ckpt"), VARIANTS["v1p5"])
    assert loaded is not None
    more = dataclasses.replace(spec, surface=(*spec.surface, "mine"), added=("mine",))
    model = more.build()
    lacking = install(model, more, loaded)
    assert lacking == {name for name in model.state_dict() if ".mine" in name}
    assert torch.equal(model.encoder.surf_token_embeds.weights[names[3]], embeddings[3])


def test_weights_of_another_shape_name_what_does_not_fit(tmp_path: Path) -> None:
    spec = small_spec("small")
    save_file(spec.build().state_dict(), tmp_path / "w.safetensors")
    loaded = load(str(tmp_path / "w.safetensors"), VARIANTS["small"])
    assert loaded is not None
    more = dataclasses.replace(spec, surface=(*spec.surface, "tp"))
    with pytest.raises(CheckpointError, match=r"3 parameters are missing \(decoder.surf_heads.tp.bias"):
        install(more.build(), more, loaded)
    wide = dataclasses.replace(spec, arguments={**spec.arguments, "embed_dim": 64})
    with pytest.raises(CheckpointError, match="do not fit variant 'small'"):
        install(wide.build(), wide, loaded)
