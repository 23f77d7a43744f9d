"""Keyword arguments of a forward pass: those that its documentation names, and no others.

Transformers passes unknown keywords down to the attention function, where `is_causal=True`, say, would change the
logits, and a misspelt mask would be ignored. Here both are errors.
"""

import functools
import inspect
from collections.abc import Callable

# what Transformers' decorators read, in every model
OUTPUT_OPTIONS = ("output_hidden_states", "output_attentions", "return_dict")


def only_documented_keywords(method: Callable) -> Callable:
    """Decorator of a method with `**kwargs`: refuse what is neither one of its parameters nor an output option.

    Keywords that are None count as not given: PEFT passes `input_ids=None` and others to every model.

    Raises:
        TypeError: by the decorated method, if an unknown keyword has a value.
    """
    _, *parameters = inspect.signature(method).parameters.values()  # without `self`
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]

    @functools.wraps(method)
    def wrapper(self, *args, **kwargs):
        kwargs = {name: value for name, value in kwargs.items() if value is not None or name in names}
        for name in kwargs:
            if name not in names and name not in OUTPUT_OPTIONS:
                raise TypeError(
                    f"{type(self).__name__}.{method.__name__}() got the unknown argument `{name}`; it takes "
                    f"{', '.join(f'`{known}`' for known in (*names, *OUTPUT_OPTIONS))}."
                )
        return method(self, *args, **kwargs)

    return wrapper


__all__ = ["only_documented_keywords"]
