"""Token selection: UMT's "semantic masking" by attention (arXiv 2303.16058, section 3), tube and random masks, and the
two forms of a mask. Selection by motion is in `motion_selection_umt.py`, and importable from here.

A strategy is one function of one signature,

    strategy(cls_attention, mask_ratio, generator=None, sample_seeds=None) -> visible_indices

so a trainer takes any callable, and `functools.partial(strategy, mask_ratio=0.8, ...)` is the `token_selector` that
the teacher calls inside its forward pass. A new strategy scores the tokens, adds `uniform_noise` where it samples, and
ends in `highest_scoring_tokens` (over the clip) or `highest_scoring_tokens_per_frame`.

Unusual:
- Sampling without replacement is a top-k of `sampling_scores`, which equals `torch.multinomial(replacement=False)` in
  distribution but has a static shape, accepts rows of zeros and never waits for the device.
- Randomness comes from a `torch.Generator`, or from one integer seed per sample, which also compiles into one graph
  (`selection_noise_umt.py`).

Shape legend: B batch, T frames (of tokens), S tokens per frame, N = T * S, V visible tokens. Tokens are frame-major:
index = t * S + s.
"""

from collections.abc import Callable
from functools import partial

import torch
from transformers.utils.import_utils import is_torchdynamo_exporting

from .motion_selection_umt import (
    motion_importance,
    motion_token_selection,
    motion_token_split,
    select_frames_by_motion,
    tokens_with_most_motion,
)
from .selection_noise_umt import sampling_scores, uniform_noise


def attention_token_selection(
    cls_attention: torch.Tensor,
    mask_ratio: float,
    generator: torch.Generator | None = None,
    sample_seeds: torch.Tensor | None = None,
) -> torch.Tensor:
    """Keep `S - int(S * mask_ratio)` tokens of every frame, sampled without replacement in proportion to attention.

    Tokens that the teacher's class token attends to are likely to stay visible. Frames are sampled independently. A
    token of attention 0 is selected only after all others of its frame; a frame of zeros is sampled uniformly.

    Args:
        cls_attention (`torch.Tensor` of shape `(batch, frames, tokens_per_frame)`):
            Non-negative attention of the teacher's class token; rows need not sum to one.
        mask_ratio (`float`): Fraction of the tokens that is hidden, in `[0, 1)`; 0.8 in every published recipe.
        generator (`torch.Generator`, *optional*):
            Random generator on the device of `cls_attention`; defaults to PyTorch's own for that device.
        sample_seeds (`torch.Tensor` of shape `(batch,)`, int64, *optional*):
            One seed per sample, used instead of a generator.

    Returns:
        `torch.Tensor` of shape `(batch, visible)`, int64: ascending indices of the visible tokens.

    Raises:
        ValueError: on a wrong shape, a ratio outside `[0, 1)`, or a generator together with seeds.
    """
    batch, frames, tokens_per_frame = _grid(cls_attention)
    noise = uniform_noise((batch, frames * tokens_per_frame), cls_attention.device, generator, sample_seeds)
    scores = sampling_scores(cls_attention, noise.view_as(cls_attention))
    return highest_scoring_tokens_per_frame(scores, _num_visible(tokens_per_frame, mask_ratio))


def clip_attention_token_selection(
    cls_attention: torch.Tensor,
    mask_ratio: float,
    generator: torch.Generator | None = None,
    sample_seeds: torch.Tensor | None = None,
) -> torch.Tensor:
    """Keep `N - int(N * mask_ratio)` tokens of the clip, sampled without replacement in proportion to attention.

    As [`attention_token_selection`], but the tokens of all frames compete, so that counts differ between frames
    (InternVideo2's distillation, arXiv 2403.15377). Arguments, result and errors are the same.
    """
    _grid(cls_attention)
    return attention_token_selection(cls_attention.flatten(1)[:, None], mask_ratio, generator, sample_seeds)


def tube_token_selection(
    cls_attention: torch.Tensor,
    mask_ratio: float,
    generator: torch.Generator | None = None,
    sample_seeds: torch.Tensor | None = None,
) -> torch.Tensor:
    """Keep the same `S - int(S * mask_ratio)` positions, sampled uniformly, in every frame.

    Only the shape and the device of `cls_attention` are used. Arguments, result and errors as in
    [`attention_token_selection`].
    """
    batch, frames, tokens_per_frame = _grid(cls_attention)
    noise = uniform_noise((batch, tokens_per_frame), cls_attention.device, generator, sample_seeds)
    tube = noise[:, None].expand(batch, frames, tokens_per_frame)
    return highest_scoring_tokens_per_frame(tube, _num_visible(tokens_per_frame, mask_ratio))


def random_token_selection(
    cls_attention: torch.Tensor,
    mask_ratio: float,
    generator: torch.Generator | None = None,
    sample_seeds: torch.Tensor | None = None,
) -> torch.Tensor:
    """Keep `N - int(N * mask_ratio)` tokens sampled uniformly over the clip, so that counts differ between frames.

    Only the shape and the device of `cls_attention` are used. Arguments, result and errors as in
    [`attention_token_selection`].
    """
    batch, frames, tokens_per_frame = _grid(cls_attention)
    num_tokens = frames * tokens_per_frame
    noise = uniform_noise((batch, num_tokens), cls_attention.device, generator, sample_seeds)
    return highest_scoring_tokens(noise, _num_visible(num_tokens, mask_ratio))


def draw_masks(
    strategy: Callable[..., torch.Tensor],
    cls_attention: torch.Tensor,
    mask_ratio: float,
    sample_seeds: torch.Tensor,
    num_masks: int,
) -> torch.Tensor:
    """Several masks of every clip, mask m sampled with the clip's seed plus m.

    Args:
        strategy: One of the strategies above, or another function of their signature.
        cls_attention, mask_ratio, sample_seeds: As in [`attention_token_selection`].
        num_masks (`int`): Masks per clip, M.

    Returns:
        `torch.Tensor` of shape `(batch, M, visible)`, int64: ascending indices of the visible tokens.
    """
    select = partial(strategy, cls_attention, mask_ratio)
    return torch.stack([select(sample_seeds=sample_seeds + mask) for mask in range(num_masks)], dim=1)


def draw_motion_masks(
    importance: torch.Tensor, mask_ratio: float, sample_seeds: torch.Tensor, num_masks: int
) -> torch.Tensor:
    """Masks of stage 1 by motion: the `N - int(N * mask_ratio)` visible tokens are those of highest importance.

    Several masks of a clip share the tokens of highest importance, as many as they show together: each token is
    visible in exactly one mask, sampled uniformly with the clip's seed. A single mask is deterministic.

    Args:
        importance (`torch.Tensor` of shape `(batch, steps, places)`): Of [`motion_importance`].
        mask_ratio (`float`): Fraction of the tokens that each mask hides, in `[0, 1)`.
        sample_seeds (`torch.Tensor` of shape `(batch,)`, int64): One seed per sample.
        num_masks (`int`): Masks per clip, M.

    Returns:
        `torch.Tensor` of shape `(batch, M, visible)`, int64: ascending indices of the visible tokens.

    Raises:
        ValueError: on a wrong shape, a ratio outside `[0, 1)`, or more masks than can be disjoint.
    """
    batch, steps, places = _grid(importance)
    num_tokens = steps * places
    num_visible = _num_visible(num_tokens, mask_ratio)
    if num_masks * num_visible > num_tokens:
        raise ValueError(
            f"{num_masks} motion masks of a clip show {num_visible} tokens each, all different, but it has "
            f"{num_tokens}; lower the number of masks, or raise `mask_ratio` {mask_ratio}."
        )
    shown = tokens_with_most_motion(importance, num_masks * num_visible)
    noise = uniform_noise((batch, num_masks * num_visible), shown.device, sample_seeds=sample_seeds)
    shuffled = shown.gather(1, noise.argsort(dim=1, stable=True))
    return shuffled.unflatten(1, (num_masks, num_visible)).sort(dim=2).values


def highest_scoring_tokens(scores: torch.Tensor, num_visible: int) -> torch.Tensor:
    """The `num_visible` highest-scoring tokens of each row, in ascending order of index.

    Args:
        scores (`torch.Tensor` of shape `(..., tokens)`): Scores; ties are broken arbitrarily.
        num_visible (`int`): Number of tokens to keep, at most `tokens`.

    Returns:
        `torch.Tensor` of shape `(..., num_visible)`, int64.
    """
    return scores.topk(num_visible, dim=-1, sorted=False).indices.sort(dim=-1).values


def highest_scoring_tokens_per_frame(scores: torch.Tensor, num_visible_per_frame: int) -> torch.Tensor:
    """The highest-scoring tokens of each frame, as indices into the clip.

    Args:
        scores (`torch.Tensor` of shape `(batch, frames, tokens_per_frame)`): Scores.
        num_visible_per_frame (`int`): Number of tokens to keep in every frame.

    Returns:
        `torch.Tensor` of shape `(batch, frames * num_visible_per_frame)`, int64, ascending.
    """
    _, frames, tokens_per_frame = _grid(scores)
    within_frame = highest_scoring_tokens(scores, num_visible_per_frame)  # (B, T, V/T)
    frame_start = torch.arange(frames, device=scores.device) * tokens_per_frame
    return (within_frame + frame_start[:, None]).flatten(1)


def resolve_visible_indices(
    batch_size: int,
    num_tokens: int,
    bool_masked_pos: torch.Tensor | None = None,
    visible_indices: torch.Tensor | None = None,
    allow_repeats: bool = False,
) -> torch.Tensor | None:
    """Either form of a mask as `visible_indices`, checked against the clips, or None without a mask.

    Args:
        batch_size (`int`): Number of clips.
        num_tokens (`int`): Tokens of a clip.
        bool_masked_pos (bool `(batch, num_tokens)`, *optional*): True = hidden from the student.
        visible_indices (int64 `(batch, visible)`, *optional*): Indices of the visible tokens.
        allow_repeats (`bool`, defaults to False): Accept more than `num_tokens` indices: several masks of a clip side
            by side, whose tokens overlap.

    Returns:
        `torch.Tensor` of shape `(batch, visible)`, int64, or None.

    Raises:
        ValueError: if both forms are given, or the mask's dtype or shape does not fit.
    """
    if bool_masked_pos is not None:
        if visible_indices is not None:
            raise ValueError("Give `bool_masked_pos` or `visible_indices`, not both: they are two forms of one mask.")
        return visible_indices_from_mask(bool_masked_pos, expected_shape=(batch_size, num_tokens))
    if visible_indices is not None and (
        visible_indices.dtype != torch.int64
        or visible_indices.ndim != 2
        or visible_indices.shape[0] != batch_size
        or visible_indices.shape[1] < 1
        or (visible_indices.shape[1] > num_tokens and not allow_repeats)
    ):
        raise ValueError(
            f"`visible_indices` must be int64 (batch {batch_size}, 1 to {num_tokens} visible tokens), but is "
            f"{visible_indices.dtype} {tuple(visible_indices.shape)}."
        )
    return visible_indices


def hidden_indices(visible_indices: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Ascending indices of the tokens that are not visible, int64 `(batch, num_tokens - visible)`, of static shape.

    Args:
        visible_indices (int64 `(batch, visible)`): Indices of the visible tokens, each once.
        num_tokens: Tokens of a clip.

    Raises:
        ValueError: if all tokens are visible.
    """
    batch_size, num_visible = visible_indices.shape
    if num_visible == num_tokens:
        raise ValueError(f"All {num_tokens} tokens are visible; the mask must hide at least one.")
    hidden = torch.ones(batch_size, num_tokens, dtype=torch.uint8, device=visible_indices.device)
    hidden = hidden.scatter(1, visible_indices, 0)
    return hidden.argsort(dim=1, descending=True, stable=True)[:, : num_tokens - num_visible]


def visible_indices_from_mask(
    bool_masked_pos: torch.Tensor, expected_shape: tuple[int, int] | None = None
) -> torch.Tensor:
    """Convert a mask to indices.

    The number of visible tokens is read back from the device, which waits for it once; a training loop keeps to
    `visible_indices` from the start.

    Args:
        bool_masked_pos (`torch.Tensor` of shape `(batch, tokens)`, bool): True = hidden from the student.
        expected_shape (*optional*): The `(batch, tokens)` that the mask must have.

    Returns:
        `torch.Tensor` of shape `(batch, visible)`, int64: ascending indices of the visible tokens.

    Raises:
        ValueError: if the mask is not a bool tensor of that shape, if samples hide different numbers of tokens, or all
            of them; and in `torch.export`, because the shape of the result depends on the mask's values.
    """
    if is_torchdynamo_exporting():
        raise ValueError(
            "`bool_masked_pos` can't be exported, because the number of visible tokens depends on its values. Export "
            "with `visible_indices`, int64 (batch, visible), instead."
        )
    shape = tuple(bool_masked_pos.shape)
    if bool_masked_pos.dtype != torch.bool or len(shape) != 2 or expected_shape not in (None, shape):
        expected = "(batch, tokens)"
        if expected_shape is not None:
            expected = f"(batch {expected_shape[0]}, tokens {expected_shape[1]})"
        raise ValueError(
            f"`bool_masked_pos` must be bool {expected}, True = hidden, but is {bool_masked_pos.dtype} {shape}. "
            "Student and teacher can share a mask only if their token grids are the same."
        )
    visible_counts = (~bool_masked_pos).sum(dim=1).tolist()
    if len(set(visible_counts)) != 1 or visible_counts[0] == 0:
        raise ValueError(
            "Every sample of `bool_masked_pos` must leave the same number of tokens visible, and at least one; "
            f"got {visible_counts} visible of {shape[1]}. Hide equally many in each sample."
        )
    # visible (0) before hidden (1); a stable sort keeps each in ascending order
    return bool_masked_pos.to(torch.uint8).argsort(dim=1, stable=True)[:, : visible_counts[0]]


def mask_from_visible_indices(visible_indices: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Convert indices to a mask; the inverse of [`visible_indices_from_mask`].

    Args:
        visible_indices (`torch.Tensor` of shape `(batch, visible)`, int64): Indices below `num_tokens`.
        num_tokens (`int`): Tokens of the clip.

    Returns:
        `torch.Tensor` of shape `(batch, num_tokens)`, bool: True = hidden from the student.
    """
    hidden = torch.ones(visible_indices.shape[0], num_tokens, dtype=torch.bool, device=visible_indices.device)
    return hidden.scatter(1, visible_indices, False)


def _grid(cls_attention: torch.Tensor) -> torch.Size:
    if cls_attention.ndim != 3:
        raise ValueError(
            "Token selection requires a tensor of shape (batch, frames, tokens_per_frame), like the teacher's "
            f"`cls_attention`; got shape {tuple(cls_attention.shape)}."
        )
    return cls_attention.shape


def _num_visible(num_tokens: int, mask_ratio: float) -> int:
    # the hidden count is truncated, so the visible one is rounded up: 196 tokens at 0.8 leave 40
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"`mask_ratio` is the fraction of hidden tokens and must be in [0, 1); got {mask_ratio}.")
    return num_tokens - int(num_tokens * mask_ratio)


__all__ = [
    "attention_token_selection",
    "draw_masks",
    "draw_motion_masks",
    "hidden_indices",
    "highest_scoring_tokens",
    "highest_scoring_tokens_per_frame",
    "mask_from_visible_indices",
    "motion_importance",
    "motion_token_selection",
    "motion_token_split",
    "random_token_selection",
    "resolve_visible_indices",
    "select_frames_by_motion",
    "tokens_with_most_motion",
    "tube_token_selection",
    "uniform_noise",
    "visible_indices_from_mask",
]
