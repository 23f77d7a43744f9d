"""Frame-ordered pooling: the means of a clip's frames, side by side in time, under one hidden layer.

Not of the UMT paper, whose classifiers take the mean of all tokens. That mean knows the order of what happens only as
far as the encoder has written it into the tokens; here position over time, which is motion, stays readable for a small
encoder and few labels. The price: a model takes clips of `num_frames` frames and no others.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_umt import UMTConfig


class UMTFramePooling(nn.Module):
    """Frames (batch, T, D), each the norm of its tokens' mean, to one vector each (batch, T * D)."""

    def __init__(self, config: UMTConfig):
        super().__init__()
        self.num_frames = config.num_frames // config.tubelet_size
        self.width = self.num_frames * config.hidden_size  # narrower ones learned more slowly
        self.fc1 = nn.Linear(self.width, self.width)
        self.fc1.fan_in_uniform = True  # `initializer_range` is not for so wide an input
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Raises a ValueError if the frames are not as many as the model is made for."""
        if frames.shape[1] != self.num_frames:
            raise ValueError(
                f'The clip has {frames.shape[1]} frames of tokens, but `pooling="frames"` was made for '
                f"{self.num_frames}; give clips of `num_frames` frames, or use another pooling."
            )
        return self.activation(self.fc1(frames.flatten(1)))
