"""A linear probe of the clips of `umt demo`: how well an encoder's features of a frame predict the position of the
object in it. Fine-tuning needs many labels or good features before it exceeds chance; the probe shows the first
progress, because the class of a clip, its direction, is the change of this position over time.
"""

import numpy as np
import torch

from modeling_umt import UMTModel
from umt_training.demo.data import demo_processor
from umt_training.demo.motion_clips import SIZE, draw_motion_clip, render_motion_clips

RIDGE = 1e-2  # penalty for features of unit variance, relative to the number of frames
BATCH = 100


def position_r2(encoder: UMTModel, training: tuple[int, int], test: tuple[int, int]) -> float:
    """The coefficient of determination of the object's position in test clips, at most 1; 0 is that of the mean.

    A ridge regression from the mean token of a frame in the last layer, with which fine-tuning starts, to the sine and
    cosine of column and row on the torus.

    Args:
        encoder: Encodes all tokens of a clip.
        training, test: Seed and number of the generated clips.
    """
    inputs, targets = frame_features(encoder, *training), frame_positions(*training)
    mean, deviation = inputs.mean(0), inputs.std(0)
    centre = targets.mean(0)
    inputs = (inputs - mean) / deviation
    penalty = RIDGE * len(inputs) * torch.eye(inputs.shape[1])
    weights = torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ (targets - centre))
    predictions = (frame_features(encoder, *test) - mean) / deviation @ weights + centre
    truth = frame_positions(*test)
    return float(1 - (predictions - truth).square().sum() / (centre - truth).square().sum())


@torch.inference_mode()
def frame_features(encoder: UMTModel, seed: int, num_clips: int) -> torch.Tensor:
    """The mean token of every frame of generated clips, (clips * frames, hidden size)."""
    frames, _ = render_motion_clips(seed, num_clips)
    processor = demo_processor(SIZE)
    means = []
    for first in range(0, num_clips, BATCH):
        clips = processor(list(frames[first : first + BATCH]), return_tensors="pt")["pixel_values_videos"]
        tokens = encoder.eval()(clips).last_hidden_state  # (B, N, D)
        means.append(tokens.unflatten(1, (clips.shape[1], -1)).mean(dim=2).flatten(0, 1))
    return torch.cat(means).float()


def frame_positions(seed: int, num_clips: int) -> torch.Tensor:
    """Sine and cosine of the object's column and row in every frame, (clips * frames, 4)."""
    positions = np.concatenate([draw_motion_clip(seed, index).positions for index in range(num_clips)])
    angles = torch.from_numpy(positions * 2 * np.pi / SIZE).float()
    return torch.cat([angles.sin(), angles.cos()], dim=1)
