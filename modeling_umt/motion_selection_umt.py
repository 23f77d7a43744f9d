"""Motion-aware token selection: the tokens that differ most from the same place one time step earlier (EVEREST =
MATS, arXiv 2211.10636, section 4).

The distance is that of the bare patch embeddings, before positions are added. Unusual:

- Counts are `int((1 - ratio) * tokens)` in double precision, as in the released code, so that a product which should
  be whole may be one short: 160 tokens at 0.9 keep 15. Stage 1 keeps `N - int(N * ratio)` tokens, mostly one more.
- Steps 0 and 1 always tie, and so does a still clip. Of equal tokens that with the lower index is kept; the released
  sort leaves it open.
- The number of steps is any; the released code works for 8 only.
- With `groups` the steps are divided into groups of consecutive ones, which are selected from independently, so that
  every part of a clip keeps its share of tokens (FluxViT, arXiv 2503.14237).

Shape legend: B batch, T time steps (frames of tokens), S places (tokens per step), N = T * S, D dimension, G groups,
V kept tokens. Tokens are ordered by step, then place: index = t * S + s.
"""

import torch

from .selection_noise_umt import sampling_scores, uniform_noise


def motion_importance(embeddings: torch.Tensor, groups: int = 1) -> torch.Tensor:
    """Euclidean distance of every token to that of the same place one step earlier (section 4.1).

    The first step, which has none before it, has the values of the second. Distances are computed in float32, and no
    gradient flows through them.

    Args:
        embeddings (`torch.Tensor` of shape `(batch, steps, places, dim)`): Patch embeddings without positions.
        groups (`int`, defaults to 1): Groups of consecutive steps; the first step of each has the values of the
            second.

    Returns:
        `torch.Tensor` of shape `(batch, steps, places)`, float32.

    Raises:
        ValueError: if the shape is another, or `groups` does not divide the steps into groups of two or more.
    """
    if embeddings.ndim != 4 or not embeddings.is_floating_point():
        raise ValueError(
            "`embeddings` must be a floating point tensor (batch, steps, places, dim), but is "
            f"{embeddings.dtype} {tuple(embeddings.shape)}."
        )
    steps = embeddings.shape[1]
    group_steps = _steps_of_a_group(steps, groups)
    if group_steps < 2:
        raise ValueError(
            f"Selection by motion compares time steps, but {steps} in {groups} groups leaves {group_steps} in each. "
            "Give a longer clip or fewer groups, or encode all tokens (`motion_drop_ratio` 0)."
        )
    grouped = embeddings.detach().float().unflatten(1, (groups, group_steps))  # (B, G, T/G, S, D)
    distances = torch.linalg.vector_norm(grouped[:, :, 1:] - grouped[:, :, :-1], dim=-1)
    return torch.cat([distances[:, :, :1], distances], dim=2).flatten(1, 2)


def motion_token_selection(
    importance: torch.Tensor,
    mask_ratio: float,
    generator: torch.Generator | None = None,
    sample_seeds: torch.Tensor | None = None,
    groups: int = 1,
) -> torch.Tensor:
    """Keep the `int((1 - mask_ratio) * N)` tokens of highest importance, over the clip or in each group of steps.

    The selection is deterministic: `generator` and `sample_seeds`, which every token selection takes, change nothing.

    Args:
        importance (`torch.Tensor` of shape `(batch, steps, places)`): Of [`motion_importance`], with the same groups.
        mask_ratio (`float`): Fraction of the tokens that is dropped, in `[0, 1)`: 0.4 in EVEREST's fine-tuning, 0.7
            in its pre-training.
        groups (`int`, defaults to 1): Groups of consecutive steps, of which each keeps the same number of tokens.

    Returns:
        `torch.Tensor` of shape `(batch, kept)`, int64: ascending indices of the kept tokens.

    Raises:
        ValueError: on a wrong shape, a ratio outside `[0, 1)` or that keeps no token, or groups that do not divide the
            steps.
    """
    steps, places = _steps_and_places(importance)
    num_tokens = _steps_of_a_group(steps, groups) * places
    return tokens_with_most_motion(importance, num_kept_tokens(num_tokens, mask_ratio), groups)


def motion_token_split(
    importance: torch.Tensor,
    keep_ratio: float,
    visible_ratio: float,
    generator: torch.Generator | None = None,
    sample_seeds: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the tokens of highest importance and sample uniformly which of them are visible; the others are targets.

    This is EVEREST's masking of pre-training: the encoder receives the visible tokens, the decoder predicts the
    targets, and the remaining tokens appear nowhere. Both counts are those of [`num_kept_tokens`] with the mask ratios
    `1 - keep_ratio` and `1 - visible_ratio`: of 1568 tokens 0.3 and 0.1 give 156 visible ones and 314 targets.

    Args:
        importance (`torch.Tensor` of shape `(batch, steps, places)`): Of [`motion_importance`].
        keep_ratio (`float`): Fraction of the tokens that is kept, in `(0, 1]`.
        visible_ratio (`float`): Fraction of all tokens that is visible, in `(0, 1]`.
        generator (`torch.Generator`, *optional*):
            Random generator on the device of `importance`; defaults to PyTorch's own for that device.
        sample_seeds (`torch.Tensor` of shape `(batch,)`, int64, *optional*):
            One seed per sample, used instead of a generator.

    Returns:
        Two `torch.Tensor`, int64: ascending indices `(batch, visible)` and `(batch, kept - visible)`.

    Raises:
        ValueError: on a wrong shape, a ratio outside `(0, 1]`, if no kept token is a target, or a generator is given
            together with seeds.
    """
    steps, places = _steps_and_places(importance)
    num_kept = _num_tokens_of(steps * places, keep_ratio, "keep_ratio")
    num_visible = _num_tokens_of(steps * places, visible_ratio, "visible_ratio")
    if num_visible >= num_kept:
        raise ValueError(
            f"`visible_ratio` {visible_ratio} makes {num_visible} tokens visible of the {num_kept} that `keep_ratio` "
            f"{keep_ratio} keeps, which leaves no target. Lower the former or raise the latter."
        )
    kept = tokens_with_most_motion(importance, num_kept)
    noise = uniform_noise((kept.shape[0], num_kept), kept.device, generator, sample_seeds)
    shuffled = kept.gather(1, noise.argsort(dim=1, stable=True))
    return shuffled[:, :num_visible].sort(dim=1).values, shuffled[:, num_visible:].sort(dim=1).values


def select_frames_by_motion(
    importance: torch.Tensor,
    num_frames: int,
    keep_ratio: float,
    generator: torch.Generator | None = None,
    sample_seeds: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sample time steps of a longer clip in proportion to their kept tokens (section 4.2, "information-intensive
    frame selection").

    Tokens are selected over all steps; c_t is the number of those kept in step t. Steps are then drawn one after the
    other without replacement, with probability c_t over the sum of the remaining. A step covers `tubelet_size` frames,
    two in EVEREST, which stay together. What the paper leaves open is defined here: the drawn steps are in temporal
    order, and steps without a kept token are drawn last, uniformly, if too few others exist.

    Args:
        importance (`torch.Tensor` of shape `(batch, steps, places)`): Of [`motion_importance`] over the longer clip.
        num_frames (`int`): Steps to draw, at most `steps`.
        keep_ratio (`float`): Fraction of the tokens that is kept, in `(0, 1]`; that of [`motion_token_split`].
        generator, sample_seeds: See [`motion_token_split`].

    Returns:
        `torch.Tensor` of shape `(batch, num_frames)`, int64: ascending indices of the drawn steps.

    Raises:
        ValueError: on a wrong shape, a ratio outside `(0, 1]`, more steps than exist, or a generator together with
            seeds.
    """
    steps, places = _steps_and_places(importance)
    if not 1 <= num_frames <= steps:
        raise ValueError(f"`num_frames` must be 1 to the clip's {steps} time steps, but is {num_frames}.")
    kept = tokens_with_most_motion(importance, _num_tokens_of(steps * places, keep_ratio, "keep_ratio"))
    step_of_token = torch.arange(steps, device=kept.device)
    counts = (kept[:, None] // places == step_of_token[:, None]).sum(dim=2)  # (B, T)
    noise = uniform_noise((kept.shape[0], steps), kept.device, generator, sample_seeds)
    return sampling_scores(counts, noise).topk(num_frames, dim=1).indices.sort(dim=1).values


def tokens_with_most_motion(importance: torch.Tensor, num_kept: int, groups: int = 1) -> torch.Tensor:
    """The `num_kept` tokens of highest importance in each group of steps; of equal ones that with the lower index.

    Args:
        importance (`torch.Tensor` of shape `(batch, steps, places)`): Of [`motion_importance`], with the same groups.
        num_kept (`int`): Tokens to keep in every group, at most those of a group.
        groups (`int`, defaults to 1): Groups of consecutive steps.

    Returns:
        `torch.Tensor` of shape `(batch, groups * num_kept)`, int64, ascending.

    Raises:
        ValueError: on a wrong shape, or groups that do not divide the steps.
    """
    steps, _ = _steps_and_places(importance)
    grouped = importance.unflatten(1, (groups, _steps_of_a_group(steps, groups))).flatten(2)  # (B, G, N/G)
    # a top-k would break ties arbitrarily
    ranking = grouped.argsort(dim=2, descending=True, stable=True)
    within_group = ranking[:, :, :num_kept].sort(dim=2).values
    group_start = torch.arange(groups, device=importance.device) * grouped.shape[2]
    return (within_group + group_start[:, None]).flatten(1)


def num_kept_tokens(num_tokens: int, mask_ratio: float) -> int:
    """EVEREST's number of kept tokens, `int((1 - mask_ratio) * num_tokens)` in double precision.

    Raises:
        ValueError: if the ratio is outside `[0, 1)`, or no token is kept.
    """
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"`mask_ratio` is the fraction of dropped tokens and must be in [0, 1); got {mask_ratio}.")
    num_kept = int((1 - mask_ratio) * num_tokens)
    if num_kept < 1:
        raise ValueError(f"`mask_ratio` {mask_ratio} keeps none of {num_tokens} tokens; lower it.")
    return num_kept


def _num_tokens_of(num_tokens: int, ratio: float, name: str) -> int:
    if not 0 < ratio <= 1:
        raise ValueError(f"`{name}` is a fraction of the tokens and must be in (0, 1]; got {ratio}.")
    # by way of the mask ratio: 1 - 0.9 is a little less than 0.1, and 160 tokens then have 15 visible ones, not 16
    return num_kept_tokens(num_tokens, 1 - ratio)


def _steps_and_places(importance: torch.Tensor) -> tuple[int, int]:
    if importance.ndim != 3:
        raise ValueError(
            f"`importance` must have the shape (batch, steps, places), but has {tuple(importance.shape)}; "
            "`motion_importance` returns it."
        )
    return importance.shape[1], importance.shape[2]


def _steps_of_a_group(steps: int, groups: int) -> int:
    if groups < 1 or steps % groups:
        raise ValueError(f"The clip's {steps} time steps can't be divided into {groups} groups of the same length.")
    return steps // groups
