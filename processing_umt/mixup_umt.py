"""Mixup, CutMix and label smoothing: the batch augmentation of fine-tuning in UMT (arXiv 2303.16058).

Sample i of a batch of size B is mixed with sample B - 1 - i, with one coefficient for the batch: the clips are blended
(Mixup, arXiv 1710.09412), or a box of the partner is pasted into every frame (CutMix, arXiv 1905.04899). Sampling the
parameters (`draw_mix`) is separate from applying them, which is plain tensor arithmetic on any device. The loss is
`torch.nn.functional.cross_entropy`, which accepts soft targets.
"""

from typing import NamedTuple

import numpy as np
import torch


class Mix(NamedTuple):
    """Parameters of a mix: `lam` is the weight of the sample itself in its target, `1 - lam` that of its partner.

    `box` is None for Mixup; for CutMix it is the region taken from the partner, (top, left, height, width) in pixels.
    """

    lam: float
    box: tuple[int, int, int, int] | None = None


def draw_mix(
    generator: np.random.Generator,
    height: int,
    width: int,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
) -> Mix:
    """Samples Mixup or CutMix, each with probability 0.5, and its coefficient from Beta(alpha, alpha).

    Args:
        generator: random generator of the batch.
        height, width: size of the frames in pixels.
        mixup_alpha, cutmix_alpha: the defaults are those of every published recipe. If one is 0, the other method is
            always used; if both are 0, nothing is mixed (`lam` is 1).

    Raises:
        ValueError: a negative alpha.
    """
    if mixup_alpha < 0 or cutmix_alpha < 0:
        raise ValueError(
            f"mixup_alpha is {mixup_alpha} and cutmix_alpha {cutmix_alpha}; both must be 0 (off) or positive."
        )
    if mixup_alpha == 0 and cutmix_alpha == 0:
        return Mix(lam=1.0)
    if cutmix_alpha == 0 or (mixup_alpha > 0 and generator.random() >= 0.5):
        return Mix(lam=float(generator.beta(mixup_alpha, mixup_alpha)))
    lam = float(generator.beta(cutmix_alpha, cutmix_alpha))
    return cutmix_box(height, width, lam, int(generator.integers(height)), int(generator.integers(width)))


def cutmix_box(height: int, width: int, lam: float, center_y: int, center_x: int) -> Mix:
    """The CutMix whose box covers about `1 - lam` of the frame around a centre pixel.

    The box has the frame's aspect ratio and is clipped to the frame; `lam` of the result is the fraction of the frame
    outside the clipped box.
    """
    side = (1.0 - lam) ** 0.5
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    top, bottom = max(center_y - half_height, 0), min(center_y + half_height, height)
    left, right = max(center_x - half_width, 0), min(center_x + half_width, width)
    box = (top, left, bottom - top, right - left)
    return Mix(lam=1.0 - box[2] * box[3] / (height * width), box=box)


def mix_batch(
    clips: torch.Tensor, labels: torch.Tensor, num_labels: int, mix: Mix, label_smoothing: float = 0.1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixes a batch with itself reversed. In a batch of odd size the middle clip is its own partner.

    Args:
        clips: float `(batch, frames, channels, height, width)`, normalised or not.
        labels: int64 `(batch,)`.
        num_labels: number of classes.
        mix: parameters from `draw_mix` for this batch.
        label_smoothing: see `smooth_targets`.

    Returns:
        The mixed clips, a new tensor of the same shape and dtype, and soft targets, float32 `(batch, num_labels)`.
    """
    return (
        mix_clips(clips, clips.flip(0), mix),
        mix_targets(labels, labels.flip(0), num_labels, mix.lam, label_smoothing),
    )


def mix_clips(clips: torch.Tensor, partners: torch.Tensor, mix: Mix) -> torch.Tensor:
    """Mixes `clips` with `partners`, both float `(batch, ..., height, width)`, into a new tensor.

    Raises:
        ValueError: the clips are integers, so that blending would truncate them.
    """
    if not clips.is_floating_point():
        raise ValueError(f"Clips to mix are {clips.dtype}; normalise them to a floating-point tensor first.")
    if mix.box is None:
        return clips * mix.lam + partners * (1.0 - mix.lam)
    top, left, height, width = mix.box
    mixed = clips.clone()
    mixed[..., top : top + height, left : left + width] = partners[..., top : top + height, left : left + width]
    return mixed


def mix_targets(
    labels: torch.Tensor, partner_labels: torch.Tensor, num_labels: int, lam: float, label_smoothing: float = 0.1
) -> torch.Tensor:
    """Soft targets, float32 `(batch, num_labels)`, from int64 labels `(batch,)` weighted by `lam` and partner labels
    weighted by `1 - lam`, both smoothed by `smooth_targets`."""
    own = smooth_targets(labels, num_labels, label_smoothing)
    partner = smooth_targets(partner_labels, num_labels, label_smoothing)
    return own * lam + partner * (1.0 - lam)


def smooth_targets(labels: torch.Tensor, num_labels: int, label_smoothing: float = 0.1) -> torch.Tensor:
    """Smoothed targets, float32 `(batch, num_labels)`: `label_smoothing / num_labels` for every class, plus
    `1 - label_smoothing` for the label. A label outside `0 .. num_labels - 1` raises PyTorch's index error."""
    off_value = label_smoothing / num_labels
    targets = torch.full((len(labels), num_labels), off_value, dtype=torch.float32, device=labels.device)
    return targets.scatter_(1, labels.unsqueeze(1), 1.0 - label_smoothing + off_value)
