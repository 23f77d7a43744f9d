"""The configuration of the model of an official file, inferred from the shapes of its tensors."""

import math
import re
from collections.abc import Mapping

import torch

from .configuration_umt import UMTConfig, UMTTeacherConfig, UMTTextConfig, UMTVideoTextConfig
from .labels_umt import id2label_for, load_labels
from .official_kinds_umt import spans_frames
from .official_layout_umt import VIDEO_PREFIX
from .position_embeddings_umt import position_table

# Shapes do not contain the number of heads; every published encoder, of video and of text, has heads of 64 channels.
PUBLISHED_HEADS = {768: 12, 1024: 16}
# of the encoders of MVD, VideoMAE and EVEREST, whose tokens cover two frames, and of MAE
MASKED_MODELING_HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16}
# One float32 computation of a table against another; half precision tables are compared at their own rounding.
TABLE_TOLERANCE = 1e-5


def encoder_config(state: Mapping[str, torch.Tensor], prefix: str, **fields) -> UMTConfig:
    """The configuration of a video encoder from its shapes; the number of heads follows from a published size."""
    kernel = state[f"{prefix}patch_embed.proj.weight"]
    if kernel.ndim != 5 or kernel.shape[-1] != kernel.shape[-2]:
        raise ValueError(
            f"The patch kernel must be (hidden size, channels, tubelet, patch, patch), but is {tuple(kernel.shape)}."
        )
    hidden_size = kernel.shape[0]
    published_heads = MASKED_MODELING_HEADS if spans_frames(state, prefix) else PUBLISHED_HEADS
    if hidden_size not in published_heads:
        raise ValueError(
            f"An encoder of hidden size {hidden_size} was never published, and shapes do not contain the number of "
            f"heads. Give `config`, e.g. UMTConfig(hidden_size={hidden_size}, num_attention_heads=..., ...)."
        )
    depth = 1 + max(
        (int(match[1]) for key in state if (match := re.match(rf"{re.escape(prefix)}blocks\.(\d+)\.", key))),
        default=-1,
    )
    first_mlp = state.get(f"{prefix}blocks.0.mlp.fc1.weight")
    if first_mlp is None:
        raise ValueError(
            f"Missing key: {prefix}blocks.0.mlp.fc1.weight. The checkpoint contains no transformer block."
        )
    return UMTConfig(
        hidden_size=hidden_size,
        num_hidden_layers=depth,
        num_attention_heads=published_heads[hidden_size],
        intermediate_size=first_mlp.shape[0],
        num_channels=kernel.shape[1],
        tubelet_size=kernel.shape[2],
        patch_size=kernel.shape[3],
        **fields,
    )


def stage1_config(state: Mapping[str, torch.Tensor], given: UMTConfig | None) -> UMTConfig:
    """Stage 1: the norm on tokens, the position table over the clip's own grid."""
    if given is None:
        decoders = {int(key.split(".")[1]) for key in state if key.startswith("clip_decoder.")}
        if "clip_decoder.0.head.weight" not in state:
            raise ValueError("Missing key: clip_decoder.0.head.weight. The checkpoint contains no decoder.")
        target_dim = state["clip_decoder.0.head.weight"].shape[0]
        given = encoder_config(state, "encoder.", num_aligned_layers=len(decoders), target_dim=target_dim)
    fields = {**given.to_dict(), "position_grid": list(given.token_grid)}
    return UMTConfig.from_dict(fields, final_norm="tokens", decoder_layer_norm_eps=1e-6)


def unnamed_labels(num_labels: int) -> dict[int, str]:
    """Names of classes whose meaning is not known."""
    return {index: f"LABEL_{index}" for index in range(num_labels)}


def lacks_position_table(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether the position table of a classifier or an action detection model does not follow from its file.

    UMT's tokens cover one frame. Where they cover several, the model may be one of MVD, VideoMAE or EVEREST, whose
    files have the same keys and shapes, contain no table, and need different ones.
    """
    return "pos_embed" not in state and spans_frames(state)


def keeps_position_grid(state: Mapping[str, torch.Tensor], given: UMTConfig | None) -> bool:
    """Whether a given configuration determines the grid of the position table, and not the kind of file."""
    return given is not None and (given.position_type == "space_time" or lacks_position_table(state))


def require_position_table(state: Mapping[str, torch.Tensor], given: UMTConfig | None) -> None:
    """Raise a ValueError if neither the file nor a configuration determines the position table of a model."""
    if given is None and lacks_position_table(state):
        raise ValueError(
            f"The tokens of this model cover {state['patch_embed.proj.weight'].shape[2]} frames, as in MVD, VideoMAE "
            "and EVEREST, and the file does not contain the position table, which differs between them. Give "
            "`position_type`, 'space_time' for MVD and 'flat' for VideoMAE and EVEREST (umt convert --position-type "
            "flat, umt finetune --model '{position_type: flat}'), or a `config`."
        )


def config_with_position_type(state: Mapping[str, torch.Tensor], position_type: str, name: str) -> UMTConfig:
    """The configuration of a classifier or an action detection model whose file does not determine its table.

    The table is that of the input's own grid. Frames and size are those of `name`, the file's name, by default 8 time
    steps of 224 pixels.

    Raises:
        ValueError: if the file determines its table, or the size was never published.
    """
    if "patch_embed.proj.weight" not in state or not lacks_position_table(state):
        raise ValueError(
            f"`position_type` {position_type!r} is only for classifiers and action detection models whose tokens "
            "cover several frames and whose file has no position table. The table of this file is known; leave it out."
        )
    config = encoder_config(state, "", position_type=position_type, position_grid=None)
    sizes = clip_sizes_from_name(name) or clip_sizes_from_table(config, None)
    return UMTConfig.from_dict(config.to_dict(), num_frames=sizes[0][0], image_size=sizes[0][1])


def classification_config(
    state: Mapping[str, torch.Tensor], given: UMTConfig | None, name: str, labels: str | None
) -> UMTConfig:
    """Classifier: the norm on the mean, the position table of 8 x 14 x 14 tokens resized to the clip's grid.

    `name`, the file's name, and its position table give the clip's size, `labels` the class names.
    """
    if "head.weight" not in state:
        raise ValueError("Missing key: head.weight. The checkpoint contains no classification head.")
    require_position_table(state, given)
    num_labels = state["head.weight"].shape[0]
    if labels is None and lacks_position_table(state):
        id2label = unnamed_labels(num_labels)  # the lists by size are those of UMT's heads
    else:
        id2label = id2label_for(num_labels, labels)
    if given is not None and labels is None and given.num_labels == len(id2label):
        id2label = given.id2label
    config = UMTConfig.from_dict(
        (encoder_config(state, "") if given is None else given).to_dict(),
        position_grid=given.position_grid if keeps_position_grid(state, given) else [8, 14, 14],
        final_norm="pooled",
        id2label=id2label,
        label2id={label: index for index, label in id2label.items()},
    )
    table = state.get("pos_embed")
    if given is not None:
        sizes = [(config.num_frames, config.image_size)]
    else:
        sizes = clip_sizes_from_name(name) or clip_sizes_from_table(config, table)
    for config.num_frames, config.image_size in sizes:
        if table is None or table_error(config, table) <= table_tolerance(table):
            return config
    tried = ", ".join(f"{frames} frames of {size} pixels" for frames, size in sizes) or "any published clip size"
    raise ValueError(
        f"'pos_embed' of shape {tuple(table.shape)} is not the position table computed for {tried} (largest "
        f"difference {table_error(config, table):.2g}, allowed {table_tolerance(table):.2g}). A table that was "
        "trained or computed for another clip can't be kept: the model computes its own. For another size, give "
        "`config`."
    )


def detection_config(
    state: Mapping[str, torch.Tensor], given: UMTConfig | None, name: str, labels: str | None
) -> UMTConfig:
    """Action detection: the norm on tokens, the position table over the grid of the model's own clips.

    The frames and the size of these clips are those of `name`, the file's name, by default 8 of 224 pixels. A head of
    80 classes is AVA's: row c - 1 is action id c.
    """
    if "head.weight" not in state:
        raise ValueError("Missing key: head.weight. The checkpoint contains no head for actions.")
    require_position_table(state, given)
    num_labels = state["head.weight"].shape[0]
    if given is None:
        frames, size = (clip_sizes_from_name(name) or [(8, 224)])[0]
        given = encoder_config(state, "", num_frames=frames, image_size=size)
    if labels is None and given.num_labels == num_labels:
        id2label = given.id2label
    elif labels is None and num_labels != len(load_labels("ava")):
        id2label = unnamed_labels(num_labels)  # a list by size would be a classifier's
    else:
        id2label = id2label_for(num_labels, labels or "ava")
    return UMTConfig.from_dict(
        given.to_dict(),
        position_grid=given.position_grid if keeps_position_grid(state, given) else list(given.token_grid),
        final_norm="tokens",
        id2label=id2label,
        label2id={label: index for index, label in id2label.items()},
    )


def video_config(state: Mapping[str, torch.Tensor], given: UMTConfig | None, **fields) -> UMTConfig:
    """The video encoder of a multi-modality file: the norm on tokens, the table for the input's own grid.

    `fields` replace defaults of the inferred configuration, such as `num_frames`.
    """
    if given is None:
        given = encoder_config(state, VIDEO_PREFIX, **{"num_frames": 4} | fields)
    # the default grid means that `config` does not set one
    is_default = given.position_grid is None or list(given.position_grid) == UMTConfig().position_grid
    stage2 = {"final_norm": "tokens", "decoder_layer_norm_eps": 1e-5}
    return UMTConfig.from_dict(given.to_dict() | ({"position_grid": None} if is_default else {}), **stage2)


def text_config(state: Mapping[str, torch.Tensor], prefix: str) -> UMTTextConfig:
    """The configuration of a BERT from its shapes; the number of heads follows from a published size."""
    vocab_size, hidden_size = state[f"{prefix}embeddings.word_embeddings.weight"].shape
    if hidden_size not in PUBLISHED_HEADS:
        raise ValueError(
            f"A text encoder of hidden size {hidden_size} was never published, and shapes do not contain the number "
            "of heads. Give `config`, a UMTVideoTextConfig."
        )
    numbered = re.compile(rf"{re.escape(prefix)}encoder\.layer\.(\d+)\.")
    layers = {int(match[1]) for key in state if (match := numbered.match(key))}
    fusing = {j for j in layers if f"{prefix}encoder.layer.{j}.crossattention.self.key.weight" in state}
    needed = (f"{prefix}embeddings.position_embeddings.weight", f"{prefix}encoder.layer.0.intermediate.dense.weight")
    missing = [key for key in needed if key not in state]
    if missing or not fusing:
        raise ValueError(f"Missing keys: {', '.join(missing) or 'those of all layers with cross-attention'}.")
    return UMTTextConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=1 + max(layers),
        num_attention_heads=PUBLISHED_HEADS[hidden_size],
        intermediate_size=state[needed[1]].shape[0],
        max_position_embeddings=state[needed[0]].shape[0],
        fusion_layer=min(fusing),
        encoder_width=state[f"{prefix}encoder.layer.{min(fusing)}.crossattention.self.key.weight"].shape[1],
    )


def stage2_config(state: Mapping[str, torch.Tensor], given: UMTVideoTextConfig | None) -> UMTVideoTextConfig:
    """Stage 2: four frames, epsilon 1e-5 in the decoders' norm."""
    if given is None:
        needed = ("vision_encoder.clip_decoder.0.head.weight", "vision_proj.weight", "itm_head.weight")
        if missing := [key for key in needed if key not in state]:
            raise ValueError(f"Missing keys: {', '.join(missing)}. The checkpoint is not a complete stage-2 model.")
        decoders = {key.split(".")[2] for key in state if key.startswith("vision_encoder.clip_decoder.")}
        fields = {"num_aligned_layers": len(decoders), "target_dim": state[needed[0]].shape[0]}
        given = UMTVideoTextConfig(
            vision_config=video_config(state, None, **fields),
            text_config=text_config(state, "text_encoder.bert."),
            projection_dim=state["vision_proj.weight"].shape[0],
        )
    return with_video_config(given, video_config(state, given.vision_config))


def retrieval_config(state: Mapping[str, torch.Tensor], given: UMTVideoTextConfig | None) -> UMTVideoTextConfig:
    """Retrieval: twelve frames; the objectives of its training are contrast and matching."""
    if given is None:
        if "vision_proj.weight" not in state:
            raise ValueError("Missing key: vision_proj.weight. The checkpoint is not a complete retrieval model.")
        given = UMTVideoTextConfig(
            vision_config=video_config(state, None, num_frames=12),
            text_config=text_config(state, "text_encoder."),
            projection_dim=state["vision_proj.weight"].shape[0],
            mlm_weight=0.0,
            uta_weight=0.0,
        )
    return with_video_config(given, video_config(state, given.vision_config))


def question_answering_config(
    state: Mapping[str, torch.Tensor], given: UMTVideoTextConfig | None
) -> UMTVideoTextConfig:
    """Question answering: twelve frames, no joint space."""
    if given is None:
        vision = video_config(state, None, num_frames=12)
        given = UMTVideoTextConfig(vision_config=vision, text_config=text_config(state, "text_encoder."))
    return with_video_config(given, video_config(state, given.vision_config))


def with_video_config(config: UMTVideoTextConfig, vision: UMTConfig) -> UMTVideoTextConfig:
    """A copy of `config` with another configuration of the video encoder."""
    return UMTVideoTextConfig.from_dict(config.to_dict() | {"vision_config": vision.to_dict()})


def teacher_config(state: Mapping[str, torch.Tensor], given: UMTTeacherConfig | None) -> UMTTeacherConfig:
    """CLIP's vision tower; the published ones have heads of 64 channels and 14 x 14 tokens, or 24 x 24 at 336 pixels.

    Args:
        state: The file's state dict.
        given: A configuration to use unchanged; None: inferred from the shapes.

    Raises:
        ValueError: if keys are missing or the size was never published.
    """
    if given is not None:
        return given
    needed = ("conv1.weight", "positional_embedding", "proj", "transformer.resblocks.0.mlp.c_fc.weight")
    missing = [key for key in needed if key not in state]
    if missing:
        raise ValueError(f"Missing keys: {', '.join(missing)}. The checkpoint is not a complete CLIP vision tower.")
    kernel = state["conv1.weight"]
    hidden_size, patch_size = kernel.shape[0], kernel.shape[-1]
    if hidden_size not in PUBLISHED_HEADS:
        raise ValueError(
            f"A CLIP tower of hidden size {hidden_size} was never published, and shapes do not contain the number of "
            f"heads. Give `config`, e.g. UMTTeacherConfig(hidden_size={hidden_size}, num_attention_heads=..., ...)."
        )
    side = 24 if state["positional_embedding"].shape[0] == 1 + 24**2 else 14
    return UMTTeacherConfig(
        image_size=side * patch_size,
        patch_size=patch_size,
        num_channels=kernel.shape[1],
        hidden_size=hidden_size,
        num_hidden_layers=sum(key.endswith(".ln_1.weight") for key in state),
        num_attention_heads=PUBLISHED_HEADS[hidden_size],
        intermediate_size=state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        projection_dim=state["proj"].shape[1],
    )


def clip_sizes_from_name(name: str) -> list[tuple[int, int]]:
    """(frames, pixels) in an official file name, e.g. `l16_..._f16_res224.pth`; empty for other names."""
    match = re.search(r"_f(\d+)_res(\d+)\.pth$", name)
    return [(int(match[1]), int(match[2]))] if match else []


def clip_sizes_from_table(config: UMTConfig, table: torch.Tensor | None) -> list[tuple[int, int]]:
    """(frames, pixels) of square clips of 8, 16, 32, ... frames with as many tokens as the stored table has rows."""
    if table is None:
        return [(8 * config.tubelet_size, 14 * config.patch_size)]
    sizes = []
    for frames in (8, 16, 32, 64):
        side = math.isqrt(table.shape[-2] // frames)
        if side and frames * side**2 == table.shape[-2]:
            sizes.append((frames * config.tubelet_size, side * config.patch_size))
    return sizes


def table_error(config: UMTConfig, table: torch.Tensor, dim: int | None = None) -> float:
    """Largest difference between a stored table (1, N, `dim`) and the computed one; infinite for another shape.

    `dim` defaults to the encoder's `hidden_size`.
    """
    dim = config.hidden_size if dim is None else dim
    computed = position_table(config.token_grid, dim, config.position_grid, position_type=config.position_type)
    if table.shape != (1, *computed.shape):
        return math.inf
    return (table[0].float() - computed).abs().max().item()


def table_tolerance(table: torch.Tensor) -> float:
    """The rounding error of the table's dtype: values reach about 1.3, so one epsilon covers half a unit."""
    return max(TABLE_TOLERANCE, torch.finfo(table.dtype).eps)
