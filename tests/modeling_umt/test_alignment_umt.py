"""Alignment layer by layer has the loss and gradients of all layers at once, and keeps no features for the backward
pass."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeling_umt import UMTConfig
from modeling_umt.alignment_umt import UMTAlignmentDecoder, align_features
from modeling_umt.objectives_umt import unmasked_token_alignment_loss

BATCH, LAYERS, VISIBLE, DIM, TARGET = 2, 3, 5, 16, 24
KINDS = [("l2", "l2"), ("mse", "none"), ("smooth_l1", "none")]


class Part(nn.Module):
    """The part of a student after its blocks."""

    def __init__(self, kind: str = "l2", target_norm: str = "l2"):
        super().__init__()
        sizes = {"hidden_size": DIM, "num_attention_heads": 2, "num_hidden_layers": LAYERS}
        fields = {"num_aligned_layers": LAYERS, "target_dim": TARGET, "target_norm": target_norm}
        self.config = UMTConfig(**sizes, **fields, alignment_loss=kind)
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(DIM)
        self.decoders = nn.ModuleList(UMTAlignmentDecoder(self.config) for _ in range(LAYERS))
        # one leaf per layer, and position embeddings of every clip
        self.states = nn.ParameterList(torch.randn(BATCH, VISIBLE, DIM) for _ in range(LAYERS))
        self.register_buffer("positions", torch.randn(BATCH, VISIBLE, DIM))
        self.register_buffer("targets", F.normalize(torch.randn(BATCH, LAYERS, VISIBLE, TARGET), dim=-1))

    def forward(self, targets: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        return align_features(self.decoders, self.norm, list(self.states), self.positions, targets)

    def at_once(self) -> tuple[torch.Tensor, torch.Tensor]:
        features, loss = self()
        assert loss is None
        return features, unmasked_token_alignment_loss(features, self.targets, self.config.alignment_loss)

    def gradients(self, scalar: torch.Tensor) -> dict[str, torch.Tensor]:
        self.zero_grad()
        scalar.backward()
        return {name: parameter.grad for name, parameter in self.named_parameters()}


@pytest.mark.parametrize("kind, target_norm", KINDS)
@pytest.mark.parametrize("precision", ["float32", "autocast", "bfloat16"])
def test_layer_by_layer_equals_all_at_once(kind, target_norm, precision):
    part = Part(kind, target_norm)
    if precision == "bfloat16":
        part = part.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        expected_features, expected = part.at_once()
        features, loss = part(part.targets)
    assert loss.dtype == torch.float32 and loss.shape == ()
    assert torch.equal(features, expected_features)
    gradients, expected_gradients = part.gradients(loss), part.gradients(expected)
    difference = max(
        ((gradient - expected_gradients[name]).norm() / expected_gradients[name].norm()).item()
        for name, gradient in gradients.items()
    )
    print(f"{kind}, {precision}: losses {loss} and {expected}, largest relative difference of gradients {difference}")
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    # only the factor 1 / K of a layer's gradient is applied at another point
    assert difference < (1e-6 if precision == "float32" else 0.01)


def test_features_beside_a_loss_have_gradients_too():
    part = Part()
    weights = torch.linspace(-1, 1, TARGET)
    expected = part.gradients((part()[0] * weights).sum())
    for name, gradient in part.gradients((part(part.targets)[0] * weights).sum()).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6)


def test_without_gradients_the_loss_is_the_same():
    part = Part()
    with torch.no_grad():
        features, loss = part(part.targets)
        torch.testing.assert_close(loss, part.at_once()[1], rtol=1e-6, atol=0)
    assert not features.requires_grad and not loss.requires_grad


def test_no_features_are_kept_for_the_backward_pass():
    """Nor the states between a block's output and the features."""
    part = Part()
    own = {tensor.untyped_storage().data_ptr() for tensor in [*part.parameters(), *part.buffers()]}
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() >= BATCH * VISIBLE and tensor.untyped_storage().data_ptr() not in own:
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        at_once = part.at_once()
        assert len(kept) > 4 * LAYERS  # otherwise this test would detect nothing
        kept.clear()
        layer_by_layer = part(part.targets)
    assert not kept
    torch.testing.assert_close(layer_by_layer[1], at_once[1])


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_into_one_graph(backend):
    torch.compiler.reset()
    part = Part()
    compiled = torch.compile(copy.deepcopy(part), fullgraph=True, backend=backend)
    expected = part.gradients(part(part.targets)[1])
    for name, gradient in compiled._orig_mod.gradients(compiled(part.targets)[1]).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(2, 2, 5, 24), (2, 4, 5, 24), (2, 3, 1, 24), (2, 3, 5, 1), (1, 3, 5, 24)])
def test_targets_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(2, 3, 5, 24\) cannot be aligned") as error:
        Part()(torch.zeros(shape))
    assert str(shape) in str(error.value)
