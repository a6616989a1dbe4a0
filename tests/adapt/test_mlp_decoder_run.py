"""Light decoders in whole runs: trained, kept, resumed, gone on with, scored, and refused where they cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from aurora.model.swin3d import Swin3DTransformerBackbone

from kit.adapt.latent import LatentSpace
from kit.checkpoint.folder import open_checkpoint
from kit.data.loader import load_pairs
from kit.data.settings import Period
from kit.forecasting.predictor import Conditions, load_predictor
from kit.io.errors import CheckpointError, SettingsError
from kit.run.display import TrainingProgress
from kit.run.finetune import finetune
from kit.settings import Settings
from kit.train.loss import PaperMAE
from kit.verification.scorecard import evaluate
from kit.verification.settings import EvaluateSettings
from tests.factories import synthetic_store
from tests.run.test_finetune import cut_after_a_step, metrics

# 9 states of 16 make 7 training pairs, 3 make 1 validation pair.
PAIRS = 8
LIGHT = {"method": "head", "decoder": "mlp", "hidden": (16,)}
NEW = {"new_variables": ("100u",), "output_only": ("100u",)}


@pytest.fixture(scope="session")
def windy_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    surface = ("2t", "10u", "10v", "msl", "100u")
    return synthetic_store(tmp_path_factory.mktemp("windy") / "store", times=16, surface=surface).path


def settings(
    store: Path, run_dir: Path, name: str, *, adapt: dict[str, Any], model: dict[str, Any] | None = None, **more: Any
) -> Settings:
    raw = {
        "run": {"name": name, "dir": run_dir},
        "data": {"store": str(store)},
        "model": NEW if model is None else model,
        "adapt": {**LIGHT, **adapt},
        "optim": {"lr": 3e-3, "warmup": 2},
        "train": {"steps": 14, "checkpoint_every": 7, "resume": "auto"},
    }
    return Settings.model_validate({**raw, **more})


@pytest.mark.slow
def test_epochs_after_the_first_do_without_the_trunk_and_change_no_bit(
    windy_store: Path, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    forward = Swin3DTransformerBackbone.forward

    def count(*args: Any, **kwargs: Any) -> torch.Tensor:
        counted.append(1)
        result: torch.Tensor = forward(*args, **kwargs)
        return result

    monkeypatch.setattr(Swin3DTransformerBackbone, "forward", count)
    said: list[str] = []
    monkeypatch.setattr(TrainingProgress, "say", lambda _self, text: said.append(text))
    result = finetune(settings(windy_store, run_dir, "cached", adapt={"cache": str(tmp_path)}))
    # Two epochs and three validations.
    assert len(counted) == PAIRS
    assert any(f"{PAIRS} samples, of which 0 are stored" in text for text in said)
    assert result.valid["after"] < result.valid["before"]
    # 4 latent levels of twice 96 to 16, and 16 to a patch of 4 x 4 points.
    assert result.trainable_parameters == (768 + 1) * 16 + (16 + 1) * 16

    finetune(settings(windy_store, run_dir, "again", adapt={"cache": str(tmp_path)}))
    assert len(counted) == PAIRS
    finetune(settings(windy_store, run_dir, "uncached", adapt={"cache": "off"}))
    assert len(counted) == PAIRS + 2 * 7 + 3
    losses = [[record["loss"] for record in metrics(run_dir / name)] for name in ("cached", "again", "uncached")]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.slow
def test_a_light_decoder_is_kept_resumed_gone_on_with_and_scored(
    windy_store: Path, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(name: str, **more: Any) -> Settings:
        return settings(windy_store, run_dir, name, adapt={"cache": str(tmp_path)}, **more)

    result = finetune(chosen("whole"))
    cut_after_a_step(monkeypatch, chosen("cut"))
    # Where the cache is has nothing to do with what is learned.
    finetune(settings(windy_store, run_dir, "cut", adapt={"cache": "off"}))
    last = [run_dir / name / "checkpoints" / "last" for name in ("whole", "cut")]
    for path in last:
        assert {part.name for part in path.iterdir()} == {"trained.safetensors", "kit.json", "resume"}
    one, other = (open_checkpoint(path).tensors() for path in last)
    assert one.keys() == {f"decoder.light_heads.100u.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    assert all(torch.equal(one[name], other[name]) for name in one)

    description = open_checkpoint(last[0]).description
    assert description["adapter"]["settings"]["hidden"] == [16]
    assert description["adapter"]["settings"]["cache"] is None
    # The run's own settings name the cache; what describes the model does not.
    assert str(tmp_path) not in str({key: value for key, value in description.items() if key != "settings"})
    valid = Period.parse(description["data"]["valid"])
    predictor = load_predictor(open_checkpoint(last[0]), Conditions(period=valid))
    space = LatentSpace(predictor.space.model, predictor.space.spec)
    (pair,) = load_pairs(predictor.pairs)
    fields = space.predict_fields(space.inputs(pair.inputs))
    assert PaperMAE()(fields, space.targets(pair.target)).total.item() == result.valid["after"]
    assert evaluate(EvaluateSettings(checkpoint=last[0])).to_dict()["scores"]["100u"]["rmse"] < 2

    # A further stage with the same decoders goes on from them.
    onward = finetune(chosen("onward", model={"weights": str(last[0])}))
    assert onward.valid["before"] == result.valid["after"]
    for method in ({"method": "full"}, {"method": "head"}, {**LIGHT, "hidden": (8,)}):
        adapt = {**dict.fromkeys(LIGHT), **method}
        with pytest.raises(CheckpointError, match="no weights of upstream's model can take up"):
            finetune(settings(windy_store, run_dir, "other", adapt=adapt, model={"weights": str(last[0])}))


@pytest.mark.parametrize(
    ("more", "message"),
    (
        ({"model": {}}, "adapt.decoder mlp trains decoders of new variables, and there is none"),
        ({"model": {"new_variables": ("100u",)}}, "100u would be read by the model, which stays frozen"),
        ({"model": {**NEW, "stabilise_level_agg": True}}, "weights lack .* more parameters, such as encoder.level_agg"),
        ({"model": {**NEW, "heads": {"2t": "quantile"}}}, "model.heads.2t adds channels to a variable that the"),
        ({"rollout": {"steps": 2}}, "rollout.steps is 2, but adapt.decoder mlp trains on the latents of one step"),
    ),
)  # fmt: skip
def test_what_light_decoders_cannot_be_had_for_is_refused(
    windy_store: Path, run_dir: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        finetune(settings(windy_store, run_dir, "refused", adapt={"cache": "off"}, **more))
    assert not (run_dir / "refused").exists()


def test_a_cache_beyond_its_budget_is_refused_before_anything_is_made(
    windy_store: Path, run_dir: Path, tmp_path: Path
) -> None:
    adapt = {"cache": str(tmp_path), "cache_budget": "0.0001GiB"}
    with pytest.raises(SettingsError, match=rf"{PAIRS} samples.* more than 0.0001 GiB, adapt.cache_budget"):
        finetune(settings(windy_store, run_dir, "large", adapt=adapt))
    assert not (run_dir / "large").exists()


def test_heads_of_several_channels_have_a_decoder_for_each(windy_store: Path, run_dir: Path) -> None:
    model = {**NEW, "heads": {"100u": "quantile:0.1,0.5,0.9"}}
    result = finetune(settings(windy_store, run_dir, "spread", adapt={"cache": "off"}, model=model, train={"steps": 2}))
    assert result.trainable_parameters == 3 * ((768 + 1) * 16 + (16 + 1) * 16)
    record = metrics(run_dir / "spread")[-1]
    assert {key for key in record if key.startswith("loss/")} == {"loss/100u", "loss/100u_q10", "loss/100u_q90"}
    scores = evaluate(EvaluateSettings(checkpoint=run_dir / "spread" / "checkpoints" / "last")).scores
    assert (scores["100u"]["rmse"] or 0) > 0
