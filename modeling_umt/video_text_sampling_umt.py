"""What stage 2 draws in every step: pairs that do not match, and word pieces to hide (arXiv 2303.16058, section 3.3).

Pure functions of tensors and a generator. Shapes are static and no value is read back from the device.

Unusual: half of the word pieces are hidden, not BERT's 15 %: with the video at hand the rest can be told. `[CLS]` and
padding never are.
"""

import torch


def draw_negatives(
    logits_per_text: torch.Tensor,
    ids: torch.Tensor | None = None,
    hard: bool = True,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    For each text a video, and for each video a text, that do not belong to it (method, 15.2).

    Args:
        logits_per_text (`torch.Tensor` of shape `(batch, batch)`): Similarities over the temperature, texts in rows.
            They get no gradient.
        ids (int64 `(batch,)`, *optional*): Pairs of equal id belong together and are never drawn; by default a video
            and a text of the same place.
        hard (`bool`, defaults to True): Draw in proportion to the softmax of the similarities, else evenly.
        generator (*optional*): The source of randomness.

    Returns:
        `(video_indices, text_indices)`, int64 `(batch,)` each: a video for each text, a text for each video. Where
        everything in the batch belongs together there is none, and the index is the row's own.
    """
    batch = logits_per_text.shape[0]
    own = torch.arange(batch, device=logits_per_text.device)
    ids = own if ids is None else ids
    same = ids[:, None] == ids[None, :]
    none = same.all(dim=1, keepdim=True)
    chosen = []
    for logits in (logits_per_text.detach(), logits_per_text.detach().T):
        # Officially a softmax whose matching entries are then put to zero: the same proportions, but a weight so small
        # that it becomes zero could leave a row with nothing to draw.
        logits = logits.float() if hard else torch.zeros_like(logits, dtype=torch.float32)
        weights = logits.masked_fill(same, -torch.inf).softmax(dim=1)
        weights = torch.where(none, torch.eye(batch, device=weights.device), weights)
        chosen.append(torch.multinomial(weights, 1, generator=generator).squeeze(1))
    return chosen[0], chosen[1]


def hide_word_pieces(
    input_ids: torch.Tensor,
    vocab_size: int,
    mask_token_id: int,
    never: tuple[int | None, ...],
    probability: float = 0.5,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Hide word pieces for masked language modelling (method, 15.3): of those chosen 80 % become `[MASK]`, 10 % any word
    piece, 10 % stay.

    Args:
        input_ids (int64 `(batch, length)`).
        vocab_size: Number of word pieces to draw from.
        mask_token_id: Id of `[MASK]`.
        never: Ids that are never hidden.
        probability (`float`, defaults to 0.5): Of a word piece to be chosen.
        generator (*optional*): The source of randomness.

    Returns:
        `(mlm_input_ids, mlm_labels)`, int64 `(batch, length)` each; labels are -100 where nothing is to be guessed.
    """
    options = {"device": input_ids.device, "generator": generator}
    hideable = torch.ones_like(input_ids, dtype=torch.bool)
    for token_id in never:
        if token_id is not None:
            hideable &= input_ids != token_id
    chosen = hideable & (torch.rand(input_ids.shape, **options) < probability)
    kind = torch.rand(input_ids.shape, **options)
    anything = torch.randint(vocab_size, input_ids.shape, **options)
    hidden = torch.where(kind < 0.8, mask_token_id, torch.where(kind < 0.9, anything, input_ids))
    return torch.where(chosen, hidden, input_ids), torch.where(chosen, input_ids, -100)


__all__ = ["draw_negatives", "hide_word_pieces"]
