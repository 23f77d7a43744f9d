"""Which tokens the student sees: UMT's "semantic masking" (arXiv 2303.16058, section 3), and tube and random masks.

A strategy is one function of one signature,

    strategy(cls_attention, mask_ratio, generator=None, sample_seeds=None) -> visible_indices

so a trainer takes any callable, and `functools.partial(strategy, mask_ratio=0.8, ...)` is the `token_selector` that
the teacher calls inside its own pass. A new strategy scores the tokens, draws `uniform_noise` where chance is wanted,
and ends in `highest_scoring_tokens` (over the clip) or `highest_scoring_tokens_per_frame`.

Unusual:
- Sampling without replacement is a top-k of log-probabilities plus Gumbel noise (Efraimidis & Spirakis, 2006; Kool et
  al., arXiv 1903.06059), which equals `torch.multinomial(replacement=False)` in distribution but has a static shape,
  accepts rows of zeros and never waits for the device.
- Chance comes from a `torch.Generator`, or from one integer seed per sample. With seeds, a clip's mask depends on its
  own seed alone: neither the batch it travels in, nor the number of processes, nor a resume changes it. The seeded
  path is plain integer arithmetic, so unlike a generator it also compiles into one graph.

Shapes: B batch, T frames (of tokens), S tokens per frame, V visible tokens. Tokens are frame-major: index = t * S + s.
"""

from collections.abc import Callable
from functools import partial

import torch


def attention_token_selection(
    cls_attention: torch.Tensor,
    mask_ratio: float,
    generator: torch.Generator | None = None,
    sample_seeds: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Keeps `S - int(S * mask_ratio)` tokens of every frame, drawn without replacement in proportion to the teacher's
    attention: what the class token looks at is likely to stay visible. Frames are drawn independently.

    A token of attention 0 is taken only after all others of its frame; a frame of zeros is drawn uniformly.

    Args:
        cls_attention (`torch.Tensor` of shape `(batch, frames, tokens_per_frame)`):
            Non-negative attention of the teacher's class token; rows need not sum to one.
        mask_ratio (`float`): Share of the tokens that is hidden, in `[0, 1)`; 0.8 in every published recipe.
        generator (`torch.Generator`, *optional*):
            Source of chance, on the device of `cls_attention`; defaults to PyTorch's own for that device.
        sample_seeds (`torch.Tensor` of shape `(batch,)`, int64, *optional*):
            One seed per sample, used instead of a generator.

    Returns:
        `torch.Tensor` of shape `(batch, visible)`, int64: ascending indices of the visible tokens.

    Raises:
        ValueError: on a wrong shape, a ratio outside `[0, 1)`, or a generator together with seeds.
    """
    batch, frames, tokens_per_frame = _grid(cls_attention)
    noise = uniform_noise((batch, frames * tokens_per_frame), cls_attention.device, generator, sample_seeds)
    # the clamps keep noise within [-3, 18] and log(0) at -87: zeros come last, in random order among themselves
    gumbel = -torch.log(-torch.log1p(-noise.clamp_min(2.0**-25))).view_as(cls_attention)
    log_attention = cls_attention.float().clamp_min(torch.finfo(torch.float32).tiny).log()
    return highest_scoring_tokens_per_frame(log_attention + gumbel, _num_visible(tokens_per_frame, mask_ratio))


def tube_token_selection(
    cls_attention: torch.Tensor,
    mask_ratio: float,
    generator: torch.Generator | None = None,
    sample_seeds: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Keeps the same `S - int(S * mask_ratio)` positions, drawn uniformly, in every frame. Of `cls_attention` only the
    shape and the device matter. Arguments, result and errors as in [`attention_token_selection`].
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
    """
    Keeps `T*S - int(T*S * mask_ratio)` tokens drawn uniformly over the whole clip, so frames may keep different
    numbers. Of `cls_attention` only the shape and the device matter. Arguments, result and errors as in
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
    """
    Several masks of every clip, mask m drawn from the clip's seed plus m.

    Args:
        strategy: One of the strategies above, or another of their signature.
        cls_attention, mask_ratio, sample_seeds: As in [`attention_token_selection`].
        num_masks (`int`): Masks of a clip, M.

    Returns:
        `torch.Tensor` of shape `(batch, M, visible)`, int64: ascending indices of the visible tokens.
    """
    draw = partial(strategy, cls_attention, mask_ratio)
    return torch.stack([draw(sample_seeds=sample_seeds + mask) for mask in range(num_masks)], dim=1)


def highest_scoring_tokens(scores: torch.Tensor, num_visible: int) -> torch.Tensor:
    """
    The `num_visible` best tokens of each row, in ascending order of index.

    Args:
        scores (`torch.Tensor` of shape `(..., tokens)`): Higher is kept first; ties are broken arbitrarily.
        num_visible (`int`): How many to keep, at most `tokens`.

    Returns:
        `torch.Tensor` of shape `(..., num_visible)`, int64.
    """
    return scores.topk(num_visible, dim=-1, sorted=False).indices.sort(dim=-1).values


def highest_scoring_tokens_per_frame(scores: torch.Tensor, num_visible_per_frame: int) -> torch.Tensor:
    """
    The best tokens of each frame, as indices into the clip.

    Args:
        scores (`torch.Tensor` of shape `(batch, frames, tokens_per_frame)`): Higher is kept first.
        num_visible_per_frame (`int`): How many to keep in every frame.

    Returns:
        `torch.Tensor` of shape `(batch, frames * num_visible_per_frame)`, int64, ascending.
    """
    _, frames, tokens_per_frame = _grid(scores)
    within_frame = highest_scoring_tokens(scores, num_visible_per_frame)  # (B, T, V/T)
    frame_start = torch.arange(frames, device=scores.device) * tokens_per_frame
    return (within_frame + frame_start[:, None]).flatten(1)


def uniform_noise(
    shape: tuple[int, int],
    device: torch.device,
    generator: torch.Generator | None = None,
    sample_seeds: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Uniform numbers in `[0, 1)`: from `generator`, from PyTorch's default one, or row by row from `sample_seeds`.

    With seeds, value i of a row is a hash of (seed, i), the same on every device and in every batch.

    Args:
        shape (`tuple[int, int]`): `(batch, values)`.
        device (`torch.device`): Where the numbers are made; the generator or the seeds must live there.
        generator (`torch.Generator`, *optional*): Source of chance.
        sample_seeds (`torch.Tensor` of shape `(batch,)`, int64, *optional*): One seed per row, any 64-bit value.

    Returns:
        `torch.Tensor` of shape `shape`, float32, multiples of 2^-24.

    Raises:
        ValueError: if both sources are given, or the seeds are not int64 of shape `(batch,)`.
    """
    if sample_seeds is None:
        return torch.rand(shape, generator=generator, device=device)
    if generator is not None:
        raise ValueError("Both `generator` and `sample_seeds` were given; pass one of them.")
    if sample_seeds.dtype != torch.int64 or sample_seeds.shape != shape[:1]:
        raise ValueError(
            f"`sample_seeds` must be int64 of shape ({shape[0]},), one seed per sample; "
            f"got {sample_seeds.dtype} of shape {tuple(sample_seeds.shape)}."
        )
    # one 32-bit word per sample from all 64 bits of its seed, one per position; the constants keep 0 from staying 0
    low, high = sample_seeds & _WORD, (sample_seeds >> 32) & _WORD
    sample = _mix_bits(_mix_bits(low ^ 0x9E3779B9) ^ high)
    position = _mix_bits(torch.arange(shape[1], device=device) ^ 0x85EBCA6B)
    bits = _mix_bits(_mix_bits(sample[:, None] ^ position))
    return (bits >> 8).float() * 2.0**-24


def visible_indices_from_mask(bool_masked_pos: torch.Tensor) -> torch.Tensor:
    """
    Turns a mask into indices. The number of visible tokens is read back from the device, which waits for it once; a
    training loop keeps to `visible_indices` from the start.

    Args:
        bool_masked_pos (`torch.Tensor` of shape `(batch, tokens)`, bool): True = hidden from the student.

    Returns:
        `torch.Tensor` of shape `(batch, visible)`, int64: ascending indices of the visible tokens.

    Raises:
        ValueError: if the mask is not a 2-D bool tensor, if samples hide different numbers of tokens, or all of them.
    """
    if bool_masked_pos.dtype != torch.bool or bool_masked_pos.ndim != 2:
        raise ValueError(
            "`bool_masked_pos` must be a bool tensor of shape (batch, tokens), True = hidden; "
            f"got {bool_masked_pos.dtype} of shape {tuple(bool_masked_pos.shape)}."
        )
    visible_counts = (~bool_masked_pos).sum(dim=1).tolist()
    if len(set(visible_counts)) != 1 or visible_counts[0] == 0:
        raise ValueError(
            "Every sample of `bool_masked_pos` must leave the same number of tokens visible, and at least one; "
            f"got {visible_counts} visible of {bool_masked_pos.shape[1]}. Hide equally many in each sample."
        )
    # visible (0) before hidden (1); a stable sort keeps each in ascending order
    return bool_masked_pos.to(torch.uint8).argsort(dim=1, stable=True)[:, : visible_counts[0]]


def mask_from_visible_indices(visible_indices: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """
    Turns indices into a mask; the inverse of [`visible_indices_from_mask`].

    Args:
        visible_indices (`torch.Tensor` of shape `(batch, visible)`, int64): Indices below `num_tokens`.
        num_tokens (`int`): Tokens of the whole clip.

    Returns:
        `torch.Tensor` of shape `(batch, num_tokens)`, bool: True = hidden from the student.
    """
    hidden = torch.ones(visible_indices.shape[0], num_tokens, dtype=torch.bool, device=visible_indices.device)
    return hidden.scatter(1, visible_indices, False)


_WORD = 0xFFFFFFFF


def _mix_bits(word: torch.Tensor) -> torch.Tensor:
    """A multiply-xorshift bijection of 32-bit words held in int64; with factors below 2^31 nothing overflows."""
    word = ((word ^ (word >> 15)) * 0x2C1B3C6D) & _WORD
    word = ((word ^ (word >> 12)) * 0x297A2D39) & _WORD
    return word ^ (word >> 15)


def _grid(cls_attention: torch.Tensor) -> torch.Size:
    if cls_attention.ndim != 3:
        raise ValueError(
            "Token selection needs a tensor of shape (batch, frames, tokens_per_frame), like the teacher's "
            f"`cls_attention`; got shape {tuple(cls_attention.shape)}."
        )
    return cls_attention.shape


def _num_visible(num_tokens: int, mask_ratio: float) -> int:
    # the hidden count is truncated, so the visible one is rounded up: 196 tokens at 0.8 leave 40
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"`mask_ratio` is the share of hidden tokens and must be in [0, 1); got {mask_ratio}.")
    return num_tokens - int(num_tokens * mask_ratio)
