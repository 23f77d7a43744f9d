"""Pictures of a clip, its masks and what selects the visible tokens: the teacher's attention (arXiv 2303.16058,
section 3) or motion (arXiv 2211.10636, section 4.1). They are drawn with Pillow.

All functions take tensors and no model. Frames are enlarged by integer factors without interpolation, so that the
borders of tokens stay exact.

Shapes: T frames, (H, W) pixels, T' time steps of T / T' frames each, (R, C) rows and columns of tokens in a step,
S = R * C, M masks, V visible tokens.
"""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .drawing import INK
from .frame_strip import draw_frame_strip

DIMMED = 0.2  # factor of the brightness of a hidden token
_HEAT = np.array([(12, 7, 60), (120, 28, 109), (207, 68, 70), (251, 155, 6), (252, 255, 164)])  # from 0 to the maximum
_HEAT_OPACITY = 0.7  # of the heat map over the grey frame


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

    foot = f"{int(hidden[0].sum())} of {hidden[0].size} tokens hidden; maximum {scores_name} {float(scores.max()):.3f}"
    if scores_name == "attention":
        foot += f", uniform attention {1 / hidden[0][0].size:.3f}"
    columns = [f"frame {number}" for number in range(1, len(pixels) + 1)]
    picture, corner = draw_frame_strip(rows, columns, title, foot, foot_indent=140)
    _draw_scale(picture, corner)
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
    hidden = hidden.repeat(len(pixels) // len(hidden), axis=0)
    mask = to_pixels(hidden, pixels.shape[1:3])[..., None]
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
    values = values.repeat(len(pixels) // num_steps, axis=0)
    heat = _heat_colour(to_pixels(values / max(values.max(), 1e-12), pixels.shape[1:3]))
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    return (_HEAT_OPACITY * heat + (1 - _HEAT_OPACITY) * grey[..., None]).round().astype(np.uint8)


def to_pixels(tokens: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Values of tokens `(T, R, C, ...)`, repeated for every pixel `(T, H, W, ...)`."""
    (rows, columns), (height, width) = tokens.shape[1:3], size
    if height % rows or width % columns:
        raise ValueError(
            f"Frames of {height} x {width} pixels do not divide into {rows} x {columns} tokens; the grid must divide "
            "the size of the frames."
        )
    return tokens.repeat(height // rows, axis=1).repeat(width // columns, axis=2)


def _heat_colour(values: np.ndarray) -> np.ndarray:
    """Colours `(..., 3)` of values from 0 to 1, `(...)`; larger values are brighter."""
    stops = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(values, stops, channel) for channel in _HEAT.T], axis=-1)


def _draw_scale(picture: Image.Image, corner: tuple[int, int]) -> None:
    """Draw the scale of the heat map."""
    left, top = corner
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    bar = _heat_colour(np.linspace(0, 1, 80))[None].repeat(12, axis=0).round().astype(np.uint8)
    draw.text((left, top + 6), "0", fill=INK, font=font, anchor="lm")
    picture.paste(Image.fromarray(bar), (left + 14, top))
    draw.text((left + 100, top + 6), "max", fill=INK, font=font, anchor="lm")
