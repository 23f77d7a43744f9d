"""Recipes: YAML files of flat keys, one for each published run, and the command line that overrides them.

Unusual: a recipe's keys are the fields of the run's dataclasses and nothing else, so an unknown key or a value of the
wrong type is an error before anything is loaded, and `--key value` overrides any of them.
"""

import json
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

RECIPES_FOLDER = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(path.stem for path in RECIPES_FOLDER.glob("*.yaml"))


def read_recipe(name_or_path: str) -> dict[str, Any]:
    """The keys of a recipe in the package, by name, or of a YAML file of your own, by path.

    Raises:
        ValueError: if there is no such recipe, or the file is no mapping.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = RECIPES_FOLDER / f"{path.stem}.yaml"
    if not path.is_file():
        raise ValueError(
            f"There is no recipe {name_or_path!r}; give the path of a YAML file or one of {', '.join(recipe_names())}."
        )
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must be a YAML mapping from keys to values.")
    return recipe


def parse_recipe(recipe: dict[str, Any], overrides: list[str], *dataclass_types: type) -> tuple[Any, ...]:
    """One instance of each dataclass from a recipe and `--key value` overrides, which win.

    Raises:
        ValueError: if a key is no field of any of them.
    """
    parser = HfArgumentParser(dataclass_types, exit_on_error=False)
    arguments = []
    for key, value in recipe.items():
        values = value if isinstance(value, list) else [value]
        arguments += [f"--{key}", *(json.dumps(v) if isinstance(v, dict | bool) else str(v) for v in values)]
    *instances, unknown = parser.parse_args_into_dataclasses(arguments + overrides, return_remaining_strings=True)
    if unknown:
        raise ValueError(
            f"Unknown keys or values: {' '.join(unknown)}. A recipe's keys are the fields of "
            f"{' and '.join(kind.__name__ for kind in dataclass_types)}."
        )
    return tuple(instances)
