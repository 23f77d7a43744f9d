"""The current epoch of a data set, in shared memory."""

import torch


class SharedEpoch:
    """Mixin of data sets whose samples depend on the epoch. Workers that persist across epochs see it change."""

    def __init__(self):
        super().__init__()
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Starts an epoch; called by accelerate's data loaders, or by a custom training loop."""
        self._epoch.fill_(epoch)
