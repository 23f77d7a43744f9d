"""The training arguments of UMT's recipes: Transformers' own, with the fields of the recipes, in checked ranges.

Arguments that the trainers would ignore are refused. Those whose defaults in Transformers are in use there, such as
`learning_rate`, are None by default, as a given value could not be distinguished from the default.
"""

import os
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import SchedulerType

from ..processes import require_joined
from .argument_ranges import require_ranges


@dataclass
class UMTTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the fields of UMT's recipes. Learning rates named `base_...` are for 256 clips a step.

    Args:
        base_learning_rate: Peak learning rate for 256 clips a step, scaled by the effective batch of the run.
        base_min_learning_rate: Final learning rate of the cosine, scaled likewise.
        base_warmup_learning_rate: Initial learning rate of the linear warm-up, scaled likewise.
        warmup_epochs: Length of the warm-up, in epochs of `num_train_epochs`; `warmup_steps` takes precedence.
        layer_decay: Factor of the learning rate from each layer to the one before it; 1 for the same learning rate
            in all layers.
        max_nonfinite_steps: Number of optimiser steps with a NaN or infinite loss or gradient that a run may skip
            before it stops.
        max_broken_share: Fraction of failed attempts to read a video above which the run stops.
    """

    # stage 2 and its downstream tasks set `learning_rate` itself
    absolute_learning_rate: ClassVar[bool] = False
    # classification smooths its targets
    smooths_labels: ClassVar[bool] = False
    ranges: ClassVar[dict[str, str]] = {
        "base_learning_rate": "(0, inf)",
        "base_min_learning_rate": "[0, inf)",
        "base_warmup_learning_rate": "[0, inf)",
        "warmup_epochs": "[0, inf)",
        "warmup_steps": "[0, inf)",
        "layer_decay": "(0, 1]",
        "max_nonfinite_steps": "[0, inf)",
        "max_broken_share": "[0, 1]",
        "num_train_epochs": "(0, inf)",
        "per_device_train_batch_size": "[1, inf)",
        "per_device_eval_batch_size": "[1, inf)",
        "gradient_accumulation_steps": "[1, inf)",
        "dataloader_num_workers": "[0, inf)",
        "weight_decay": "[0, inf)",
        "max_grad_norm": "[0, inf)",
        "adam_beta1": "[0, 1)",
        "adam_beta2": "[0, 1)",
        "adam_epsilon": "(0, inf)",
    }

    base_learning_rate: float = 1.5e-4
    base_min_learning_rate: float = 1e-5
    base_warmup_learning_rate: float = 0.0
    warmup_epochs: float = 0.0
    layer_decay: float = 1.0
    max_nonfinite_steps: int = 20
    max_broken_share: float = 0.1

    # must not be given
    learning_rate: float | None = None
    lr_scheduler_type: str | None = None

    # the recipes' values where they differ from Transformers' own
    weight_decay: float = 0.05
    max_grad_norm: float = 0.0
    remove_unused_columns: bool = False
    logging_nan_inf_filter: bool = False  # done by `NonFiniteGuard`, without waiting for the device
    ddp_find_unused_parameters: bool | None = False  # every parameter of a UMT model gets a gradient in every step

    # number of views of each clip in the effective batch (repeated augmentation, several masks)
    views_per_clip: int = field(default=1, init=False)

    def __post_init__(self):
        # Use the CPU if the machine lacks an accelerator. By default, Trainer refuses bf16 there, and the processes of
        # a launcher would each train alone.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        require_ranges(self, self.ranges)
        self.refuse_unused()
        self.lr_scheduler_type = SchedulerType.COSINE  # the trainers' own
        # compile identical blocks once; read by accelerate if `torch_compile` is set
        os.environ.setdefault("ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION", "true")
        super().__post_init__()
        require_joined(self.world_size)
        available = [*get_available_reporting_integrations(), "flyte"]  # which Transformers' list lacks
        missing = [name for name in self.report_to if name not in available]
        if missing:
            raise ValueError(
                f"`report_to` names {', '.join(missing)}, which is not installed or does not exist; install it, or "
                "give `report_to` none."
            )
        # pinning has no use without an accelerator, and PyTorch would warn about it in every epoch
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.device.type != "cpu"
        # a blocking copy would wait for all work that is queued on the device
        self.accelerator_config.non_blocking = self.dataloader_pin_memory

    def refuse_unused(self) -> None:
        """Raise a ValueError for an argument of `TrainingArguments` that the trainers would ignore."""
        schedule = "the schedule is the recipes' cosine: set `warmup_epochs` and the learning rates at its ends"
        unused = {
            "lr_scheduler_type": (None, schedule),
            "lr_scheduler_kwargs": (None, schedule),
            "optim_target_modules": (None, "the parameter groups are those of the recipes"),
            "remove_unused_columns": (False, "the columns of a batch are not arguments of the model"),
            "auto_find_batch_size": (False, "the learning rate follows from the batch, which it would change"),
        }
        if not self.absolute_learning_rate:
            unused["learning_rate"] = (
                None,
                "the learning rate follows from the batch: set `base_learning_rate`, which is for 256 clips a step",
            )
        if not self.smooths_labels:
            unused["label_smoothing_factor"] = (0.0, "only classification smooths its targets")
        for name, (expected, reason) in unused.items():
            value = getattr(self, name)
            if value != expected:
                raise ValueError(f"`{name}` {value!r} was given, but {reason}.")

    @property
    def effective_batch_size(self) -> int:
        """Clips per optimiser step: processes x batch x accumulation x views per clip."""
        return self.world_size * self.train_batch_size * self.gradient_accumulation_steps * self.views_per_clip
