"""Official UMT `.pth` files to Transformers models, and back.

Unusual: a conversion is all or nothing. Every key of the file must be known, every weight of the model must be filled,
every shape must match, and a stored position table must equal the computed one; otherwise an error lists what was
wrong.

`checkpoint_files_umt.py` reads a file safely, `official_kinds_umt.py` detects its kind,
`official_configuration_umt.py` infers the sizes, `official_layout_umt.py` maps official keys to ours; the table
`KINDS` connects them. `official_mae_umt.py` does all of this for the image teacher.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from .checkpoint_files_umt import UnsupportedCheckpointError, read_official_state_dict
from .modeling_internvideo2_umt import (
    InternVideo2ForPreTraining,
    InternVideo2ForVideoClassification,
    InternVideo2Model,
)
from .modeling_umt import UMTForPreTraining, UMTForVideoClassification, UMTModel
from .modeling_umt_action_detection import UMTForActionDetection
from .modeling_umt_image_teacher import UMTImageTeacherModel
from .modeling_umt_masked_modeling import UMTForMaskedModeling
from .modeling_umt_question_answering import UMTForVideoQuestionAnswering
from .modeling_umt_teacher import UMTTeacherModel
from .modeling_umt_video_text import UMTVideoTextModel
from .modeling_umt_video_text_pretraining import UMTForVideoTextPreTraining
from .official_configuration_umt import (
    classification_config,
    config_with_position_type,
    detection_config,
    question_answering_config,
    retrieval_config,
    stage1_config,
    stage2_config,
    teacher_config,
    video_config,
)
from .official_internvideo2_umt import (
    internvideo2_classification_config,
    internvideo2_classification_key_map,
    internvideo2_encoder_config,
    internvideo2_encoder_key_map,
    internvideo2_pretraining_config,
    internvideo2_pretraining_key_map,
    internvideo2_state,
    internvideo2_video_part,
)
from .official_kinds_umt import checkpoint_kind
from .official_layout_umt import (
    classification_key_map,
    classification_state,
    detection_key_map,
    multimodal_state,
    official_tensors,
    question_answering_key_map,
    require_exact_fit,
    retrieval_key_map,
    stage1_key_map,
    stage2_key_map,
    teacher_key_map,
    teacher_part,
    teacher_state,
    to_our_layout,
    video_key_map,
    video_part,
    weights_without_key,
)
from .official_mae_umt import image_teacher_config, image_teacher_key_map, image_teacher_state
from .official_masked_modeling_umt import (
    mvd_config,
    mvd_key_map,
    mvd_state,
    videomae_config,
    videomae_encoder_config,
    videomae_encoder_key_map,
    videomae_encoder_state,
    videomae_key_map,
)
from .official_tower_umt import known_kind, tower_config, tower_key_map, tower_part, tower_state

StateDict = Mapping[str, torch.Tensor]


def has_flat_positions(config: PreTrainedConfig) -> bool:
    return getattr(getattr(config, "vision_config", config), "position_type", "flat") == "flat"


@dataclass(frozen=True)
class CheckpointKind:
    """How one kind of official file, or one part of a file, is converted.

    Args:
        model_class: Class of the model.
        key_map: Official keys to ours: a function of the configuration.
        infer_config: The configuration: a function of the state dict and the given configuration or None; with
            `has_classes` also of the file's `name` and of `labels`.
        prepare: The tensors to convert: a function of the state dict and the configuration. Defaults to all.
        has_classes: Whether the model has named classes, which `labels` are for.
        describes: Whether the layout means a model of the given configuration: files do not contain what is computed.
        parts: Of each part, a function that selects its tensors, and its kind.
        parts_only: Why the complete file can't be converted and what can; None: it can.
    """

    model_class: type[PreTrainedModel]
    key_map: Callable[..., dict[str, list[str]]]
    infer_config: Callable[..., PreTrainedConfig]
    prepare: Callable[[StateDict, PreTrainedConfig], StateDict] = lambda state, config: state
    has_classes: bool = False
    describes: Callable[[PreTrainedConfig], bool] = has_flat_positions
    parts: Mapping[str, tuple[Callable[[StateDict], StateDict], "CheckpointKind"]] = field(default_factory=dict)
    parts_only: str | None = None


TEACHER = CheckpointKind(UMTTeacherModel, teacher_key_map, teacher_config, teacher_state)
STAGE2_ENCODER = CheckpointKind(UMTModel, video_key_map, video_config)
FINETUNED_ENCODER = CheckpointKind(UMTModel, video_key_map, partial(video_config, num_frames=12))
VIDEOMAE_ENCODER = CheckpointKind(
    UMTModel,
    videomae_encoder_key_map,
    videomae_encoder_config,
    videomae_encoder_state,
    describes=lambda config: has_flat_positions(config) and config.final_norm == "none",
)
INTERNVIDEO2_ENCODER = CheckpointKind(
    InternVideo2Model, internvideo2_encoder_key_map, internvideo2_encoder_config, internvideo2_state
)
TOWER = CheckpointKind(UMTModel, tower_key_map, tower_config, tower_state)
KINDS = {
    "stage1": CheckpointKind(UMTForPreTraining, stage1_key_map, stage1_config, parts={"tower": (tower_part, TOWER)}),
    "classification": CheckpointKind(
        UMTForVideoClassification,
        classification_key_map,
        classification_config,
        classification_state,
        has_classes=True,
        describes=lambda config: True,
    ),
    "detection": CheckpointKind(
        UMTForActionDetection, detection_key_map, detection_config, has_classes=True, describes=lambda config: True
    ),
    "mvd": CheckpointKind(
        UMTForMaskedModeling,
        mvd_key_map,
        mvd_config,
        mvd_state,
        describes=lambda config: config.position_type == "space_time",
    ),
    "videomae": CheckpointKind(
        UMTForMaskedModeling, videomae_key_map, videomae_config, parts={"video": (dict, VIDEOMAE_ENCODER)}
    ),
    "videomae_encoder": replace(VIDEOMAE_ENCODER, parts={"video": (dict, VIDEOMAE_ENCODER)}),
    "teacher": TEACHER,
    "image_teacher": CheckpointKind(
        UMTImageTeacherModel, image_teacher_key_map, image_teacher_config, image_teacher_state
    ),
    "stage2": CheckpointKind(
        UMTForVideoTextPreTraining,
        stage2_key_map,
        stage2_config,
        multimodal_state,
        parts={
            "teacher": (teacher_part, TEACHER),
            "video": (video_part, STAGE2_ENCODER),
            "tower": (tower_part, TOWER),
        },
    ),
    "retrieval": CheckpointKind(
        UMTVideoTextModel,
        retrieval_key_map,
        retrieval_config,
        multimodal_state,
        parts={"video": (video_part, FINETUNED_ENCODER)},
    ),
    "question_answering": CheckpointKind(
        UMTForVideoQuestionAnswering,
        question_answering_key_map,
        question_answering_config,
        multimodal_state,
        parts={"video": (video_part, FINETUNED_ENCODER)},
    ),
    "internvideo2_classification": CheckpointKind(
        InternVideo2ForVideoClassification,
        internvideo2_classification_key_map,
        internvideo2_classification_config,
        internvideo2_state,
        has_classes=True,
    ),
    "internvideo2_pretraining": CheckpointKind(
        InternVideo2ForPreTraining,
        internvideo2_pretraining_key_map,
        internvideo2_pretraining_config,
        internvideo2_state,
    ),
    "internvideo2_encoder": INTERNVIDEO2_ENCODER,
    "internvideo2_video_text": replace(
        INTERNVIDEO2_ENCODER,
        parts={"video": (internvideo2_video_part, INTERNVIDEO2_ENCODER)},
        parts_only="The text encoder of an InternVideo2 model of videos and texts can't be converted; its video "
        'encoder is `part="video"` (--part video).',
    ),
}


def convert_umt_checkpoint(
    checkpoint: str | os.PathLike | Mapping[str, torch.Tensor],
    config: PreTrainedConfig | None = None,
    part: str = "all",
    labels: str | None = None,
    position_type: str | None = None,
) -> PreTrainedModel:
    """Convert an official checkpoint to a model with its weights loaded, in float32.

    Args:
        checkpoint: A path to a `.pth` file, `repo_id:filename` of one on the Hub, or a loaded state dict in the
            official layout, flat or wrapped under `model` or `module`. The mapping is not changed.
        config (*optional*): A configuration of the model's class, whose sizes override the inferred ones; required
            where they are not those of UMT-B/16 or L/16 or of a published InternVideo2, because shapes do not contain
            the number of heads. Of a UMT model, `position_type`, `position_grid`, `final_norm`,
            `decoder_layer_norm_eps` and `decoder_projection_bias` always follow from the kind of file; only the
            `[frames, rows, columns]` of a multi-modality model whose table was computed for another number of frames,
            and the `position_type` and `position_grid` of models whose file does not determine their table, are kept.
        part (`str`, defaults to `"all"`): The part of the file to return: of a stage-2 file also `"teacher"`, of any
            multi-modality file and of a VideoMAE file also `"video"`, the encoder alone. `config` is then that part's.
            `"tower"`, of a stage-2 file and of one with the names of stage 1: the vision tower of VideoChat2 and
            VideoChat-Flash, a [`UMTModel`] without the last block; `config` then describes the file, with all its
            blocks. The file `UMT-L_f4_vision.pt` of VideoChat-Flash is always converted to the tower. Others with
            these names are converted to a stage-1 model, with a warning unless they are named as UMT's.
        labels (`str`, *optional*): Label list for the head of a classifier or an action detection model, one of
            `label_sets()`: `"k400"`, `"k600"`, `"k700"` and `"k710"` are the order of the official heads. By default
            it follows from the number of classes (of a classifier 400, 600, 700, 710 or 174, of an action detection
            model 80); other heads, such as that of Moments in Time, and those of MVD, VideoMAE and EVEREST, get no
            class names without it.
        position_type (`"flat"` or `"space_time"`, *optional*): The position table of a classifier or an action
            detection model whose tokens cover several frames and whose file has none: `"space_time"` for MVD, `"flat"`
            for VideoMAE and EVEREST, computed for the input's own grid. For published sizes; for others, give
            `config`.

    Returns:
        A model in eval mode, whose class follows from the keys: [`UMTForPreTraining`] (stage 1),
        [`UMTForVideoClassification`], [`UMTForActionDetection`], [`UMTTeacherModel`] (the extracted CLIP tower),
        [`UMTImageTeacherModel`] (MAE's encoder, with or without the decoder in the file),
        [`UMTForVideoTextPreTraining`] (stage 2, without its teacher), [`UMTVideoTextModel`] (retrieval),
        [`UMTForVideoQuestionAnswering`], [`UMTForMaskedModeling`] (MVD students; VideoMAE and EVEREST pre-training);
        for `part="video"` [`UMTModel`]. Files of InternVideo2 become an [`InternVideo2ForVideoClassification`], an
        [`InternVideo2ForPreTraining`] (stage 1 and distilled models) or, without a head and for `part="video"`, an
        [`InternVideo2Model`]; the position table of a file is resized where `config` is of other clips.
        A VideoMAE encoder, also of a complete file with `part="video"` or a `config` without `masked_targets`, is a
        [`UMTModel`] with `final_norm="none"`, as which it teaches MVD students.
        The position table of a CLIP teacher is resized to the configuration's `image_size`, by default 14 patches a
        side (24 for ViT-L/14@336). Frames and resolution of a classifier come from its position table if the file has
        one, else from an official file name (`..._f16_res224.pth`), else they are 8 time steps of 224 pixels; an
        action detection file has no table. A stage-2 model and its video encoder get 4 frames, those fine-tuned from
        it 12. The frames of an image teacher have 14 patches a side.

    Raises:
        UnsupportedCheckpointError: (a ValueError) if the file's kind is unknown or has no model here.
        ValueError: if keys are missing, unexpected or misshaped, a stored position table is not the computed one, the
            table does not follow from the file and neither `position_type` nor `config` is given, the two copies of a
            tensor differ, the part does not exist, or the file can't be read safely.
        FileNotFoundError: if the file does not exist.
    """
    state = read_official_state_dict(checkpoint)
    name = "" if isinstance(checkpoint, Mapping) else os.path.basename(os.fspath(checkpoint))
    kind_name = checkpoint_kind(state)
    if kind_name == "videomae" and config is not None and config.masked_targets is None:
        kind_name = "videomae_encoder"
    if kind_name == "stage1" and part == "all" and known_kind(name) == "tower":
        part = "tower"
    kind = KINDS[kind_name]
    if labels is not None and not kind.has_classes:
        raise ValueError(f"`labels` {labels!r} are names of classes, but this is a {kind_name} file.")
    if part == "all" and kind.parts_only is not None:
        raise UnsupportedCheckpointError(kind.parts_only)
    if part != "all":
        if part not in kind.parts:
            raise ValueError(
                f"A {kind_name} file has no part {part!r}; 'teacher' is a part of stage2 files, 'video' of all "
                "multi-modality and VideoMAE files, 'tower' of stage1 and stage2 files, and 'all' returns the "
                "complete file."
            )
        select_part, kind = kind.parts[part]
        state = select_part(state)

    if position_type is not None:
        if config is not None:
            raise ValueError("Give `position_type` or a `config`, which has one, not both.")
        config = config_with_position_type(state, position_type, name)
    file_facts = {"name": name, "labels": labels} if kind.has_classes else {}
    config = kind.infer_config(state, config, **file_facts)
    state, key_map = kind.prepare(state, config), kind.key_map(config)
    require_exact_fit(state, kind.model_class, config, key_map)
    state = to_our_layout(state, key_map)
    return kind.model_class.from_pretrained(None, config=config, state_dict=state, dtype=torch.float32)


def official_state_dict(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The learned tensors of a model in the official layout, bit for bit; the inverse of [`convert_umt_checkpoint`].

    Position tables are computed, so they are not included.

    Args:
        model: A model of a class that `convert_umt_checkpoint` returns for a complete file.

    Raises:
        UnsupportedCheckpointError: if the model has no official layout, or weights that do not exist in it.
    """
    # by name, because a class loaded as remote code is another object
    class_name, config = type(model).__name__, model.config
    kinds = [k for k in KINDS.values() if k.model_class.__name__ == class_name and k.describes(config)]
    if not kinds:
        has_table = not has_flat_positions(config)
        suffix = " with `position_type` 'space_time'" if has_table else ""
        raise UnsupportedCheckpointError(f"{class_name} has no official layout{suffix}.")
    key_map = kinds[0].key_map(config)
    if left_over := weights_without_key(model, key_map):
        raise UnsupportedCheckpointError(f"The official layout has no key for {', '.join(left_over)}.")
    return official_tensors(model, key_map)


__all__ = [
    "UnsupportedCheckpointError",
    "convert_umt_checkpoint",
    "official_state_dict",
    "read_official_state_dict",
    "teacher_config",
]
