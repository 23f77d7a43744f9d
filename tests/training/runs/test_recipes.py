"""Recipes: the package contains the published ones, and nothing in a recipe is ignored."""

import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import pytest
import yaml
from transformers import IntervalStrategy

import umt_training
from modeling_umt import UMTConfig
from umt_training.cli import main
from umt_training.runs import finetuning_run, tasks
from umt_training.runs.pretraining_run import PreTrainingRun
from umt_training.runs.recipes import RECIPES_FOLDER, parse_recipe, read_recipe, recipe_names
from umt_training.trainers.pretraining import UMTPreTrainingArguments
from umt_training.trainers.training_arguments import UMTTrainingArguments

STAGE1 = ("umt_b16_k710_stage1", "umt_l16_k710_stage1")


@dataclass
class Small:
    """A dataclass with one field of every kind that recipes use."""

    task: Literal["small"] = "small"
    name: str | None = None
    text: str = "a"
    number: int = 1
    limit: int | None = 5
    rate: float = 0.5
    flag: bool = False
    size: list[int] = field(default_factory=lambda: [1])
    paths: list[str] = field(default_factory=list)
    options: dict[str, Any] | str | None = None
    model: dict[str, Any] = field(default_factory=dict, metadata={"fields_of": UMTConfig})


def parse(recipe, *overrides):
    (small,) = parse_recipe(recipe, list(overrides), Small)
    return small


@pytest.mark.parametrize("name", STAGE1)
def test_published_stage1_recipes(name, tmp_path):
    """The official scripts' values: the batch of 2048 clips gives the learning rates 1.2e-3 and 8e-5."""
    run, args = parse_recipe(
        read_recipe(name), ["--output_dir", str(tmp_path)], PreTrainingRun, UMTPreTrainingArguments
    )
    is_base = "b16" in name
    config = UMTConfig(**run.model)
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
def test_a_recipe_begins_with_result_hardware_and_command(name):
    lines = (RECIPES_FOLDER / f"{name}.yaml").read_text().splitlines()
    head = "\n".join(lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))])
    for promise in ("Expected:", "Hardware:", "Command:", name):
        assert promise in head, f"{name}: {promise}"
    assert "hours" in head and re.search(r"--data \S+", head) and re.search(r"--output-dir \S+", head)


# --- values ---------------------------------------------------------------------------------------------------------


def test_values_are_those_of_the_mapping():
    recipe = {"name": "x", "number": 3, "rate": 1e-05, "flag": True, "size": [4, 5], "model": {"position_grid": None}}
    small = parse(recipe)
    assert small == Small(name="x", number=3, rate=1e-5, flag=True, size=[4, 5], model={"position_grid": None})
    assert parse({}) == Small()
    small.model["num_frames"] = 4
    assert recipe["model"] == {"position_grid": None}  # the recipe is not changed


def test_a_null_keeps_the_default():
    assert parse({key.name: None for key in fields(Small)}) == Small()
    recipe = {"name": "x", "limit": 7, "model": {"num_frames": 4}}
    assert parse(recipe, "--name", "null", "--limit", "null", "--model", "null") == Small()
    assert parse(recipe, "--name", "").name is None and parse({}, "--text", "null").text == "null"


def test_an_integer_is_a_number_and_one_value_a_list():
    small = parse({"rate": 3, "paths": "a", "model": {"layer_norm_eps": 1, "drop_path_rate": 0}})
    assert (small.rate, small.paths, small.size) == (3.0, ["a"], [1]) and type(small.rate) is float
    # fields of a configuration have their types too: `layer_norm_eps` is a float, `drop_path_rate` a float or an int
    assert [type(value) for value in small.model.values()] == [float, int]


def test_the_command_line_takes_precedence():
    recipe = {"number": 3, "flag": True, "name": "x", "rate": 0.1}
    small = parse(recipe, "--number", "4", "--flag", "false", "--size", "7", "8", "--paths=b")
    assert small == Small(name="x", number=4, rate=0.1, flag=False, size=[7, 8], paths=["b"])
    assert parse({}, "--flag").flag is True and parse({}, "--flag", "--number", "-1").number == -1
    assert parse({}, "--number", "2", "--number=3").number == 3
    small = parse({}, "--paths", "007", "no", "null")
    assert small.paths == ["007", "no", "null"]


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", "+1e-04"])
def test_numbers_of_every_notation(text, tmp_path):
    """YAML 1.1 reads `1e-4` as text."""
    (tmp_path / "small.yaml").write_text(f"rate: {text}\nmodel: {{layer_norm_eps: {text}}}\nname: 'is {text}'\n")
    expected = Small(rate=1e-4, model={"layer_norm_eps": 1e-4}, name=f"is {text}")
    assert parse(read_recipe(str(tmp_path / "small.yaml"))) == expected
    given = ["--rate", text, "--model", f"{{layer_norm_eps: {text}}}", "--name", f"is {text}"]
    assert parse({}, *given) == expected


@pytest.mark.parametrize(
    "text", ["007", "on", "no", "1.5", "1e-4", "org/model", "a: b", "[a", "2020-01-01", "-", "a=b"]
)
def test_text_of_the_command_line_stays_text(text):
    small = parse({}, "--name", text, f"--text={text}", "--paths", text)
    assert (small.name, small.text, small.paths) == (text, text, [text])


def test_a_mapping_is_overridden_field_by_field():
    recipe = {"model": {"hidden_size": 768, "num_hidden_layers": 12}}
    small = parse(recipe, "--model", '{"hidden_size": 384, "num_frames": 16}')
    assert small.model == {"hidden_size": 384, "num_hidden_layers": 12, "num_frames": 16}
    small = parse(recipe, "--model", "{hidden_size: 384}", "--model={num_frames: 16, image_size: [32, 64]}")
    assert small.model == {"hidden_size": 384, "num_hidden_layers": 12, "num_frames": 16, "image_size": [32, 64]}
    assert recipe["model"]["hidden_size"] == 768
    assert parse({}, "--options", "{a: {b: 1}}").options == {"a": {"b": 1}}
    assert parse({"options": {"a": 1}}, "--options", "file.json").options == "file.json"


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ({"numbr": 3}, [], "Unknown keys: numbr. The keys of this recipe are the fields of Small"),
        ({"numbr": None, 3: 4}, ["--rtae", "2"], "Unknown keys: numbr, 3, rtae"),
        ({}, ["--num", "2"], "Unknown keys: num."),  # no abbreviations
        ({}, ["stray"], "'stray' does not belong to a key"),
        ({"number": "many"}, [], "`number` must be an integer, but is 'many'"),
        ({"number": True}, [], "`number` must be an integer, but is True"),
        ({"number": 1.5}, [], "`number` must be an integer, but is 1.5"),
        ({"rate": "1"}, [], "`rate` must be a number, but is '1'"),
        ({"name": 7}, [], "`name` must be a string, but is 7; put it in quotes"),
        ({"flag": 1}, [], "`flag` must be true or false, but is 1"),
        ({"size": ["x"]}, [], r"`size` must be a list, but is \['x'\]"),
        ({"task": "large"}, [], "`task` must be 'small', but is 'large'"),
        ({}, ["--rate", "fast"], "`rate` must be a number, but is 'fast'"),
        ({}, ["--flag", "maybe"], "`flag` must be true or false, but is 'maybe'"),
        ({}, ["--number"], "--number needs a value"),
        ({}, ["--paths"], "--paths needs a value"),
        ({}, ["--number", "1", "2"], "--number takes one value, but 2 are given: 1 2"),
        ({"model": {"num_frames": 1}}, ["--model", "{num_frames: 1"], "`model` must be a mapping, but is '{num"),
        ({"model": {"num_frames": 1}}, ["--model", "3"], "`model` must be a mapping, but is 3"),
        ({"model": {"num_frames": "x"}}, [], "`num_frames` of `model` must be an integer, but is 'x'"),
        ({"model": {"num_frames": None}}, [], "`num_frames` of `model` must be an integer, but is null"),
        (
            {"model": {"layers": 4, "hiden_size": 3, "num_frames": 4}}, [],
            "`model` names hiden_size, layers, which UMTConfig does not have",
        ),
    ],
)  # fmt: skip
def test_nothing_is_ignored(recipe, overrides, message):
    with pytest.raises(ValueError, match=message) as error:
        parse(recipe, *overrides)
    assert "\n" not in str(error.value)


def test_arguments_of_transformers(tmp_path):
    """Enumerations, and fields that are a mapping or text, from a recipe and from a command line."""
    output_dir = str(tmp_path / "run")
    recipe = {
        "output_dir": output_dir, "use_cpu": True, "eval_strategy": "epoch", "optim": "sgd", "eval_delay": 1,
        "liger_kernel_config": {"rope": True}, "accelerator_config": {"split_batches": True}, "save_steps": 4,
        "fsdp_config": {"min_num_params": 3}, "report_to": ["none"], "label_names": ["labels"],
    }  # fmt: skip
    overrides = ["--liger_kernel_config", "{swiglu: false}", "--logging_strategy", "no", "--report_to", "none"]
    (args,) = parse_recipe(recipe, [*overrides, "--accelerator_config={even_batches: false}"], UMTTrainingArguments)
    assert (args.eval_strategy, args.logging_strategy) == (IntervalStrategy.EPOCH, IntervalStrategy.NO)
    assert args.optim.value == "sgd" and args.liger_kernel_config == {"rope": True, "swiglu": False}
    assert args.accelerator_config.split_batches and not args.accelerator_config.even_batches
    assert args.fsdp_config["min_num_params"] == 3 and recipe["fsdp_config"] == {"min_num_params": 3}
    assert (args.report_to, args.label_names, args.eval_delay, args.save_steps) == ([], ["labels"], 1, 4)
    with pytest.raises(ValueError, match="not a valid OptimizerNames"):
        parse_recipe(recipe, ["--optim", "fast"], UMTTrainingArguments)
    with pytest.raises(ValueError, match=r"`save_strategy` must be .* but is False; put it in quotes"):
        parse_recipe(yaml.safe_load("save_strategy: no"), [], UMTTrainingArguments)


# --- files and tasks ------------------------------------------------------------------------------------------------


def test_where_recipes_are_searched(tmp_path):
    assert set(STAGE1) <= set(recipe_names())
    assert read_recipe("umt_l16_k710_stage1.yaml") == read_recipe("umt_l16_k710_stage1")
    assert read_recipe(f"training/recipes/{STAGE1[0]}.yaml") == read_recipe(STAGE1[0])  # from any folder
    (tmp_path / "mine.yaml").write_text("number: 3\n")
    assert read_recipe(str(tmp_path / "mine.yaml")) == {"number": 3}
    with pytest.raises(ValueError, match=r"'umt_xl' does not exist; give the path .* umt_b16_k710_stage1"):
        read_recipe("umt_xl")
    for content, message in (
        ("- a\n", "must be a YAML mapping"),
        ("a: [", "is not a YAML file"),
        ("", "YAML mapping"),
    ):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_recipe(str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_states_the_task_of_its_run(name):
    recipe = read_recipe(name)
    is_masked_modeling = "_from_" in name or name.endswith("_pretraining")
    is_pretraining = name.endswith(("_stage1", "_stage2", "_distillation")) or is_masked_modeling
    command = "pretrain" if is_pretraining else "finetune"
    module, function = tasks.find_run(command, recipe)
    assert callable(getattr(module, function))
    endings = {f"_{task}": task for task in ("stage1", "stage2", "distillation")} | {"_qa": "question_answering"}
    for ending, task in endings.items():
        assert name.endswith(ending) == (recipe["task"] == task)
    assert name.endswith(("_retrieval", "_mc")) == (recipe["task"] == "retrieval")
    assert is_masked_modeling == (recipe["task"] == "masked_modeling")


@pytest.mark.parametrize(
    ("command", "recipe", "message"),
    [
        ("pretrain", {}, "The recipe has no `task`; add one to it: `task: stage1`, or `task: stage2`, or `task: m"),
        ("finetune", {"task": None}, "no `task`; add one to it: `task: classification`, or `task: detection`, or "),
        ("pretrain", {"task": "retrieval"}, "'retrieval', which `umt pretrain` does not train; train it with `umt f"),
        ("finetune", {"task": "stage2"}, "'stage2', which `umt finetune` does not train; train it with `umt pre"),
        ("finetune", {"task": "vqa"}, "'vqa', which `umt finetune` does not train; `umt finetune` trains classific"),
        ("pretrain", {"task": ["stage1"]}, "['stage1'], which `umt pretrain` does not train; `umt pretrain` trains"),
    ],
)  # fmt: skip
def test_recipes_of_no_or_another_task(command, recipe, message, tmp_path, capsys):
    with pytest.raises(ValueError) as error:
        getattr(umt_training, command)(recipe, [])
    assert message in str(error.value)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main([command, "--config", str(tmp_path / "recipe.yaml")]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith(f"umt {command}: ") and message in said[0]


def test_a_recipe_is_a_name_a_path_or_a_mapping(tmp_path, monkeypatch):
    """And the file of a recipe is read once."""
    given = []
    monkeypatch.setattr(finetuning_run, "finetune_classification", lambda *arguments: given.append(arguments))
    monkeypatch.setattr(tasks, "for_this_machine", dict)
    recipe = read_recipe("small_data")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    for form in ("small_data", str(tmp_path / "mine.yaml"), recipe):
        umt_training.finetune(form, ["--data", "clips"])
    assert given == [(recipe, ["--data", "clips"])] * 3
    reads = []
    monkeypatch.setattr(tasks, "read_recipe", lambda name: reads.append(name) or recipe)
    assert main(["finetune", "--data", "clips"]) == 0
    assert reads == ["small_data"] and given[-1] == (recipe, ["--data", "clips"])
