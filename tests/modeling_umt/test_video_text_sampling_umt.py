"""The sampling of stage 2: negatives, and tokens to mask."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling_umt.video_text_sampling_umt import mask_tokens, sample_negatives


@given(st.lists(st.integers(0, 4), min_size=1, max_size=7), st.booleans(), st.integers(0, 1000))
def test_negatives_never_match_their_row(ids, hard, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor(ids)
    logits = 100 * torch.randn(len(ids), len(ids), generator=generator)  # as large as with small temperatures
    for indices in sample_negatives(logits, ids, hard, generator):
        has_negative = (ids[:, None] != ids[None, :]).any(dim=1)
        assert (ids[indices] != ids)[has_negative].all()
        assert (indices == torch.arange(len(ids)))[~has_negative].all()


def test_hard_negatives_are_the_similar_ones_and_uniform_ones_are_not():
    logits = torch.tensor([[9.0, 5.0, 0.0], [5.0, 9.0, 0.0], [5.0, 0.0, 9.0]])  # texts in rows
    generator = torch.Generator().manual_seed(0)
    for hard, frequency in ((True, 0.993), (False, 0.5)):
        sampled = torch.stack([sample_negatives(logits, hard=hard, generator=generator)[0] for _ in range(2000)])
        assert abs((sampled[:, 2] == 0).float().mean().item() - frequency) < 0.04


def test_sampling_depends_on_the_generator_alone():
    texts = torch.randint(5, 40, (4, 12), generator=torch.Generator().manual_seed(3))
    masked = [mask_tokens(texts, 40, 3, (0, 2), generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    torch.manual_seed(9)  # the global state has no effect
    again = mask_tokens(texts, 40, 3, (0, 2), generator=torch.Generator().manual_seed(1))
    assert torch.equal(masked[0][0], masked[1][0]) and torch.equal(masked[0][0], again[0])
    assert not torch.equal(masked[0][1], masked[2][1])


def test_fractions_of_masked_tokens():
    """Half are selected; of these 80 % become [MASK], 10 % random, 10 % unchanged. Padding and [CLS] never are."""
    texts = torch.randint(5, 1000, (400, 100), generator=torch.Generator().manual_seed(4))
    texts[:, 0], texts[:, 90:] = 2, 0
    masked, labels = mask_tokens(texts, 1000, 3, (0, 2), generator=torch.Generator().manual_seed(5))
    selected = labels != -100
    assert not selected[:, 0].any() and not selected[:, 90:].any()
    assert torch.equal(labels[selected], texts[selected]) and torch.equal(masked[~selected], texts[~selected])
    assert abs(selected[:, 1:90].float().mean().item() - 0.5) < 0.01
    mask_rate, kept_rate = (masked == 3)[selected].float().mean(), (masked == texts)[selected].float().mean()
    assert abs(mask_rate.item() - 0.8) < 0.01 and abs(kept_rate.item() - 0.1) < 0.01
