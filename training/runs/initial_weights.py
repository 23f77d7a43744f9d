"""The weights that a run starts from: loaded from a checkpoint, or new where the run expects that.

Transformers prints a report for every model with new weights, which a run always has: a head for other classes, the
decoders of a teacher. A run names its new weights in a line, and refuses a checkpoint that lacks any others.
"""

from accelerate import PartialState
from transformers import PreTrainedModel

from ..quiet_loading import quiet_loading


def load_initial_weights(
    model_class: type[PreTrainedModel], name: str | None, new: tuple[str, ...] = (), **kwargs
) -> PreTrainedModel:
    """A model of a run, from a checkpoint; prints which of its weights are new.

    Args:
        model_class: Class of the model.
        name: A folder or a Hub id, or None if `kwargs` contain `config` and `state_dict`.
        new: Prefixes of the names that a checkpoint may lack.
        kwargs: Further arguments of `from_pretrained`.

    Raises:
        ValueError: the checkpoint lacks other weights, has some that the model does not have, or has other shapes.
    """
    with quiet_loading():
        model, report = model_class.from_pretrained(
            name, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    for key, saved, expected in sorted(report["mismatched_keys"]):
        raise ValueError(
            f"{name or 'The checkpoint'} does not fit the model of this run: {key} has the shape {tuple(saved)} and "
            f"would have {tuple(expected)}. Leave out the fields of the model that change its size."
        )
    model.config.architectures = [model_class.__name__]  # not the class that the checkpoint was saved from
    missing = sorted(report["missing_keys"])
    for problem, keys in {
        "lacks": [key for key in missing if not key.startswith(new)],
        "has unknown weights:": sorted(report["unexpected_keys"]),
    }.items():
        if keys:
            raise ValueError(
                f"{name or 'The checkpoint'} is not complete for a {model_class.__name__}: it {problem} "
                f"{', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}."
            )
    if missing and PartialState().is_main_process:
        print(f"new weights: {', '.join(dict.fromkeys(key.rpartition('.')[0] for key in missing))}", flush=True)
    return model
