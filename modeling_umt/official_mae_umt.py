"""The layout of MAE's official files, from which the image teacher of MVD is made (arXiv 2212.04500, section 3.2).

A file of the encoder alone and one with the decoder of pre-training are both read. Unusual: the encoder has the keys
of every ViT with a class token (DeiT, DINO), so a file is recognised as MAE's by its position table.
"""

import math
import re
from collections.abc import Mapping

import torch

from .configuration_umt_image_teacher import UMTImageTeacherConfig
from .official_configuration_umt import MASKED_MODELING_HEADS, table_tolerance
from .position_embeddings_umt import plane_position_table

PREFIX = "backbone."  # in files of some training code
# the encoder's last norm and a classifier, which the teacher does not have, and the decoder
UNUSED = re.compile(r"norm\.|head\.|mask_token$|decoder_")


def image_teacher_config(
    state: Mapping[str, torch.Tensor], given: UMTImageTeacherConfig | None
) -> UMTImageTeacherConfig:
    """The configuration of MAE's encoder; frames have 14 patches a side, which is 196 pixels for ViT-H/14.

    Args:
        state: The file's state dict.
        given: A configuration to use unchanged; None: inferred from the shapes.

    Raises:
        ValueError: if keys are missing or the size was never published.
    """
    if given is not None:
        return given
    state = without_prefix(state)
    kernel, first_mlp = state["patch_embed.proj.weight"], state.get("blocks.0.mlp.fc1.weight")
    if first_mlp is None:
        raise ValueError("Missing key: blocks.0.mlp.fc1.weight. The checkpoint contains no transformer block.")
    hidden_size, patch_size = kernel.shape[0], kernel.shape[-1]
    if hidden_size not in MASKED_MODELING_HEADS:
        raise ValueError(
            f"An MAE of hidden size {hidden_size} was never published, and shapes do not contain the number of heads. "
            f"Give `config`, e.g. UMTImageTeacherConfig(hidden_size={hidden_size}, num_attention_heads=..., ...)."
        )
    return UMTImageTeacherConfig(
        image_size=14 * patch_size,
        patch_size=patch_size,
        num_channels=kernel.shape[1],
        hidden_size=hidden_size,
        num_hidden_layers=len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        num_attention_heads=MASKED_MODELING_HEADS[hidden_size],
        intermediate_size=first_mlp.shape[0],
    )


def image_teacher_key_map(config: UMTImageTeacherConfig) -> dict[str, list[str]]:
    """Keys of MAE's encoder without its last norm; the fused `qkv` maps to three matrices and three biases."""
    keys = {"cls_token": ["embeddings.cls_token"]}
    for kind in ("weight", "bias"):
        keys[f"patch_embed.proj.{kind}"] = [f"embeddings.patch_embeddings.{kind}"]
        for i in range(config.num_hidden_layers):
            block, layer = f"blocks.{i}", f"layers.{i}"
            keys[f"{block}.attn.qkv.{kind}"] = [f"{layer}.attention.{name}_proj.{kind}" for name in "qkv"]
            keys[f"{block}.attn.proj.{kind}"] = [f"{layer}.attention.o_proj.{kind}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                keys[f"{block}.{name}.{kind}"] = [f"{layer}.{name}.{kind}"]
    return keys


def image_teacher_state(state: Mapping[str, torch.Tensor], config: UMTImageTeacherConfig) -> dict[str, torch.Tensor]:
    """The tensors of MAE's encoder without its last norm and its position table, which is computed.

    Raises:
        ValueError: if the file contains another position table than MAE's.
    """
    state = without_prefix(state)
    if "pos_embed" in state:
        require_mae_table(state.pop("pos_embed"))
    return {key: tensor for key, tensor in state.items() if not UNUSED.match(key)}


def require_mae_table(table: torch.Tensor) -> None:
    """Raise a ValueError if a stored position table (1, 1 + S, D) is not the one that MAE computes for its grid.

    The grid may be another one than the teacher's, which computes its own.
    """
    if table.is_meta:  # of a state dict of shapes
        return
    side = math.isqrt(max(table.shape[-2] - 1, 0))
    difference = math.inf
    if table.ndim == 3 and table.shape[-2] == 1 + side**2 and table.shape[-1] % 4 == 0:
        expected = torch.cat([torch.zeros(1, table.shape[-1]), plane_position_table((side, side), table.shape[-1])])
        difference = (table[0].float() - expected).abs().max().item()
    if not difference <= table_tolerance(table):
        raise ValueError(
            f"The position table of shape {tuple(table.shape)} is not the one that MAE computes (largest difference "
            f"{difference:.2g}, allowed {table_tolerance(table):.2g}), and the image teacher has no other. Is the "
            "file of another ViT with a class token, such as DeiT or DINO?"
        )


def without_prefix(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix(PREFIX): tensor for key, tensor in state.items()}
