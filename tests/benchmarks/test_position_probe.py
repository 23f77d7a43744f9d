"""The linear probe for the position of the object in generated clips."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.position_probe import frame_positions, position_r2
from umt_training.demo.motion_clips import DIRECTIONS, NUM_FRAMES, SIZE, draw_motion_clip

TRAINING, TEST = (5, 96), (6, 32)  # seeds and numbers of clips


class Encoder(nn.Module):
    """Returns given features of every frame at each of two tokens, and noise that cancels in their mean."""

    def __init__(self, features: dict[tuple[int, int], torch.Tensor]):
        super().__init__()
        self.waiting = list(features.values())

    def forward(self, clips: torch.Tensor) -> SimpleNamespace:
        frames = self.waiting.pop(0).unflatten(0, (len(clips), -1))  # (B, T, D)
        noise = 10 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
        return SimpleNamespace(last_hidden_state=torch.stack([frames + noise, frames - noise], 2).flatten(1, 2))


def probe(features_of) -> float:
    return position_r2(Encoder({split: features_of(*split) for split in (TRAINING, TEST)}), TRAINING, TEST)


def test_the_probe_reads_a_linear_function_of_the_position():
    mixing = torch.randn(4, 12, generator=torch.Generator().manual_seed(1))
    assert probe(lambda *split: 3 + frame_positions(*split) @ mixing) > 0.99


def test_the_probe_reads_half_of_the_position_from_the_column_alone():
    assert probe(lambda *split: frame_positions(*split)[:, [0, 2]]) == pytest.approx(0.5, abs=0.03)


def test_the_probe_reads_nothing_from_features_of_other_clips():
    def noise(seed: int, num_clips: int) -> torch.Tensor:
        return torch.randn(num_clips * NUM_FRAMES, 4, generator=torch.Generator().manual_seed(seed))

    assert abs(probe(noise)) < 0.05


def test_positions_differ_by_the_speed_of_the_object():
    sine, cosine = frame_positions(0, len(DIRECTIONS)).unflatten(0, (-1, NUM_FRAMES)).unflatten(-1, (2, 2)).unbind(2)
    moved = torch.atan2(sine, cosine).diff(dim=1) * SIZE / (2 * torch.pi)
    moved = (moved + SIZE / 2) % SIZE - SIZE / 2
    speeds = torch.tensor([draw_motion_clip(0, index).speed for index in range(len(DIRECTIONS))])
    assert torch.allclose(moved.norm(dim=-1), speeds[:, None].expand(-1, NUM_FRAMES - 1).float(), atol=1e-3)
