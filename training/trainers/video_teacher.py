"""A frozen video encoder as the teacher of an InternVideo2 student (arXiv 2403.15377, section 3.1).

The targets are the outputs of several blocks without a norm, and the pooled vector, all of unit length. Unusual:

- An InternVideo2 teacher selects tokens by the attention of its pooling query. A UMT teacher has none, so that tokens
  are selected at random, in tubes or by motion.
- A UMT teacher has no class token. The student's is aligned with the mean of the teacher's tokens.
- A teacher of another patch size encodes the clip at the size that gives the student's grid of tokens.

Shape legend: B batch, T frames, S patch tokens per frame, N = T * S, K aligned layers, D dimension of the teacher, P
of its pooled vector.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel

from modeling_umt import InternVideo2Config, InternVideo2Model, UMTModel, convert_umt_checkpoint
from modeling_umt.configuration_checks_umt import aligned_layers
from modeling_umt.convert_umt_checkpoints import KINDS, read_official_state_dict
from modeling_umt.official_kinds_umt import checkpoint_kind

from ..model_sources import OFFICIAL_ENDINGS, describe_model, read_model_config


@dataclass(frozen=True)
class VideoTargets:
    """What a teacher returns.

    Args:
        features (`(B, K, 1 + N, D)`): Of the class token and the patches, shallowest layer first, of unit length.
        final (`(B, P)`): The pooled vector, of unit length.
        cls_attention (`(B, T, S)`): The weights by which tokens are selected; all equal if the teacher has none.
    """

    features: torch.Tensor
    final: torch.Tensor
    cls_attention: torch.Tensor


class VideoTeacher(nn.Module):
    """A frozen [`InternVideo2Model`] or [`UMTModel`] that returns the targets of a student.

    Args:
        encoder: The teacher's encoder.
        student: Configuration of the student, which determines the number of layers and the grid of tokens.
        layer_interval: Distance between the teacher's aligned blocks.

    Raises:
        ValueError: if the dimensions or the frames of a token differ from those of the student, or the student has a
            second teacher.
    """

    def __init__(
        self, encoder: InternVideo2Model | UMTModel, student: InternVideo2Config, layer_interval: float = 1.0
    ):
        super().__init__()
        self.encoder, self.config = encoder, encoder.config
        self.has_class_token = self.config.model_type == InternVideo2Config.model_type
        self.rows_columns = student.token_grid[1:]
        self.config.num_aligned_layers = student.num_aligned_layers
        self.config.aligned_layer_interval = layer_interval
        self.config.motion_drop_ratio = 0.0  # the mask of the student selects among all tokens
        self.layers = aligned_layers(self.config)
        pooled = self.config.pooled_size if self.has_class_token else self.config.hidden_size
        for field, dim in (("target_dim", self.config.hidden_size), ("final_target_dim", pooled)):
            if getattr(student, field) != dim:
                raise ValueError(
                    f"The student's `{field}` is {getattr(student, field)}, but the teacher's has {dim} channels; set "
                    f"it to {dim}."
                )
        if student.tubelet_size != self.config.tubelet_size:
            raise ValueError(
                f"A token of the student covers {student.tubelet_size} frames and one of the teacher "
                f"{self.config.tubelet_size}; their `tubelet_size` must be the same."
            )
        if student.num_second_layers:
            raise ValueError("Students of a second teacher can't be distilled here; set `num_second_layers` to 0.")

    def forward(self, pixel_values_videos: torch.Tensor) -> VideoTargets:
        """Targets of clips (B, frames, channels, height, width), normalised as the student's."""
        size = [tokens * self.config.patch_size for tokens in self.rows_columns]
        if list(pixel_values_videos.shape[-2:]) != size:
            frames = pixel_values_videos.flatten(0, 1)
            frames = F.interpolate(frames, size=size, mode="bicubic", align_corners=False)
            pixel_values_videos = frames.unflatten(0, pixel_values_videos.shape[:2])
        if self.has_class_token:
            encoded = self.encoder.encode(pixel_values_videos, returned_layers=self.layers, return_dict=True)
            final, weights = self.encoder.pooling(encoded.last_hidden_state)
            states = list(encoded.layer_hidden_states)
            attention = weights.mean(dim=1)[:, 1:]  # not renormalised
        else:
            outputs = self.encoder(pixel_values_videos, output_hidden_states=True, return_dict=True)
            states = [outputs.hidden_states[layer + 1] for layer in self.layers]
            states = [torch.cat([state.mean(dim=1, keepdim=True), state], dim=1) for state in states]
            final = outputs.pooler_output
            attention = torch.ones_like(states[0][:, 1:, 0])
        rows, columns = self.rows_columns
        return VideoTargets(
            features=F.normalize(torch.stack(states, dim=1), dim=-1),
            final=F.normalize(final, dim=-1),
            cls_attention=attention.unflatten(1, (-1, rows * columns)),
        )


def load_video_encoder(name: str) -> InternVideo2Model | UMTModel:
    """The video encoder of a saved model, a Hub id or an official file, in float32.

    Raises:
        OSError: if the model does not exist.
        ValueError: if it has no video encoder of UMT or InternVideo2.
    """
    if name.endswith(OFFICIAL_ENDINGS):
        state = read_official_state_dict(name)
        part = "video" if "video" in KINDS[checkpoint_kind(state)].parts else "all"
        model: PreTrainedModel = convert_umt_checkpoint(name, part=part)
        kind = f"a {type(model).__name__}"
    else:
        config = read_model_config(name, "teacher")
        model, kind = None, describe_model(config)
        if config.get("model_type") in ("umt", InternVideo2Config.model_type, "umt_video_text"):
            model = AutoModel.from_pretrained(name, dtype=torch.float32)
            model = getattr(model, "vision_model", model)
    encoder = getattr(model, "base_model", None)
    if not isinstance(encoder, InternVideo2Model | UMTModel):
        raise ValueError(
            f"{name} is {kind}; an InternVideo2 student's teacher is a video encoder of InternVideo2 or UMT."
        )
    return encoder
