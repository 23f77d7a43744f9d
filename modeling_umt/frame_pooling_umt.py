"""Frame-ordered pooling: the means of a clip's frames, side by side in time, and an MLP over them.

Not of the UMT paper, whose classifiers take the mean of all tokens. That mean hardly keeps the order of what happens,
unless an encoder of some size has written it into every token; here position over time, which is motion, stays
readable for a small encoder and few labels. The price: a model takes clips of `num_frames` frames and no others.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_umt import UMTConfig


class UMTFramePooling(nn.Module):
    """Tokens (batch, tokens, hidden_size), frame-major, to one vector each (batch, hidden_size)."""

    def __init__(self, config: UMTConfig):
        super().__init__()
        self.num_frames = config.num_frames // config.tubelet_size
        width = config.hidden_size
        self.norm = nn.LayerNorm(self.num_frames * width, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(self.num_frames * width, 2 * width)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(2 * width, width)
        for layer in (self.fc1, self.fc2):
            layer.fan_in_uniform = True  # `initializer_range` is not for so wide an input

    def forward(self, tokens: torch.Tensor, num_frames: int) -> torch.Tensor:
        """`num_frames`: frames of tokens in the clip.

        Raises:
            ValueError: if they are not as many as the model is made for.
        """
        if num_frames != self.num_frames:
            raise ValueError(
                f'The clip has {num_frames} frames of tokens, but `pooling="frames"` was made for {self.num_frames}; '
                "give clips of `num_frames` frames, or use another pooling."
            )
        frames = tokens.unflatten(1, (num_frames, -1)).mean(dim=2)  # (batch, frames, hidden_size)
        return self.fc2(self.activation(self.fc1(self.norm(frames.flatten(1)))))
