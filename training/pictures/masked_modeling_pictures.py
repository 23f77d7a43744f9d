"""Pictures of masked modelling: a clip under its mask, and what the student predicts beside its targets.

Features are shown by their first three principal components as colours, computed over the teacher's features at the
target tokens of the clip, with the same projection for the prediction. Pixels are shown as pixels. A column is one
time step of tokens, shown by its first frame.

Shapes: T frames, K frames of a tubelet, (R, C) rows and columns of tokens in a frame, M target tokens, F dimension.
"""

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image

from modeling_umt.configuration_umt import PIXELS, UMTConfig
from modeling_umt.objectives_umt import pixel_targets

from .frame_strip import draw_frame_strip
from .mask_pictures import clip_pixels, dim_hidden, hidden_tokens, to_pixels

NOT_PREDICTED = 235  # grey level of the tokens that are not predicted


def draw_masked_clip(clip: torch.Tensor, visible_indices: torch.Tensor, config: UMTConfig, title: str) -> Image.Image:
    """Draw a clip in two rows: its frames, and the frames with hidden tokens dimmed.

    Args:
        clip: `(T, 3, H, W)`, uint8, or float normalised by ImageNet's statistics.
        visible_indices: int64 `(V,)`.
        config: Patch and tubelet size.
        title: Title of the picture.
    """
    rows, foot = clip_rows(clip, visible_indices, config)
    picture, _ = draw_frame_strip(rows, column_labels(rows, config), title, foot)
    return picture


def draw_predictions(
    clip: torch.Tensor,
    visible_indices: torch.Tensor,
    target_indices: torch.Tensor,
    predictions: Mapping[str, torch.Tensor],
    target_features: Mapping[str, torch.Tensor],
    config: UMTConfig,
    title: str,
) -> Image.Image:
    """Draw a clip, its mask, and for each target the teacher's features and the student's prediction.

    Args:
        clip: `(T, 3, H, W)`, float normalised by ImageNet's statistics.
        visible_indices, target_indices: int64 `(V,)` and `(M,)`.
        predictions: The student's prediction of each target, `(M, F)`.
        target_features: The teachers' features, `(M, F)`, as the loss compares them; none for `"pixels"`.
        config: Configuration of the student.
        title: Title of the picture.
    """
    rows, foot = clip_rows(clip, visible_indices, config)
    height, width = clip.shape[-2:]
    grid = (len(rows[0][1]), height // config.patch_size, width // config.patch_size)
    for name, prediction in predictions.items():
        if name == PIXELS:
            rows.append(("pixels predicted", predicted_pixels(clip, target_indices, prediction, config)))
            continue
        colours = feature_colours(target_features[name], prediction)
        for label, values in zip((f"{name} teacher", f"{name} predicted"), colours, strict=True):
            tokens = np.full((grid[0] * grid[1] * grid[2], 3), NOT_PREDICTED, dtype=np.uint8)
            tokens[target_indices.cpu().numpy()] = values
            rows.append((label, to_pixels(tokens.reshape(*grid, 3), (height, width))))
    if target_features:
        foot += "; features by their first three principal components as red, green, blue"
    picture, _ = draw_frame_strip(rows, column_labels(rows, config), title, foot)
    return picture


def clip_rows(
    clip: torch.Tensor, visible_indices: torch.Tensor, config: UMTConfig
) -> tuple[list[tuple[str, np.ndarray]], str]:
    """The rows of the clip and of its visible tokens, and the foot of the picture."""
    pixels = clip_pixels(clip)[:: config.tubelet_size]
    grid = (pixels.shape[1] // config.patch_size, pixels.shape[2] // config.patch_size)
    hidden = hidden_tokens(visible_indices, len(pixels), grid)
    foot = f"{int(hidden.sum())} of {hidden.size} tokens hidden"
    return [("clip", pixels), ("visible", dim_hidden(pixels, hidden))], foot


def column_labels(rows: list[tuple[str, np.ndarray]], config: UMTConfig) -> list[str]:
    """The number of the frame that each column shows."""
    return [f"frame {1 + column * config.tubelet_size}" for column in range(len(rows[0][1]))]


def feature_colours(target: torch.Tensor, prediction: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Colours uint8 (M, 3) of a teacher's features and of their prediction, both (M, F).

    Component k is in the colour channel k; its range is that of the 2nd to the 98th percentile of the teacher's.
    """
    target, prediction = (features.detach().float().cpu() for features in (target, prediction))
    mean = target.mean(dim=0)
    _, _, components = torch.linalg.svd(target - mean, full_matrices=False)
    axes = components[:3].T  # (F, 3), fewer for fewer tokens
    values = (target - mean) @ axes
    low, high = (torch.quantile(values, fraction, dim=0) for fraction in (0.02, 0.98))
    colours = []
    for features in (target, prediction):
        scaled = ((features - mean) @ axes - low) / (high - low).clamp(min=1e-12)
        colour = np.full((len(scaled), 3), 127, dtype=np.uint8)
        colour[:, : axes.shape[1]] = (255 * scaled.nan_to_num().clamp(0, 1)).round().to(torch.uint8).numpy()
        colours.append(colour)
    return colours[0], colours[1]


def predicted_pixels(
    clip: torch.Tensor, target_indices: torch.Tensor, prediction: torch.Tensor, config: UMTConfig
) -> np.ndarray:
    """The first frame of every tubelet, uint8 `(T / K, H, W, 3)`, with the target tokens replaced by their prediction.

    Normalised pixels, which have neither mean nor contrast, get those of the clip.
    """
    plain = UMTConfig.from_dict(config.to_dict() | {"normalize_targets": False})
    colours = pixel_targets(clip[None], plain)[0].unflatten(-1, (-1, 3))  # (N, pixels of a tubelet, 3)
    values = prediction.detach().float().unflatten(-1, (-1, 3))
    if config.normalize_targets:
        shown = colours[target_indices]
        values = values * shown.std(dim=1, keepdim=True) + shown.mean(dim=1, keepdim=True)
    colours[target_indices] = values
    patch, (height, width) = config.patch_size, clip.shape[-2:]
    frames = colours.unflatten(1, (config.tubelet_size, patch, patch))[:, 0]  # (N, patch, patch, 3)
    frames = frames.unflatten(0, (-1, height // patch, width // patch)).transpose(2, 3)  # (T/K, R, patch, C, patch, 3)
    return (255 * frames.nan_to_num().clamp(0, 1)).round().to(torch.uint8).flatten(3, 4).flatten(1, 2).cpu().numpy()
