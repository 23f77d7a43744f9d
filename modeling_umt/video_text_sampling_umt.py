"""What stage 2 samples in every step: pairs that do not match, and tokens to mask (arXiv 2303.16058, section 3.3).

Pure functions of tensors and a random generator. Shapes are static and no value is read back from the device.

Unusual: half of the tokens are masked, not BERT's 15 %, because the video supplies missing context. `[CLS]` and
padding are never masked.
"""

import torch


def sample_negatives(
    logits_per_text: torch.Tensor,
    ids: torch.Tensor | None = None,
    hard: bool = True,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample a video that does not match for each text, and a text that does not match for each video.

    Args:
        logits_per_text (`torch.Tensor` of shape `(batch, batch)`): Similarities divided by the temperature, texts in
            rows. They get no gradient.
        ids (int64 `(batch,)`, *optional*): Pairs of equal id match and are never sampled; by default a video and a
            text of the same index.
        hard (`bool`, defaults to True): Sample in proportion to the softmax of the similarities, else uniformly.
        generator (`torch.Generator`, *optional*): Random generator; defaults to PyTorch's own for the device.

    Returns:
        `(video_indices, text_indices)`, int64 `(batch,)` each: a video for each text, a text for each video. A row
        without a negative, where all pairs of the batch match, gets its own index.
    """
    batch = logits_per_text.shape[0]
    positives = torch.arange(batch, device=logits_per_text.device)
    ids = positives if ids is None else ids
    same = ids[:, None] == ids[None, :]
    has_no_negative = same.all(dim=1, keepdim=True)
    sampled = []
    for logits in (logits_per_text.detach(), logits_per_text.detach().T):
        # Officially a softmax whose matching entries are then set to zero: the same proportions, but weights that
        # underflow could leave a row with nothing to sample.
        logits = logits.float() if hard else torch.zeros_like(logits, dtype=torch.float32)
        weights = logits.masked_fill(same, -torch.inf).softmax(dim=1)
        weights = torch.where(has_no_negative, torch.eye(batch, device=weights.device), weights)
        sampled.append(torch.multinomial(weights, 1, generator=generator).squeeze(1))
    return sampled[0], sampled[1]


def mask_tokens(
    input_ids: torch.Tensor,
    vocab_size: int,
    mask_token_id: int,
    unmaskable_ids: tuple[int | None, ...],
    probability: float = 0.5,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask tokens for masked language modelling.

    Of the selected tokens 80 % become `[MASK]`, 10 % a random token, and 10 % stay unchanged.

    Args:
        input_ids (int64 `(batch, length)`).
        vocab_size (`int`): Number of tokens to sample random ones from.
        mask_token_id (`int`): Id of `[MASK]`.
        unmaskable_ids: Ids that are never selected; None entries are ignored.
        probability (`float`, defaults to 0.5): Probability of a token to be selected.
        generator (`torch.Generator`, *optional*): Random generator; defaults to PyTorch's own for the device.

    Returns:
        `(mlm_input_ids, mlm_labels)`, int64 `(batch, length)` each; labels are -100 where no token was selected.
    """
    options = {"device": input_ids.device, "generator": generator}
    maskable = torch.ones_like(input_ids, dtype=torch.bool)
    for token_id in unmaskable_ids:
        if token_id is not None:
            maskable &= input_ids != token_id
    selected = maskable & (torch.rand(input_ids.shape, **options) < probability)
    kind = torch.rand(input_ids.shape, **options)
    random_ids = torch.randint(vocab_size, input_ids.shape, **options)
    masked = torch.where(kind < 0.8, mask_token_id, torch.where(kind < 0.9, random_ids, input_ids))
    return torch.where(selected, masked, input_ids), torch.where(selected, input_ids, -100)


__all__ = ["mask_tokens", "sample_negatives"]
