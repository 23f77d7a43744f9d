"""The vision tower of VideoChat2 and VideoChat-Flash: UMT-L/16 after stage 2, cut before its last block.

The tower is a part of a file that contains all blocks. Unusual: such a file has the names of a stage-1 file, and
nothing inside tells the two apart. Only the name under which it was published does (`known_kind`).
"""

import re
from collections.abc import Mapping

import torch
from transformers.utils import logging

from .configuration_umt import UMTConfig
from .official_configuration_umt import encoder_config
from .official_layout_umt import VIDEO_PREFIX, encoder_key_map

logger = logging.get_logger(__name__)

StateDict = Mapping[str, torch.Tensor]

# Published files with these names of tensors. None of their hashes is known.
KNOWN_FILES = {
    "UMT-L_f4_vision.pt": "tower",
    "b16_ptk710_f8_res224.pth": "stage1",
    "l16_ptk710_f8_res224.pth": "stage1",
}
PUBLISHED_DEPTHS = {768: 12, 1024: 24}
POSITION_GRID = [4, 14, 14]


def known_kind(path: str) -> str | None:
    """What a file with the tensors of stage 1 is by the name it was published under: "tower" or "stage1".

    Args:
        path: A path, or `repo_id:filename`; empty for a loaded state dict.

    Returns:
        The kind, or None for another name, with a warning that states how to convert a tower.
    """
    kind = KNOWN_FILES.get(re.split(r"[/\\:]", path)[-1])
    if kind is None:
        logger.warning(
            "The names of these tensors are those of a stage-1 file and those of the vision tower of VideoChat2 and "
            "VideoChat-Flash, whose position table and number of blocks are different, and the file does not contain "
            'which it is. It is converted as a stage-1 file; for the tower give `part="tower"` (--part tower).'
        )
    return kind


def tower_part(state: StateDict) -> dict[str, torch.Tensor]:
    """The video encoder's tensors of a stage-1 or stage-2 file, without their prefix."""
    prefix = VIDEO_PREFIX if any(key.startswith(VIDEO_PREFIX) for key in state) else "encoder."
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def tower_config(state: StateDict, given: UMTConfig | None) -> UMTConfig:
    """The tower: one block less than the file, the norm with epsilon 1e-12, the table of 4 x 14 x 14 tokens.

    Args:
        state: The encoder's tensors.
        given: The configuration of the file, with all its blocks; None: inferred, for four frames of 224 pixels.

    Raises:
        ValueError: if the size was never published, or a file of a published size does not contain all its blocks.
    """
    if given is None:
        given = encoder_config(state, "", num_frames=POSITION_GRID[0])
        depth = PUBLISHED_DEPTHS[given.hidden_size]
        if given.num_hidden_layers != depth:
            raise ValueError(
                f"The file contains {given.num_hidden_layers} blocks of dimension {given.hidden_size}, but the tower "
                f"is made from all {depth} of a UMT encoder, of which it leaves out the last. For another model, give "
                "`config`, which describes the file."
            )
    return UMTConfig.from_dict(
        given.to_dict(),
        num_hidden_layers=given.num_hidden_layers - 1,
        position_grid=list(POSITION_GRID),
        final_norm="tokens",
        final_norm_eps=1e-12,
        single_frame="first",
    )


def tower_state(state: StateDict, config: UMTConfig) -> dict[str, torch.Tensor]:
    """The tensors of the tower, without the block after its last one."""
    return {key: tensor for key, tensor in state.items() if not key.startswith(f"blocks.{config.num_hidden_layers}.")}


def tower_key_map(config: UMTConfig) -> dict[str, list[str]]:
    """Keys of the tower."""
    return encoder_key_map(config, ours="") | {f"norm.{kind}": [f"norm.{kind}"] for kind in ("weight", "bias")}
