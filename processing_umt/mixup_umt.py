"""Mixup, CutMix and smoothed targets: the batch augmentation with which UMT (arXiv 2303.16058) is fine-tuned.

Every clip of a batch is mixed with the clip at the mirrored place, sample i with sample B - 1 - i, all with one
coefficient: blended as a whole (Mixup, arXiv 1710.09412), or with a box of the partner pasted into every frame
(CutMix, arXiv 1905.04899). What is drawn (`draw_mix`) is apart from what is done with it, so that the latter is plain
tensor arithmetic on any device. The loss is `torch.nn.functional.cross_entropy`, which takes soft targets.
"""

from typing import NamedTuple

import numpy as np
import torch


class Mix(NamedTuple):
    """How a batch is mixed: `lam` is the share of the sample itself in its target, `1 - lam` its partner's.

    `box` is None for Mixup; for CutMix (top, left, height, width) in pixels, what comes from the partner.
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
    """Draws Mixup or CutMix, each half of the time, and its coefficient from Beta(alpha, alpha).

    Args:
        generator: the only source of randomness.
        height, width: of the frames, in pixels.
        mixup_alpha, cutmix_alpha: the defaults are those of every published recipe. With one at 0 the other is always
            used; with both at 0 nothing is mixed (`lam` is 1).

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

    The box has the frame's aspect. What of it lies outside the frame is cut off, and `lam` becomes the share of the
    frame that the box really leaves.
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
        clips: float `(batch, frames, channels, height, width)`; normalised or not makes no difference.
        labels: int64 `(batch,)`.
        num_labels: number of classes.
        mix: what `draw_mix` drew for this batch.
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
        ValueError: the clips are integers, whose blend would be rounded off.
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
    """Soft targets, float32 `(batch, num_labels)`, of two int64 labels `(batch,)`: `lam` of the one, the rest of the
    other, both smoothed as `smooth_targets` does."""
    own = smooth_targets(labels, num_labels, label_smoothing)
    partner = smooth_targets(partner_labels, num_labels, label_smoothing)
    return own * lam + partner * (1.0 - lam)


def smooth_targets(labels: torch.Tensor, num_labels: int, label_smoothing: float = 0.1) -> torch.Tensor:
    """Float32 `(batch, num_labels)`: `label_smoothing / num_labels` everywhere, and `1 - label_smoothing` on top of it
    at the label. A label outside `0 .. num_labels - 1` is PyTorch's own index error."""
    off_value = label_smoothing / num_labels
    targets = torch.full((len(labels), num_labels), off_value, dtype=torch.float32, device=labels.device)
    return targets.scatter_(1, labels.unsqueeze(1), 1.0 - label_smoothing + off_value)
