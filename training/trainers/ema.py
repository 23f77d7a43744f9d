"""Exponential moving average of the weights, for evaluation and the final model (method, 11; off in the recipes).

Unusual: the average lives outside the model, is written beside each checkpoint as `ema.safetensors` and read back on
resume, and is swapped in for evaluation, so what is scored is what is saved.
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
        model (`nn.Module`): The model that is trained; its parameters are averaged as they are, in float32.
        decay (`float`): Weight of the past in each update, e.g. 0.9999.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"`ema_decay` must be between 0 and 1, but is {decay}; leave it out for no average.")
        self.decay = decay
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().float().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the model's present weights."""
        weights = [p.float() for p in self.parameters.values()]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside a `with` statement, and its own again after it."""
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
        """Write the average into a checkpoint's folder."""
        with atomic_write(Path(folder) / FILE_NAME) as temporary:
            save_file(self.average, temporary)

    def load(self, folder: str | os.PathLike) -> None:
        """Read the average of a checkpoint; a ValueError if it has none, or one of another model."""
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise ValueError(
                f"{folder} holds no {FILE_NAME}: it was written without `ema_decay`. Resume without it too."
            )
        stored = load_file(path)
        if stored.keys() != self.average.keys():
            raise ValueError(f"{path} averages other parameters than this model trains.")
        for name, tensor in stored.items():
            self.average[name].copy_(tensor)
