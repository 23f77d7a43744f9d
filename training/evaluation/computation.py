"""The state in which a model is evaluated: evaluation mode, and autocast to the data type of the computation."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts a model in evaluation mode, and afterwards back in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def autocast(model: PreTrainedModel, dtype: torch.dtype | None) -> torch.autocast:
    """Autocast on the model's device; without effect if `dtype` is None."""
    return torch.autocast(model.device.type, dtype, enabled=dtype is not None)


def dtype_name(model: PreTrainedModel, autocast_dtype: torch.dtype | None) -> str:
    """The data type of the computation, such as "float16"."""
    return str(autocast_dtype or model.dtype).removeprefix("torch.")


def require_finite(scores: torch.Tensor, video: str, dtype: str) -> None:
    """Raises a ValueError if scores of a video, computed in a data type (`dtype_name`), are not finite."""
    if not torch.isfinite(scores).all():
        raise ValueError(
            f"{video}: the model's scores are not finite in {dtype}. Evaluate in bfloat16 or float32, or check the "
            "weights."
        )
