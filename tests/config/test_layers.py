"""Layers of settings: order, unknown keys, short forms, messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from kit.config import layers as config
from kit.config.command_line import parse
from kit.config.layers import Layer, command_line_layer, environment_layer, read_recipe, read_toml, resolve
from kit.config.schema import can_be_none, flatten, leaves
from kit.data.settings import BuildSettings, Period
from kit.export.settings import ExportSettings
from kit.forecasting.ensemble_settings import EnsembleSettings
from kit.forecasting.settings import ForecastSettings
from kit.io.errors import SettingsError
from kit.planning.settings import PlanSettings
from kit.plots.settings import PlotSettings
from kit.settings import Settings
from kit.verification.settings import EvaluateSettings


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid")
    ALTERNATIVES: ClassVar = (("steps", "epochs"),)

    steps: PositiveInt | None = None
    epochs: PositiveInt | None = None


class Root(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = "default"
    train: Section = Section()
    weights: dict[str, float] = Field(default_factory=dict)


def layer(origin: str, **tree: object) -> Layer:
    return Layer(origin, flatten(tree, Root))


def test_the_first_layer_wins_and_the_others_fill_in(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[train]\nseed = 3\nsteps = 30\n[optim]\nlr = 0.3\nwarmup = 3\n")
    layers = [
        command_line_layer({"train": {"seed": "1"}}, Settings),
        environment_layer(Settings, environment={"KIT_TRAIN__SEED": "2", "KIT_OPTIM__LR": "0.2"}),
        read_toml(file, Settings),
        Layer("recipe r", flatten({"optim": {"warmup": 4, "clip": 4.0}, "train": {"accumulate": 4}}, Settings)),
    ]
    settings = resolve(Settings, layers)
    assert settings.train.seed == 1
    assert settings.optim.lr == 0.2
    assert settings.optim.warmup == 3
    assert settings.train.steps == 30
    assert (settings.optim.clip, settings.train.accumulate) == (4.0, 4)
    assert settings.optim.final_lr == Settings().optim.final_lr


def test_no_layers_give_the_defaults() -> None:
    assert resolve(Settings, []) == Settings()


def test_tables_are_laid_over_each_other_and_an_empty_one_empties() -> None:
    low = layer("low", weights={"2t": 1, "msl": 2})
    assert resolve(Root, [layer("high", weights={"2t": 3}), low]).weights == {"2t": 3, "msl": 2}
    assert resolve(Root, [layer("high", weights={}), low]).weights == {}
    three = [layer("high", weights={"2t": 5}), layer("middle", weights={}), low]
    assert resolve(Root, three).weights == {"2t": 5}


def test_an_alternative_displaces_the_other_of_lower_layers() -> None:
    settings = resolve(Root, [layer("high", train={"steps": 2}), layer("low", train={"epochs": 5})])
    assert settings.train == Section(steps=2)


def test_train_steps_displaces_a_recipes_epochs() -> None:
    recipe = Layer("recipe r", {"train.epochs": 5})
    assert resolve(Settings, [Layer("high", {"train.steps": 2}), recipe]).train.epochs is None


def test_alternatives_of_one_layer_are_refused_with_both_origins() -> None:
    with pytest.raises(
        SettingsError, match=r"give one .*train\.steps = 2 from f\.toml, train\.epochs = 3 from f\.toml"
    ):
        resolve(Settings, [Layer("f.toml", {"train.steps": 2, "train.epochs": 3})])


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("train.step", "did you mean train.steps"),
        ("trian.steps", "did you mean train.steps"),
        ("steps", "did you mean train.steps"),
        ("optim.learning_rat", "there are optim.name, optim.lr"),
        ("xyzzy", "there are run, data, model"),
        ("train.steps.deep", "did you mean train.steps"),
    ],
)
def test_an_unknown_key_is_named_with_its_origin_and_what_it_resembles(key: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=f"^unknown setting {key} \\(from f.toml\\); {hint}"):
        resolve(Settings, [Layer("f.toml", {key: 1})])


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(SettingsError, match=r"(?s)^2 settings cannot be used:\n  unknown .*a \(.*\n  unknown .*b \("):
        resolve(Root, [Layer("f.toml", {"a": 1, "b": 2})])


def test_an_unknown_environment_variable_is_refused_and_named_as_it_is_spelt() -> None:
    found = environment_layer(Settings, environment={"KIT_TRAIN__STEP": "3", "HOME": "/"})
    match = r"unknown setting KIT_TRAIN__STEP \(from the environment\); did you mean KIT_TRAIN__STEPS"
    with pytest.raises(SettingsError, match=match):
        resolve(Settings, [found])


def test_a_misspelt_operational_variable_is_refused() -> None:
    with pytest.raises(SettingsError, match="KIT_CACHEE.*did you mean KIT_CACHE"):
        resolve(Settings, [environment_layer(Settings, environment={"KIT_CACHEE": "/x"})])


@pytest.mark.parametrize("variable", sorted(config.OPERATIONAL))
def test_operational_variables_are_no_settings(variable: str) -> None:
    assert environment_layer(Settings, environment={variable: "/x"}).values == {}


def test_variables_of_another_command_are_left_out() -> None:
    environment = {"KIT_CHECKPOINT": "c", "KIT_DATA__TEST": "2020/2021", "KIT_CHECKPONT": "c"}
    found = environment_layer(Settings, [EvaluateSettings], environment)
    assert set(found.values) == {"data.test", "checkpont"}


def test_the_environment_reads_short_forms_tables_and_whole_sections() -> None:
    environment = {
        "KIT_DATA__VARIABLES": "2t, 10u",
        "KIT_DATA__LEVELS": "[500, 850]",
        "KIT_OPTIM__CLIP": "None",
        "KIT_LOSS__WEIGHTS__2T": "3",
        "KIT_TRAIN": '{"steps": 7}',
        "KIT_DATA__TRAIN": "2020-01-01/2020-06-30",
    }
    settings = resolve(Settings, [environment_layer(Settings, environment=environment)])
    assert settings.data.variables == ("2t", "10u")
    assert settings.data.levels == (500, 850)
    assert settings.optim.clip is None
    assert settings.loss.weights == {"2t": 3}
    assert settings.train.steps == 7
    assert settings.data.train == Period.parse("2020-01-01/2020-06-30")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("data.variables", "z", ("z",)),
        ("data.region", "60,-10,40,10", (60, -10, 40, 10)),
        ("data.levels", "500,850", (500, 850)),
        ("data.train", "none", None),
        ("optim.clip", "none", None),
        ("run.name", "NONE", None),
        ("loss.weights", "2t=3,msl=1.5", {"2t": 3, "msl": 1.5}),
        ("loss.weights", '{"2t": 3}', {"2t": 3}),
    ],
)
def test_text_may_take_short_forms_in_toml_too(key: str, value: str, expected: object) -> None:
    section, name = key.split(".")
    settings = resolve(Settings, [Layer("f.toml", flatten({section: {name: value}}, Settings))])
    assert getattr(getattr(settings, section), name) == expected


@pytest.mark.parametrize(
    ("tree", "match"),
    [
        ({"train": {"steps": -3}}, r"^train\.steps: input should be greater than 0, got -3 \(from f\.toml\)$"),
        ({"train": {"steps": "many"}}, r"^train\.steps: .*valid integer.* got 'many' \(from f\.toml\)$"),
        ({"train": 3}, r"^train: is a section with train\.steps, .*; got 3 \(from f\.toml\)$"),
        ({"loss": {"weights": "2t"}}, r"^loss\.weights: expected a table, .* got '2t' \(from f\.toml\)$"),
        ({"loss": {"weights": {"2t": -1}}}, r"^loss\.weights\.2t: .*greater than or equal to 0, got -1 \(from f"),
        ({"data": {"region": "1,2,3"}}, r"^data\.region: part 4: field required, got \['1', '2', '3'\] \(from f"),
        ({"data": {"train": "2021-01-01/2020-01-01"}}, r"^data\.train: .* ends before it starts \(from f"),
        ({"model": {"timestep": "6"}}, r"^model\.timestep: expected a number of hours such as 6h, got '6' \(from f"),
        ({"model": {"variant": "big"}}, r"^model\.variant: .*'hres-finetuned', 'pretrained'.*, got 'big' \(from f"),
        ({"run": {"name": "../up"}}, r"^run\.name: .*pattern.*, got '\.\./up' \(from f"),
    ],
)
def test_a_bad_value_is_told_with_what_was_expected_and_where_it_came_from(tree: dict[str, object], match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        resolve(Settings, [Layer("f.toml", flatten(tree, Settings))])


def test_a_needed_setting_is_asked_for() -> None:
    with pytest.raises(SettingsError, match="checkpoint: is needed and has no default; give --checkpoint\n"):
        resolve(ExportSettings, [])


def test_the_origin_of_a_command_line_value_is_its_option() -> None:
    with pytest.raises(SettingsError, match=r"got '-3' \(from --train\.steps\)"):
        resolve(Settings, [command_line_layer({"train": {"steps": "-3"}}, Settings)])


def test_a_config_file_must_exist_and_be_toml(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no file '.*nothing.toml'"):
        read_toml(tmp_path / "nothing.toml", Settings)
    with pytest.raises(SettingsError, match="there is no file"):
        read_toml(tmp_path, Settings)
    broken = tmp_path / "broken.toml"
    broken.write_text("[train\n")
    with pytest.raises(SettingsError, match=r"broken\.toml: not valid TOML: .*line 1"):
        read_toml(broken, Settings)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="not UTF-8"):
        read_toml(broken, Settings)


def test_an_empty_section_in_a_file_changes_nothing() -> None:
    settings = resolve(Settings, [Layer("high", flatten({"train": {}}, Settings)), Layer("low", {"train.seed": 3})])
    assert settings.train.seed == 3


def test_an_unknown_recipe_names_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "recipe_names", lambda: ["era5-europe-2020", "tiny-pretrain"])
    match = "there is no recipe 'era5-europ'; did you mean era5-europe-2020.*there are: era5-europe-2020, tiny-pretrain"
    with pytest.raises(SettingsError, match=match):
        read_recipe("era5-europ", Settings)


def test_a_table_of_sections_takes_patterns_with_dots(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[optim.groups."encoder.*"]\nlr = 1e-4\nwarmup = 3\n[optim.groups.new]\nweight_decay = 0.5\n')
    text = "decoder.surf_heads.lr=2e-3,encoder.*.lr=5e-4"
    layers = [
        command_line_layer({"optim": {"groups": dict(part.split("=") for part in text.split(","))}}, Settings),
        environment_layer(Settings, environment={"KIT_OPTIM__GROUPS__NEW__LR": "1e-2"}),
        read_toml(file, Settings),
    ]
    groups = resolve(Settings, layers).optim.groups
    # What is more important comes first, because the first pattern that matches counts.
    assert list(groups) == ["decoder.surf_heads", "encoder.*", "new"]
    assert (groups["encoder.*"].lr, groups["encoder.*"].warmup) == (5e-4, 3)
    assert (groups["new"].lr, groups["new"].weight_decay) == (1e-2, 0.5)
    again = resolve(Settings, [Layer("f.toml", flatten({"optim": {"groups": '{"a.*": {"lr": 1}}'}}, Settings))])
    assert again.optim.groups["a.*"].lr == 1


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        (
            {"encoder.*.rate": "1"},
            r"^optim\.groups\.encoder\.\*\.rate: expected a pattern and one of its settings \(lr,",
        ),
        ({"encoder.*": {}}, r"^optim\.groups\.encoder\.\*: a group that sets none of lr, weight_decay and warmup"),
        ({"new.lr": "-1"}, r"^optim\.groups\.new\.lr: input should be greater than 0, got '-1' \(from --optim\.gr"),
        ("encoder", r"^optim\.groups: expected a table, such as PATTERN\.SETTING=VALUE,.* got 'encoder'"),
    ],
)
def test_a_fault_in_a_table_of_sections_is_told(groups: object, match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        resolve(Settings, [command_line_layer({"optim": {"groups": groups}}, Settings)])


def with_none(model: type[BaseModel]) -> list[str]:
    """Settings of a command that have the word ``none`` among their values."""
    return [key for key, annotation in leaves(model).items() if "none" in choices(annotation)]


def choices(annotation: Any) -> list[Any]:
    """Values that an annotation lists, in whatever union."""
    found = [value for value in get_args(annotation) if isinstance(value, str)]
    return found + [value for part in get_args(annotation) if not isinstance(part, str) for value in choices(part)]


COMMANDS = (Settings, PlanSettings, EvaluateSettings, ForecastSettings, EnsembleSettings, PlotSettings, BuildSettings)
NONE = [(model, key) for model in COMMANDS for key in with_none(model)]


@pytest.mark.parametrize(("model", "key"), NONE, ids=[f"{model.__name__}-{key}" for model, key in NONE])
def test_none_is_a_value_where_it_is_one(model: type[BaseModel], key: str, tmp_path: Path) -> None:
    assert not can_be_none(leaves(model)[key]), "the word could mean two things"
    section, _, name = key.rpartition(".")
    file = tmp_path / "settings.toml"
    file.write_text(f'[{section}]\n{name} = "none"\n' if section else f'{name} = "none"\n')
    layers = [
        command_line_layer(parse(model, [f"--{key}", "none"], "kit"), model),
        read_toml(file, model),
    ]
    if model is not BuildSettings:
        # A build takes nothing of this from the environment.
        layers.append(environment_layer(model, environment={"KIT_" + key.upper().replace(".", "__"): "none"}))
    assert all(layer.values == {key: "none"} for layer in layers)
    assert {"memory.recompute", "weights", "codec", "perturb"} >= {key for _, key in NONE}


def test_none_unsets_what_can_be_absent_and_is_a_name_elsewhere() -> None:
    words = ["--optim.clip", "none", "--data.store", "none", "--memory.offload", "none", "--data.accept", "a,none"]
    values = command_line_layer(parse(Settings, words, "kit"), Settings).values
    assert values == {
        "optim.clip": None,
        "data.store": "none",
        "memory.offload": ["none"],
        "data.accept": ["a", "none"],
    }
