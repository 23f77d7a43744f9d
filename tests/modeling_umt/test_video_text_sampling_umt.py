"""What stage 2 draws: pairs that do not match, and word pieces to hide."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling_umt.video_text_sampling_umt import draw_negatives, hide_word_pieces


@given(st.lists(st.integers(0, 4), min_size=1, max_size=7), st.booleans(), st.integers(0, 1000))
def test_negatives_never_belong_to_their_row(ids, hard, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor(ids)
    logits = 100 * torch.randn(len(ids), len(ids), generator=generator)  # as far apart as small temperatures put them
    for drawn in draw_negatives(logits, ids, hard, generator):
        has_negative = (ids[:, None] != ids[None, :]).any(dim=1)
        assert (ids[drawn] != ids)[has_negative].all()
        assert (drawn == torch.arange(len(ids)))[~has_negative].all()


def test_hard_negatives_are_the_similar_ones_and_even_ones_are_not():
    logits = torch.tensor([[9.0, 5.0, 0.0], [5.0, 9.0, 0.0], [5.0, 0.0, 9.0]])  # texts in rows
    generator = torch.Generator().manual_seed(0)
    for hard, share in ((True, 0.993), (False, 0.5)):
        drawn = torch.stack([draw_negatives(logits, hard=hard, generator=generator)[0] for _ in range(2000)])
        assert abs((drawn[:, 2] == 0).float().mean().item() - share) < 0.04


def test_draws_are_the_generators_own():
    texts = torch.randint(5, 40, (4, 12), generator=torch.Generator().manual_seed(3))
    drawn = [
        hide_word_pieces(texts, 40, 3, (0, 2), generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    ]
    torch.manual_seed(9)  # the global state says nothing
    again = hide_word_pieces(texts, 40, 3, (0, 2), generator=torch.Generator().manual_seed(1))
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][0], again[0])
    assert not torch.equal(drawn[0][1], drawn[2][1])


def test_shares_of_hidden_word_pieces():
    """Half are chosen; of these 80 % are masked, 10 % anything, 10 % as they were. Padding and [CLS] never."""
    texts = torch.randint(5, 1000, (400, 100), generator=torch.Generator().manual_seed(4))
    texts[:, 0], texts[:, 90:] = 2, 0
    hidden, labels = hide_word_pieces(texts, 1000, 3, (0, 2), generator=torch.Generator().manual_seed(5))
    chosen = labels != -100
    assert not chosen[:, 0].any() and not chosen[:, 90:].any()
    assert torch.equal(labels[chosen], texts[chosen]) and torch.equal(hidden[~chosen], texts[~chosen])
    assert abs(chosen[:, 1:90].float().mean().item() - 0.5) < 0.01
    masked, kept = (hidden == 3)[chosen].float().mean(), (hidden == texts)[chosen].float().mean()
    assert abs(masked.item() - 0.8) < 0.01 and abs(kept.item() - 0.1) < 0.01
