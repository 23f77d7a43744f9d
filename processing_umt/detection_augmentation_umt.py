"""Training-time transform of action detection: frames with the boxes of their persons (UMT, arXiv 2303.16058, section
4; the rules are those of the official code).

Steps: resize, random crop, colour shift in HSV, horizontal flip, normalisation, jitter of the boxes. Boxes are
inclusive corners x1, y1, x2, y2 in pixels, float `(boxes, 4)`: a box from x1 to x2 covers x2 - x1 + 1 pixels.

Unusual: a person outside the crop keeps a box without area at its border and its labels, as in the official code; the
crop clamps corners to its size, not to its last pixel, so that a flip may give -1, which the jitter clamps; hue, as in
OpenCV, has 180 steps.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.transforms.v2 import functional as tvF

from .augmentation_umt import as_clip
from .crop_positions_umt import resized_size
from .resize_umt import resize_opencv_bilinear

_HUE_STEPS = 180  # of two degrees
_LARGEST_SHIFTS = (10, 26, 26)  # of hue, saturation and value
# range of the shift of x1, y1, x2, y2, as a fraction of the box's width (x) or height (y)
_JITTER_FROM = torch.tensor([-0.2, -0.1, -0.1, -0.05])
_JITTER_TO = torch.tensor([0.1, 0.05, 0.2, 0.1])


def augment_for_detection(
    frames: torch.Tensor | np.ndarray,
    boxes: torch.Tensor,
    generator: np.random.Generator,
    *,
    image_mean: Sequence[float],
    image_std: Sequence[float],
    size: int = 224,
    short_side: int = 256,
    flip: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Action detection: random crop of the resized frames, colour shift, horizontal flip with probability 0.5, jitter
    of the boxes. Random parameters are the same for all frames of a clip; each box has its own jitter.

    Args:
        frames: uint8, a tensor `(frames, 3, height, width)` or an array `(frames, height, width, 3)` as decoded.
        boxes: float32 `(boxes, 4)`, inclusive corners in pixels of the frames.
        generator: random generator of the sample, see `sample_generator`.
        image_mean, image_std: those of the model's processor, for values from 0 to 1.
        size: side length of the crop in pixels.
        short_side: length of the frames' shorter side in pixels before the crop, at least `size`.
        flip: False where left and right matter.

    Returns:
        float32 `(frames, 3, size, size)`, normalised, and float32 boxes `(boxes, 4)` in pixels of it.

    Raises:
        ValueError: the frames are not uint8 RGB frames of one of the shapes above, or the crop does not fit them.
    """
    if size > short_side:
        raise ValueError(f"A crop of {size} pixels does not fit frames whose shorter side has {short_side} pixels.")
    clip, boxes = resize_with_boxes(as_clip(frames), boxes, short_side)
    clip, boxes = crop_with_boxes(clip, boxes, generator.random(2), size)
    limits = np.array(_LARGEST_SHIFTS)
    clip = shift_colours(clip, *generator.integers(-limits, limits, endpoint=True).tolist())
    if flip and generator.random() < 0.5:
        clip, boxes = flip_with_boxes(clip, boxes)
    clip = tvF.normalize(tvF.to_dtype(clip, torch.float32, scale=True), list(image_mean), list(image_std))
    uniform = torch.from_numpy(generator.random(boxes.shape, dtype=np.float32))
    return clip.contiguous(), jitter_boxes(boxes, uniform, size, size)


def resize_with_boxes(clip: torch.Tensor, boxes: torch.Tensor, short_side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Resizes uint8 frames `(frames, 3, height, width)` to a shorter side of `short_side` pixels, with OpenCV's
    bilinear kernel, and scales their boxes by the same factors, each axis for itself."""
    height, width = clip.shape[-2:]
    new_height, new_width = resized_size(height, width, short_side)
    scale = torch.tensor([new_width / width, new_height / height] * 2)
    if (new_height, new_width) != (height, width):
        clip = resize_opencv_bilinear(clip, new_height, new_width)
    return clip, boxes * scale


def crop_with_boxes(
    clip: torch.Tensor, boxes: torch.Tensor, fractions: np.ndarray, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A square crop of `size` pixels at `fractions` (x, y; from 0 up to 1) of the margin, rounded down. Corners of
    boxes are clamped to 0 and `size`."""
    height, width = clip.shape[-2:]
    left, top = int(fractions[0] * (width - size)), int(fractions[1] * (height - size))
    boxes = (boxes - torch.tensor([left, top, left, top])).clamp(0, size)
    return clip[..., top : top + size, left : left + size], boxes


def flip_with_boxes(clip: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirrors frames `(frames, 3, height, width)` and boxes left to right."""
    x1, y1, x2, y2 = boxes.unbind(1)
    last = clip.shape[-1] - 1
    return tvF.horizontal_flip(clip), torch.stack([last - x2, y1, last - x1, y2], dim=1)


def jitter_boxes(boxes: torch.Tensor, uniform: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Shifts each side of boxes independently: outward by up to 20 % of the width or 10 % of the height, inward by up
    to half of that. The results are in the frame and at least one pixel wide and high.

    Args:
        boxes: inclusive corners `(boxes, 4)`.
        uniform: random numbers from 0 to 1, `(boxes, 4)`, in the order of the corners.
        height, width: size of the frame in pixels.
    """
    sides = (boxes[:, 2:] - boxes[:, :2] + 1).repeat(1, 2)
    moved = boxes + sides * (_JITTER_FROM + (_JITTER_TO - _JITTER_FROM) * uniform)
    last = torch.tensor([width - 1, height - 1], dtype=moved.dtype)
    first_corner = moved[:, :2].clamp(min=0).minimum(last - 1)
    return torch.cat([first_corner, moved[:, 2:].minimum(last).maximum(first_corner + 1)], dim=1)


def shift_colours(clip: torch.Tensor, hue: int, saturation: int, value: int) -> torch.Tensor:
    """Shifts the colours of uint8 frames `(frames, 3, height, width)` in HSV: the hue in steps of two degrees, which
    wraps around, saturation and value in steps of 1/255, which are clamped. HSV is rounded to these steps, as OpenCV's
    is, whose integer arithmetic differs by 0.3 grey levels on average."""
    red, green, blue = rgb = clip.float().unbind(1)
    brightest = torch.stack(rgb).amax(0)
    chroma = brightest - torch.stack(rgb).amin(0)
    divisor = chroma.clamp(min=1)  # a grey pixel has hue 0
    hues = torch.where(
        brightest == red,
        (green - blue) / divisor,
        torch.where(brightest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hues = ((hues * (_HUE_STEPS / 6)).round() + hue) % _HUE_STEPS
    saturations = ((255 * chroma / brightest.clamp(min=1)).round() + saturation).clamp(0, 255)
    values = (brightest + value).clamp(0, 255)
    # each channel is the value, less the chroma where the hue is far from the channel's own
    chroma, sector = values * saturations / 255, hues * (6 / _HUE_STEPS)
    channels = []
    for centre in (5, 3, 1):
        distance = (centre + sector) % 6
        channels.append(values - chroma * distance.minimum(4 - distance).clamp(0, 1))
    return torch.stack(channels, dim=1).round().to(torch.uint8)
