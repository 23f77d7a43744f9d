"""Recipes: YAML files of flat keys, one for each published run, and the command line that overrides them.

The keys of a recipe are the fields of a run's dataclass and of its training arguments, and the mapping of the YAML
file fills both directly: an unknown key or a value of the wrong type is an error before anything is loaded.
`--key value` overrides any key. Mappings are overridden field by field: `--model '{"drop_path_rate": 0.1}'` leaves the
other fields of `model` in the recipe unchanged.
"""

import copy
import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from ..suggestions import did_you_mean

RECIPES_FOLDER = Path(__file__).parents[1] / "recipes"

# how an error names the type of a field
_TYPE_NAMES = {
    int: "an integer", float: "a number", bool: "true or false", str: "a string", list: "a list", tuple: "a list",
    dict: "a mapping",
}  # fmt: skip


class RecipeLoader(yaml.SafeLoader):
    """PyYAML's safe loader that also reads `1e-4` as a number; YAML 1.1 requires `1.0e-4`."""


RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


# --- files ----------------------------------------------------------------------------------------------------------


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(path.stem for path in RECIPES_FOLDER.glob("*.yaml"))


def read_recipe(name_or_path: str) -> dict[str, Any]:
    """The keys of a recipe of the package, by name, or of a YAML file, by path.

    Raises:
        ValueError: the recipe does not exist, or the file is not a YAML mapping.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = RECIPES_FOLDER / f"{path.stem}.yaml"
    if not path.is_file():
        raise ValueError(
            f"The recipe {name_or_path!r} does not exist; give the path of a YAML file or one of "
            f"{', '.join(recipe_names())}{did_you_mean(path.stem, recipe_names()) or '.'}"
        )
    try:
        recipe = yaml.load(path.read_text(encoding="utf-8"), RecipeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must be a YAML mapping from keys to values.")
    return recipe


def for_this_machine(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe, in float32 (no `bf16`, no `fp16`) on a machine without an accelerator; `--bf16 true` overrides it.

    Most CPUs only emulate bf16: a matrix product took over 7 times as long as in float32 on one with AVX2.
    """
    import torch  # the help of the commands reads recipes without it

    if torch.accelerator.is_available():
        return dict(recipe)
    return {key: value for key, value in recipe.items() if key not in ("bf16", "fp16")}


# --- from a mapping to dataclasses ----------------------------------------------------------------------------------


def parse_recipe(recipe: Mapping[str, Any], overrides: Sequence[str], *dataclass_types: type) -> tuple[Any, ...]:
    """One instance of each dataclass from a recipe and the overrides of a command line, which take precedence.

    Arguments and errors are those of [`recipe_values`].
    """
    values = recipe_values(recipe, overrides, *dataclass_types)
    return tuple(
        kind(**{field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values})
        for kind in dataclass_types
    )


def recipe_values(recipe: Mapping[str, Any], overrides: Sequence[str], *dataclass_types: type) -> dict[str, Any]:
    """The keys of a recipe and of the overrides of a command line, which take precedence, with their values.

    A value of None (YAML's null) keeps the field's default, and is left out.

    Args:
        recipe: Keys and values; it is not changed.
        overrides: `--key value`, `--key=value`, `--key value value` for lists, or `--key` alone for true. Keys are not
            abbreviated. Values are YAML, but for fields of type `str`, which take them literally.
        dataclass_types: The dataclasses whose fields are the keys. The metadata `fields_of` of a field names the
            configuration class, or the classes, whose fields its mapping contains.

    Raises:
        ValueError: a key is not a field of any of them, or a value does not have the type of its field.
    """
    fields, hints = {}, {}
    for kind in dataclass_types:
        fields |= {field.name: field for field in dataclasses.fields(kind) if field.init}
        hints |= typing.get_type_hints(kind)
    options = split_options(overrides)
    unknown = [str(key) for key in (*recipe, *(key for key, _ in options)) if key not in fields]
    if unknown:
        raise ValueError(
            f"Unknown keys: {', '.join(unknown)}. The keys of this recipe are the fields of "
            f"{' and '.join(kind.__name__ for kind in dataclass_types)}{did_you_mean(unknown[0], fields) or '.'}"
        )
    values = copy.deepcopy(dict(recipe))
    for key, texts in options:
        value = parse_option(key, texts, hints[key])
        is_merged = isinstance(value, dict) and isinstance(values.get(key), dict)
        values[key] = values[key] | value if is_merged else value
    values = {key: check_type(f"`{key}`", value, hints[key]) for key, value in values.items() if value is not None}
    for key, value in values.items():
        if config_class := fields[key].metadata.get("fields_of"):
            values[key] = check_config_fields(key, value, config_class)
    return values


def require_keys(run: Any, *keys: str) -> None:
    """Raise a ValueError if one of these keys of a run has no value."""
    for key in keys:
        if not getattr(run, key):
            raise ValueError(f"No `{key}` given; add it to the recipe, or give --{key.replace('_', '-')} VALUE.")


def check_config_fields(key: str, given: Mapping[str, Any], config_class: type | tuple[type, ...]) -> dict[str, Any]:
    """Fields of a configuration, of one of several classes, all known and of the right type: Transformers would keep a
    misspelt one unused."""
    classes = config_class if isinstance(config_class, tuple) else (config_class,)
    types_of_fields = {field.name: field.type for kind in reversed(classes) for field in dataclasses.fields(kind)}
    unknown = sorted(str(name) for name in given if name not in types_of_fields)
    if unknown:
        names = [f"{classes[0].__name__} does not have", *(kind.__name__ for kind in classes[1:])]
        raise ValueError(
            f"`{key}` names {', '.join(unknown)}, which {', nor '.join(names)}; see the documentation for the fields."
        )
    return {name: check_type(f"`{name}` of `{key}`", value, types_of_fields[name]) for name, value in given.items()}


def check_type(name: str, value: Any, hint: Any) -> Any:
    """The value of a field. An integer becomes a float, and a single value a list, where the type requires it."""
    options = alternatives(hint)
    if any(has_type(value, option) for option in options):
        return value
    if type(value) is int and float in options:
        return float(value)
    if any(has_type([value], option) for option in options):
        return [value]
    expected = dict.fromkeys(describe_type(option) for option in options if option is not types.NoneType)
    advice = "; put it in quotes if it is meant as text" if str in options else ""
    given = "null" if value is None else repr(value)
    raise ValueError(f"{name} must be {' or '.join(expected)}, but is {given}{advice}.")


def has_type(value: Any, hint: Any) -> bool:
    """Whether a value has a type that is not a union. Types given as text are not checked."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(has_type(element, arguments[0]) for element in value)
    if hint in (int, float):
        return type(value) is hint  # a bool is an int in Python
    kind = origin or hint
    return isinstance(value, kind) if isinstance(kind, type) else True


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the type alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def describe_type(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    kind = typing.get_origin(hint) or hint
    return _TYPE_NAMES.get(kind, getattr(kind, "__name__", str(kind)))


# --- from a command line to values ----------------------------------------------------------------------------------


def split_options(overrides: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Keys with the texts of their values, in the given order; `-` and `_` are the same in a key.

    Raises:
        ValueError: a value comes before the first key.
    """
    options: list[tuple[str, list[str]]] = []
    for argument in overrides:
        if argument.startswith("--"):
            key, separator, text = argument[2:].partition("=")
            options.append((key.replace("-", "_"), [text] if separator else []))
        elif options:
            options[-1][1].append(argument)
        else:
            raise ValueError(f"{argument!r} does not belong to a key; override keys as --key value.")
    return options


def parse_option(key: str, texts: Sequence[str], hint: Any) -> Any:
    """The value of a field from a command line; its type is checked by `check_type`."""
    options = alternatives(hint)
    if not texts:
        if bool in options:
            return True
        raise ValueError(f"--{key} needs a value.")
    element_types = [typing.get_args(option)[0] for option in options if typing.get_origin(option) is list]
    if element_types and (len(texts) > 1 or str not in options):
        return [parse_text(text, element_types) for text in texts]
    if len(texts) > 1:
        raise ValueError(f"--{key} takes one value, but {len(texts)} are given: {' '.join(texts)}.")
    return parse_text(texts[0], options)


def parse_text(text: str, options: Sequence[Any]) -> Any:
    """A YAML value, or the text unchanged where a string is expected and the value has no other expected type."""
    try:
        value = yaml.load(text, RecipeLoader)
    except yaml.YAMLError:
        return text
    if str in options and not any(has_type(value, option) for option in options if option is not str):
        return text
    return value
