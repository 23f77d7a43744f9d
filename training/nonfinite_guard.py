"""What happens when a loss is NaN or infinite: the step is skipped and counted, and past a limit the run stops.

Unusual: a skipped step still runs its backward pass, so that processes which reduce gradients together stay in step;
it is the optimiser that is given nothing to do. A parameter without a gradient is left alone by every PyTorch
optimiser, weight decay and momentum included.
"""

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from transformers import TrainerCallback


class NonFiniteLossError(ValueError):
    """Too many optimiser steps had a loss that was NaN or infinite."""


class NonFiniteGuard(TrainerCallback):
    """Skips optimiser steps whose loss is not finite on any process.

    Args:
        accelerator (`Accelerator`): The trainer's own.
        limit (`int`): How many steps may be skipped in a run; one more stops it.
        folder (`str`): Where the batch that stopped the run is saved.
    """

    def __init__(self, accelerator: Accelerator, limit: int, folder: str):
        self.accelerator, self.limit, self.folder = accelerator, limit, Path(folder)
        self.num_skipped = 0
        self.were_finite: list[torch.Tensor] = []  # of the micro-batches since the last log line
        self.micro_batches: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []

    def watch(self, loss: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Remember a micro-batch and its loss; returns the loss to add to the log line, 0 where it is not finite."""
        self.micro_batches.append((loss, inputs))
        self.were_finite.append(loss.isfinite())
        return torch.nan_to_num(loss, nan=0.0, posinf=0.0, neginf=0.0)

    def finite_share(self) -> float:
        """Share of finite losses among the micro-batches of all processes since the last call; every process calls."""
        share = self.accelerator.reduce(torch.stack(self.were_finite).float().mean(), reduction="mean").item()
        self.were_finite.clear()
        return share

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        broken = torch.stack([~loss.isfinite() for loss, _ in self.micro_batches]).any()
        if self.accelerator.reduce(broken.float(), reduction="sum").item() > 0:
            self.num_skipped += 1
            if self.num_skipped > self.limit:
                path = self.save_batches(state.global_step)
                raise NonFiniteLossError(
                    f"{self.num_skipped} optimiser steps had a loss that was NaN or infinite; {self.limit} are "
                    f"allowed (`max_nonfinite_steps`). The batch of step {state.global_step} is saved in {path}. A "
                    "lower learning rate, bf16 instead of fp16 or a longer warm-up are the usual cures; resume from "
                    "the last checkpoint."
                )
            # under fp16 the gradient scaler sees the infinite gradients itself and skips the step
            if self.accelerator.scaler is None:
                optimizer.zero_grad(set_to_none=True)
        self.micro_batches.clear()

    def save_batches(self, step: int) -> Path:
        """Write this process's micro-batches, tensors named `<number>.<input>`, to a safetensors file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"nonfinite-step{step}-process{self.accelerator.process_index}.safetensors"
        tensors = {
            f"{number}.{name}": value.cpu().contiguous()
            for number, (_, inputs) in enumerate(self.micro_batches)
            for name, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }
        save_file(tensors, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)
        return path
