"""The layout of official UMT files: a table from each official key to our keys, which is read in both directions.

Only the modules `official_*_umt.py` contain official key names. Query, key and value matrices are fused in official
files and separate here, patch embeddings are convolutions there and matrices here, and official files contain some
tensors twice.
"""

import math
from collections.abc import Mapping

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from .configuration_umt import UMTConfig, UMTTeacherConfig, UMTTextConfig, UMTVideoTextConfig
from .position_embeddings_umt import resize_square_table

VIDEO_PREFIX, TEACHER_PREFIX = "vision_encoder.encoder.", "clip_teacher."  # of the parts of a stage-2 file


def weights_without_key(model: PreTrainedModel, key_map: dict[str, list[str]]) -> list[str]:
    """Names of the model's weights that are not among the targets of `key_map`."""
    return sorted(model.state_dict().keys() - {key for our_keys in key_map.values() for key in our_keys})


def official_tensors(model: PreTrainedModel, key_map: dict[str, list[str]]) -> dict[str, torch.Tensor]:
    """The tensors of a model under the official keys of `key_map`, in their official shapes."""
    ours, official = model.state_dict(), {}
    config = getattr(model.config, "vision_config", model.config)
    for official_key, our_keys in key_map.items():
        tensor = torch.cat([ours[key] for key in our_keys]) if len(our_keys) > 1 else ours[our_keys[0]]
        if official_key.endswith("patch_embed.proj.weight"):
            # the kernel of an image model does not extend in time
            frames = [config.tubelet_size] if hasattr(config, "tubelet_size") else []
            tensor = tensor.unflatten(1, (config.num_channels, *frames, *[config.patch_size] * 2))
        elif official_key == "conv1.weight":
            tensor = tensor.unflatten(1, (config.num_channels, *[config.patch_size] * 2))
        elif official_key == "proj":
            tensor = tensor.T
        official[official_key] = tensor
    return official


# --- official keys to ours ------------------------------------------------------------------------------------------


def encoder_key_map(config: UMTConfig, official: str = "", ours: str = "umt.") -> dict[str, list[str]]:
    """Official keys of patch embedding and blocks to ours; the fused `qkv` maps to three matrices."""
    keys = {
        f"{official}patch_embed.proj.{kind}": [f"{ours}embeddings.patch_embeddings.{kind}"]
        for kind in ("weight", "bias")
    }
    return keys | block_key_map(config.num_hidden_layers, official, ours)


def block_key_map(depth: int, official: str, ours: str) -> dict[str, list[str]]:
    """Official keys of `depth` blocks to ours, below the two prefixes."""
    keys = {}
    for i in range(depth):
        block, layer = f"{official}blocks.{i}", f"{ours}layers.{i}"
        keys[f"{block}.attn.qkv.weight"] = [f"{layer}.attention.{name}_proj.weight" for name in "qkv"]
        keys[f"{block}.attn.q_bias"] = [f"{layer}.attention.q_proj.bias"]
        keys[f"{block}.attn.v_bias"] = [f"{layer}.attention.v_proj.bias"]
        for kind in ("weight", "bias"):
            keys[f"{block}.attn.proj.{kind}"] = [f"{layer}.attention.o_proj.{kind}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                keys[f"{block}.{name}.{kind}"] = [f"{layer}.{name}.{kind}"]
    return keys


def stage1_key_map(config: UMTConfig) -> dict[str, list[str]]:
    """Keys of a stage-1 file; in both layouts decoder 0 belongs to the shallowest aligned layer."""
    keys = encoder_key_map(config, official="encoder.")
    for kind in ("weight", "bias"):
        keys[f"encoder.norm.{kind}"] = [f"umt.norm.{kind}"]
        for k in range(config.num_aligned_layers):
            keys[f"clip_decoder.{k}.head.{kind}"] = [f"decoders.{k}.projection.{kind}"]
            keys[f"clip_decoder.{k}.norm.{kind}"] = [f"decoders.{k}.norm.{kind}"]
    return keys


def classification_key_map(config: UMTConfig) -> dict[str, list[str]]:
    """Keys of a classification file."""
    keys = encoder_key_map(config)
    for kind in ("weight", "bias"):
        keys[f"fc_norm.{kind}"] = [f"umt.fc_norm.{kind}"]
        keys[f"head.{kind}"] = [f"classifier.{kind}"]
    return keys


def detection_key_map(config: UMTConfig) -> dict[str, list[str]]:
    """Keys of an action detection file."""
    keys = encoder_key_map(config)
    for kind in ("weight", "bias"):
        keys[f"norm.{kind}"] = [f"umt.norm.{kind}"]
        keys[f"head.{kind}"] = [f"classifier.{kind}"]
    return keys


def teacher_key_map(config: UMTTeacherConfig) -> dict[str, list[str]]:
    """Keys of an extracted CLIP vision tower; the packed `in_proj` maps to three matrices."""
    keys = {
        "class_embedding": ["embeddings.class_embedding"],
        "positional_embedding": ["embeddings.position_embeddings"],
        "conv1.weight": ["embeddings.patch_embeddings.weight"],
        "proj": ["projection.weight"],
    }
    for kind in ("weight", "bias"):
        keys[f"ln_pre.{kind}"], keys[f"ln_post.{kind}"] = [f"pre_norm.{kind}"], [f"post_norm.{kind}"]
        for i in range(config.num_hidden_layers):
            block, layer = f"transformer.resblocks.{i}", f"layers.{i}"
            keys[f"{block}.attn.in_proj_{kind}"] = [f"{layer}.attention.{name}_proj.{kind}" for name in "qkv"]
            keys[f"{block}.attn.out_proj.{kind}"] = [f"{layer}.attention.o_proj.{kind}"]
            keys[f"{block}.ln_1.{kind}"], keys[f"{block}.ln_2.{kind}"] = (
                [f"{layer}.norm1.{kind}"],
                [f"{layer}.norm2.{kind}"],
            )
            keys[f"{block}.mlp.c_fc.{kind}"] = [f"{layer}.mlp.fc1.{kind}"]
            keys[f"{block}.mlp.c_proj.{kind}"] = [f"{layer}.mlp.fc2.{kind}"]
    return keys


def video_key_map(config: UMTConfig, ours: str = "") -> dict[str, list[str]]:
    """Keys of the video encoder in a multi-modality file."""
    keys = encoder_key_map(config, VIDEO_PREFIX, ours)
    return keys | {f"{VIDEO_PREFIX}norm.{kind}": [f"{ours}norm.{kind}"] for kind in ("weight", "bias")}


def text_key_map(config: UMTTextConfig, official: str, ours: str) -> dict[str, list[str]]:
    """Keys of a BERT, the same in both layouts except for the prefix."""
    tables = [f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")]
    modules = ["embeddings.LayerNorm"]
    for j in range(config.num_hidden_layers):
        layer = f"encoder.layer.{j}"
        for attention in ("attention", "crossattention") if j >= config.fusion_layer else ("attention",):
            modules += [f"{layer}.{attention}.self.{name}" for name in ("query", "key", "value")]
            modules += [f"{layer}.{attention}.output.{name}" for name in ("dense", "LayerNorm")]
        modules += [f"{layer}.{name}" for name in ("intermediate.dense", "output.dense", "output.LayerNorm")]
    names = tables + [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]
    return {f"{official}{name}": [f"{ours}{name}"] for name in names}


def prediction_key_map(official: str, ours: str) -> dict[str, list[str]]:
    """Keys of a masked language modelling head, whose bias is in official files twice."""
    names = [f"{name}.{kind}" for name in ("transform.dense", "transform.LayerNorm") for kind in ("weight", "bias")]
    keys = {f"{official}{name}": [f"{ours}{name}"] for name in (*names, "decoder.weight", "decoder.bias")}
    return keys | {f"{official}bias": [f"{ours}decoder.bias"]}


def retrieval_key_map(
    config: UMTVideoTextConfig, official_text: str = "text_encoder.", ours: str = ""
) -> dict[str, list[str]]:
    """Keys of a retrieval file: two encoders, projections, matching head, temperature."""
    keys = video_key_map(config.vision_config, ours=f"{ours}vision_model.")
    keys |= text_key_map(config.text_config, official_text, f"{ours}text_model.")
    heads = {"vision_encoder.pool_norm": "pool_norm", "vision_proj": "video_projection"}
    heads |= {"text_proj": "text_projection", "itm_head": "matching_head"}
    for official, name in heads.items():
        keys |= {f"{official}.{kind}": [f"{ours}{name}.{kind}"] for kind in ("weight", "bias")}
    return keys | {"temp": [f"{ours}temperature"]}


def stage2_key_map(config: UMTVideoTextConfig) -> dict[str, list[str]]:
    """Keys of a stage-2 file without its teacher: a retrieval model, its decoders and its masked language modelling
    head. Without decoders and that head, as in retrieval fine-tuning, the keys of a retrieval file."""
    if config.mlm_weight == config.uta_weight == 0:
        return retrieval_key_map(config, ours="video_text.")
    keys = retrieval_key_map(config, official_text="text_encoder.bert.", ours="video_text.")
    if config.mlm_weight > 0:
        keys |= prediction_key_map("text_encoder.cls.predictions.", "mlm_head.")
    for k in range(config.vision_config.num_aligned_layers if config.uta_weight > 0 else 0):
        for kind in ("weight", "bias"):
            keys[f"vision_encoder.clip_decoder.{k}.head.{kind}"] = [f"decoders.{k}.projection.{kind}"]
            keys[f"vision_encoder.clip_decoder.{k}.norm.{kind}"] = [f"decoders.{k}.norm.{kind}"]
    return keys


def question_answering_key_map(config: UMTVideoTextConfig) -> dict[str, list[str]]:
    """Keys of a question answering file: two encoders, and a decoder with one layer per fusion layer."""
    text = config.text_config
    fields = {"num_hidden_layers": text.num_hidden_layers - text.fusion_layer, "fusion_layer": 0}
    keys = video_key_map(config.vision_config, ours="vision_model.")
    keys |= text_key_map(text, "text_encoder.", "text_model.")
    keys |= text_key_map(UMTTextConfig.from_dict(text.to_dict(), **fields), "text_decoder.bert.", "text_decoder.")
    return keys | prediction_key_map("text_decoder.cls.predictions.", "lm_head.")


# --- preparing a state dict ------------------------------------------------------------------------------------------


def teacher_part(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The teacher's tensors of a stage-2 file, under the keys of an extracted CLIP tower."""
    return {
        key.removeprefix(TEACHER_PREFIX): tensor for key, tensor in state.items() if key.startswith(TEACHER_PREFIX)
    }


def video_part(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The video encoder's tensors of a multi-modality file."""
    return {key: tensor for key, tensor in state.items() if key.startswith(VIDEO_PREFIX)}


def classification_state(state: Mapping[str, torch.Tensor], config: UMTConfig) -> dict[str, torch.Tensor]:
    """A classifier's tensors without the position table, which is computed."""
    return {key: tensor for key, tensor in state.items() if key != "pos_embed"}


def multimodal_state(state: Mapping[str, torch.Tensor], config: UMTVideoTextConfig) -> dict[str, torch.Tensor]:
    """A multi-modality model's tensors without its teacher and without `position_ids`, which are not weights.

    Raises:
        ValueError: if these are not 0, 1, 2, ..., or if the two copies of a tensor differ.
    """
    twice = {"cls.predictions.bias": "cls.predictions.decoder.bias"}
    twice["bert.embeddings.word_embeddings.weight"] = "cls.predictions.decoder.weight"
    kept = {}
    for key, tensor in state.items():
        if key.startswith(TEACHER_PREFIX):
            continue
        if key.endswith("embeddings.position_ids"):
            if not torch.equal(tensor.flatten(), torch.arange(tensor.numel())):
                raise ValueError(f"{key!r} is not 0, 1, 2, ...: the model supports no other order of positions.")
            continue
        kept[key] = tensor
        for one, other in twice.items():
            copy = state.get(key.replace(one, other))
            if key.endswith(one) and copy is not None and not torch.equal(tensor, copy):
                raise ValueError(
                    f"{key!r} and {key.replace(one, other)!r} differ, but are one tensor in the model. The file is "
                    "damaged, or of another model."
                )
    return kept


def teacher_state(state: Mapping[str, torch.Tensor], config: UMTTeacherConfig) -> dict[str, torch.Tensor]:
    """A CLIP tower with the kernel of one frame, (D, C, patch, patch), and the position table resized for `config`."""
    state = dict(state)
    kernel = state["conv1.weight"]
    if kernel.ndim == 5:
        if kernel.shape[2] != 1:
            raise ValueError(f"'conv1.weight' {tuple(kernel.shape)} spans several frames; the teacher's covers one.")
        state["conv1.weight"] = kernel.squeeze(2)
    table = state.get("positional_embedding")
    if table is not None and table.ndim == 2 and math.isqrt(table.shape[0] - 1) ** 2 == table.shape[0] - 1:
        side = config.image_size // config.patch_size
        state["positional_embedding"] = resize_square_table(table.float(), (side, side))
    return state


def to_our_layout(state: Mapping[str, torch.Tensor], key_map: dict[str, list[str]]) -> dict[str, torch.Tensor]:
    """The tensors of a fitting official state dict under our names, in float32.

    They are copies: weights that share memory with the caller's mapping or the mapped file would change with it.
    """
    ours = {}
    for official_key, our_keys in key_map.items():
        tensor = state[official_key]
        if official_key.endswith("patch_embed.proj.weight") or official_key == "conv1.weight":
            tensor = tensor.flatten(1)  # convolution kernel -> matrix that multiplies a flattened patch
        elif official_key == "proj":
            tensor = tensor.T  # officially multiplied from the right
        pieces = tensor.chunk(len(our_keys)) if len(our_keys) > 1 else [tensor]
        for key, piece in zip(our_keys, pieces, strict=True):
            ours[key] = piece.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return ours


def require_exact_fit(
    state: Mapping[str, torch.Tensor],
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    key_map: dict[str, list[str]],
) -> None:
    """Raise a ValueError that lists all official keys that are missing, unexpected or misshaped for the model."""
    with torch.device("meta"):
        model = model_class(config)
    if unfilled := weights_without_key(model, key_map):
        raise ValueError(f"`config` requires weights that no official checkpoint contains: {', '.join(unfilled)}.")
    expected = {key: tuple(tensor.shape) for key, tensor in official_tensors(model, key_map).items()}
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    misshaped = [
        f"{key} {tuple(state[key].shape)} instead of {shape}"
        for key, shape in expected.items()
        if key in state and state[key].shape != shape
    ]
    if missing or unexpected or misshaped:
        raise ValueError(
            "The checkpoint does not fit its configuration. "
            f"Missing keys ({len(missing)}): {', '.join(missing) or '-'}. "
            f"Unexpected keys ({len(unexpected)}): {', '.join(unexpected) or '-'}. "
            f"Misshaped keys ({len(misshaped)}): {', '.join(misshaped) or '-'}."
        )
