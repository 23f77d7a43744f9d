"""MAE's ViT as the image teacher of masked feature distillation (MVD, arXiv 2212.04500, section 3.2).

Frozen; every frame is encoded on its own, and all of its tokens are visible. Unusual:

- The targets are the raw output of the last block: no norm follows, and the class token, which the patches attend to,
  is not returned.
- The position table is computed for the grid of the input, not learned and not resized. That is how weights trained at
  224 pixels are used at another size.
- Which frames the teacher sees is its caller's choice: for a student with tubelets of two frames, every second one.

Shape legend: B batch, T frames, C channels, S patch tokens per frame, D hidden size.
"""

from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_umt_image_teacher import UMTImageTeacherConfig
from .keyword_arguments_umt import only_documented_keywords
from .position_embeddings_umt import plane_position_table
from .remote_code_umt import UMTRemoteCodeMixin
from .transformer_block_umt import UMTAttention, UMTLayer
from .video_embeddings_umt import clip_token_grid, frame_patches


class UMTImageTeacherEmbeddings(nn.Module):
    """Class token and patches of single frames; the patches have computed positions, the class token has none."""

    def __init__(self, config: UMTImageTeacherConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        # MAE's convolution kernel (D, C, patch, patch), flattened: stride equals kernel size
        self.patch_embeddings = nn.Linear(config.num_channels * config.patch_size**2, config.hidden_size)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        grid = (frames.shape[-2] // self.patch_size, frames.shape[-1] // self.patch_size)
        patches = frame_patches(frames, self.patch_size)  # (B*T, S, C * p * p)
        tokens = self.patch_embeddings(patches.to(self.patch_embeddings.weight.dtype))
        tokens = tokens + plane_position_table(grid, tokens.shape[-1], tokens.device).to(tokens.dtype)
        cls_token = self.cls_token.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        return torch.cat([cls_token, tokens], dim=1)  # (B*T, 1 + S, D)


class UMTImageTeacherPreTrainedModel(UMTRemoteCodeMixin, PreTrainedModel):
    """Weight initialisation and class-level flags of the image teacher."""

    config: UMTImageTeacherConfig
    remote_code: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_umt_image_teacher.UMTImageTeacherConfig",
        "AutoModel": "modeling_umt_image_teacher.UMTImageTeacherModel",
    }
    base_model_prefix = "image_teacher"
    main_input_name = "pixel_values_videos"
    input_modalities = "video"
    supports_gradient_checkpointing = True
    _no_split_modules = ["UMTImageTeacherEmbeddings", "UMTLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": UMTLayer, "attentions": UMTAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """MAE's own random weights."""
        if isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, UMTImageTeacherEmbeddings):
            init.normal_(module.cls_token, std=self.config.initializer_range)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)


class UMTImageTeacherModel(UMTImageTeacherPreTrainedModel):
    """MAE's encoder without its last norm: the targets of the image branch of MVD."""

    def __init__(self, config: UMTImageTeacherConfig):
        config.validate_architecture()  # overrides of `from_pretrained` are assigned without validation
        super().__init__(config)
        self.embeddings = UMTImageTeacherEmbeddings(config)
        self.layers = nn.ModuleList([UMTLayer(config, key_bias=True) for _ in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

    @only_documented_keywords
    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values_videos: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutput:
        """Encode the frames of clips, each on its own.

        Args:
            pixel_values_videos (`(batch, frames, channels, height, width)`): ImageNet-normalised frames of any number
                and size (in pixels) that `patch_size` divides.

        Returns:
            `BaseModelOutput`: `last_hidden_state` (batch, frames * patches per frame, hidden_size), the raw output of
            the last block without the class token; tokens ordered by frame, then row, then column. With
            `output_hidden_states=True` each of `hidden_states` is (batch * frames, 1 + patches per frame,
            hidden_size), the class token first.

        Raises:
            ValueError: if the clip's shape or dtype does not fit the model.
        """
        clip_token_grid(pixel_values_videos, self.config)
        hidden_states = self.embeddings(pixel_values_videos.flatten(0, 1))  # (B*T, 1 + S, D)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        tokens = hidden_states[:, 1:].unflatten(0, pixel_values_videos.shape[:2])  # (B, T, S, D)
        return BaseModelOutput(last_hidden_state=tokens.flatten(1, 2))


__all__ = ["UMTImageTeacherModel", "UMTImageTeacherPreTrainedModel"]
