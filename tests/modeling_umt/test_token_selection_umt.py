"""Token selection: exact counts, distribution against torch.multinomial, seeds, compile, and both forms of a mask."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_umt.token_selection_umt import (
    attention_token_selection,
    clip_attention_token_selection,
    draw_motion_masks,
    highest_scoring_tokens,
    highest_scoring_tokens_per_frame,
    mask_from_visible_indices,
    random_token_selection,
    resolve_visible_indices,
    tokens_with_most_motion,
    tube_token_selection,
    uniform_noise,
    visible_indices_from_mask,
)

STRATEGIES = [
    attention_token_selection,
    clip_attention_token_selection,
    tube_token_selection,
    random_token_selection,
]
OVER_THE_CLIP = (clip_attention_token_selection, random_token_selection)  # counts differ between frames


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def attention(batch: int, frames: int, tokens: int, seed: int = 0) -> torch.Tensor:
    logits = 2 * torch.randn(batch, frames, tokens + 1, generator=generator(seed))
    return logits.softmax(dim=-1)[..., 1:]


@pytest.mark.parametrize(
    ("ratio", "per_frame"), [(0.5, 98), (0.6, 79), (0.7, 59), (0.75, 49), (0.8, 40), (0.9, 20), (0.95, 10)]
)
@pytest.mark.parametrize("frames", [1, 4, 8])
def test_official_counts(ratio, per_frame, frames):
    grid = attention(2, frames, 196)
    for strategy in (attention_token_selection, tube_token_selection):
        visible = strategy(grid, ratio, generator(0))
        assert visible.shape == (2, frames * per_frame)
        assert torch.equal(
            torch.stack([(visible // 196 == t).sum(dim=1) for t in range(frames)]),
            torch.full((frames, 2), per_frame),
        )
    assert random_token_selection(grid, ratio, generator(0)).shape == (2, frames * 196 - int(ratio * frames * 196))


def test_random_strategy_counts_over_the_clip():
    assert random_token_selection(attention(1, 8, 196), 0.8, generator(0)).shape == (1, 314)  # not 8 * 40


@settings(max_examples=60, deadline=None)
@given(
    strategy=st.sampled_from(STRATEGIES),
    batch=st.integers(1, 3),
    frames=st.integers(1, 5),
    tokens=st.integers(1, 30),
    ratio=st.floats(0, 0.99),
    seed=st.integers(-(2**63), 2**63 - 1),
    seeded=st.booleans(),
)
def test_indices_are_ascending_unique_in_range_and_counted(strategy, batch, frames, tokens, ratio, seed, seeded):
    source = {"sample_seeds": torch.full((batch,), seed)} if seeded else {"generator": generator(seed)}
    visible = strategy(attention(batch, frames, tokens), ratio, **source)
    if strategy in OVER_THE_CLIP:
        expected = frames * tokens - int(frames * tokens * ratio)
    else:
        expected = frames * (tokens - int(tokens * ratio))
    assert visible.dtype == torch.int64 and visible.shape == (batch, expected)
    assert (visible.diff(dim=1) > 0).all()  # ascending, hence unique
    assert visible.min() >= 0 and visible.max() < frames * tokens

    mask = mask_from_visible_indices(visible, frames * tokens)
    assert mask.dtype == torch.bool and mask.shape == (batch, frames * tokens)
    assert ((~mask).sum(dim=1) == expected).all()
    assert torch.equal(visible_indices_from_mask(mask), visible)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    frames=st.integers(1, 5),
    tokens=st.integers(1, 30),
    ratio=st.floats(0, 0.99),
    num_masks=st.integers(1, 4),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_motion_masks_of_a_clip_split_the_tokens_of_most_motion(batch, frames, tokens, ratio, num_masks, seed):
    importance, num_tokens = attention(batch, frames, tokens), frames * tokens
    visible = num_tokens - int(num_tokens * ratio)
    seeds = torch.full((batch,), seed)
    if num_masks * visible > num_tokens:
        with pytest.raises(ValueError, match=f"{num_masks} motion masks of a clip show {visible} tokens each"):
            draw_motion_masks(importance, ratio, seeds, num_masks)
        return
    masks = draw_motion_masks(importance, ratio, seeds, num_masks)
    assert masks.shape == (batch, num_masks, visible) and (masks.diff(dim=2) > 0).all()
    together = masks.flatten(1).sort(dim=1).values
    assert torch.equal(together, tokens_with_most_motion(importance, num_masks * visible))
    alone = draw_motion_masks(importance[-1:], ratio, seeds[-1:], num_masks)
    assert torch.equal(alone, masks[-1:])


def test_each_token_of_several_motion_masks_is_as_likely_in_every_mask():
    importance = attention(1, 2, 8).expand(2000, -1, -1)
    masks = draw_motion_masks(importance, 0.75, torch.arange(2000), 2)
    kept = tokens_with_most_motion(importance[:1], 8)[0]
    frequencies = torch.stack([(masks[:, 0] == token).any(dim=1).float().mean() for token in kept])
    assert (frequencies - 0.5).abs().max() < 0.05


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_generator_gives_one_mask(strategy):
    grid = attention(3, 4, 49)
    first = strategy(grid, 0.8, generator(5))
    assert torch.equal(first, strategy(grid, 0.8, generator(5)))
    assert not torch.equal(first, strategy(grid, 0.8, generator(6)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_passed_sources_leave_the_global_state_alone(strategy):
    before = torch.get_rng_state()
    strategy(attention(2, 2, 9), 0.5, generator(0))
    strategy(attention(2, 2, 9), 0.5, sample_seeds=torch.tensor([1, 2]))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_sample_seed_decides_its_own_mask_only(strategy):
    grid, seeds = attention(6, 4, 49), torch.tensor([3, -1, 2**62, 3 + 2**32, 0, 3])
    together = strategy(grid, 0.8, sample_seeds=seeds)
    for i in range(6):  # a batch of one gives the same mask
        assert torch.equal(together[i], strategy(grid[i : i + 1], 0.8, sample_seeds=seeds[i : i + 1])[0])
    same_grid = strategy(grid[:1].expand(6, -1, -1), 0.8, sample_seeds=seeds)
    assert torch.equal(same_grid[0], same_grid[5])
    assert len({tuple(row) for row in same_grid.tolist()}) == 5  # all 64 bits of a seed matter


def test_tube_repeats_one_frame():
    visible = tube_token_selection(attention(4, 8, 196), 0.8, generator(1)).view(4, 8, 40)
    assert torch.equal(visible, visible[:, :1] + 196 * torch.arange(8)[:, None])
    assert not torch.equal(visible[0], visible[1])


def test_frames_are_sampled_independently_by_attention():
    visible = attention_token_selection(torch.ones(1, 8, 196), 0.8, generator(1)).view(8, 40) % 196
    assert len({tuple(row) for row in visible.tolist()}) == 8


def inclusion_frequencies(visible: torch.Tensor, tokens: int) -> torch.Tensor:
    return torch.bincount(visible.flatten(), minlength=tokens) / visible.shape[0]


@pytest.mark.parametrize("source", ["generator", "sample_seeds"])
def test_attention_selection_is_multinomial_without_replacement(source):
    samples, tokens, keep = 40_000, 12, 4
    row = attention(1, 1, tokens, seed=3)[0, 0]
    source = {"generator": generator(1)} if source == "generator" else {"sample_seeds": torch.arange(samples)}
    ours = attention_token_selection(row.expand(samples, 1, tokens), 1 - keep / tokens, **source)
    theirs = torch.multinomial(row.expand(samples, tokens), tokens, generator=generator(2))[:, :keep]
    # single tokens, then every pair of tokens; two independent frequencies differ by at most 5 standard errors
    pairs = torch.combinations(torch.arange(tokens))
    for statistic in (
        lambda visible: inclusion_frequencies(visible, tokens),
        lambda visible: (~mask_from_visible_indices(visible, tokens))[:, pairs].all(dim=-1).float().mean(dim=0),
    ):
        a, b = statistic(ours), statistic(theirs)
        pooled = (a + b) / 2
        assert ((a - b).abs() <= 5 * (2 * pooled * (1 - pooled) / samples).sqrt() + 1e-4).all()
    # uniform sampling would be far outside
    assert (inclusion_frequencies(ours, tokens) - keep / tokens).abs().max() > 0.2


@pytest.mark.parametrize("source", ["generator", "sample_seeds"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_uniform_strategies_and_zero_rows_are_uniform(strategy, source):
    samples, tokens = 20_000, 10
    source = {"generator": generator(4)} if source == "generator" else {"sample_seeds": torch.arange(samples) * 7}
    visible = strategy(torch.zeros(samples, 1, tokens), 0.7, **source)  # attention of zeros: uniform as well
    frequencies = inclusion_frequencies(visible, tokens)
    assert (frequencies - 0.3).abs().max() < 5 * (0.3 * 0.7 / samples) ** 0.5


def test_zero_attention_comes_last_and_in_random_order():
    row = torch.tensor([0, 1e-12, 0, 0.5, 0, 0])  # two tokens have attention, three are kept
    visible = attention_token_selection(row.expand(2000, 1, 6), 0.5, generator(0))
    frequencies = inclusion_frequencies(visible, 6)
    assert (frequencies[[1, 3]] == 1).all()
    assert (frequencies[[0, 2, 4, 5]] - 0.25).abs().max() < 0.05


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_attention(dtype):
    grid = attention(2, 3, 49).to(dtype)
    visible = attention_token_selection(grid, 0.8, generator(0))
    assert torch.equal(visible, attention_token_selection(grid.float(), 0.8, generator(0)))


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(torch.arange(1024), id="adjacent"),
        pytest.param(-torch.arange(1024), id="negative"),
        pytest.param(torch.arange(1024) << 32, id="high word only"),
        pytest.param(torch.arange(1024) * 1_000_003, id="multiples"),
        pytest.param(torch.randint(-(2**63), 2**63 - 1, (1024,), generator=generator(0)), id="random"),
    ],
)
def test_seeded_noise_is_uniform_and_uncorrelated(seeds):
    noise = uniform_noise((1024, 1568), torch.device("cpu"), sample_seeds=seeds)
    assert noise.dtype == torch.float32 and noise.min() >= 0 and noise.max() < 1
    counts = torch.histc(noise, bins=256, min=0, max=1)
    expected = noise.numel() / 256
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - 255) < 5 * (2 * 255) ** 0.5
    standard = (noise - 0.5) * 12**0.5  # mean 0, variance 1
    assert standard.mean(dim=0).abs().max() < 5.5 * 1024**-0.5  # every token over the seeds
    assert standard.mean(dim=1).abs().max() < 5.5 * 1568**-0.5  # every seed over the tokens
    for product in (
        standard[:, 1:] * standard[:, :-1],  # neighbouring tokens
        standard[:, 196:] * standard[:, :-196],  # the same position in neighbouring frames
        standard[1:] * standard[:-1],  # neighbouring seeds
        standard[512:] * standard[:512],  # distant seeds
        standard[1:, :-1] * standard[:-1, 1:],  # neighbouring seeds, shifted by one token
    ):
        assert abs(product.mean()) < 5 * product.numel() ** -0.5


def test_seeded_noise_stays_the_same_between_releases():
    noise = uniform_noise((2, 3), torch.device("cpu"), sample_seeds=torch.tensor([0, -7]))
    assert (noise * 2**24).tolist() == [
        [5123152, 9515070, 10063907],
        [703081, 5607694, 1193194],
    ]  # otherwise an interrupted run would resume with other masks


def test_recorded_masks(recorded):
    for name in ("stage1_loss_l2", "stage1_loss_mse", "stage1_loss_smooth_l1"):
        description, tensors = recorded(name)
        mask, importance = tensors["expected/mask"], tensors["input/importance"]
        # the recorded order of sampling as scores: the first has the highest
        scores = (-importance.argsort(dim=1)).view(mask.shape[0], -1, importance.shape[1])
        visible = highest_scoring_tokens_per_frame(scores, description["visible_per_frame"])
        assert torch.equal(mask_from_visible_indices(visible, mask.shape[1]), mask)
        assert torch.equal(visible_indices_from_mask(mask), visible)
        selected = attention_token_selection(
            tensors["expected/teacher_attention"].view_as(scores), description["mask_ratio"], generator(0)
        )
        assert selected.shape == visible.shape


def test_highest_scoring_tokens_over_the_clip():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7], [4.0, 3.0, 2.0, 1.0]])
    assert highest_scoring_tokens(scores, 2).tolist() == [[1, 3], [0, 1]]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(strategy, dynamic):
    torch._dynamo.reset()
    selector = torch.compile(partial(strategy, mask_ratio=0.8), fullgraph=True, backend="eager", dynamic=dynamic)
    for frames in (2, 4):
        grid, seeds = attention(3, frames, 49), torch.tensor([1, 2, 3])
        assert torch.equal(selector(grid, sample_seeds=seeds), strategy(grid, 0.8, sample_seeds=seeds))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_runs_without_reading_values(strategy):
    # the meta device has no values: a host synchronisation, boolean index or data-dependent shape fails there
    grid = torch.empty(2, 8, 196, device="meta")
    visible = strategy(grid, 0.8, sample_seeds=torch.empty(2, dtype=torch.int64, device="meta"))
    assert visible.shape == ((2, 314) if strategy in OVER_THE_CLIP else (2, 320))
    assert mask_from_visible_indices(visible, 1568).shape == (2, 1568)


def test_a_new_strategy_is_one_function():
    """A top-k of token importance over the clip, as in motion-guided selection."""

    def motion_token_selection(importance, mask_ratio, generator=None, sample_seeds=None):
        tokens = importance.flatten(1)
        return highest_scoring_tokens(tokens, tokens.shape[1] - int(tokens.shape[1] * mask_ratio))

    selector = partial(motion_token_selection, mask_ratio=0.75)
    assert selector(torch.arange(16.0).view(1, 4, 4)).tolist() == [[12, 13, 14, 15]]


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ratio_out_of_range(strategy, ratio):
    with pytest.raises(ValueError, match=r"mask_ratio.*\[0, 1\)"):
        strategy(attention(1, 1, 4), ratio)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bad_arguments(strategy):
    grid = attention(2, 2, 4)
    with pytest.raises(ValueError, match=r"\(batch, frames, tokens_per_frame\).*\(4, 4\)"):
        strategy(grid.flatten(0, 1), 0.5)
    with pytest.raises(ValueError, match="one of them"):
        strategy(grid, 0.5, generator(0), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"int64 of shape \(2,\).*\(3,\)"):
        strategy(grid, 0.5, sample_seeds=torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match=r"int64 of shape \(2,\).*float32"):
        strategy(grid, 0.5, sample_seeds=torch.tensor([1.0, 2.0]))


def test_bad_masks():
    with pytest.raises(ValueError, match=r"same number.*\[2, 1\] visible of 3"):
        visible_indices_from_mask(torch.tensor([[True, False, False], [True, True, False]]))
    with pytest.raises(ValueError, match="at least one"):
        visible_indices_from_mask(torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"must be bool.*int64"):
        visible_indices_from_mask(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(batch, tokens\).*\(3,\)"):
        visible_indices_from_mask(torch.ones(3, dtype=torch.bool))


def test_both_forms_of_a_mask_resolve_to_the_same_indices():
    visible = torch.tensor([[0, 2], [1, 4]])
    mask = mask_from_visible_indices(visible, 5)
    assert torch.equal(resolve_visible_indices(2, 5, bool_masked_pos=mask), visible)
    assert resolve_visible_indices(2, 5, visible_indices=visible) is visible
    assert resolve_visible_indices(2, 5) is None
    several = visible.repeat(1, 3)  # three masks of a clip side by side
    assert resolve_visible_indices(2, 5, visible_indices=several, allow_repeats=True) is several


def test_masks_of_other_clips_are_refused():
    mask, visible = torch.tensor([[True, False, False]]), torch.tensor([[1, 2]])
    for options, message in (
        ({"bool_masked_pos": mask, "visible_indices": visible}, "not both"),
        ({"bool_masked_pos": mask[:, :2]}, r"bool \(batch 1, tokens 3\).*torch.bool \(1, 2\)"),
        ({"bool_masked_pos": mask.float()}, r"bool \(batch 1, tokens 3\).*torch.float32 \(1, 3\)"),
        ({"visible_indices": visible.int()}, r"int64 \(batch 1, 1 to 3 visible tokens\).*torch.int32 \(1, 2\)"),
        ({"visible_indices": visible.repeat(1, 2)}, r"1 to 3 visible tokens.*\(1, 4\)"),
        ({"visible_indices": visible[:, :0]}, r"1 to 3 visible tokens.*\(1, 0\)"),
        ({"visible_indices": visible.repeat(2, 1)}, r"batch 1.*\(2, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            resolve_visible_indices(1, 3, **options)
