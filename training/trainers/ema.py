"""Exponential moving average of the weights, for evaluation and the final model; not used by the published recipes.

The average is kept outside the model. It is saved in each checkpoint as `ema.safetensors`, loaded when a run resumes,
and replaces the weights during evaluation, so that the scores are those of the saved model.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..atomic_files import atomic_write

FILE_NAME = "ema.safetensors"


class WeightAverage:
    """The moving average of a model's trainable parameters.

    Args:
        model (`nn.Module`): The model; its trainable parameters are averaged in float32.
        decay (`float`): Weight of the old average in each update, e.g. 0.9999.

    Raises:
        ValueError: if `decay` is not between 0 and 1.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"`ema_decay` must be between 0 and 1, but is {decay}; leave it out for no average.")
        self.decay = decay
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().float().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current weights of the model."""
        weights = [p.float() for p in self.parameters.values()]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context manager in which the model has the averaged weights."""
        own = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.copy_to_model(self.average)
        try:
            yield
        finally:
            self.copy_to_model(own)

    @torch.no_grad()
    def copy_to_model(self, weights: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])

    def save(self, folder: str | os.PathLike) -> None:
        """Save the average to the folder of a checkpoint."""
        with atomic_write(Path(folder) / FILE_NAME) as temporary:
            save_file(self.average, temporary)

    def load(self, folder: str | os.PathLike) -> None:
        """Load the average from the folder of a checkpoint.

        Raises:
            ValueError: if the folder contains no average, or the average of other parameters.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise ValueError(
                f"{folder} contains no {FILE_NAME}: it was saved without `ema_decay`. Resume without `ema_decay` too."
            )
        stored = load_file(path)
        if stored.keys() != self.average.keys():
            raise ValueError(f"{path} averages other parameters than the trainable parameters of this model.")
        for name, tensor in stored.items():
            self.average[name].copy_(tensor)
