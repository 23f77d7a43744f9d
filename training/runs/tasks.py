"""From a recipe's `task` to the run that trains it; the commands `umt pretrain` and `umt finetune` in Python."""

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import yaml

from ..quiet_loading import without_weight_bars
from ..trainers.base_trainer import UMTTrainer
from .recipes import for_this_machine, parse_recipe, read_recipe, recipe_values
from .task_classes import TASKS, find_task, task_classes


def pretrain(recipe: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> UMTTrainer:
    """Run a recipe of the task `stage1`, `stage2`, `masked_modeling` or `distillation`, as `umt pretrain` does.

    A run resumes from the last checkpoint in `output_dir` if there is one. The trained model, its code, its processor
    and its card are saved to `output_dir`. Without an accelerator a run is in float32, whatever the recipe says.

    Args:
        recipe: Name of a recipe of the package, path of a YAML file, or a mapping of its keys.
        overrides: Keys and values that take precedence, as on the command line: `["--data", "videos"]`.

    Returns:
        The trainer, with the trained model.

    Raises:
        ValueError: before the first step, if the recipe does not exist or is of another task, a key is unknown, a
            value has the wrong type, data are missing, or the parts do not fit.
    """
    return start_run("pretrain", recipe, overrides)


def finetune(recipe: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> UMTTrainer:
    """Run a recipe of the task `classification`, `detection`, `retrieval` or `question_answering`, as `umt finetune`
    does.

    Arguments, result and errors are those of [`pretrain`].
    """
    return start_run("finetune", recipe, overrides)


def estimate(recipe: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> str:
    """What a pre-training recipe would cost, as text; arguments and errors are those of [`pretrain`]."""
    recipe = as_mapping(recipe)
    module, _ = find_run("pretrain", recipe)
    return module.estimate_run(recipe, overrides)


def start_run(command: str, recipe: str | Mapping[str, Any], overrides: Sequence[str]) -> UMTTrainer:
    recipe = as_mapping(recipe)
    module, function = find_run(command, recipe)
    with without_weight_bars():
        return getattr(module, function)(for_this_machine(recipe), overrides)


def as_mapping(recipe: str | Mapping[str, Any]) -> Mapping[str, Any]:
    return recipe if isinstance(recipe, Mapping) else read_recipe(recipe)


def find_run(command: str, recipe: Mapping[str, Any]) -> tuple[ModuleType, str]:
    """The module of a recipe's run and the name of the function there.

    Raises:
        ValueError: the recipe has no `task`, or one that the command does not train.
    """
    _, module, function = TASKS[find_task(command, recipe)]
    return importlib.import_module(f".{module}", __package__), function


def resolved_recipe(command: str, recipe: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> str:
    """The recipe with all overrides as YAML, a recipe itself; arguments and errors are those of [`pretrain`]."""
    recipe = as_mapping(recipe)
    classes = task_classes(find_task(command, recipe))
    parse_recipe(for_this_machine(recipe), overrides, *classes)  # checks the values too
    values = recipe_values(recipe, overrides, *classes)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
