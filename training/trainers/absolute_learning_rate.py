"""The learning rate of stage 2 and its downstream tasks: independent of the batch size, with a linear warm-up and a
cosine that ends on a floor.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from .optimization import floored_cosine_schedule
from .training_arguments import UMTTrainingArguments


@dataclass
class AbsoluteLearningRateArguments(UMTTrainingArguments):
    """Training arguments of stage 2 and its downstream tasks.

    Args:
        learning_rate: Peak learning rate, for any batch size; the fields `base_...` must not be given.
        learning_rate_floor: Lower bound of the learning rate, as a fraction of the peak, also during the warm-up.
        checkpoint_text: Recompute the text encoder's activations in the backward pass.
    """

    absolute_learning_rate: ClassVar[bool] = True

    ranges: ClassVar[dict[str, str]] = UMTTrainingArguments.ranges | {
        "learning_rate": "(0, inf)",
        "learning_rate_floor": "[0, 1]",
    }

    learning_rate: float = 1e-4
    base_learning_rate: float | None = None
    base_min_learning_rate: float | None = None
    base_warmup_learning_rate: float | None = None
    learning_rate_floor: float = 0.01
    warmup_epochs: float = 1.0
    weight_decay: float = 0.02
    checkpoint_text: bool = False

    def __post_init__(self):
        super().__post_init__()
        for name in ("base_learning_rate", "base_min_learning_rate", "base_warmup_learning_rate"):
            if getattr(self, name) is not None:
                raise ValueError(f"`{name}` was given, but stage 2's learning rate is absolute: give `learning_rate`.")


class AbsoluteLearningRateMixin:
    """The schedule of [`AbsoluteLearningRateArguments`]; a trainer inherits from this class before `UMTTrainer`."""

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

    def describe_learning_rate(self) -> str:
        peak, floor = self.args.learning_rate, self.args.learning_rate_floor
        return f"learning rate {peak:.4g} for any batch size, floor {peak * floor:.4g}"
