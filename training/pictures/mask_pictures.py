"""Pictures of unmasked teaching: a clip, what a mask leaves of it, and the teacher's attention (arXiv 2303.16058, 3).

Drawn with Pillow, as the confusion matrix is. Unusual: all is a function of tensors, with no model in it, so whoever
has a clip, a mask and an attention has the picture; frames are enlarged by whole factors and never smoothed, so that
a token's border in the picture is its border in the clip.

Shapes: T frames, (H, W) pixels, (R, C) rows and columns of tokens in a frame, S = R * C, M masks, V visible tokens.
"""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .drawing import FAINT, INK, PAPER

DIMMED = 0.2  # brightness that is left of a hidden token
FRAMES_IN_A_ROW = 8
FRAME_HEIGHT = 120  # pixels that a smaller frame is enlarged to, by the nearest whole factor
_HEAT = np.array([(12, 7, 60), (120, 28, 109), (207, 68, 70), (251, 155, 6), (252, 255, 164)])  # from 0 to the most
_HEAT_SHARE = 0.7  # of a pixel under the heat; the rest is the frame in grey
_GAP, _MARGIN = 4, 12  # pixels between frames, around everything


def draw_mask_strip(
    clip: torch.Tensor,
    visible_indices: torch.Tensor,
    cls_attention: torch.Tensor,
    grid: tuple[int, int],
    title: str | None = None,
) -> Image.Image:
    """A picture of a clip in rows: its frames, the same for each mask with hidden tokens dimmed, and the attention.

    Clips of more than eight frames go on below. The heat is by share of the largest attention in the whole clip.

    Args:
        clip: `(T, 3, H, W)`, uint8, or float normalised by ImageNet's statistics.
        visible_indices: int64 `(V,)` or `(M, V)`, tokens that the student sees, frame-major over `(T, R, C)`.
        cls_attention: `(T, S)`, the teacher's `cls_attention` of the clip.
        grid: (R, C), tokens of a frame.
        title: written above.

    Raises:
        ValueError: the shapes do not fit together.
    """
    pixels = clip_pixels(clip)
    masks = visible_indices[None] if visible_indices.ndim == 1 else visible_indices
    hidden = [hidden_tokens(mask, len(pixels), grid) for mask in masks]
    seen = "student sees" if len(masks) == 1 else "mask {}"
    rows = [("clip", pixels)]
    rows += [(seen.format(number), dim_hidden(pixels, mask)) for number, mask in enumerate(hidden, start=1)]
    rows += [("attention", heat_over(pixels, cls_attention, grid))]

    factor = max(1, round(FRAME_HEIGHT / pixels.shape[1]))
    height, width = factor * pixels.shape[1], factor * pixels.shape[2]
    font, title_font = ImageFont.load_default(13), ImageFont.load_default(16)
    left = _MARGIN + max(int(font.getlength(label)) for label, _ in rows) + _MARGIN
    columns = min(len(pixels), FRAMES_IN_A_ROW)
    bands = math.ceil(len(pixels) / FRAMES_IN_A_ROW)
    band = 18 + len(rows) * (height + _GAP) + _MARGIN  # the frames' numbers above it
    top = _MARGIN + (26 if title else 0)
    right = left + columns * (width + _GAP) - _GAP
    caption = f"{int(hidden[0].sum())} of {hidden[0].size} tokens hidden; largest attention "
    foot = f"{caption}{float(cls_attention.max()):.3f}, a token's even share {1 / hidden[0][0].size:.3f}"
    picture_width = max(right, *(_MARGIN + int(font.getlength(foot)) + 140, _title_width(title, title_font))) + _MARGIN
    picture = Image.new("RGB", (picture_width, top + bands * band + 20 + _MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    if title:
        draw.text((_MARGIN, _MARGIN), title, fill=INK, font=title_font)
    for frame in range(len(pixels)):
        x = left + frame % FRAMES_IN_A_ROW * (width + _GAP)
        y = top + frame // FRAMES_IN_A_ROW * band
        draw.text((x + width / 2, y + 8), f"frame {frame + 1}", fill=FAINT, font=font, anchor="mm")
        for row, (_, images) in enumerate(rows):
            place = (x, y + 18 + row * (height + _GAP))
            picture.paste(Image.fromarray(images[frame]).resize((width, height), Image.Resampling.NEAREST), place)
    for number in range(bands):
        for row, (label, _) in enumerate(rows):
            y = top + number * band + 18 + row * (height + _GAP) + height / 2
            draw.text((left - _MARGIN, y), label, fill=INK, font=font, anchor="rm")
    _draw_foot(picture, (_MARGIN, top + bands * band), foot, font)
    return picture


def clip_pixels(clip: torch.Tensor) -> np.ndarray:
    """A clip `(T, 3, H, W)`, uint8 or float normalised by ImageNet's statistics, as uint8 `(T, H, W, 3)`.

    Raises:
        ValueError: another shape.
    """
    if clip.ndim != 4 or clip.shape[1] != 3:
        raise ValueError(f"A clip to draw is (frames, 3, height, width), but its shape is {tuple(clip.shape)}.")
    clip = clip.detach().cpu()
    if clip.is_floating_point():
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        clip = ((clip.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return clip.permute(0, 2, 3, 1).contiguous().numpy()


def hidden_tokens(visible_indices: torch.Tensor, num_frames: int, grid: tuple[int, int]) -> np.ndarray:
    """Which tokens a mask hides, bool `(T, R, C)`, from the visible ones, int64 `(V,)`.

    Raises:
        ValueError: an index beyond the clip's tokens.
    """
    hidden = np.ones(num_frames * grid[0] * grid[1], dtype=bool)
    indices = visible_indices.cpu().numpy()
    if indices.min(initial=0) < 0 or indices.max(initial=0) >= hidden.size:
        raise ValueError(
            f"A mask shows tokens from {indices.min()} to {indices.max()}, but {num_frames} frames of "
            f"{grid[0]} x {grid[1]} tokens have {hidden.size}."
        )
    hidden[indices] = False
    return hidden.reshape(num_frames, *grid)


def dim_hidden(pixels: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Frames uint8 `(T, H, W, 3)` with the tokens of a bool `(T, R, C)` dimmed to a fifth, the others untouched."""
    mask = _to_pixels(hidden, pixels.shape[1:3])[..., None]
    return np.where(mask, (pixels * DIMMED).astype(np.uint8), pixels)


def heat_over(pixels: np.ndarray, cls_attention: torch.Tensor, grid: tuple[int, int]) -> np.ndarray:
    """Frames uint8 `(T, H, W, 3)` in grey under the heat of an attention `(T, S)`, as share of its largest.

    Raises:
        ValueError: the attention is not one of `(T, R * C)` tokens.
    """
    expected = (len(pixels), grid[0] * grid[1])
    if tuple(cls_attention.shape) != expected:
        raise ValueError(
            f"The attention to draw has shape {tuple(cls_attention.shape)}; for {expected[0]} frames of {grid[0]} x "
            f"{grid[1]} tokens it must be {expected}."
        )
    # a clip that is not all numbers gives such an attention
    attention = cls_attention.detach().float().cpu().nan_to_num().numpy().reshape(-1, *grid)
    heat = _heat_colour(_to_pixels(attention / max(attention.max(), 1e-12), pixels.shape[1:3]))
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    return (_HEAT_SHARE * heat + (1 - _HEAT_SHARE) * grey[..., None]).round().astype(np.uint8)


def _to_pixels(tokens: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Values of tokens `(T, R, C)` at every pixel `(T, H, W)`."""
    (rows, columns), (height, width) = tokens.shape[1:], size
    if height % rows or width % columns:
        raise ValueError(
            f"Frames of {height} x {width} pixels do not divide into {rows} x {columns} tokens; give a grid whose "
            "numbers divide them."
        )
    return tokens.repeat(height // rows, axis=1).repeat(width // columns, axis=2)


def _heat_colour(values: np.ndarray) -> np.ndarray:
    """Values from 0 to 1, `(...)`, as colours `(..., 3)`, the larger the brighter."""
    stops = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(values, stops, channel) for channel in _HEAT.T], axis=-1)


def _title_width(title: str | None, font: ImageFont.FreeTypeFont) -> int:
    return _MARGIN + int(font.getlength(title or ""))


def _draw_foot(picture: Image.Image, corner: tuple[int, int], text: str, font: ImageFont.FreeTypeFont) -> None:
    """The scale of the heat, and what is to be said in numbers."""
    left, top = corner
    draw = ImageDraw.Draw(picture)
    bar = _heat_colour(np.linspace(0, 1, 80))[None].repeat(12, axis=0).round().astype(np.uint8)
    draw.text((left, top + 6), "0", fill=INK, font=font, anchor="lm")
    picture.paste(Image.fromarray(bar), (left + 14, top))
    draw.text((left + 100, top + 6), "most", fill=INK, font=font, anchor="lm")
    draw.text((left + 140, top + 6), text, fill=INK, font=font, anchor="lm")
