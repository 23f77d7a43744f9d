"""Official files of InternVideo2 (arXiv 2403.15377): their keys, and the configurations of their models.

Unusual: the position table is learned, so it is in every file. A file whose table is of another clip than the given
configuration's is resized, as the official fine-tuning does.
"""

import math
import re
from collections.abc import Mapping

import torch
from transformers import PreTrainedConfig

from .checkpoint_files_umt import UnsupportedCheckpointError
from .configuration_internvideo2_umt import InternVideo2Config
from .labels_umt import id2label_for
from .position_embeddings_umt import resize_learned_table

StateDict = Mapping[str, torch.Tensor]
Grid = tuple[int, int, int]

# Shapes do not contain the number of heads; all published models have 16 pooling heads.
PUBLISHED_HEADS = {384: 6, 768: 12, 1024: 16, 1408: 16, 3200: 25}
PREFIXES = ("backbone.", "encoder.")  # which the official fine-tuning removes
VIDEO_PREFIX, TEXT_PREFIX = "vision_encoder.", "text_encoder."  # of a model of videos and texts
QUERY_NORM = "blocks.0.attn.q_norm.weight"
# official tables -> ours, and whether the first row is that of the class token
TABLES = {
    "pos_embed": ("embeddings.positions.position_embeddings", True),
    "clip_pos_embed": ("aligned_positions.position_embeddings", True),
    "mae_pos_embed": ("second_positions.position_embeddings", False),
}
CLIP_SIDE = 16  # patches along a side of published clips, 224 pixels
DEFAULT_FRAMES = 8  # which the official loader assumes of every file


def internvideo2_kind(state: StateDict) -> str | None:
    """The kind of a file of InternVideo2, or None for other files.

    Returns:
        `"internvideo2_classification"`, `"internvideo2_pretraining"` (stage 1 and distilled), `"internvideo2_encoder"`
        or `"internvideo2_video_text"` (stage 2 and CLIP models, whose video encoder is a part).

    Raises:
        UnsupportedCheckpointError: if the file has parts of InternVideo2, but no complete encoder.
    """
    if f"{VIDEO_PREFIX}{QUERY_NORM}" in state:
        return "internvideo2_video_text"
    keys = without_prefix(state)
    if QUERY_NORM not in keys:
        if any("clip_projector." in key for key in state):
            raise UnsupportedCheckpointError(
                "This is a file of InternVideo2 without the blocks of its encoder, such as the projections of a CLIP "
                "model, which belong to the encoder of another file. It can't be converted."
            )
        return None
    if any(key.startswith(("clip_decoder.", "final_clip_decoder.")) for key in keys):
        return "internvideo2_pretraining"
    return "internvideo2_classification" if "head.weight" in keys else "internvideo2_encoder"


def without_prefix(state: StateDict) -> dict[str, torch.Tensor]:
    """The tensors without the prefix of some training code."""
    prefix = next((prefix for prefix in PREFIXES if f"{prefix}{QUERY_NORM}" in state), "")
    return {key.removeprefix(prefix): tensor for key, tensor in state.items()}


def internvideo2_video_part(state: StateDict) -> dict[str, torch.Tensor]:
    """The video encoder's tensors of a model of videos and texts, without their prefix."""
    return {key.removeprefix(VIDEO_PREFIX): tensor for key, tensor in state.items() if key.startswith(VIDEO_PREFIX)}


# --- official keys to ours ------------------------------------------------------------------------------------------


def internvideo2_encoder_key_map(config: InternVideo2Config, ours: str = "") -> dict[str, list[str]]:
    """Keys of encoder and pooling; the fused `qkv` maps to three matrices."""
    pooling, official = f"{ours}pooling", "clip_projector"
    keys = {"cls_token": [f"{ours}embeddings.cls_token"], "pos_embed": [f"{ours}{TABLES['pos_embed'][0]}"]}
    for name in "qkv":
        keys[f"{official}.cross_attn.{name}.weight"] = [f"{pooling}.{name}_proj.weight"]
        keys[f"{official}.cross_attn.{name}_bias"] = [f"{pooling}.{name}_proj.bias"]
    for kind in ("weight", "bias"):
        keys[f"patch_embed.proj.{kind}"] = [f"{ours}embeddings.patch_embeddings.{kind}"]
        keys[f"{official}.cross_attn.proj.{kind}"] = [f"{pooling}.o_proj.{kind}"]
        keys |= {f"{official}.norm1_{name}.{kind}": [f"{pooling}.{name}_norm.{kind}"] for name in "qkv"}
    for i in range(config.num_hidden_layers):
        block, layer = f"blocks.{i}", f"{ours}layers.{i}"
        keys[f"{block}.attn.qkv.weight"] = [f"{layer}.attention.{name}_proj.weight" for name in "qkv"]
        for name in "qk":
            keys[f"{block}.attn.{name}_norm.weight"] = [f"{layer}.attention.{name}_norm.weight"]
        for n in (1, 2):
            keys[f"{block}.norm{n}.weight"] = [f"{layer}.norm{n}.weight"]
            keys[f"{block}.ls{n}.gamma"] = [f"{layer}.layer_scale{n}"]
        for kind in ("weight", "bias"):
            keys[f"{block}.attn.proj.{kind}"] = [f"{layer}.attention.o_proj.{kind}"]
            keys |= {f"{block}.mlp.{name}.{kind}": [f"{layer}.mlp.{name}.{kind}"] for name in ("fc1", "fc2")}
    return keys


def internvideo2_classification_key_map(config: InternVideo2Config) -> dict[str, list[str]]:
    """Keys of a classification file."""
    keys = internvideo2_encoder_key_map(config, "internvideo2.")
    for kind in ("weight", "bias"):
        keys |= {f"fc_norm.{kind}": [f"fc_norm.{kind}"], f"head.{kind}": [f"classifier.{kind}"]}
    return keys


def internvideo2_pretraining_key_map(config: InternVideo2Config) -> dict[str, list[str]]:
    """Keys of a student; in both layouts decoder 0 belongs to the shallowest aligned layer."""
    keys = internvideo2_encoder_key_map(config, "internvideo2.")
    decoders = {f"clip_decoder.{k}": (f"decoders.{k}", config.decoder) for k in range(config.num_aligned_layers)}
    decoders["final_clip_decoder"] = ("final_decoder", config.decoder)
    decoders |= {f"mae_decoder.{k}": (f"second_decoders.{k}", "mlp") for k in range(config.num_second_layers)}
    for official, (ours, form) in decoders.items():
        names = {"norm": "norm"} | ({"head.0": "fc1", "head.2": "projection"} if form == "mlp" else {})
        names |= {"head": "projection"} if form == "linear" else {}
        for kind in ("weight", "bias"):
            keys |= {f"{official}.{theirs}.{kind}": [f"{ours}.{name}.{kind}"] for theirs, name in names.items()}
    for table in ("clip_pos_embed", *(["mae_pos_embed"] if config.num_second_layers else [])):
        keys[table] = [TABLES[table][0]]
    return keys


# --- configurations -------------------------------------------------------------------------------------------------


def encoder_fields(state: StateDict, **fields) -> InternVideo2Config:
    """The configuration of an encoder from its shapes; numbers of heads follow from a published size."""
    pooled = "clip_projector.cross_attn.proj.weight"
    needed = ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", pooled, "pos_embed")
    if missing := [key for key in needed if key not in state]:
        raise ValueError(f"Missing keys: {', '.join(missing)}. The checkpoint is not a complete InternVideo2 encoder.")
    kernel = state["patch_embed.proj.weight"]
    hidden_size, channels, tubelet, patch, _ = kernel.shape
    if hidden_size not in PUBLISHED_HEADS:
        raise ValueError(
            f"An InternVideo2 encoder of hidden size {hidden_size} was never published, and shapes do not contain the "
            f"number of heads. Give `config`, e.g. InternVideo2Config(hidden_size={hidden_size}, "
            "num_attention_heads=..., num_pooling_heads=..., ...)."
        )
    num_patches = state["pos_embed"].shape[1] - 1
    if num_patches < CLIP_SIDE**2 or num_patches % CLIP_SIDE**2:
        raise ValueError(
            f"'pos_embed' of {num_patches} patches is of no published clip size, {CLIP_SIDE} x {CLIP_SIDE} patches a "
            "frame; give `config`."
        )
    depth = 1 + max(int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\.", key)))
    return InternVideo2Config(
        num_frames=num_patches // CLIP_SIDE**2 * tubelet,
        image_size=CLIP_SIDE * patch,
        patch_size=patch,
        tubelet_size=tubelet,
        num_channels=channels,
        hidden_size=hidden_size,
        num_hidden_layers=depth,
        num_attention_heads=PUBLISHED_HEADS[hidden_size],
        intermediate_size=state["blocks.0.mlp.fc1.weight"].shape[0],
        pooled_size=state[pooled].shape[0],
        **fields,
    )


def require_internvideo2(given: PreTrainedConfig | None) -> None:
    """Raise a ValueError if a given configuration is of another model."""
    if given is not None and given.model_type != InternVideo2Config.model_type:
        raise ValueError(
            f"The file is one of InternVideo2, but `config` is a {type(given).__name__}; give an InternVideo2Config."
        )


def internvideo2_encoder_config(state: StateDict, given: InternVideo2Config | None) -> InternVideo2Config:
    """An encoder without a head."""
    require_internvideo2(given)
    return encoder_fields(without_prefix(state)) if given is None else given


def internvideo2_classification_config(
    state: StateDict, given: InternVideo2Config | None, name: str, labels: str | None
) -> InternVideo2Config:
    """A classifier; `labels` names its classes, by default by their number. `name`, the file's, is not used."""
    require_internvideo2(given)
    state = without_prefix(state)
    id2label = id2label_for(state["head.weight"].shape[0], labels)
    if given is not None and labels is None and given.num_labels == len(id2label):
        id2label = given.id2label
    # the official fine-tuning resizes the table, also to a single frame
    given = encoder_fields(state, single_frame="resize") if given is None else given
    return InternVideo2Config.from_dict(given.to_dict(), id2label=id2label)


def internvideo2_pretraining_config(state: StateDict, given: InternVideo2Config | None) -> InternVideo2Config:
    """A student of one or two teachers."""
    require_internvideo2(given)
    if given is not None:
        return given
    state = without_prefix(state)
    norms = {
        name: [state[key].shape[0] for key in state if re.match(rf"{name}(\.\d+)?\.norm\.weight$", key)]
        for name in ("clip_decoder", "final_clip_decoder", "mae_decoder")
    }
    if not norms["clip_decoder"] or not norms["final_clip_decoder"]:
        raise ValueError("Missing keys: those of clip_decoder or final_clip_decoder. The student is not complete.")
    fields = {
        "num_aligned_layers": len(norms["clip_decoder"]),
        "target_dim": norms["clip_decoder"][0],
        "final_target_dim": norms["final_clip_decoder"][0],
        "decoder": "mlp" if "clip_decoder.0.head.0.weight" in state else "linear",
        "num_second_layers": len(norms["mae_decoder"]),
    }
    if norms["mae_decoder"]:
        fields["second_target_dim"] = norms["mae_decoder"][0]
    return encoder_fields(state, **fields)


# --- preparing a state dict ------------------------------------------------------------------------------------------


def internvideo2_state(state: StateDict, config: InternVideo2Config) -> dict[str, torch.Tensor]:
    """The tensors without a prefix, with position tables resized to the grid of the configuration.

    A table with as many rows as the configuration's is taken for that of the configuration's clips.

    Raises:
        ValueError: if the grid of a table can't be known.
    """
    state = without_prefix(state)
    for key, (_, has_class_row) in TABLES.items():
        if key in state and state[key].ndim == 3:
            source = table_grid(state[key].shape[1] - has_class_row, config, key)
            table = resize_learned_table(state[key][0], source, config.token_grid, has_class_row, config.single_frame)
            state[key] = table[None]
    return state


def table_grid(num_patches: int, config: InternVideo2Config, key: str) -> Grid:
    """Frames, rows and columns of the clips of a stored table.

    The first of these that fits: that of the configuration; eight square frames, which the official fine-tuning
    assumes; frames of the published size; the configuration's number of square frames.
    """
    frames, rows, columns = config.token_grid
    if num_patches == frames * rows * columns:
        return frames, rows, columns
    for tried in (DEFAULT_FRAMES, num_patches // CLIP_SIDE**2, frames):
        side = math.isqrt(num_patches // tried) if tried else 0
        if side and tried * side**2 == num_patches:
            return tried, side, side
    raise ValueError(
        f"{key!r} of {num_patches} patches is neither of the configuration's {frames} x {rows} x {columns} tokens nor "
        "of square frames, so it can't be resized; give a `config` of the clips of the file."
    )
