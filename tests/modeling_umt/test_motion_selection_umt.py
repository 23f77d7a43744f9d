"""Selection by motion: recorded values of EVEREST and FluxViT, counts, ties, distributions, seeds, one graph."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from modeling_umt.motion_selection_umt import num_kept_tokens, tokens_with_most_motion
from modeling_umt.token_selection_umt import (
    motion_importance,
    motion_token_selection,
    motion_token_split,
    select_frames_by_motion,
)


def importance_of(batch: int, steps: int, places: int, seed: int = 0) -> torch.Tensor:
    """Random distances with many ties."""
    return torch.randint(0, 6, (batch, steps, places), generator=torch.Generator().manual_seed(seed)) / 4


def recorded_importance(tensors: dict[str, torch.Tensor], case: str, grid: tuple[int, int]) -> torch.Tensor:
    return tensors[f"expected/{case}/importance"].unflatten(1, grid)


@pytest.mark.parametrize("case", ["a", "b", "grid14", "tie", "static", "clip"])
def test_importance_and_kept_tokens_are_those_of_everest(recorded, case):
    description, tensors = recorded("everest_importance")
    sizes = description["cases"][case]
    grid = (sizes["time_steps"], sizes["tokens_per_step"])
    if case == "clip":
        clip = tensors["input/clip/video_u8"].float() / 64 - 2
        clip = clip.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
        weight, bias = (tensors[f"state/patch_embed.proj.{name}"] for name in ("weight", "bias"))
        embeddings = torch.nn.functional.conv3d(clip, weight, bias, stride=weight.shape[2:])
        embeddings = embeddings.flatten(3).permute(0, 2, 3, 1)
    else:
        embeddings = tensors[f"input/{case}/embeddings"]
    importance = motion_importance(embeddings)
    expected = recorded_importance(tensors, case, grid)
    assert_close(importance, expected, atol=1e-5, rtol=0)

    kept = motion_token_selection(importance, sizes["drop_ratio"])
    kept_ids = tensors[f"expected/{case}/kept_ids"]
    assert kept.shape == kept_ids.shape == (sizes["batch"], sizes["kept"])
    for ours, theirs, values, tie in zip(kept, kept_ids, expected.flatten(1), sizes["tie_at_boundary"], strict=True):
        assert_close(values[ours].sort().values, values[theirs].sort().values, atol=1e-5, rtol=0)
        assert tie or torch.equal(ours, theirs)


@pytest.mark.parametrize("case", ["t16", "t12", "t6", "t2", "t8"])
def test_groups_are_those_of_fluxvit(recorded, case):
    description, tensors = recorded("everest_motion_groups")
    sizes = description["cases"][case]
    importance = motion_importance(tensors[f"input/{case}/embeddings"], sizes["groups"])
    expected = recorded_importance(tensors, case, (sizes["time_steps"], sizes["tokens_per_step"]))
    assert_close(importance, expected, atol=1e-5, rtol=0)
    kept = motion_token_selection(importance, sizes["drop_ratio"], groups=sizes["groups"])
    kept_ids = tensors[f"expected/{case}/kept_ids"]
    assert kept.shape == kept_ids.shape
    values = importance.flatten(1)
    assert_close(
        values.gather(1, kept).sort(dim=1).values, values.gather(1, kept_ids).sort(dim=1).values, atol=1e-5, rtol=0
    )


def test_counts_are_those_of_everest(recorded):
    counts, _ = recorded("everest_counts")
    for _, _, drop_ratio, tokens, kept in counts["finetune"]:
        assert motion_token_selection(torch.zeros(1, 8, tokens // 8), drop_ratio).shape == (1, kept)
    for _, _, drop_ratio, mask_ratio, tokens, kept, visible, targets in counts["pretrain"]:
        assert num_kept_tokens(tokens, drop_ratio) == kept
        # fractions as people write them, 0.1, and as they are computed, 1 - 0.9
        for ratios in ((1 - drop_ratio, 1 - mask_ratio), (round(1 - drop_ratio, 6), round(1 - mask_ratio, 6))):
            split = motion_token_split(torch.zeros(1, 8, tokens // 8), *ratios)
            assert [part.shape for part in split] == [(1, visible), (1, targets)]


def test_frames_are_selected_by_their_kept_tokens(recorded):
    description, tensors = recorded("everest_frame_selection")
    for name, pool in description["pools"].items():
        importance = motion_importance(tensors[f"input/{name}/embeddings"])
        expected = recorded_importance(tensors, name, (pool["steps"], pool["tokens_per_step"]))
        assert_close(importance, expected, atol=1e-5, rtol=0)
        kept = motion_token_selection(importance, 1 - pool["keep_ratio"])
        assert torch.equal(kept, tensors[f"expected/{name}/kept_ids"])
        assert torch.bincount(kept[0] // pool["tokens_per_step"], minlength=pool["steps"]).tolist() == pool["counts"]


@pytest.mark.parametrize("source", ["generator", "sample_seeds"])
@pytest.mark.parametrize("case", [0, 1, 2])
def test_frames_are_drawn_in_proportion_to_their_kept_tokens(recorded, case, source):
    distribution = recorded("everest_frame_selection")[0]["distributions"][case]
    counts, draws, samples = distribution["counts"], distribution["draws"], 20_000
    # one place of importance 1 for every kept token of a step
    importance = (torch.arange(max(counts)) < torch.tensor(counts)[:, None]).float()
    keep_ratio = min(1, (sum(counts) + 0.5) / importance.numel())
    sources = {"sample_seeds": torch.arange(samples), "generator": torch.Generator().manual_seed(0)}
    clips = importance.expand(samples, -1, -1)
    steps = select_frames_by_motion(clips, draws, keep_ratio, **{source: sources[source]})
    assert steps.shape == (samples, draws) and (steps.diff(dim=1) > 0).all()
    frequencies = torch.bincount(steps.flatten(), minlength=len(counts)) / samples
    inclusion = torch.tensor(distribution["inclusion"])
    assert ((frequencies - inclusion).abs() <= 5 * (inclusion * (1 - inclusion) / samples).sqrt() + 1e-6).all()


def test_steps_without_kept_tokens_are_drawn_last_and_uniformly():
    importance = torch.tensor([0.0, 1.0, 0.0, 0.0]).view(1, 4, 1).expand(4000, -1, -1)
    steps = select_frames_by_motion(importance, 2, 0.25, sample_seeds=torch.arange(4000))
    frequencies = torch.bincount(steps.flatten(), minlength=4) / 4000
    assert frequencies[1] == 1
    assert (frequencies[[0, 2, 3]] - 1 / 3).abs().max() < 0.04


@settings(max_examples=80, deadline=None)
@given(
    batch=st.integers(1, 3),
    group_steps=st.integers(1, 4),
    groups=st.integers(1, 4),
    places=st.integers(1, 12),
    ratio=st.floats(0, 0.99),
    seed=st.integers(0, 2**32),
)
def test_kept_tokens_are_the_highest_of_their_group_and_the_first_of_equal_ones(
    batch, group_steps, groups, places, ratio, seed
):
    importance = importance_of(batch, group_steps * groups, places, seed)
    group_tokens = group_steps * places
    num_kept = int((1 - ratio) * group_tokens)
    if num_kept < 1:
        with pytest.raises(ValueError, match=f"keeps none of {group_tokens} tokens"):
            motion_token_selection(importance, ratio, groups=groups)
        return
    kept = motion_token_selection(importance, ratio, groups=groups)
    assert kept.dtype == torch.int64 and kept.shape == (batch, groups * num_kept)
    expected = [
        [
            group * group_tokens + index
            for group, values in enumerate(clip.reshape(groups, group_tokens).tolist())
            for index in sorted(sorted(range(group_tokens), key=lambda i: (-values[i], i))[:num_kept])
        ]
        for clip in importance
    ]
    assert kept.tolist() == expected


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    steps=st.integers(1, 8),
    places=st.integers(1, 16),
    keep_ratio=st.floats(0.05, 1),
    visible_ratio=st.floats(0.01, 1),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_visible_tokens_and_targets_are_the_kept_tokens(batch, steps, places, keep_ratio, visible_ratio, seed):
    importance = importance_of(batch, steps, places)
    num_kept, num_visible = (
        int((1 - (1 - ratio)) * steps * places) for ratio in (keep_ratio, visible_ratio)
    )  # by way of the mask ratio, as in the released code
    split = partial(motion_token_split, importance, keep_ratio, visible_ratio)
    seeds = torch.full((batch,), seed)
    if not 1 <= num_visible < num_kept:
        with pytest.raises(ValueError, match=r"keeps none of|leaves no target"):
            split(sample_seeds=seeds)
        return
    visible, targets = split(sample_seeds=seeds)
    assert visible.shape == (batch, num_visible) and targets.shape == (batch, num_kept - num_visible)
    for indices in (visible, targets):
        assert indices.dtype == torch.int64 and (indices.diff(dim=1) > 0).all()
    assert torch.equal(
        torch.cat([visible, targets], dim=1).sort(dim=1).values, tokens_with_most_motion(importance, num_kept)
    )


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 2),
    group_steps=st.integers(2, 4),
    groups=st.integers(1, 3),
    places=st.integers(1, 5),
    dim=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_importance_is_the_distance_to_the_step_before(batch, group_steps, groups, places, dim, seed):
    steps = group_steps * groups
    embeddings = torch.randn(batch, steps, places, dim, generator=torch.Generator().manual_seed(seed))
    importance = motion_importance(embeddings, groups)
    assert importance.dtype == torch.float32 and importance.shape == (batch, steps, places)
    for step in range(steps):
        later = max(step, step // group_steps * group_steps + 1)  # the first of a group has the values of the second
        distance = (embeddings[:, later] - embeddings[:, later - 1]).square().sum(-1).sqrt()
        assert_close(importance[:, step], distance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_distances_are_computed_in_float32_without_gradient(dtype):
    embeddings = torch.randn(2, 4, 9, 16).to(dtype).requires_grad_()
    importance = motion_importance(embeddings)
    assert importance.dtype == torch.float32 and not importance.requires_grad
    assert torch.equal(importance, motion_importance(embeddings.float()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(importance, motion_importance(embeddings))


def test_a_still_clip_keeps_its_first_tokens():
    importance = motion_importance(torch.ones(2, 8, 16, 4))
    assert torch.equal(motion_token_selection(importance, 0.7), torch.arange(38).expand(2, -1))


def test_the_split_is_uniform_over_the_kept_tokens():
    samples = 20_000
    importance = torch.arange(16.0).flip(0).view(1, 4, 4).expand(samples, -1, -1)
    visible, targets = motion_token_split(importance, 0.5, 0.25, sample_seeds=torch.arange(samples))
    frequencies = torch.bincount(visible.flatten(), minlength=16) / samples
    assert (frequencies[:8] - 0.5).abs().max() < 5 * (0.25 / samples) ** 0.5 and (frequencies[8:] == 0).all()
    assert targets.max() == 7


SAMPLED = [
    pytest.param(partial(motion_token_split, keep_ratio=0.5, visible_ratio=0.2), id="split"),
    pytest.param(partial(select_frames_by_motion, num_frames=16, keep_ratio=0.3), id="frames"),
]


def joined(result: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.cat(result, dim=1) if isinstance(result, tuple) else result


@pytest.mark.parametrize("select", SAMPLED)
def test_a_sample_seed_decides_its_own_clip_only(select):
    importance, seeds = importance_of(6, 32, 16), torch.tensor([3, -1, 2**62, 3 + 2**32, 0, 3])
    before = torch.get_rng_state()
    together = joined(select(importance, sample_seeds=seeds))
    assert torch.equal(before, torch.get_rng_state())
    for i in range(6):
        assert torch.equal(together[i], joined(select(importance[i : i + 1], sample_seeds=seeds[i : i + 1]))[0])
    same_clip = joined(select(importance[:1].expand(6, -1, -1), sample_seeds=seeds))
    assert torch.equal(same_clip[0], same_clip[5])
    assert len({tuple(row) for row in same_clip.tolist()}) == 5
    generators = (torch.Generator().manual_seed(seed) for seed in (1, 1, 2))
    first, again, other = (joined(select(importance, generator=generator)) for generator in generators)
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "select",
    [
        pytest.param(lambda x, seeds: motion_token_selection(motion_importance(x, 2), 0.4, groups=2), id="selection"),
        pytest.param(lambda x, seeds: motion_token_split(motion_importance(x), 0.3, 0.1, None, seeds), id="split"),
        pytest.param(lambda x, seeds: select_frames_by_motion(motion_importance(x), 2, 0.3, None, seeds), id="frames"),
    ],
)
def test_compiles_into_one_graph_of_static_shape(select, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(select, fullgraph=True, backend="eager", dynamic=dynamic)
    seeds = torch.tensor([1, 2, 3])
    for steps in (4, 8):
        embeddings = torch.randn(3, steps, 49, 8)
        assert torch.equal(joined(compiled(embeddings, seeds)), joined(select(embeddings, seeds)))
    # the meta device has no values: a synchronisation or a data-dependent shape fails there
    shape = joined(select(embeddings.to("meta"), seeds.to("meta"))).shape
    assert shape == joined(select(embeddings, seeds)).shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: motion_importance(x[..., None], 3), "4 time steps can't be divided into 3 groups"),
        (lambda x: motion_importance(x[..., None], 4), "4 in 4 groups leaves 1 in each.*motion_drop_ratio"),
        (lambda x: motion_importance(x[:, :1, :, None]), "1 in 1 groups leaves 1"),
        (lambda x: motion_importance(x), r"\(batch, steps, places, dim\).*\(2, 4, 5\)"),
        (lambda x: motion_importance(x[..., None].long()), "floating point.*int64"),
        (lambda x: motion_token_selection(x[0], 0.4), r"\(batch, steps, places\).*\(4, 5\)"),
        (lambda x: motion_token_selection(x, 0.4, groups=0), "into 0 groups"),
        (lambda x: motion_token_selection(x, 1.0), r"mask_ratio.*\[0, 1\); got 1.0"),
        (lambda x: motion_token_selection(x, float("nan")), r"mask_ratio.*got nan"),
        (lambda x: motion_token_selection(x, 0.96), "keeps none of 20 tokens"),
        (lambda x: motion_token_split(x, 0.0, 0.1), r"keep_ratio.*\(0, 1\]; got 0.0"),
        (lambda x: motion_token_split(x, 0.3, 1.1), r"visible_ratio.*\(0, 1\]; got 1.1"),
        (lambda x: motion_token_split(x, 0.3, 0.3), "6 tokens visible of the 6.*no target"),
        (lambda x: select_frames_by_motion(x, 5, 0.3), "1 to the clip's 4 time steps, but is 5"),
        (lambda x: select_frames_by_motion(x, 2, 0.01), "keeps none"),
        (lambda x: select_frames_by_motion(x, 2, 0.3, torch.Generator(), torch.tensor([1, 2])), "one of them"),
    ],
)
def test_what_cannot_be_selected_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.rand(2, 4, 5))
