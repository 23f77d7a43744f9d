"""The weights that a run starts from: loaded from a checkpoint, or new where the run expects that.

Transformers prints a report for every model with new weights, which a run always has: a head for other classes, the
decoders of a teacher. A run names its new weights in a line, and refuses a checkpoint that lacks any others.
"""

from collections.abc import Collection, Mapping
from itertools import accumulate
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedModel

from ..model_sources import architecture_of, describe_model
from ..quiet_loading import quiet_loading


def load_initial_weights(
    model_class: type[PreTrainedModel], name: str | None, new: tuple[str, ...] = (), advice: str = "", **kwargs
) -> PreTrainedModel:
    """A model of a run, from a checkpoint; prints which of its weights are new.

    Args:
        model_class: Class of the model.
        name: A folder, a Hub id, or, if `kwargs` contain `config` and `state_dict`, any name for the messages.
        new: Prefixes of the names that a checkpoint may lack.
        advice: What to do about a checkpoint that is not complete, a sentence.
        kwargs: Further arguments of `from_pretrained`.

    Raises:
        ValueError: the checkpoint lacks other weights, has some that the model does not have, or has other shapes.
    """
    name = name or "The checkpoint"
    with quiet_loading():
        model, report = model_class.from_pretrained(
            None if "state_dict" in kwargs else name, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    for key, saved, expected in sorted(report["mismatched_keys"]):
        raise ValueError(
            f"{name} does not fit the model of this run: {key} has the shape {tuple(saved)} and would have "
            f"{tuple(expected)}. Leave out the fields of the model that change its size."
        )
    missing = sorted(report["missing_keys"])
    for problem, keys in {
        "lacks": absent_parts(model, [key for key in missing if not key.startswith(new)]),
        "has unknown weights:": sorted(report["unexpected_keys"]),
    }.items():
        if keys:
            saved_as = architecture_of(model.config.to_dict())
            kind = f", a {saved_as}," if saved_as not in (None, model_class.__name__) else ""
            raise ValueError(
                f"{name}{kind} is not complete for a {model_class.__name__}: it {problem} "
                f"{', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}. {advice}".rstrip()
            )
    model.config.architectures = [model_class.__name__]  # not the class that the checkpoint was saved from
    if missing and PartialState().is_main_process:
        print(f"new weights: {', '.join(dict.fromkeys(key.rpartition('.')[0] for key in missing))}", flush=True)
    return model


def require_model_type(name: str, config: Mapping[str, Any], model_type: str) -> None:
    """Raise a ValueError unless the model that a run starts from, with this configuration, is of the type."""
    if config.get("model_type") != model_type:
        raise ValueError(
            f"{name} is {describe_model(config)} of the type {config.get('model_type')!r}; this run starts from a "
            f"model of the type {model_type!r}."
        )


def absent_parts(model: PreTrainedModel, missing: Collection[str]) -> list[str]:
    """Names of missing weights, in their order; a module without any of its own weights is named in their place.

    Tied weights are those of another module.
    """
    present = model.state_dict().keys() - model.all_tied_weights_keys.keys() - {*missing}
    parts = []
    for key in missing:
        prefixes = accumulate(key.split("."), "{}.{}".format)
        parts.append(next(part for part in prefixes if not any(f"{name}.".startswith(f"{part}.") for name in present)))
    return list(dict.fromkeys(parts))
