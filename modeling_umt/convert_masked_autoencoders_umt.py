"""Transformers' `ViTMAE…` and `VideoMAE…` as the teachers of masked feature distillation (MVD, arXiv 2212.04500).

This file is not copied to the Hub: a converted teacher is saved as a model of this package.
"""

import os
from collections.abc import Collection

import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from .configuration_umt import ENCODER_SIZES, UMTConfig
from .configuration_umt_image_teacher import UMTImageTeacherConfig
from .modeling_umt import UMTModel
from .modeling_umt_image_teacher import UMTImageTeacherModel
from .official_mae_umt import require_mae_table

# the classes that a repository may have been saved from, that of the encoder first
VIT_MAE = ("ViTMAEModel", "ViTMAEForPreTraining")
VIDEO_MAE = ("VideoMAEModel", "VideoMAEForPreTraining", "VideoMAEForVideoClassification")

# Transformers' names of the tensors of an encoder -> ours, in this order; ViTMAE's blocks have half of them already
ENCODER_NAMES = (
    ("embeddings.patch_embeddings.projection.", "embeddings.patch_embeddings."),
    ("encoder.layer.", "layers."),
    ("layernorm_before.", "norm1."),
    ("layernorm_after.", "norm2."),
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
)


def image_teacher_from_vit_mae(
    pretrained_model_name_or_path: str | os.PathLike, image_size: int | list[int] | None = None
) -> UMTImageTeacherModel:
    """An image teacher with the weights of MAE in Transformers' layout, in float32 and eval mode.

    Args:
        pretrained_model_name_or_path: Hub id or folder, e.g. `"facebook/vit-mae-large"`. The decoder is not used.
        image_size (`int` or `[height, width]`, *optional*): Size of the frames in pixels. Defaults to 14 patches (224
            for ViT-B/16 and L/16, 196 for ViT-H/14), the grid of a student with patches of 16 at 224 pixels.

    Raises:
        ValueError: if the checkpoint is of another model, lacks weights, or has another position table than MAE's.
    """
    encoder = load_encoder(pretrained_model_name_or_path, "vit_mae", VIT_MAE, "facebook/vit-mae-large")
    theirs, state = encoder.config, encoder_state(encoder)
    require_mae_table(encoder.embeddings.position_embeddings.detach())
    del state["embeddings.position_embeddings"]
    config = UMTImageTeacherConfig(
        image_size=14 * theirs.patch_size if image_size is None else image_size,
        **encoder_fields(theirs),
    )
    return filled(UMTImageTeacherModel(config), state, biases=("q", "k", "v"))


def video_teacher_from_videomae(
    pretrained_model_name_or_path: str | os.PathLike,
    image_size: int | list[int] | None = None,
    num_frames: int | None = None,
) -> UMTModel:
    """A video teacher with the weights of VideoMAE in Transformers' layout, in float32 and eval mode.

    Its `last_hidden_state` is the raw output of the last block (`final_norm="none"`). The position table is computed
    for the input's own grid.

    Args:
        pretrained_model_name_or_path: Hub id or folder, e.g. `"MCG-NJU/videomae-large"`. A decoder, a classification
            head and the last norm are not used.
        image_size (`int` or `[height, width]`, *optional*): Size of the frames in pixels. Defaults to that of the
            checkpoint.
        num_frames (`int`, *optional*): Frames of a clip. Defaults to those of the checkpoint.

    Raises:
        ValueError: if the checkpoint is of another model, or lacks weights.
    """
    encoder = load_encoder(pretrained_model_name_or_path, "videomae", VIDEO_MAE, "MCG-NJU/videomae-large")
    theirs = encoder.config
    config = UMTConfig(
        image_size=theirs.image_size if image_size is None else image_size,
        num_frames=theirs.num_frames if num_frames is None else num_frames,
        tubelet_size=theirs.tubelet_size,
        position_grid=None,
        final_norm="none",
        **encoder_fields(theirs),
    )
    return filled(UMTModel(config), encoder_state(encoder), biases=("q", "v"))


def encoder_fields(theirs: PreTrainedConfig) -> dict[str, object]:
    """The fields of a configuration of Transformers that have the same names here."""
    return {name: getattr(theirs, name) for name in (*ENCODER_SIZES, "hidden_act", "layer_norm_eps")}


def load_encoder(
    name: str | os.PathLike, model_type: str, class_names: Collection[str], example: str
) -> PreTrainedModel:
    """The encoder of a repository of Transformers, in its own precision.

    It is loaded as the class that it was saved from, so that each weight is used or missing.
    """
    source = AutoConfig.from_pretrained(name)
    if source.model_type != model_type:
        raise ValueError(
            f"{str(name)!r} contains a {source.model_type!r} model; a {model_type!r} one in Transformers' layout was "
            f'expected, e.g. "{example}".'
        )
    class_name = (source.architectures or class_names)[0]
    if class_name not in class_names:
        raise ValueError(f"{str(name)!r} is a {class_name}; one of {', '.join(class_names)} was expected.")
    model_class = getattr(transformers, class_name)
    model, report = model_class.from_pretrained(name, dtype="auto", output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{str(name)!r} lacks {len(missing)} weights of a {class_name}, among them {missing[0]!r}.")
    return model.base_model


def encoder_state(encoder: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The tensors of an encoder under our names, in float32, without its last norm."""
    state = {}
    for key, tensor in encoder.state_dict().items():
        if key.startswith("layernorm."):
            continue
        for theirs, ours in ENCODER_NAMES:
            key = key.replace(theirs, ours)
        state[key] = tensor.float()
    kernel = "embeddings.patch_embeddings.weight"
    return state | {kernel: state[kernel].flatten(1)}  # convolution -> matrix that multiplies a flattened patch


def filled(model: PreTrainedModel, state: dict[str, torch.Tensor], biases: Collection[str]) -> PreTrainedModel:
    """`model` with the weights of `state`, in eval mode; projections of `biases` without a bias get one of zeros."""
    for i in range(model.config.num_hidden_layers):
        for name in biases:
            state.setdefault(f"layers.{i}.attention.{name}_proj.bias", torch.zeros(model.config.hidden_size))
    model.load_state_dict(state)
    return model.eval()
