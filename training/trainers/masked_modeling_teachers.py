"""The frozen teachers of masked modelling (MVD, arXiv 2212.04500): loading, and checking that they fit a student.

A teacher encodes all tokens of a clip on the student's token grid, which determines the size of its frames in pixels
(ViT-H/14 sees frames of 196 pixels beside a student with patches of 16 at 224) and their number: a teacher of single
frames encodes every second frame for a student with tubelets of two.
"""

import os
from collections.abc import Mapping

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from modeling_umt import (
    UMTConfig,
    UMTImageTeacherConfig,
    UMTImageTeacherModel,
    UMTModel,
    convert_umt_checkpoint,
    image_teacher_from_vit_mae,
    video_teacher_from_videomae,
)
from modeling_umt.configuration_umt import PIXELS
from modeling_umt.convert_umt_checkpoints import read_official_state_dict
from modeling_umt.official_kinds_umt import checkpoint_kind
from modeling_umt.official_mae_umt import image_teacher_config
from modeling_umt.official_masked_modeling_umt import videomae_encoder_config

from ..model_sources import read_model_config
from ..quiet_loading import quiet_loading

FAMILIES = "an MAE or VideoMAE checkpoint of Transformers, a saved UMTImageTeacherModel or UMT video encoder"

_SIZES = {
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "huge": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120},
}
_IMAGE_TEACHERS = {
    size: UMTImageTeacherConfig(patch_size=14 if size == "huge" else 16, **fields) for size, fields in _SIZES.items()
}
_VIDEO_TEACHERS = {
    size: UMTConfig(num_frames=16, tubelet_size=2, position_grid=None, final_norm="none", **fields)
    for size, fields in _SIZES.items()
}
# configurations of the published recipes' teachers by repository or official file, so that an estimate needs no
# download
PUBLISHED_TEACHERS = {
    pattern.format(size): config
    for pattern, configs in (
        ("facebook/vit-mae-{}", _IMAGE_TEACHERS),
        ("mae_pretrain_vit_{}.pth", _IMAGE_TEACHERS),
        ("MCG-NJU/videomae-{}", _VIDEO_TEACHERS),
        ("k400_videomae_pretrain_{}_patch16_224_frame_16x4_tube_mask_ratio_0.9_e1600.pth", _VIDEO_TEACHERS),
    )
    for size, config in configs.items()
}


def load_masked_modeling_teacher(name: str, student: UMTConfig) -> nn.Module:
    """Load a teacher for the clips of a student: an image teacher or a video encoder, by what the checkpoint is.

    Args:
        name: Hub id or folder of `ViTMAE…` or `VideoMAE…` in Transformers' layout, of a saved
            [`UMTImageTeacherModel`] or of a saved UMT video model, whose encoder teaches with its raw tokens; or an
            official `.pth` of MAE or VideoMAE.
        student: Configuration of the student, which determines the frames of the teacher's clips and their size.

    Returns:
        [`UMTImageTeacherModel`] or [`UMTModel`] with `final_norm="none"`.

    Raises:
        ValueError: if the checkpoint is of another kind, or lacks weights.
        OSError: if the checkpoint does not exist.
    """
    if name.endswith(".pth"):
        return load_official_teacher(name, student)
    family = read_model_config(name, "teacher").get("model_type")
    if family not in ("vit_mae", "videomae", "umt_image_teacher", "umt"):
        raise ValueError(f"{name!r} is a {family!r} model; a teacher of masked modelling is {FAMILIES}.")
    sizes = clip_sizes(student, AutoConfig.from_pretrained(name))
    with quiet_loading():
        if family == "vit_mae":
            return image_teacher_from_vit_mae(name, **sizes)
        if family == "videomae":
            return video_teacher_from_videomae(name, **sizes)
        if family == "umt_image_teacher":
            model_class = UMTImageTeacherModel
        else:
            model_class, sizes = UMTModel, sizes | {"final_norm": "none", "motion_drop_ratio": 0.0}
        teacher, report = model_class.from_pretrained(name, output_loading_info=True, **sizes)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{name!r} lacks {len(missing)} weights of a {model_class.__name__}, such as {missing[0]}.")
    return teacher


def load_official_teacher(name: str, student: UMTConfig) -> nn.Module:
    """The teacher of an official file; see `load_masked_modeling_teacher`."""
    state = read_official_state_dict(name)
    kind = checkpoint_kind(state)
    if kind == "image_teacher":
        config = image_teacher_config(state, None)
    elif kind in ("videomae", "videomae_encoder"):
        config = videomae_encoder_config(state, None)
    else:
        raise ValueError(f"{name} is a {kind} file; a teacher of masked modelling is one of MAE or VideoMAE.")
    return convert_umt_checkpoint(state, type(config).from_dict(config.to_dict() | clip_sizes(student, config)))


def size_masked_modeling_teacher(name: str, student: UMTConfig) -> nn.Module:
    """The teacher of `load_masked_modeling_teacher` on the meta device, without a download for the teachers of
    published recipes."""
    config = PUBLISHED_TEACHERS.get(name) or PUBLISHED_TEACHERS.get(os.path.basename(name))
    if config is None:
        return load_masked_modeling_teacher(name, student).to("meta")
    config = type(config).from_dict(config.to_dict() | clip_sizes(student, config))
    with torch.device("meta"):
        return UMTModel(config) if isinstance(config, UMTConfig) else UMTImageTeacherModel(config)


def clip_sizes(student: UMTConfig, teacher: PreTrainedConfig) -> dict[str, object]:
    """`image_size`, and of a video encoder `num_frames`, with which a teacher has the student's token grid."""
    frames, rows, columns = student.token_grid
    height, width = rows * teacher.patch_size, columns * teacher.patch_size
    sizes = {"image_size": height if height == width else [height, width]}
    if hasattr(teacher, "num_frames"):
        sizes["num_frames"] = frames * teacher.tubelet_size
    return sizes


def frame_step(student: UMTConfig, teacher: PreTrainedConfig) -> int:
    """The distance between the frames of the student's clip that a teacher encodes."""
    return student.tubelet_size // getattr(teacher, "tubelet_size", 1)


def teacher_image_size(student: UMTConfig, teachers: Mapping[str, PreTrainedConfig]) -> tuple[int, int] | None:
    """Height and width of the clips of those teachers that take other ones than the student's; None without any.

    Raises:
        ValueError: if two teachers take clips of two other sizes.
    """
    sizes = {name: teacher.image_height_width for name, teacher in teachers.items()}
    others = {name: size for name, size in sizes.items() if size != student.image_height_width}
    if len(set(others.values())) > 1:
        listed = ", ".join(f"{name} {height} x {width}" for name, (height, width) in others.items())
        raise ValueError(
            f"The teachers take frames of several sizes ({listed} pixels); beside the student's "
            f"{student.image_height_width[0]} x {student.image_height_width[1]} only one other size is possible."
        )
    return next(iter(others.values()), None)


def check_teachers_fit(student: UMTConfig, teachers: Mapping[str, PreTrainedConfig]) -> None:
    """Raise a ValueError unless every target that is a feature has a teacher of its dimension, on the student's grid.

    Args:
        student: Configuration of the student, with `masked_targets`.
        teachers: Configuration of the teacher of each target.
    """
    if not student.masked_targets:
        raise ValueError(
            "The student has no `masked_targets`, which state what it predicts; masked modelling trains a "
            "UMTForMaskedModeling."
        )
    targets = {name: dim for name, dim in student.masked_targets.items() if name != PIXELS}
    if set(targets) != set(teachers):
        raise ValueError(
            f"`masked_targets` of the student has the features {', '.join(targets) or 'of no teacher'}, but teachers "
            f"are given for {', '.join(sorted(teachers)) or 'none'}; give one teacher for each feature."
        )
    for name, teacher in teachers.items():
        if teacher.hidden_size != targets[name]:
            raise ValueError(
                f"The {name} teacher has features of dimension {teacher.hidden_size}, but `masked_targets` of the "
                f"student has {targets[name]} for {name!r}; set it to {teacher.hidden_size}."
            )
        tubelet_size = getattr(teacher, "tubelet_size", 1)
        if student.tubelet_size % tubelet_size:
            raise ValueError(
                f"The {name} teacher has a `tubelet_size` of {tubelet_size}, which does not divide the student's "
                f"{student.tubelet_size}: their tokens cover different frames."
            )
        height, width = teacher.image_height_width
        num_frames = getattr(teacher, "num_frames", student.num_frames // student.tubelet_size)
        grid = (num_frames // tubelet_size, height // teacher.patch_size, width // teacher.patch_size)
        if grid != student.token_grid:
            raise ValueError(
                f"The {name} teacher has a grid of {grid} tokens along frames, rows and columns, but the student's "
                f"is {student.token_grid}; the teacher fits with {described_sizes(clip_sizes(student, teacher))}."
            )


def described_sizes(sizes: Mapping[str, object]) -> str:
    return " and ".join(f"`{name}` {value}" for name, value in sizes.items())
