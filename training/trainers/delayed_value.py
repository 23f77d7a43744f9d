"""A number on the device that the host reads a step later, without waiting for the device."""

import torch


class DelayedValue:
    """A scalar that is copied to the host asynchronously; [`read`] waits for the copy, not for later work.

    Args:
        value (`torch.Tensor`): A scalar on any device.
    """

    def __init__(self, value: torch.Tensor):
        self.copied = None
        self.value = value.to("cpu", non_blocking=True)
        if value.is_cuda:
            self.copied = torch.cuda.Event()
            self.copied.record()

    def read(self) -> float:
        if self.copied is not None:
            self.copied.synchronize()
        return self.value.item()
