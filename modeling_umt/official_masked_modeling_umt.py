"""Official pre-training files of MVD (arXiv 2212.04500), VideoMAE (2203.12602) and EVEREST (2211.10636): their keys,
and the configurations of their models.

A VideoMAE file is either a model of pixels with its decoder, or the encoder that teaches an MVD student. The teacher's
last norm is in its file and takes no part: an encoder with `final_norm="none"` drops it.
"""

import re
from collections.abc import Mapping

import torch

from .configuration_umt import PIXELS, UMTConfig
from .official_configuration_umt import clip_sizes_from_table, encoder_config, table_error, table_tolerance
from .official_layout_umt import block_key_map, encoder_key_map

StateDict = Mapping[str, torch.Tensor]

# ending of MVD's keys -> entry of `masked_targets`
MVD_TARGETS = {"img": "image", "vid": "video"}
# of decoders that are narrower than their encoder, by their dimension
DECODER_HEADS = {192: 3, 384: 6, 512: 8, 640: 8}
# what the loader of a teacher ignores
NOT_OF_THE_TEACHER = ("encoder.norm.", "encoder_to_decoder.", "mask_token", "decoder.")


# --- official keys to ours ------------------------------------------------------------------------------------------


def decoder_key_map(config: UMTConfig, target: str, decoder: str, projection: str, mask_token: str) -> dict:
    """Keys of the decoder of `target`, whose parts are officially named `decoder`, `projection` and `mask_token`."""
    ours = f"decoders.{target}"
    keys = {mask_token: [f"{ours}.mask_token"]}
    keys |= block_key_map(config.decoder_num_hidden_layers, f"{decoder}.", f"{ours}.")
    for kind in ("weight", "bias"):
        if kind == "weight" or config.decoder_projection_bias:
            keys[f"{projection}.{kind}"] = [f"{ours}.projection.{kind}"]
        for name in ("norm", "head"):
            keys[f"{decoder}.{name}.{kind}"] = [f"{ours}.{name}.{kind}"]
    return keys


def mvd_key_map(config: UMTConfig) -> dict[str, list[str]]:
    """Keys of a student of MVD."""
    keys = encoder_key_map(config) | {f"norm.{kind}": [f"umt.norm.{kind}"] for kind in ("weight", "bias")}
    for ending, target in MVD_TARGETS.items():
        if target in config.masked_targets:
            names = (f"decoder_{ending}", f"down_{ending}", f"mask_token_{ending}")
            keys |= decoder_key_map(config, target, *names)
    return keys


def videomae_key_map(config: UMTConfig) -> dict[str, list[str]]:
    """Keys of a VideoMAE or EVEREST model with its decoder of pixels."""
    keys = encoder_key_map(config, official="encoder.")
    keys |= {f"encoder.norm.{kind}": [f"umt.norm.{kind}"] for kind in ("weight", "bias")}
    return keys | decoder_key_map(config, PIXELS, "decoder", "encoder_to_decoder", "mask_token")


def videomae_encoder_key_map(config: UMTConfig) -> dict[str, list[str]]:
    """Keys of a VideoMAE encoder as teacher."""
    return encoder_key_map(config, official="encoder.", ours="")


# --- preparing a state dict ------------------------------------------------------------------------------------------


def mvd_state(state: StateDict, config: UMTConfig) -> dict[str, torch.Tensor]:
    """A student's tensors without its position tables, which are computed.

    Raises:
        ValueError: if a stored table is not the computed one.
    """
    state = dict(state)
    decoder_size, _ = config.decoder_sizes
    tables = {"pos_embed": config.hidden_size} | {f"pos_embed_{ending}": decoder_size for ending in MVD_TARGETS}
    for key, dim in tables.items():
        table = state.pop(key, None)
        if table is not None and not table_error(config, table, dim) <= table_tolerance(table):
            raise ValueError(
                f"{key!r} of shape {tuple(table.shape)} is not the position table computed for {config.num_frames} "
                f"frames of {config.image_size} pixels (largest difference {table_error(config, table, dim):.2g}). "
                "For another size, give `config`."
            )
    return state


def videomae_encoder_state(state: StateDict, config: UMTConfig) -> dict[str, torch.Tensor]:
    """The tensors of a teacher, without its last norm and a decoder."""
    return {key: tensor for key, tensor in state.items() if not key.startswith(NOT_OF_THE_TEACHER)}


# --- configurations -------------------------------------------------------------------------------------------------


def mvd_config(state: StateDict, given: UMTConfig | None) -> UMTConfig:
    """A student of MVD: a space-time table, the features of two teachers as targets."""
    present = {ending: target for ending, target in MVD_TARGETS.items() if f"decoder_{ending}.head.weight" in state}
    if not present:
        raise ValueError("Missing key: decoder_img.head.weight. The checkpoint contains no complete decoder.")
    targets = {target: state[f"decoder_{ending}.head.weight"].shape[0] for ending, target in present.items()}
    fields = {"position_type": "space_time", "position_grid": None, "decoder_projection_bias": True}
    if given is not None:
        fields |= {"final_norm": "tokens", "masked_targets": given.masked_targets or targets}
        return UMTConfig.from_dict(given.to_dict() | fields)
    ending = next(iter(present))
    decoder = decoder_fields(state, "", f"decoder_{ending}.", f"mask_token_{ending}")
    config = encoder_config(state, "", masked_targets=targets, **fields, **decoder)
    return with_clip_size(config, state.get("pos_embed"))


def videomae_config(state: StateDict, given: UMTConfig | None) -> UMTConfig:
    """A model of pixels: a flat table over the clip's own grid, the mean square of normalised pixels as loss."""
    if "decoder.head.weight" not in state:
        raise ValueError(
            "Missing key: decoder.head.weight. The checkpoint contains no complete decoder; its encoder alone is "
            '`part="video"`.'
        )
    targets = {PIXELS: state["decoder.head.weight"].shape[0]}
    fields = {"position_type": "flat", "position_grid": None, "decoder_projection_bias": False}
    if given is not None:
        return UMTConfig.from_dict(given.to_dict() | fields | {"final_norm": "tokens"})
    decoder = decoder_fields(state, "encoder.", "decoder.", "mask_token")
    training = {"masked_targets": targets, "masked_loss": "mse", "normalize_targets": True}
    return with_clip_size(encoder_config(state, "encoder.", **fields, **training, **decoder))


def videomae_encoder_config(state: StateDict, given: UMTConfig | None) -> UMTConfig:
    """A VideoMAE encoder as teacher: raw tokens of the last block."""
    fields = {"position_type": "flat", "position_grid": None, "final_norm": "none"}
    if given is not None:
        return UMTConfig.from_dict(given.to_dict() | fields)
    return with_clip_size(encoder_config(state, "encoder.", **fields))


def decoder_fields(state: StateDict, encoder: str, decoder: str, mask_token: str) -> dict[str, int | None]:
    """Sizes of a decoder in the configuration; `encoder` and `decoder` are prefixes, `mask_token` a key."""
    missing = [key for key in (mask_token, f"{encoder}patch_embed.proj.weight") if key not in state]
    if missing:
        raise ValueError(f"Missing keys: {', '.join(missing)}.")
    numbered = re.compile(rf"{re.escape(decoder)}blocks\.(\d+)\.")
    depth = 1 + max((int(match[1]) for key in state if (match := numbered.match(key))), default=0)
    hidden_size, of_encoder = state[mask_token].shape[-1], state[f"{encoder}patch_embed.proj.weight"].shape[0]
    sizes = {"decoder_num_hidden_layers": depth}
    if hidden_size == of_encoder:
        return sizes
    if hidden_size not in DECODER_HEADS:
        raise ValueError(
            f"A decoder of hidden size {hidden_size} was never published, and shapes do not contain the number of "
            "heads. Give `config`, a UMTConfig with `decoder_hidden_size` and `decoder_num_attention_heads`."
        )
    heads = DECODER_HEADS[hidden_size]
    return sizes | {"decoder_hidden_size": hidden_size, "decoder_num_attention_heads": heads}


def with_clip_size(config: UMTConfig, table: torch.Tensor | None = None) -> UMTConfig:
    """`config` for clips with as many tokens as the stored table has rows, by default 8 time steps of 14 x 14 tokens.

    Raises:
        ValueError: if the table is of no published size.
    """
    sizes = clip_sizes_from_table(config, table)
    if not sizes:
        raise ValueError(f"'pos_embed' of shape {tuple(table.shape)} is of no published clip size; give `config`.")
    frames, image_size = sizes[0]
    return UMTConfig.from_dict(config.to_dict() | {"num_frames": frames, "image_size": image_size})
