"""The tokens of masked modelling: those that the student encodes, and those that it predicts.

Tube and random masks hide most tokens and predict all hidden ones (VideoMAE, arXiv 2203.12602; MVD). Selection by
motion keeps the tokens that change most by the student's own patch embedding; some of them, sampled uniformly, are
visible, the others are predicted, and the tokens that are not kept appear nowhere (EVEREST, arXiv 2211.10636, section
4.1). The frames of untrimmed videos can be selected likewise (section 4.2).

All choices are made on the device, from each clip's own seed.
"""

import math
from collections.abc import Callable

import torch

from modeling_umt import UMTConfig, UMTModel
from modeling_umt.token_selection_umt import hidden_indices, motion_token_split, select_frames_by_motion
from modeling_umt.video_embeddings_umt import clip_token_grid


def select_masked_tokens(
    encoder: UMTModel,
    clips: torch.Tensor,
    sample_seeds: torch.Tensor,
    mask_ratio: float,
    keep_ratio: float | None,
    token_selection: Callable | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The visible tokens of clips, int64 (B, V), and those that are predicted, (B, M), both ascending.

    Args:
        encoder: The student's encoder, whose patch embedding measures motion.
        clips: Normalised float (B, T, C, H, W).
        sample_seeds: int64 (B,).
        mask_ratio: Fraction of the tokens hidden from the student.
        keep_ratio: Fraction of the tokens that selection by motion keeps, visible and predicted ones together.
        token_selection: A function with the signature of [`tube_token_selection`], whose first argument contains
            zeros, because teachers return no attention; None for selection by motion.
    """
    if token_selection is None:
        importance = encoder.motion_importance(clips)
        return motion_token_split(importance, keep_ratio, 1 - mask_ratio, sample_seeds=sample_seeds)
    frames, rows, columns = clip_token_grid(clips, encoder.config, encoder.config.tubelet_size)
    no_attention = clips.new_zeros(len(clips), frames, rows * columns)
    visible_indices = token_selection(no_attention, mask_ratio, sample_seeds=sample_seeds)
    return visible_indices, hidden_indices(visible_indices, frames * rows * columns)


def num_pool_frames(config: UMTConfig, frame_pool_ratio: float) -> int:
    """Frames that are decoded for a clip: `frame_pool_ratio` times its time steps, rounded down, of whole tubelets.

    For a clip of 16 frames in tubelets of two, 1.5 gives 24 frames (floor(2 * 1.5 * 8) in the paper).
    """
    num_steps = config.num_frames // config.tubelet_size
    # without the addition, 1.16 * 25 would be rounded down to 28
    return config.tubelet_size * math.floor(frame_pool_ratio * num_steps + 1e-9)


def select_pool_frames(
    encoder: UMTModel, clips: torch.Tensor, sample_seeds: torch.Tensor, keep_ratio: float
) -> torch.Tensor:
    """Clips of the student's length (B, T, C, H, W) from longer ones, by `select_frames_by_motion`.

    The frames of a tubelet stay together. Seeds differ by one from those of the tokens.
    """
    config = encoder.config
    tubelets = clips.unflatten(1, (-1, config.tubelet_size))  # (B, steps of the pool, tubelet, C, H, W)
    importance = encoder.motion_importance(clips)
    num_steps = config.num_frames // config.tubelet_size
    steps = select_frames_by_motion(importance, num_steps, keep_ratio, sample_seeds=sample_seeds + 1)
    batch = torch.arange(len(clips), device=clips.device)[:, None]
    return tubelets[batch, steps].flatten(1, 2)
