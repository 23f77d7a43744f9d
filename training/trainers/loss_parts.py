"""The parts of a loss in the log lines: their means since the last line, over steps and processes."""

import torch
from accelerate import Accelerator


class LossParts:
    """Collects the parts of each micro-batch's loss by name, on the device.

    Args:
        accelerator (`Accelerator`): The accelerator of the trainer.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.losses: dict[str, list[torch.Tensor]] = {}

    def add(self, name: str, loss: torch.Tensor) -> None:
        self.losses.setdefault(name, []).append(loss.detach())

    def collect(self) -> dict[str, float]:
        """The mean of the finite values of each part since the last call; all processes must call it."""
        means = {}
        for name, losses in self.losses.items():
            values = torch.stack(losses).float()
            is_finite = values.isfinite()
            mean = values.where(is_finite, 0.0).sum() / is_finite.sum().clamp(min=1)
            means[name] = self.accelerator.reduce(mean, reduction="mean").item()
        self.losses.clear()
        return means
