"""Keyword arguments of a forward pass: those that its documentation names, and no others.

Transformers passes unknown keywords down to the attention function, where `is_causal=True`, say, changes the logits.
Here nothing unknown gets that far. What asks for something that the model does not do, and what looks like a misspelt
argument, is an error; other entries of a batch, such as the index of a video, are left out with a warning.
"""

import difflib
import functools
import inspect
from collections.abc import Callable

from transformers.utils import TransformersKwargs, is_torchdynamo_compiling, logging

logger = logging.get_logger(__name__)

# what Transformers' decorators read, in every model
OUTPUT_OPTIONS = ("output_hidden_states", "output_attentions", "return_dict")
# inputs and options of some model or attention function; ignoring them would give another result than asked for
MEANINGFUL = {
    *TransformersKwargs.__annotations__,
    *("bool_masked_pos", "visible_indices", "token_selector", "target_indices", "target_features"),
    *("target_final", "target_second"),
    *("interpolate_pos_encoding", "encoder_hidden_states"),
    *("input_ids", "inputs_embeds", "attention_mask", "head_mask", "pixel_values", "pixel_values_videos"),
    *("dropout", "scaling", "sliding_window", "softcap", "position_bias", "past_key_values", "cache"),
}


def only_documented_keywords(method: Callable) -> Callable:
    """Decorator of a method with `**kwargs`, which then gets its own parameters and the output options alone.

    Keywords that are None count as not given: PEFT passes `input_ids=None` and others to every model. `use_cache`,
    which Transformers sets from the configuration, is ignored.

    Raises:
        TypeError: by the decorated method, if an unknown keyword with a value has a meaning to some model, or
            almost the name of a known one.
    """
    _, *parameters = inspect.signature(method).parameters.values()  # without `self`
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    known = (*names, *OUTPUT_OPTIONS)

    @functools.wraps(method)
    def wrapper(self, *args, **kwargs):
        kwargs = {name: value for name, value in kwargs.items() if value is not None or name in names}
        for name in [name for name in kwargs if name not in known]:
            kwargs.pop(name)
            if name != "use_cache":
                report_unknown(f"{type(self).__name__}.{method.__name__}()", name, known)
        return method(self, *args, **kwargs)

    return wrapper


def report_unknown(method: str, name: str, known: tuple[str, ...]) -> None:
    """A TypeError about an unknown keyword, or a warning if it can be left out."""
    if name in MEANINGFUL or difflib.get_close_matches(name, (*known, *MEANINGFUL), cutoff=0.8):
        listed = ", ".join(f"`{other}`" for other in known)
        raise TypeError(f"{method} got the unknown argument `{name}`; it takes {listed}.")
    if not is_torchdynamo_compiling():
        logger.warning_once(f"{method} ignores the unknown argument `{name}`.")


__all__ = ["only_documented_keywords"]
