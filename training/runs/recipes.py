"""Recipes: YAML files of flat keys, one for each published run, and the command line that overrides them.

Unusual: a recipe's keys are the fields of the run's dataclasses and nothing else, so an unknown key or a value of the
wrong type is an error before anything is loaded, and `--key value` overrides any of them. A key that holds a mapping
(`model`) is overridden field by field: `--model '{"drop_path_rate": 0.1}'` leaves the recipe's other fields alone.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser

RECIPES_FOLDER = Path(__file__).parents[1] / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(path.stem for path in RECIPES_FOLDER.glob("*.yaml"))


def read_recipe(name_or_path: str) -> dict[str, Any]:
    """The keys of a recipe in the package, by name, or of a YAML file of your own, by path.

    Raises:
        ValueError: if there is no such recipe, or the file is no YAML mapping.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = RECIPES_FOLDER / f"{path.stem}.yaml"
    if not path.is_file():
        raise ValueError(
            f"There is no recipe {name_or_path!r}; give the path of a YAML file or one of {', '.join(recipe_names())}."
        )
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must be a YAML mapping from keys to values.")
    return recipe


def for_this_machine(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe without its 16-bit arithmetic where there is no accelerator; `--bf16 true` on the command line insists.

    Most CPUs only emulate bf16: a matrix product took over 7 times as long as in float32 on one with AVX2.
    """
    if torch.accelerator.is_available():
        return recipe
    return {key: value for key, value in recipe.items() if key not in ("bf16", "fp16")}


def parse_recipe(recipe: dict[str, Any], overrides: list[str], *dataclass_types: type) -> tuple[Any, ...]:
    """One instance of each dataclass from a recipe and `--key value` overrides, which win.

    A key without a value (YAML's null) keeps its default.

    Raises:
        ValueError: if a key is no field of any of them, or a value does not fit its field.
    """
    known = {field.name for kind in dataclass_types for field in dataclasses.fields(kind) if field.init}
    arguments = []
    for key, value in recipe.items():
        values = value if isinstance(value, list) else [value]
        if value is not None:
            arguments += [f"--{key}", *(json.dumps(v) if isinstance(v, dict | bool) else str(v) for v in values)]
    # abbreviated keys would make a misspelt one pass for another
    parser = HfArgumentParser(dataclass_types, exit_on_error=False, allow_abbrev=False)
    try:
        *instances, unknown = parser.parse_args_into_dataclasses(arguments + overrides, return_remaining_strings=True)
    except argparse.ArgumentError as error:
        raise ValueError(f"A value of the recipe or the command line does not fit its key: {error}") from error
    unknown += [f"--{key}" for key, value in recipe.items() if value is None and key not in known]
    if unknown:
        raise ValueError(
            f"Unknown keys or values: {' '.join(unknown)}. A recipe's keys are the fields of "
            f"{' and '.join(kind.__name__ for kind in dataclass_types)}."
        )
    for instance in instances:
        for key, value in recipe.items():
            if isinstance(value, dict) and isinstance(getattr(instance, key, None), str):
                setattr(instance, key, json.dumps(value | json_mapping(key, getattr(instance, key))))
    return tuple(instances)


def config_fields(run: Any, config_class: type, key: str = "model") -> dict[str, Any]:
    """A key of a run, by default `model`, as fields of `config_class`.

    Raises:
        ValueError: if it is no mapping, or a key is no field: Transformers would keep a misspelt one unused.
    """
    given = json_mapping(key, getattr(run, key))
    unknown = given.keys() - {field.name for field in dataclasses.fields(config_class)}
    if unknown:
        raise ValueError(
            f"`{key}` names {', '.join(sorted(unknown))}, which {config_class.__name__} does not have; see its "
            "documentation for the fields."
        )
    return given


def json_mapping(key: str, text: str) -> dict[str, Any]:
    """A JSON object, or a ValueError that says what `key` holds instead."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"`{key}` must be a mapping, in JSON on the command line, but is {text!r}.")
    return value
