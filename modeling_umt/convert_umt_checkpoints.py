"""Official UMT `.pth` files to Transformers models and back; nothing else in the package knows the official key names.

Unusual: a conversion is all or nothing. Every key of the file must be known, every weight of the model must be filled,
every shape must match, and a stored position table must be the computed one; anything else is an error that lists what
was wrong. Files are read by PyTorch's weights-only unpickler, so a pickle that carries code is refused.

The mapping is written once, as a table from each official key to our keys, and is read in both directions.
"""

import argparse
import math
import os
import pickle
import re
import zipfile
from collections.abc import Mapping

import torch
from huggingface_hub import hf_hub_download
from transformers import PreTrainedModel

from .configuration_umt import UMTConfig, UMTTeacherConfig
from .labels_umt import id2label_for
from .modeling_umt import UMTForPreTraining, UMTForVideoClassification
from .modeling_umt_teacher import UMTTeacherModel, resize_square_table
from .position_embeddings_umt import position_table

# Head counts can't be read off shapes; every published encoder has heads of 64 channels.
PUBLISHED_HEADS = {768: 12, 1024: 16}
# One float32 computation of a table against another; half precision tables are compared at their own rounding.
TABLE_TOLERANCE = 1e-5


class UnsupportedCheckpointError(ValueError):
    """The file is no UMT checkpoint, or one of a kind that this package has no model for."""


def convert_umt_checkpoint(
    checkpoint: str | os.PathLike | Mapping[str, torch.Tensor],
    config: UMTConfig | UMTTeacherConfig | None = None,
    part: str = "all",
    labels: str | None = None,
) -> PreTrainedModel:
    """Turn an official checkpoint into a model with its weights loaded, in float32.

    Args:
        checkpoint: A path to a `.pth` file, `repo_id:filename` of one on the Hub, or a loaded state dict in the
            official layout, flat or wrapped under `model` or `module`. The mapping is not changed.
        config (*optional*): Overrides the inferred sizes; needed where they are not UMT-B/16's or L/16's, since the
            number of heads can't be read off shapes. `position_grid`, `final_norm` and `decoder_layer_norm_eps` always
            follow from the kind of file.
        part (`str`, defaults to `"all"`): The part of the file to return. Single-modality files have only `"all"`.
        labels (`str`, *optional*): Label list for a classifier's head (`"k600"`, `"k700"`, `"mitv1"`, ...). Heads of
            400, 710 and 174 classes are named without it.

    Returns:
        The class follows from the keys: [`UMTForPreTraining`] (stage 1), [`UMTForVideoClassification`] or
        [`UMTTeacherModel`] (the extracted CLIP tower), in eval mode. A teacher's position table is resized to the
        configuration's `image_size`, by default 14 patches a side (24 for ViT-L/14@336). Frames and resolution of a
        classifier come from its position table if the file has one, else from an official
        file name (`..._f16_res224.pth`), else they are 8 frames of 224 pixels.

    Raises:
        UnsupportedCheckpointError: (a ValueError) if the file's kind is unknown or has no model here.
        ValueError: if keys are missing, unexpected or misshaped, a stored position table is not the computed one, or
            the file can't be read safely.
        FileNotFoundError: if there is no such file.
    """
    state = read_official_state_dict(checkpoint)
    name = "" if isinstance(checkpoint, Mapping) else os.path.basename(os.fspath(checkpoint))
    kind = checkpoint_kind(state)
    if part != "all":
        raise ValueError(f"A {kind} file has no part {part!r}; leave `part` at 'all'.")
    if labels is not None and kind != "classification":
        raise ValueError(f"`labels` {labels!r} name the classes of a classifier; this is a {kind} file.")

    if kind == "stage-1":
        model_class, key_map = UMTForPreTraining, stage1_key_map
        config = stage1_config(state, config)
    elif kind == "teacher":
        model_class, key_map = UMTTeacherModel, teacher_key_map
        config = teacher_config(state, config)
        state = teacher_state(state, config)
    else:
        model_class, key_map = UMTForVideoClassification, classification_key_map
        config = classification_config(state, config, name, labels)
        state = {key: tensor for key, tensor in state.items() if key != "pos_embed"}
    require_exact_fit(state, model_class, config, key_map(config))
    state = to_our_layout(state, key_map(config))
    return model_class.from_pretrained(None, config=config, state_dict=state, dtype=torch.float32)


def official_state_dict(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The learned tensors of a model in the official layout, every one bit for bit; the inverse of the conversion.

    Position tables are computed, so they are not part of it. `model` is what [`convert_umt_checkpoint`] returns.

    Raises:
        UnsupportedCheckpointError: if the model has no official layout.
    """
    key_maps = {
        "UMTForPreTraining": stage1_key_map,
        "UMTForVideoClassification": classification_key_map,
        "UMTTeacherModel": teacher_key_map,
    }
    if type(model).__name__ not in key_maps:
        raise UnsupportedCheckpointError(f"{type(model).__name__} has no official layout.")
    ours, official = model.state_dict(), {}
    for official_key, our_keys in key_maps[type(model).__name__](model.config).items():
        tensor = torch.cat([ours[key] for key in our_keys]) if len(our_keys) > 1 else ours[our_keys[0]]
        config = model.config
        if official_key.endswith("patch_embed.proj.weight"):
            tensor = tensor.unflatten(1, (config.num_channels, config.tubelet_size, *[config.patch_size] * 2))
        elif official_key == "conv1.weight":
            tensor = tensor.unflatten(1, (config.num_channels, *[config.patch_size] * 2))
        elif official_key == "proj":
            tensor = tensor.T
        official[official_key] = tensor
    return official


# --- reading a file -------------------------------------------------------------------------------------------------


def read_official_state_dict(checkpoint: str | os.PathLike | Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read a `.pth` (path or `repo_id:filename`) or take a loaded mapping; unwrap `model` / `module`."""
    if not isinstance(checkpoint, Mapping):
        checkpoint = read_weights_only(os.fspath(checkpoint))
    for wrapper in ("model", "module"):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(wrapper), Mapping):
            checkpoint = checkpoint[wrapper]
            break
    if not isinstance(checkpoint, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in checkpoint.items()
    ):
        raise UnsupportedCheckpointError("The file holds no state dict: a mapping from names to tensors was expected.")
    return dict(checkpoint)


def read_weights_only(path: str) -> object:
    """Unpickle a file that holds tensors, containers and at most an `argparse.Namespace`."""
    hub_file = re.fullmatch(r"([\w.-]+/[\w.-]+):(.+)", path)
    if hub_file and not os.path.exists(path):
        path = hf_hub_download(repo_id=hub_file[1], filename=hub_file[2])
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"There is no checkpoint {path!r}; give the path of a `.pth` file, or `repo_id:filename` on the Hub."
        )
    try:
        # training files carry their command line as a Namespace, which holds no code
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except PermissionError:
        raise
    except Exception as error:  # a reader stumbles over a damaged file in any way: IndexError, KeyError, OSError, ...
        foreign = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if foreign:
            raise ValueError(
                f"{path!r} was refused: it would call {foreign[1]}. A checkpoint may hold tensors, plain containers "
                "and an argparse.Namespace, and no code."
            ) from error
        reason = re.split(r"\.\s|\n", str(error))[0] or type(error).__name__  # the rest is advice to load it unsafely
        raise ValueError(
            f"{path!r} was refused: PyTorch's weights-only unpickler, which runs no code, can't read it ({reason}). "
            "Is it truncated, or a file of another kind?"
        ) from error


def checkpoint_kind(state: Mapping[str, torch.Tensor]) -> str:
    """`"stage-1"`, `"classification"` or `"teacher"`, told by keys that only one kind has."""
    if "encoder.patch_embed.proj.weight" in state:
        return "stage-1"
    if "patch_embed.proj.weight" in state and "fc_norm.weight" in state:
        return "classification"
    if "patch_embed.proj.weight" in state and "norm.weight" in state:
        raise UnsupportedCheckpointError(
            "This is an action detection (AVA) file: it has a norm on tokens and a head. There is no model for it yet."
        )
    if "class_embedding" in state and "conv1.weight" in state:
        return "teacher"
    if any(key.startswith("vision_encoder.") for key in state):
        raise UnsupportedCheckpointError("This is a multi-modality file; there is no video-text model yet.")
    examples = ", ".join(list(state)[:3]) or "none at all"
    raise UnsupportedCheckpointError(f"The keys are those of no UMT checkpoint (the first ones: {examples}).")


# --- which official key is which of ours ----------------------------------------------------------------------------


def encoder_key_map(config: UMTConfig, official: str = "", ours: str = "umt.") -> dict[str, list[str]]:
    """Official keys of patch embedding and blocks to ours; the fused `qkv` goes to three matrices."""
    keys = {
        f"{official}patch_embed.proj.{kind}": [f"{ours}embeddings.patch_embeddings.{kind}"]
        for kind in ("weight", "bias")
    }
    for i in range(config.num_hidden_layers):
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
    """Keys of a stage-1 file; decoder 0 is the shallowest aligned layer's in both."""
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


def teacher_key_map(config: UMTTeacherConfig) -> dict[str, list[str]]:
    """Keys of an extracted CLIP vision tower; the packed `in_proj` goes to three matrices."""
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


def to_our_layout(state: Mapping[str, torch.Tensor], key_map: dict[str, list[str]]) -> dict[str, torch.Tensor]:
    """Copies of the tensors of a fitting official state dict under our names, in float32.

    Copies, because a model whose weights lay in the caller's mapping or in the mapped file would change with it.
    """
    ours = {}
    for official_key, our_keys in key_map.items():
        tensor = state[official_key]
        if official_key.endswith("patch_embed.proj.weight") or official_key == "conv1.weight":
            tensor = tensor.flatten(1)  # the convolution's kernel as the matrix that multiplies a flat patch
        elif official_key == "proj":
            tensor = tensor.T  # officially multiplied from the right
        for key, piece in zip(our_keys, tensor.chunk(len(our_keys)), strict=True):
            ours[key] = piece.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return ours


def require_exact_fit(
    state: Mapping[str, torch.Tensor],
    model_class: type[PreTrainedModel],
    config: UMTConfig | UMTTeacherConfig,
    key_map: dict[str, list[str]],
) -> None:
    """Raise a ValueError that lists every official key that is missing, unexpected or misshaped for the model."""
    with torch.device("meta"):
        model = model_class(config)
    unfilled = sorted(model.state_dict().keys() - {key for our_keys in key_map.values() for key in our_keys})
    if unfilled:
        raise ValueError(f"`config` asks for weights that no official checkpoint holds: {', '.join(unfilled)}.")
    expected = {key: tuple(tensor.shape) for key, tensor in official_state_dict(model).items()}
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


# --- configuration --------------------------------------------------------------------------------------------------


def encoder_config(state: Mapping[str, torch.Tensor], prefix: str, **fields) -> UMTConfig:
    """The configuration that the shapes of an encoder tell; a published width tells the number of heads."""
    kernel = state[f"{prefix}patch_embed.proj.weight"]
    if kernel.ndim != 5 or kernel.shape[-1] != kernel.shape[-2]:
        raise ValueError(
            f"The patch kernel must be (width, channels, tubelet, patch, patch), but is {tuple(kernel.shape)}."
        )
    hidden_size = kernel.shape[0]
    if hidden_size not in PUBLISHED_HEADS:
        raise ValueError(
            f"An encoder of width {hidden_size} is no published size, and head counts can't be read off shapes. "
            f"Give `config`, e.g. UMTConfig(hidden_size={hidden_size}, num_attention_heads=..., ...)."
        )
    depth = 1 + max(
        (int(match[1]) for key in state if (match := re.match(rf"{re.escape(prefix)}blocks\.(\d+)\.", key))),
        default=-1,
    )
    first_mlp = state.get(f"{prefix}blocks.0.mlp.fc1.weight")
    if first_mlp is None:
        raise ValueError(f"Missing key: {prefix}blocks.0.mlp.fc1.weight. The checkpoint holds no transformer block.")
    return UMTConfig(
        hidden_size=hidden_size,
        num_hidden_layers=depth,
        num_attention_heads=PUBLISHED_HEADS[hidden_size],
        intermediate_size=first_mlp.shape[0],
        num_channels=kernel.shape[1],
        tubelet_size=kernel.shape[2],
        patch_size=kernel.shape[3],
        **fields,
    )


def stage1_config(state: Mapping[str, torch.Tensor], given: UMTConfig | None) -> UMTConfig:
    """Stage 1: the norm on tokens, the table over the clip's own grid."""
    if given is None:
        decoders = {int(key.split(".")[1]) for key in state if key.startswith("clip_decoder.")}
        if "clip_decoder.0.head.weight" not in state:
            raise ValueError("Missing key: clip_decoder.0.head.weight. The checkpoint holds no decoder.")
        target_dim = state["clip_decoder.0.head.weight"].shape[0]
        given = encoder_config(state, "encoder.", num_aligned_layers=len(decoders), target_dim=target_dim)
    fields = {**given.to_dict(), "position_grid": list(given.token_grid)}
    return UMTConfig.from_dict(fields, final_norm="tokens", decoder_layer_norm_eps=1e-6)


def classification_config(
    state: Mapping[str, torch.Tensor], given: UMTConfig | None, name: str, labels: str | None
) -> UMTConfig:
    """Classifier: the norm on the mean, the table of 8 x 14 x 14 tokens resized to the clip's grid."""
    if "head.weight" not in state:
        raise ValueError("Missing key: head.weight. The checkpoint holds no classification head.")
    id2label = id2label_for(state["head.weight"].shape[0], labels)
    if given is not None and labels is None and given.num_labels == len(id2label):
        id2label = given.id2label
    config = UMTConfig.from_dict(
        (encoder_config(state, "") if given is None else given).to_dict(),
        position_grid=[8, 14, 14],
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
        "trained or made for another clip can't be kept: the model computes its own. For another size, give `config`."
    )


def teacher_config(state: Mapping[str, torch.Tensor], given: UMTTeacherConfig | None) -> UMTTeacherConfig:
    """CLIP's vision tower; the published ones have heads of 64 channels and 14 x 14 tokens, or 24 x 24 at 336."""
    if given is not None:
        return given
    needed = ("conv1.weight", "positional_embedding", "proj", "transformer.resblocks.0.mlp.c_fc.weight")
    missing = [key for key in needed if key not in state]
    if missing:
        raise ValueError(f"Missing keys: {', '.join(missing)}. The checkpoint is no whole CLIP vision tower.")
    kernel = state["conv1.weight"]
    hidden_size, patch_size = kernel.shape[0], kernel.shape[-1]
    if hidden_size not in PUBLISHED_HEADS:
        raise ValueError(
            f"A CLIP tower of width {hidden_size} is no published size, and head counts can't be read off shapes. "
            f"Give `config`, e.g. UMTTeacherConfig(hidden_size={hidden_size}, num_attention_heads=..., ...)."
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


def teacher_state(state: Mapping[str, torch.Tensor], config: UMTTeacherConfig) -> dict[str, torch.Tensor]:
    """A CLIP tower with the kernel of one frame, (D, C, patch, patch), and the position table resized to `config`."""
    state = dict(state)
    kernel = state["conv1.weight"]
    if kernel.ndim == 5:
        if kernel.shape[2] != 1:
            raise ValueError(f"'conv1.weight' {tuple(kernel.shape)} spans several frames; the teacher sees one.")
        state["conv1.weight"] = kernel.squeeze(2)
    table = state.get("positional_embedding")
    if table is not None and table.ndim == 2 and math.isqrt(table.shape[0] - 1) ** 2 == table.shape[0] - 1:
        side = config.image_size // config.patch_size
        state["positional_embedding"] = resize_square_table(table.float(), (side, side))
    return state


def clip_sizes_from_name(name: str) -> list[tuple[int, int]]:
    """(frames, pixels) that an official file name tells, e.g. `l16_..._f16_res224.pth`; none for other names."""
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


def table_error(config: UMTConfig, table: torch.Tensor) -> float:
    """Largest difference between a stored table (1, N, D) and the computed one; infinite for another shape."""
    computed = position_table(config.token_grid, config.hidden_size, config.position_grid)
    if table.shape != (1, *computed.shape):
        return math.inf
    return (table[0].float() - computed).abs().max().item()


def table_tolerance(table: torch.Tensor) -> float:
    """What rounding to the table's dtype can change: values reach about 1.3, so one epsilon covers half a unit."""
    return max(TABLE_TOLERANCE, torch.finfo(table.dtype).eps)


__all__ = ["UnsupportedCheckpointError", "convert_umt_checkpoint", "official_state_dict"]
