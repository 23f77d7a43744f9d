"""Pictures of a clip, its masks and what selects the visible tokens: the teacher's attention (arXiv 2303.16058,
section 3) or motion (arXiv 2211.10636, section 4.1). They are drawn with Pillow.

All functions take tensors and no model. Frames are enlarged by integer factors without interpolation, so that the
borders of tokens stay exact.

Shapes: T frames, (H, W) pixels, T' time steps of T / T' frames each, (R, C) rows and columns of tokens in a step,
S = R * C, M masks, V visible tokens.
"""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .drawing import FAINT, INK, PAPER

DIMMED = 0.2  # factor of the brightness of a hidden token
FRAMES_IN_A_ROW = 8
FRAME_HEIGHT = 120  # smaller frames are enlarged to about this height in pixels, by an integer factor
_HEAT = np.array([(12, 7, 60), (120, 28, 109), (207, 68, 70), (251, 155, 6), (252, 255, 164)])  # from 0 to the maximum
_HEAT_OPACITY = 0.7  # of the heat map over the grey frame
_GAP, _MARGIN = 4, 12  # pixels between frames, and around the picture


def draw_mask_strip(
    clip: torch.Tensor,
    visible_indices: torch.Tensor,
    scores: torch.Tensor,
    grid: tuple[int, int],
    title: str | None = None,
    scores_name: str = "attention",
) -> Image.Image:
    """Draw a clip in rows: its frames, the frames with hidden tokens dimmed for each mask, and the scores of tokens.

    Clips of more than eight frames continue below. The scores are relative to their maximum over the clip.

    Args:
        clip: `(T, 3, H, W)`, uint8, or float normalised by ImageNet's statistics.
        visible_indices: int64 `(V,)` or `(M, V)`, the visible tokens, ordered by step, row and column.
        scores: `(T', S)`, the teacher's `cls_attention` of the clip, or the importance of tokens by motion.
        grid: (R, C), rows and columns of tokens in a step.
        title (*optional*): Title of the picture.
        scores_name (defaults to `"attention"`): What the scores are, `"attention"` or `"motion"`.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    pixels = clip_pixels(clip)
    masks = visible_indices[None] if visible_indices.ndim == 1 else visible_indices
    hidden = [hidden_tokens(mask, len(scores), grid) for mask in masks]
    label = "visible" if len(masks) == 1 else "mask {}"
    rows = [("clip", pixels)]
    rows += [(label.format(number), dim_hidden(pixels, mask)) for number, mask in enumerate(hidden, start=1)]
    rows += [(scores_name, heat_over(pixels, scores, grid))]

    factor = max(1, round(FRAME_HEIGHT / pixels.shape[1]))
    height, width = factor * pixels.shape[1], factor * pixels.shape[2]
    font, title_font = ImageFont.load_default(13), ImageFont.load_default(16)
    left = _MARGIN + max(int(font.getlength(label)) for label, _ in rows) + _MARGIN
    columns = min(len(pixels), FRAMES_IN_A_ROW)
    bands = math.ceil(len(pixels) / FRAMES_IN_A_ROW)
    band = 18 + len(rows) * (height + _GAP) + _MARGIN  # with the numbers of the frames above it
    top = _MARGIN + (26 if title else 0)
    right = left + columns * (width + _GAP) - _GAP
    foot = f"{int(hidden[0].sum())} of {hidden[0].size} tokens hidden; maximum {scores_name} {float(scores.max()):.3f}"
    if scores_name == "attention":
        foot += f", uniform attention {1 / hidden[0][0].size:.3f}"
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
            corner = (x, y + 18 + row * (height + _GAP))
            picture.paste(Image.fromarray(images[frame]).resize((width, height), Image.Resampling.NEAREST), corner)
    for index in range(bands):
        for row, (label, _) in enumerate(rows):
            y = top + index * band + 18 + row * (height + _GAP) + height / 2
            draw.text((left - _MARGIN, y), label, fill=INK, font=font, anchor="rm")
    _draw_foot(picture, (_MARGIN, top + bands * band), foot, font)
    return picture


def clip_pixels(clip: torch.Tensor) -> np.ndarray:
    """A clip `(T, 3, H, W)`, uint8 or float normalised by ImageNet's statistics, as uint8 `(T, H, W, 3)`.

    Raises:
        ValueError: if the clip has another shape.
    """
    if clip.ndim != 4 or clip.shape[1] != 3:
        raise ValueError(f"The clip must be (frames, 3, height, width), but its shape is {tuple(clip.shape)}.")
    clip = clip.detach().cpu()
    if clip.is_floating_point():
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        clip = ((clip.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return clip.permute(0, 2, 3, 1).contiguous().numpy()


def hidden_tokens(visible_indices: torch.Tensor, num_steps: int, grid: tuple[int, int]) -> np.ndarray:
    """The hidden tokens as a bool mask `(T', R, C)`, from the visible ones, int64 `(V,)`.

    Raises:
        ValueError: if an index is not that of a token of the clip.
    """
    hidden = np.ones(num_steps * grid[0] * grid[1], dtype=bool)
    indices = visible_indices.cpu().numpy()
    if indices.min(initial=0) < 0 or indices.max(initial=0) >= hidden.size:
        raise ValueError(
            f"The mask contains tokens from {indices.min()} to {indices.max()}, but {num_steps} steps of "
            f"{grid[0]} x {grid[1]} tokens have {hidden.size} tokens."
        )
    hidden[indices] = False
    return hidden.reshape(num_steps, *grid)


def dim_hidden(pixels: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Frames uint8 `(T, H, W, 3)` with the tokens of a bool mask `(T', R, C)` dimmed, the others unchanged."""
    mask = _to_pixels(hidden, pixels.shape[:3])[..., None]
    return np.where(mask, (pixels * DIMMED).astype(np.uint8), pixels)


def heat_over(pixels: np.ndarray, scores: torch.Tensor, grid: tuple[int, int]) -> np.ndarray:
    """Grey frames uint8 `(T, H, W, 3)` under a heat map of the scores `(T', S)`, relative to their maximum.

    Raises:
        ValueError: if the shape of the scores is not `(T', R * C)`, or T' does not divide T.
    """
    num_steps, tokens_per_step = tuple(scores.shape)
    if len(pixels) % num_steps or tokens_per_step != grid[0] * grid[1]:
        raise ValueError(
            f"The scores of tokens have shape {tuple(scores.shape)}; for {len(pixels)} frames of {grid[0]} x "
            f"{grid[1]} tokens it must be {(len(pixels), grid[0] * grid[1])}, or fewer steps of several frames each."
        )
    # the attention of a clip with non-finite values contains NaN
    values = scores.detach().float().cpu().nan_to_num().numpy().reshape(-1, *grid)
    heat = _heat_colour(_to_pixels(values / max(values.max(), 1e-12), pixels.shape[:3]))
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    return (_HEAT_OPACITY * heat + (1 - _HEAT_OPACITY) * grey[..., None]).round().astype(np.uint8)


def _to_pixels(tokens: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """Values of tokens `(T', R, C)`, repeated for every pixel, `size` = (T, H, W)."""
    (steps, rows, columns), (frames, height, width) = tokens.shape, size
    if height % rows or width % columns:
        raise ValueError(
            f"Frames of {height} x {width} pixels do not divide into {rows} x {columns} tokens; the grid must divide "
            "the size of the frames."
        )
    return tokens.repeat(frames // steps, axis=0).repeat(height // rows, axis=1).repeat(width // columns, axis=2)


def _heat_colour(values: np.ndarray) -> np.ndarray:
    """Colours `(..., 3)` of values from 0 to 1, `(...)`; larger values are brighter."""
    stops = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(values, stops, channel) for channel in _HEAT.T], axis=-1)


def _title_width(title: str | None, font: ImageFont.FreeTypeFont) -> int:
    return _MARGIN + int(font.getlength(title or ""))


def _draw_foot(picture: Image.Image, corner: tuple[int, int], text: str, font: ImageFont.FreeTypeFont) -> None:
    """Draw the scale of the heat map and a text beside it."""
    left, top = corner
    draw = ImageDraw.Draw(picture)
    bar = _heat_colour(np.linspace(0, 1, 80))[None].repeat(12, axis=0).round().astype(np.uint8)
    draw.text((left, top + 6), "0", fill=INK, font=font, anchor="lm")
    picture.paste(Image.fromarray(bar), (left + 14, top))
    draw.text((left + 100, top + 6), "max", fill=INK, font=font, anchor="lm")
    draw.text((left + 140, top + 6), text, fill=INK, font=font, anchor="lm")
