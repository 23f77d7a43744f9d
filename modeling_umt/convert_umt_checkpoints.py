"""Official UMT `.pth` files to Transformers models.

Unusual: a conversion is all or nothing. Every key of the file must be known, every weight of the model must be filled,
every shape must match, and a stored position table must be the computed one; anything else is an error that lists what
was wrong. Files are read by PyTorch's weights-only unpickler, so a pickle that carries code is refused.

Which key is which of ours says `official_layout_umt.py`; here it is told what kind a file is and which sizes its model
has.
"""

import argparse
import math
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from functools import partial

import torch
from huggingface_hub import hf_hub_download
from transformers import PreTrainedConfig, PreTrainedModel

from .configuration_umt import UMTConfig, UMTTeacherConfig, UMTTextConfig, UMTVideoTextConfig
from .labels_umt import id2label_for
from .modeling_umt import UMTForPreTraining, UMTForVideoClassification, UMTModel
from .modeling_umt_question_answering import UMTForVideoQuestionAnswering
from .modeling_umt_teacher import UMTTeacherModel
from .modeling_umt_video_text import UMTVideoTextModel
from .modeling_umt_video_text_pretraining import UMTForVideoTextPreTraining
from .official_layout_umt import (
    UnsupportedCheckpointError,
    classification_key_map,
    official_state_dict,
    question_answering_key_map,
    require_exact_fit,
    retrieval_key_map,
    stage1_key_map,
    stage2_key_map,
    teacher_key_map,
    to_our_layout,
    video_key_map,
    without_repetitions,
)
from .position_embeddings_umt import position_table, resize_square_table

# Head counts can't be read off shapes; every published encoder, of video and of text, has heads of 64 channels.
PUBLISHED_HEADS = {768: 12, 1024: 16}
# One float32 computation of a table against another; half precision tables are compared at their own rounding.
TABLE_TOLERANCE = 1e-5
VIDEO, TEACHER = "vision_encoder.encoder.", "clip_teacher."  # prefixes of the parts of a stage-2 file


def convert_umt_checkpoint(
    checkpoint: str | os.PathLike | Mapping[str, torch.Tensor],
    config: UMTConfig | UMTTeacherConfig | UMTVideoTextConfig | None = None,
    part: str = "all",
    labels: str | None = None,
) -> PreTrainedModel:
    """Turn an official checkpoint into a model with its weights loaded, in float32.

    Args:
        checkpoint: A path to a `.pth` file, `repo_id:filename` of one on the Hub, or a loaded state dict in the
            official layout, flat or wrapped under `model` or `module`. The mapping is not changed.
        config (*optional*): Overrides the inferred sizes; needed where they are not those of UMT-B/16 or L/16, since
            the number of heads can't be read off shapes. `position_grid`, `final_norm` and `decoder_layer_norm_eps`
            always follow from the kind of file; but the `[frames, rows, columns]` of a multi-modality model whose
            table was made for another number of frames is kept.
        part (`str`, defaults to `"all"`): The part of the file to return: of a stage-2 file also `"teacher"`, of any
            multi-modality file also `"video"`, the encoder alone. `config` is then that part's.
        labels (`str`, *optional*): Label list for a classifier's head, one of `label_sets()`: `"k400"`, `"k600"`,
            `"k700"` and `"k710"` are the order of the official heads. By default it follows from the number of classes
            (400, 600, 700, 710 or 174); other heads, such as Moments in Time's, are not named without it.

    Returns:
        The class follows from the keys, in eval mode: [`UMTForPreTraining`] (stage 1), [`UMTForVideoClassification`],
        [`UMTTeacherModel`] (the extracted CLIP tower), [`UMTForVideoTextPreTraining`] (stage 2, without its teacher),
        [`UMTVideoTextModel`] (retrieval), [`UMTForVideoQuestionAnswering`]; for `part="video"` [`UMTModel`]. A
        teacher's position table is resized to the configuration's `image_size`, by default 14 patches a side (24 for
        ViT-L/14@336). Frames and resolution of a classifier come from its position table if the file has one, else
        from an official file name (`..._f16_res224.pth`), else they are 8 frames of 224 pixels. A stage-2 model and
        its video encoder are made for 4 frames, those fine-tuned from it for 12.

    Raises:
        UnsupportedCheckpointError: (a ValueError) if the file's kind is unknown or has no model here.
        ValueError: if keys are missing, unexpected or misshaped, a stored position table is not the computed one, a
            tensor that is there twice differs, there is no such part, or the file can't be read safely.
        FileNotFoundError: if there is no such file.
    """
    state = read_official_state_dict(checkpoint)
    name = "" if isinstance(checkpoint, Mapping) else os.path.basename(os.fspath(checkpoint))
    kind = checkpoint_kind(state)
    if part == "teacher" and kind == "stage-2":
        state = {key.removeprefix(TEACHER): tensor for key, tensor in state.items() if key.startswith(TEACHER)}
        kind = "teacher"
    elif part == "video" and kind in ("stage-2", "retrieval", "question answering"):
        state = {key: tensor for key, tensor in state.items() if key.startswith(VIDEO)}
        kind = "video encoder" if kind == "stage-2" else "fine-tuned video encoder"
    elif part != "all":
        raise ValueError(
            f"A {kind} file has no part {part!r}; 'teacher' is a part of stage-2 files, 'video' of all multi-modality "
            "files, and 'all' is what every file has."
        )
    if labels is not None and kind != "classification":
        raise ValueError(f"`labels` {labels!r} name the classes of a classifier; this is a {kind} file.")

    model_class, key_map, config_of = KINDS[kind]
    if kind == "classification":
        config = classification_config(state, config, name, labels)
        state = {key: tensor for key, tensor in state.items() if key != "pos_embed"}
    else:
        config = config_of(state, config)
    if kind == "teacher":
        state = teacher_state(state, config)
    if kind in ("stage-2", "retrieval", "question answering"):
        state = without_repetitions({key: tensor for key, tensor in state.items() if not key.startswith(TEACHER)})
    require_exact_fit(state, model_class, config, key_map(config))
    state = to_our_layout(state, key_map(config))
    return model_class.from_pretrained(None, config=config, state_dict=state, dtype=torch.float32)


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
    """The kind of a file, one of `KINDS`, told by keys that only this kind has."""
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
    if f"{VIDEO}patch_embed.proj.weight" in state:
        if "text_encoder.bert.embeddings.word_embeddings.weight" in state:
            return "stage-2"
        if "text_encoder.embeddings.word_embeddings.weight" in state:
            decodes = any(key.startswith("text_decoder.") for key in state)
            return "question answering" if decodes else "retrieval"
    examples = ", ".join(list(state)[:3]) or "none at all"
    raise UnsupportedCheckpointError(f"The keys are those of no UMT checkpoint (the first ones: {examples}).")


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


def video_config(state: Mapping[str, torch.Tensor], given: UMTConfig | None, **fields) -> UMTConfig:
    """The video encoder of a multi-modality file: the norm on tokens, the table computed for the input's own grid."""
    if given is None:
        given = encoder_config(state, VIDEO, **{"num_frames": 4} | fields)
    unsaid = given.position_grid is None or list(given.position_grid) == UMTConfig().position_grid
    stage2 = {"final_norm": "tokens", "decoder_layer_norm_eps": 1e-5}
    return UMTConfig.from_dict(given.to_dict() | ({"position_grid": None} if unsaid else {}), **stage2)


def text_config(state: Mapping[str, torch.Tensor], prefix: str) -> UMTTextConfig:
    """The configuration that the shapes of a BERT tell; a published width tells the number of heads."""
    vocab_size, hidden_size = state[f"{prefix}embeddings.word_embeddings.weight"].shape
    if hidden_size not in PUBLISHED_HEADS:
        raise ValueError(
            f"A text encoder of width {hidden_size} is no published size, and head counts can't be read off shapes. "
            "Give `config`, a UMTVideoTextConfig."
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
    """Stage 2: four frames, the decoders' norm with another epsilon."""
    if given is None:
        needed = ("vision_encoder.clip_decoder.0.head.weight", "vision_proj.weight", "itm_head.weight")
        if missing := [key for key in needed if key not in state]:
            raise ValueError(f"Missing keys: {', '.join(missing)}. The checkpoint is no whole stage-2 model.")
        decoders = {key.split(".")[2] for key in state if key.startswith("vision_encoder.clip_decoder.")}
        fields = {"num_aligned_layers": len(decoders), "target_dim": state[needed[0]].shape[0]}
        given = UMTVideoTextConfig(
            vision_config=video_config(state, None, **fields),
            text_config=text_config(state, "text_encoder.bert."),
            projection_dim=state["vision_proj.weight"].shape[0],
        )
    return with_video_config(given, video_config(state, given.vision_config))


def retrieval_config(state: Mapping[str, torch.Tensor], given: UMTVideoTextConfig | None) -> UMTVideoTextConfig:
    """Retrieval: twelve frames; trained further, it has contrast and matching for objectives."""
    if given is None:
        if "vision_proj.weight" not in state:
            raise ValueError("Missing key: vision_proj.weight. The checkpoint is no whole retrieval model.")
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
    """A copy with another configuration of the video encoder."""
    return UMTVideoTextConfig.from_dict(config.to_dict() | {"vision_config": vision.to_dict()})


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


# The class of a kind of file, its keys as a function of its configuration, and this as a function of shapes (of a
# classifier also of the file's name and position table).
KINDS: dict[str, tuple[type[PreTrainedModel], Callable, Callable[..., PreTrainedConfig]]] = {
    "stage-1": (UMTForPreTraining, stage1_key_map, stage1_config),
    "classification": (UMTForVideoClassification, classification_key_map, classification_config),
    "teacher": (UMTTeacherModel, teacher_key_map, teacher_config),
    "stage-2": (UMTForVideoTextPreTraining, stage2_key_map, stage2_config),
    "retrieval": (UMTVideoTextModel, retrieval_key_map, retrieval_config),
    "question answering": (UMTForVideoQuestionAnswering, question_answering_key_map, question_answering_config),
    "video encoder": (UMTModel, video_key_map, video_config),
    "fine-tuned video encoder": (UMTModel, video_key_map, partial(video_config, num_frames=12)),
}

__all__ = ["UnsupportedCheckpointError", "convert_umt_checkpoint", "official_state_dict"]
