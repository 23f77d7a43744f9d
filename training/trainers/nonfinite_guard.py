"""Handling of NaN and infinite losses and gradients: the step is skipped and counted; the run stops above a limit.

Unusual:
- A skipped step still runs its backward pass, so that processes which reduce gradients together stay synchronised;
  only the optimiser skips it.
- The host does not wait for the loss. A fused optimiser receives the flag on the device and skips by itself; the host
  reads the flag a step later, when it has been copied. For other optimisers the gradients are set to None: a PyTorch
  optimiser leaves a parameter without a gradient unchanged, including weight decay and momentum.
"""

from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from ..atomic_files import atomic_write
from .delayed_value import DelayedValue


class NonFiniteLossError(ValueError):
    """Too many optimiser steps had a loss or a gradient that was NaN or infinite."""


class NonFiniteGuard(TrainerCallback):
    """Skips optimiser steps with a non-finite loss on any process, or with a non-finite gradient.

    Args:
        accelerator (`Accelerator`): The accelerator of the trainer.
        limit (`int`): Number of steps that a run may skip.
        folder (`str`): Folder in which the batch that stopped the run is saved.
    """

    def __init__(self, accelerator: Accelerator, limit: int, folder: str):
        self.accelerator, self.limit, self.folder = accelerator, limit, Path(folder)
        self.num_skipped, self.first_step = 0, 0
        self.grad_norm: torch.Tensor | float = 0.0  # of the next step, over all processes; set by the trainer
        self.were_finite: list[torch.Tensor] = []  # flags of the micro-batches since the last log line
        self.micro_batches: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []
        self.lag = 1 if accelerator.device.type == "cuda" else 0  # steps until the host reads a flag
        self.pending: list[FlaggedStep] = []

    def record(self, loss: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Keep a micro-batch and its loss; return the loss to add to the log line, 0 if it is not finite."""
        self.micro_batches.append((loss, inputs))
        self.were_finite.append(loss.isfinite())
        return torch.nan_to_num(loss, nan=0.0, posinf=0.0, neginf=0.0)

    def finite_fraction(self) -> float:
        """Fraction of finite losses of all processes since the last call; all processes must call it."""
        fraction = self.accelerator.reduce(torch.stack(self.were_finite).float().mean(), reduction="mean").item()
        self.were_finite.clear()
        return fraction

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        flags = torch.stack([~loss.isfinite() for loss, _ in self.micro_batches])
        broken = self.accelerator.reduce(flags.any().float(), reduction="sum").clamp(max=1)  # of all processes
        if self.accelerator.scaler is None:
            # a finite loss may have a non-finite gradient, which would spoil weights and checkpoints
            norm = self.grad_norm.full_tensor() if isinstance(self.grad_norm, DTensor) else self.grad_norm
            broken = torch.maximum(broken, (~torch.as_tensor(norm, device=broken.device).isfinite()).float())
        self.pending.append(FlaggedStep(broken, state.global_step, self.micro_batches))
        self.micro_batches = []
        # under fp16 the gradient scaler detects infinite gradients and skips the step
        if self.accelerator.scaler is None:
            torch_optimizer = getattr(optimizer, "optimizer", optimizer)
            if torch_optimizer.defaults.get("fused") and not self.accelerator.is_fsdp2:
                torch_optimizer.found_inf = broken
            elif broken.item() > 0:
                optimizer.zero_grad(set_to_none=True)
        self.flush(self.lag)

    def on_train_begin(self, args, state, control, **kwargs):
        self.first_step = state.global_step

    def on_train_end(self, args, state, control, **kwargs):
        self.flush()
        num_steps = state.global_step - self.first_step
        if self.num_skipped and self.num_skipped == num_steps:
            raise NonFiniteLossError(
                f"All {num_steps} optimiser steps had a loss or a gradient that was NaN or infinite, so nothing was "
                "learned and no model is saved. Check the videos and reduce the learning rate."
            )

    def flush(self, lag: int = 0) -> None:
        """Read the flags of all pending steps but the last `lag`, and count the skipped steps.

        Raises:
            NonFiniteLossError: if the number of skipped steps exceeds the limit.
        """
        while len(self.pending) > lag:
            flagged = self.pending.pop(0)
            if not flagged.was_skipped():
                continue
            self.num_skipped += 1
            if self.num_skipped > self.limit:
                path = self.save_batches(flagged)
                raise NonFiniteLossError(
                    f"{self.num_skipped} optimiser steps had a loss or a gradient that was NaN or infinite; "
                    f"{self.limit} are allowed (`max_nonfinite_steps`). The batch of step {flagged.step} is saved in "
                    f"{path}. Usual remedies are a lower learning rate, bf16 instead of fp16, or a longer warm-up; "
                    "resume from the last checkpoint."
                )

    def save_batches(self, flagged: "FlaggedStep") -> Path:
        """Save this process's micro-batches to a safetensors file, with tensors named `<index>.<input>`."""
        process = self.accelerator.process_index
        path = self.folder / f"nonfinite-step{flagged.step}-process{process}.safetensors"
        tensors = {
            f"{index}.{name}": value.cpu().contiguous()
            for index, (_, inputs) in enumerate(flagged.micro_batches)
            for name, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }
        with atomic_write(path) as temporary:
            save_file(tensors, temporary)
        return path


class FlaggedStep:
    """An optimiser step and its flag.

    Args:
        flag (`torch.Tensor`): 1 if the step was skipped, a scalar on the device.
        step (`int`): Number of optimiser steps before it.
        micro_batches: The losses and inputs of the step.
    """

    def __init__(self, flag: torch.Tensor, step: int, micro_batches: list[tuple[torch.Tensor, dict]]):
        self.step, self.micro_batches, self.flag = step, micro_batches, DelayedValue(flag)

    def was_skipped(self) -> bool:
        return self.flag.read() > 0
