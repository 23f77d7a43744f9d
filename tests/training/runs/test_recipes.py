"""Recipes: what the package carries is what was published, and nothing in a recipe is read past."""

import json
import re
from dataclasses import dataclass, field

import pytest

from modeling_umt import UMTConfig
from umt_training.runs.pretraining_run import PreTrainingRun
from umt_training.runs.recipes import RECIPES_FOLDER, config_fields, parse_recipe, read_recipe, recipe_names
from umt_training.trainers.pretraining import UMTPreTrainingArguments

STAGE1 = ("umt_b16_k710_stage1", "umt_l16_k710_stage1")


@dataclass
class Small:
    """A dataclass with one field of every kind that recipes use."""

    name: str | None = None
    number: int = 1
    rate: float = 0.5
    flag: bool = False
    size: list[int] = field(default_factory=lambda: [1])
    model: str = "{}"


def parse(recipe, *overrides):
    (small,) = parse_recipe(recipe, list(overrides), Small)
    return small


@pytest.mark.parametrize("name", STAGE1)
def test_published_stage1_recipes(name, tmp_path):
    """The official scripts' values (recipes, 2): the batch of 2048 clips gives the rates 1.2e-3 and 8e-5."""
    run, args = parse_recipe(
        read_recipe(name), ["--output_dir", str(tmp_path)], PreTrainingRun, UMTPreTrainingArguments
    )
    is_base = "b16" in name
    config = UMTConfig(**config_fields(run, UMTConfig))
    sizes = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size)
    assert sizes == ((768, 12, 12, 3072) if is_base else (1024, 24, 16, 4096))
    assert (config.drop_path_rate, config.target_dim) == ((0.1, 512) if is_base else (0.2, 768))
    assert (config.num_frames, config.image_size, config.tubelet_size, config.patch_size) == (8, 224, 1, 16)
    assert (config.num_aligned_layers, config.aligned_layer_interval) == (6, 1)
    assert (config.alignment_loss, config.target_norm) == ("l2", "l2")
    assert run.teacher == f"openai/clip-vit-{'base-patch16' if is_base else 'large-patch14'}"
    assert run.teacher_image_size == (224 if is_base else 196)

    batch = run.num_devices * args.per_device_train_batch_size * args.gradient_accumulation_steps
    assert batch == 2048
    assert args.base_learning_rate * batch / 256 == pytest.approx(1.2e-3)
    assert args.base_min_learning_rate * batch / 256 == pytest.approx(8e-5)
    assert args.base_warmup_learning_rate == 0
    assert (args.num_train_epochs, args.warmup_epochs, args.weight_decay) == (201, 40, 0.05)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.max_grad_norm) == (0.9, 0.95, 1e-8, 0)
    assert (args.mask_type, args.mask_ratio, args.num_masks_per_clip) == ("attention", 0.8, 1)
    assert (args.dataloader_num_workers, args.seed, args.bf16) == (12, 0, True)


@pytest.mark.parametrize("name", STAGE1)
def test_a_recipe_opens_with_what_to_expect(name):
    lines = (RECIPES_FOLDER / f"{name}.yaml").read_text().splitlines()
    head = "\n".join(lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))])
    for promise in ("Expected:", "Hardware:", "Command:", name):
        assert promise in head, f"{name}: {promise}"
    assert "hours" in head and re.search(r"--data \S+", head) and re.search(r"--output_dir \S+", head)


def test_values_keep_their_types():
    small = parse(
        {"name": "x", "number": 3, "rate": 1e-05, "flag": True, "size": [4, 5], "model": {"a": [1], "b": None}}
    )
    assert small == Small("x", 3, 1e-5, True, [4, 5], '{"a": [1], "b": null}')
    assert parse({}) == Small()
    assert parse({"number": None, "name": None, "flag": None}) == Small()


def test_the_command_line_wins():
    recipe = {"number": 3, "flag": True, "name": "x", "rate": 0.1}
    small = parse(recipe, "--number", "4", "--flag", "false", "--size", "7", "8")
    assert small == Small("x", 4, 0.1, False, [7, 8])
    assert parse({}, "--flag").flag is True


def test_a_mapping_is_overridden_field_by_field():
    recipe = {"model": {"hidden_size": 768, "num_hidden_layers": 12}}
    small = parse(recipe, "--model", '{"hidden_size": 384, "num_frames": 16}')
    assert json.loads(small.model) == {"hidden_size": 384, "num_hidden_layers": 12, "num_frames": 16}
    assert json.loads(parse({}, "--model", '{"a": {"b": 1}}').model) == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ({"numbr": 3}, [], r"Unknown keys or values: --numbr 3. .* fields of Small"),
        ({"numbr": None}, [], r"--numbr"),
        ({"number": 3}, ["--rtae", "2"], r"--rtae 2"),
        ({}, ["--num", "2"], r"--num 2"),  # no abbreviations
        ({}, ["stray"], r"stray"),
        ({"number": "many"}, [], r"--number.* invalid int value: 'many'"),
        ({}, ["--rate", "fast"], r"--rate.* invalid float value: 'fast'"),
        ({}, ["--flag", "maybe"], r"--flag.*maybe"),
        ({}, ["--number"], r"--number.*expected one argument"),
        ({"model": {"a": 1}}, ["--model", "{a: 1"], r"`model` must be a mapping.* is '{a: 1'"),
        ({"model": {"a": 1}}, ["--model", "3"], r"`model` must be a mapping.* is '3'"),
    ],
)
def test_nothing_is_read_past(recipe, overrides, message):
    with pytest.raises(ValueError, match=message):
        parse(recipe, *overrides)


def test_fields_of_a_configuration():
    assert config_fields(Small(model='{"num_frames": 4}'), UMTConfig) == {"num_frames": 4}
    with pytest.raises(ValueError, match=r"`model` names hiden_size, layers, which UMTConfig does not have"):
        config_fields(Small(model='{"layers": 4, "hiden_size": 3, "num_frames": 4}'), UMTConfig)
    with pytest.raises(ValueError, match=r"`model` must be a mapping"):
        config_fields(Small(model="[1]"), UMTConfig)


def test_where_recipes_are_looked_for(tmp_path):
    assert set(STAGE1) <= set(recipe_names())
    assert read_recipe("umt_l16_k710_stage1.yaml") == read_recipe("umt_l16_k710_stage1")
    assert read_recipe(f"training/recipes/{STAGE1[0]}.yaml") == read_recipe(STAGE1[0])  # from any folder
    (tmp_path / "mine.yaml").write_text("number: 3\n")
    assert read_recipe(str(tmp_path / "mine.yaml")) == {"number": 3}
    with pytest.raises(ValueError, match=r"no recipe 'umt_xl'; give the path .* umt_b16_k710_stage1"):
        read_recipe("umt_xl")
    for content, message in (("- a\n", "must be a YAML mapping"), ("a: [", "is no YAML file"), ("", "YAML mapping")):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_recipe(str(tmp_path / "bad.yaml"))
