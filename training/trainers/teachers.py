"""Loading the frozen teachers of stages 1 and 2, and checking that a teacher fits a student."""

import torch
from torch import nn
from transformers import PreTrainedConfig

from modeling_umt import (
    UMTConfig,
    UMTDinov2Teacher,
    UMTDinov3Teacher,
    UMTSiglipTeacher,
    UMTTeacherConfig,
    UMTTeacherModel,
    convert_umt_checkpoint,
)
from modeling_umt.convert_umt_checkpoints import read_official_state_dict, teacher_config

from ..model_sources import read_model_config

# model type of a configuration -> teacher
BACKBONE_TEACHERS = {
    model_type: teacher
    for teacher in (UMTDinov2Teacher, UMTDinov3Teacher, UMTSiglipTeacher)
    for model_type in teacher.model_types
}
_CLIP_B16 = {"patch_size": 16, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
# configurations of the published recipes' teachers, so that an estimate needs no download
PUBLISHED_TEACHERS = {
    "openai/clip-vit-large-patch14": UMTTeacherConfig(),
    "openai/clip-vit-base-patch16": UMTTeacherConfig(
        image_size=224, intermediate_size=3072, projection_dim=512, **_CLIP_B16
    ),
}


def load_teacher(name: str, student: UMTConfig, image_size: int | None = None) -> nn.Module:
    """Load a teacher that returns the layers a student aligns.

    Args:
        name: Hub id or folder of a CLIP, SigLIP, SigLIP 2, DINOv2 or DINOv3 (ViT) checkpoint or of a saved
            [`UMTTeacherModel`], or an official extracted `.pth`.
        student: Configuration of the student, which determines the returned layers and their normalisation.
        image_size (`int`, *optional*): Height and width of the teacher's frames in pixels. Defaults to that of a
            saved [`UMTTeacherModel`], and to 14 patches for other checkpoints.

    Raises:
        ValueError: if the checkpoint is of an unsupported model family, or lacks weights.
        OSError: if the checkpoint does not exist.
    """
    fields = teacher_fields(student)
    if name.endswith(".pth"):
        state = read_official_state_dict(name)
        sizes = teacher_config(state, None).to_dict() | fields | image_size_field(image_size)
        return convert_umt_checkpoint(state, UMTTeacherConfig.from_dict(sizes))
    family = read_model_config(name, "teacher").get("model_type")
    if family == "umt_teacher":
        return UMTTeacherModel.from_pretrained(name, **fields)
    if family in ("clip", "clip_vision_model"):
        return UMTTeacherModel.from_clip(name, image_size=image_size, **fields)
    if family in BACKBONE_TEACHERS:
        return BACKBONE_TEACHERS[family].from_pretrained(name, image_size=image_size, **fields)
    raise ValueError(
        f"{name!r} is a {family!r} model; a teacher is a CLIP, SigLIP, SigLIP 2, DINOv2, DINOv3 (ViT) or "
        "UMTTeacherModel checkpoint."
    )


def size_teacher(name: str, student: UMTConfig, image_size: int | None = None) -> nn.Module:
    """The teacher of `load_teacher` on the meta device, without a download for the teachers of published recipes.

    Raises:
        ValueError: as in `load_teacher`, or if the teacher does not fit the student.
    """
    if name in PUBLISHED_TEACHERS:
        sizes = PUBLISHED_TEACHERS[name].to_dict() | teacher_fields(student) | image_size_field(image_size)
        with torch.device("meta"):
            teacher = UMTTeacherModel(UMTTeacherConfig.from_dict(sizes))
    else:
        teacher = load_teacher(name, student, image_size).to("meta")
    check_teacher_fits(student, teacher.config)
    return teacher


def image_size_field(image_size: int | None) -> dict[str, int]:
    """`image_size` as a field of a configuration; empty for None."""
    return {} if image_size is None else {"image_size": image_size}


def teacher_fields(student: UMTConfig) -> dict[str, object]:
    """The fields of a teacher's configuration that are determined by its student."""
    return {
        "num_aligned_layers": student.num_aligned_layers,
        "aligned_layer_interval": student.aligned_layer_interval,
        "target_norm": student.target_norm,
    }


def check_teacher_fits(student: UMTConfig, teacher: PreTrainedConfig) -> None:
    """Raise a ValueError if a student with the first configuration can't align to a teacher with the second."""
    if student.num_aligned_layers != teacher.num_aligned_layers:
        raise ValueError(
            f"The teacher returns {teacher.num_aligned_layers} layers, but the student aligns "
            f"{student.num_aligned_layers}; give both the same `num_aligned_layers`."
        )
    if student.target_dim != teacher.projection_dim:
        raise ValueError(
            f"The teacher's features have {teacher.projection_dim} channels, but the student's `target_dim` is "
            f"{student.target_dim}; set it to {teacher.projection_dim}."
        )
    if student.target_norm != teacher.target_norm:
        raise ValueError(
            f"`target_norm` is {student.target_norm!r} for the student and {teacher.target_norm!r} for the teacher; "
            "they must be the same."
        )
    side = teacher.image_size // teacher.patch_size
    if student.token_grid[1:] != (side, side) or student.tubelet_size != 1:
        raise ValueError(
            f"The teacher divides a frame into {side} x {side} tokens, but the student's grid of (frames, rows, "
            f"columns) is {student.token_grid} at `tubelet_size` {student.tubelet_size}. Choose the teacher's "
            "`image_size` so that the grids are equal."
        )
