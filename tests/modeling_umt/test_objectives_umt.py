"""Losses against recorded values and explicit formulas, in low precision, and their gradients."""

import pytest
import torch
from torch.nn import functional as F

from modeling_umt.objectives_umt import (
    masked_language_modeling_loss,
    unmasked_token_alignment_loss,
    video_text_contrastive_loss,
)
from modeling_umt.token_selection_umt import visible_indices_from_mask

KINDS = ["l2", "mse", "smooth_l1"]


def features(seed: int, shape=(2, 3, 5, 8)) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values / values.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_losses(recorded, kind):
    description, tensors = recorded(f"stage1_loss_{kind}")
    assert description["clip_loss_type"] == kind
    student = tensors["expected/student_output"].transpose(0, 1)  # recorded layer-first, here batch-first
    target = tensors["expected/teacher_targets"].transpose(0, 1)
    loss = description["clip_loss_ratio"] * unmasked_token_alignment_loss(student, target, kind)
    assert loss.dtype == torch.float32 and loss.shape == ()
    torch.testing.assert_close(loss, tensors["expected/loss"][0], atol=1e-5, rtol=0)
    # and the recorded targets are the teacher's features at the visible tokens
    visible = visible_indices_from_mask(tensors["expected/mask"])
    all_tokens = tensors["expected/teacher_features"].transpose(0, 1)
    index = visible[:, None, :, None].expand(-1, all_tokens.shape[1], -1, all_tokens.shape[3])
    torch.testing.assert_close(all_tokens.gather(2, index), target, atol=1e-5, rtol=0)


def plain_loss(student, target, kind):
    """The formulas, token by token."""
    student, target = student.double(), target.double()
    difference = student - target
    if kind == "l2":
        tokens = [2 - 2 * torch.dot(s, t) for s, t in zip(student.flatten(0, 2), target.flatten(0, 2), strict=True)]
        return torch.stack(tokens).mean()
    if kind == "mse":
        return (difference**2).mean()
    small = difference.abs() < 1
    return torch.where(small, 0.5 * difference**2, difference.abs() - 0.5).mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1, 30])  # 30: both branches of smooth L1
def test_formulas(kind, scale):
    student, target = scale * features(0).float(), features(1).float()
    loss = unmasked_token_alignment_loss(student, target, kind)
    torch.testing.assert_close(loss.double(), plain_loss(student, target, kind), rtol=1e-6, atol=1e-6)


def test_l2_is_the_squared_distance_of_unit_vectors():
    student, target = features(0), features(1)
    distance = ((student - target) ** 2).sum(dim=-1).mean().float()
    torch.testing.assert_close(unmasked_token_alignment_loss(student, target), distance)
    assert unmasked_token_alignment_loss(target, target).abs() < 1e-6
    torch.testing.assert_close(unmasked_token_alignment_loss(-target, target), torch.tensor(4.0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_features_are_compared_in_float32(kind, dtype):
    student, target = (20 * features(0)).to(dtype), features(1).to(dtype)
    expected = unmasked_token_alignment_loss(student.float(), target.float(), kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = unmasked_token_alignment_loss(student, target, kind)
    for loss in (unmasked_token_alignment_loss(student, target, kind), under_autocast):
        assert loss.dtype == torch.float32 and torch.equal(loss, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient(kind):
    student, target = features(0).float().requires_grad_(), features(1).float()
    unmasked_token_alignment_loss(student, target, kind).backward()
    plain = student.detach().double().requires_grad_()
    plain_loss(plain, target, kind).backward()
    torch.testing.assert_close(student.grad.double(), plain.grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_compiles_into_one_graph(kind):
    torch._dynamo.reset()
    compiled = torch.compile(unmasked_token_alignment_loss, fullgraph=True, backend="eager")
    student, target = features(0).float(), features(1).float()
    assert torch.equal(compiled(student, target, kind), unmasked_token_alignment_loss(student, target, kind))


def test_errors():
    with pytest.raises(ValueError, match=r"\(2, 3, 5, 8\).*\(2, 3, 1, 8\)"):  # would broadcast silently
        unmasked_token_alignment_loss(features(0), features(0)[:, :, :1])
    with pytest.raises(ValueError, match=r"'cosine'.*'l2', 'mse' or 'smooth_l1'"):
        unmasked_token_alignment_loss(features(0), features(1), "cosine")


def test_the_masked_language_modelling_loss_without_masked_tokens_is_zero():
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.full((2, 4), -100)
    loss = masked_language_modeling_loss(logits, labels)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()
    labels[1, 2] = 5
    expected = F.cross_entropy(logits[1, 2], torch.tensor(5))
    torch.testing.assert_close(masked_language_modeling_loss(logits, labels), expected)


def test_contrast_is_the_cross_entropy_in_both_directions():
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    positives = torch.arange(5)
    expected = (F.cross_entropy(logits, positives) + F.cross_entropy(logits.T, positives)) / 2
    torch.testing.assert_close(video_text_contrastive_loss(logits), expected)
    ids = torch.tensor([7, 3, 9, 1, 4])
    torch.testing.assert_close(video_text_contrastive_loss(logits, ids, ids), expected)
    torch.testing.assert_close(video_text_contrastive_loss(logits.bfloat16()), expected, rtol=0, atol=0.02)


def test_several_matches_of_a_row_have_equal_target_probability():
    """Videos 0 and 1 have the same id, so each has two texts with probability 1/2."""
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(2))
    ids = torch.tensor([5, 5, 8])
    targets = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    expected = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    torch.testing.assert_close(video_text_contrastive_loss(logits, ids, ids), expected)
    with pytest.raises(ValueError, match="3 videos and 2 texts need ids"):
        video_text_contrastive_loss(logits[:, :2])
