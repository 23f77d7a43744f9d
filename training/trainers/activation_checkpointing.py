"""Activation checkpointing of the first blocks of a model; Transformers' own option covers all blocks or none."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def checkpoint_first_blocks(model: nn.Module, num_blocks: int | None = None) -> None:
    """Recompute the activations of the first `num_blocks` transformer blocks in the backward pass.

    Args:
        model: Any module with `GradientCheckpointingLayer`s of Transformers.
        num_blocks (*optional*): Number of blocks, from the first; the others keep their activations. Default: all.

    Raises:
        ValueError: if the model has fewer blocks.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    num_blocks = len(layers) if num_blocks is None else num_blocks
    if not 0 <= num_blocks <= len(layers):
        raise ValueError(f"`checkpoint_blocks` is {num_blocks}, but the model has {len(layers)} blocks.")
    for layer in layers[:num_blocks]:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
