"""The learning rate of stage 2 and of what is fine-tuned from it (method, 17; recipes, 6 and 7): given as it is,
whatever the batch, with a linear warm-up and a cosine that ends on a floor.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from .base_trainer import UMTTrainingArguments
from .optimization import floored_cosine_schedule


@dataclass
class AbsoluteLearningRateArguments(UMTTrainingArguments):
    """Arguments that these runs share.

    Args:
        learning_rate: Peak rate, whatever the batch; the fields `base_...` are not used.
        learning_rate_floor: Smallest share of the peak, in the warm-up too.
        checkpoint_text: Recompute the text encoder's activations in the backward pass.
    """

    absolute_learning_rate: ClassVar[bool] = True

    learning_rate: float = 1e-4
    learning_rate_floor: float = 0.01
    warmup_epochs: float = 1.0
    weight_decay: float = 0.02
    checkpoint_text: bool = False

    def __post_init__(self):
        super().__post_init__()
        for name in ("base_learning_rate", "base_min_learning_rate", "base_warmup_learning_rate"):
            if getattr(self, name) != getattr(UMTTrainingArguments, name):
                raise ValueError(f"`{name}` was given, but stage 2's rate is absolute: give `learning_rate`.")


class AbsoluteLearningRateMixin:
    """The schedule, for a class that inherits from this one and from `UMTTrainer`, in this order."""

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.lr_scheduler is None:
            self.lr_scheduler = floored_cosine_schedule(
                self.optimizer if optimizer is None else optimizer,
                total_steps=num_training_steps,
                warmup_steps=self.num_warmup_steps(num_training_steps),
                floor=self.args.learning_rate_floor,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def describe_rate(self) -> str:
        rate, floor = self.args.learning_rate, self.args.learning_rate_floor
        return f"learning rate: {rate:.4g}, whatever the batch, down to {floor:g} of it"
