"""`umt pretrain` and `umt finetune`: their help, which is read from source files, and `--print-config`."""

import dataclasses
import subprocess
import sys

import pytest
import yaml
from tiny_pretraining import python_environment

from umt_training.cli import main
from umt_training.cli.run_help import ABSOLUTE, BATCH_SCALED, GROUPS, command_recipes
from umt_training.runs.recipes import parse_recipe, read_recipe, recipe_names
from umt_training.runs.task_classes import TASK_CLASSES, TASKS, task_classes, task_options

GROUPED = {name for names in GROUPS.values() for name in names}


@pytest.mark.parametrize("task", TASK_CLASSES)
def test_the_options_that_are_read_from_source_are_those_of_the_dataclasses(task):
    options = task_options(task)
    actual = {field.name: field for kind in task_classes(task) for field in dataclasses.fields(kind) if field.init}
    assert options.keys() == actual.keys()
    for name, field in actual.items():
        if options[name].default is not None and field.default is not dataclasses.MISSING:
            assert options[name].default == field.default, name
    own = {field.name for field in dataclasses.fields(task_classes(task)[0])}
    assert all(options[name].help for name in own)


@pytest.mark.parametrize("task", TASK_CLASSES)
def test_every_option_of_this_package_is_in_a_group(task):
    from transformers import TrainingArguments

    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert task_options(task).keys() - inherited - {"task"} <= GROUPED


def test_every_grouped_option_exists():
    known = {name for task in TASK_CLASSES for name in task_options(task)}
    assert known >= GROUPED | ABSOLUTE | BATCH_SCALED


@pytest.mark.parametrize("recipe", ["small_data", "umt_b16_5m_stage2", "umt_b16_k710_stage1", "umt_b16_msvd_qa"])
def test_the_help_shows_the_values_of_the_recipe(recipe, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    values = read_recipe(recipe)
    command, *_ = TASKS[values["task"]]
    assert main([command, "--config", recipe, "--help"]) == 0
    printed = capsys.readouterr().out
    for group in GROUPS:
        assert f"\n{group}:\n" in printed
    for name, value in values.items():
        if name in GROUPED and not isinstance(value, (bool, dict, list)):
            assert f"--{name.replace('_', '-')} VALUE" in printed and f"(recipe: {value})" in printed, name
    assert "--data-root" in printed or "--video-root" in printed
    assert ("--learning-rate VALUE" in printed) != ("--base-learning-rate VALUE" in printed)
    assert "\nexamples:\n" in printed and f"  {recipe} " in printed


def test_every_recipe_is_listed_with_a_line_by_its_command():
    listed = {command: command_recipes(command) for command in ("pretrain", "finetune")}
    names = [name for tasks in listed.values() for recipes in tasks.values() for name in recipes]
    assert sorted(names) == recipe_names()
    assert all(
        len(title) > 20 for tasks in listed.values() for recipes in tasks.values() for title in recipes.values()
    )


@pytest.mark.parametrize(
    "command", ["--help", "pretrain --help", "finetune --help", "finetune --config small_data -h"]
)
def test_help_imports_nothing_slow(command):
    code = (
        "import sys\n"
        "from umt_training.cli import main\n"
        f"try: main({command.split()!r})\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'av'} & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=python_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "usage: umt" in done.stdout, done.stderr


def test_the_help_of_a_recipe_of_another_command_is_an_error(capsys):
    assert main(["pretrain", "--config", "small_data", "--help"]) == 1
    assert "which `umt pretrain` does not train; train it with `umt finetune`." in capsys.readouterr().err


@pytest.mark.parametrize(
    "recipe", ["small_data", "umt_l16_25m_stage2", "umt_l16_k710_stage1", "umt_l16_didemo_retrieval"]
)
def test_the_printed_recipe_is_a_recipe_with_the_overrides(recipe, tmp_path, capsys):
    values = read_recipe(recipe)
    command, *_ = TASKS[values["task"]]
    overrides = ["--output-dir", str(tmp_path / "run"), "--num_train_epochs=7", "--model", "{drop_path_rate: 0.3}"]
    if values["task"] in ("stage2", "retrieval"):
        overrides[-1] = "{vtm_weight: 0.5}"
    assert main([command, "--config", recipe, "--print-config", *overrides]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("task: ")
    (tmp_path / "mine.yaml").write_text(printed)
    again = read_recipe(str(tmp_path / "mine.yaml"))
    classes = task_classes(values["task"])
    assert parse_recipe(again, [], *classes) == parse_recipe(values, overrides, *classes)
    assert again["num_train_epochs"] == 7.0 and again["model"].items() >= values.get("model", {}).items() - {
        ("vtm_weight", 1.0), ("drop_path_rate", 0.1), ("drop_path_rate", 0.2)
    }  # fmt: skip
    assert not (tmp_path / "run").exists()
    assert main([command, "--config", str(tmp_path / "mine.yaml"), "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(printed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain"], "No recipe given; add --config with one of umt_b16_k710_stage1, "),
        (["pretrain", "--config", "umt_b16_k71_stage1"], "did you mean umt_b16_k710_stage1?"),
        (["finetune", "--config", "smal_data"], "did you mean small_data?"),
        (["finetune", "--config", "umt_b16_k710_stage1"], "train it with `umt pretrain`."),
        (["pretrain", "--config", "small_data", "--estimate"], "train it with `umt finetune`."),
        (["finetune", "--init-frm", "x"], "Unknown keys: init_frm."),
        (["finetune", "--init-frm", "x"], "did you mean init_from?"),
        (
            ["finetune", "--print-config", "--num-train-epochs", "-1"],
            "`num_train_epochs` must be a finite number above 0",
        ),
        (["pretrain", "--config", "umt_b16_k710_stage1", "--data", "v", "--mask-ratio", "80"], "for 80 % give 0.8"),
        (["finetune", "extra"], "'extra' does not belong to a key; override keys as --key value."),
    ],
)
def test_mistakes_are_one_line_with_a_suggestion(arguments, message, capsys):
    assert main(arguments) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"umt {arguments[0]}: ") and message in line


def test_a_misspelt_task_is_one_line_with_a_suggestion(tmp_path, capsys):
    (tmp_path / "r.yaml").write_text("task: clasification\n")
    assert main(["finetune", "--config", str(tmp_path / "r.yaml")]) == 1
    assert "did you mean classification?" in capsys.readouterr().err
