"""CLIP's vision tower as the unmasked teacher (arXiv 2303.16058, section 3): frozen, per frame, all tokens attend.

Unusual:

- Its input is the student's clip unchanged, normalised with ImageNet's mean and standard deviation, not CLIP's, as in
  the official code with which the published students were trained.
- `post_norm` and the projection are applied to the patch tokens of all K aligned layers, not to the class token of the
  last one. With a mask this happens at the visible tokens only.
- Only one row of attention weights is needed, the class token's in the last layer, mean over heads. It is computed
  explicitly; everything else runs through Transformers' fused attention.
- The mask is known before the last layer ends: it reuses the key states of the class token's row, and its output
  projection and MLP are computed for visible tokens only (the same values; this saves some 3 % of the forward pass at
  L, 6 % at B).

Shape legend: B batch, T frames, C channels, S patch tokens per frame, V visible tokens, D hidden size, K aligned
layers, F projection size.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoConfig, CLIPVisionModelWithProjection, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_checks_umt import aligned_layers
from .configuration_umt import UMTTeacherConfig
from .keyword_arguments_umt import only_documented_keywords
from .position_embeddings_umt import resize_square_table
from .remote_code_umt import UMTRemoteCodeMixin
from .teacher_forward_umt import UMTTeacherForwardMixin, UMTTeacherOutput
from .transformer_block_umt import UMTMLP, UMTAttention, attention_forward
from .video_embeddings_umt import frame_patches


class UMTTeacherEmbeddings(nn.Module):
    """Class token and patches of single frames, with CLIP's learned position embeddings (none for time)."""

    def __init__(self, config: UMTTeacherConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.side = config.image_size // config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        # CLIP's convolution without a bias, kernel (D, C, patch, patch) flattened: stride equals kernel size
        self.patch_embeddings = nn.Linear(config.num_channels * config.patch_size**2, config.hidden_size, bias=False)
        self.position_embeddings = nn.Parameter(torch.empty(self.side**2 + 1, config.hidden_size))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        grid = (frames.shape[-2] // self.patch_size, frames.shape[-1] // self.patch_size)
        patches = frame_patches(frames, self.patch_size)  # (B*T, S, C * p * p)
        tokens = self.patch_embeddings(patches.to(self.patch_embeddings.weight.dtype))
        cls_token = self.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
        positions = resize_square_table(self.position_embeddings, grid)
        return torch.cat([cls_token, tokens], dim=1) + positions.to(tokens.dtype)  # (B*T, 1 + S, D)


class UMTTeacherAttention(UMTAttention):
    """CLIP's multi-head self-attention within a frame; queries, keys and values have a bias."""

    def __init__(self, config: UMTTeacherConfig):
        super().__init__(config, key_bias=True)

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_states: torch.Tensor | None = None,
        select_tokens: Callable[[torch.Tensor], torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens (B*T, 1 + S, D) to the output of all tokens, or of those that `select_tokens` selects.

        `key_states` (B*T, heads, 1 + S, head_dim) are used instead of projecting the keys, where they are known.
        """
        query_states = self.split_heads(self.q_proj(hidden_states))
        value_states = self.split_heads(self.v_proj(hidden_states))
        key_states = self.keys(hidden_states) if key_states is None else key_states
        attn_output, attn_weights = attention_forward(self, query_states, key_states, value_states, **kwargs)
        attn_output = attn_output.reshape(hidden_states.shape)
        return self.o_proj(attn_output if select_tokens is None else select_tokens(attn_output)), attn_weights

    def keys(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.split_heads(self.k_proj(hidden_states))

    def cls_attention(self, hidden_states: torch.Tensor, key_states: torch.Tensor) -> torch.Tensor:
        """The class token's attention to the patches, mean over heads.

        Tokens (B*T, 1 + S, D) and their key states (B*T, heads, 1 + S, head_dim) to (B*T, S), float32.
        """
        query_states = self.split_heads(self.q_proj(hidden_states[:, :1])) * self.scaling  # (B*T, heads, 1, head_dim)
        attn_weights = (query_states @ key_states.transpose(-1, -2)).softmax(dim=-1, dtype=torch.float32)
        return attn_weights.mean(dim=1)[:, 0, 1:]


class UMTTeacherLayer(GradientCheckpointingLayer):
    """Pre-norm block of CLIP's vision tower.

    With `select_tokens`, a function that selects the tokens to return, all tokens attend but only those go through the
    output projection and the MLP. `key_states`: see [`UMTTeacherAttention`].
    """

    def __init__(self, config: UMTTeacherConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = UMTTeacherAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = UMTMLP(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_states: torch.Tensor | None = None,
        select_tokens: Callable[[torch.Tensor], torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attn_output, _ = self.attention(self.norm1(hidden_states), key_states, select_tokens, **kwargs)
        residual = hidden_states if select_tokens is None else select_tokens(hidden_states)
        hidden_states = residual + attn_output
        return hidden_states + self.mlp(self.norm2(hidden_states))


class UMTTeacherPreTrainedModel(UMTRemoteCodeMixin, PreTrainedModel):
    """Weight initialisation and class-level flags of the teacher."""

    config: UMTTeacherConfig
    remote_code: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_umt.UMTTeacherConfig",
        "AutoModel": "modeling_umt_teacher.UMTTeacherModel",
    }
    base_model_prefix = "teacher"
    main_input_name = "pixel_values_videos"
    input_modalities = "video"
    supports_gradient_checkpointing = True
    _no_split_modules = ["UMTTeacherEmbeddings", "UMTTeacherLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": UMTTeacherLayer, "attentions": UMTTeacherAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """CLIP's own scale of random weights."""
        std = self.config.hidden_size**-0.5
        if isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, UMTTeacherEmbeddings):
            init.normal_(module.class_embedding, std=std)
            init.normal_(module.position_embeddings, std=std)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)


class UMTTeacherModel(UMTTeacherForwardMixin, UMTTeacherPreTrainedModel):
    """CLIP's vision tower: features of K layers at the visible tokens, and the attention that selects these."""

    def __init__(self, config: UMTTeacherConfig):
        super().__init__(config)
        self.embeddings = UMTTeacherEmbeddings(config)
        self.pre_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList([UMTTeacherLayer(config) for _ in range(config.num_hidden_layers)])
        self.post_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.aligned_layers = aligned_layers(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

    @only_documented_keywords
    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        visible_indices: torch.Tensor | None = None,
        token_selector: Callable[[torch.Tensor], torch.Tensor] | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> UMTTeacherOutput:
        """Encode the frames of a clip, each on its own (section 3.2).

        Args:
            pixel_values_videos (`(batch, frames, channels, height, width)`): The student's clip, normalised with
                ImageNet's statistics. A clip of another size than `image_size` (pixels) is resized to it, bicubically
                without antialiasing.
            bool_masked_pos (bool `(batch, frames * tokens per frame)`, *optional*): True leaves out a token's features
                from the result; all tokens attend nevertheless. Every sample must hide the same number.
            visible_indices (int64 `(batch, visible)`, *optional*): The same mask as ascending indices.
            token_selector (*optional*): Selects the mask within this forward pass: a function of `cls_attention`
                (batch, frames, tokens per frame) that returns `visible_indices`, e.g. a `functools.partial` of
                `attention_token_selection`. Give at most one of the three.
            interpolate_pos_encoding (`bool`, defaults to False): Keep the clip's size, which `patch_size` must divide,
                and resize the position table instead.

        Raises:
            ValueError: if the clip is not a float tensor of that shape, the mask does not fit it, or several masks are
                given.
        """
        return self.forward_clips(
            pixel_values_videos, bool_masked_pos, visible_indices, token_selector, interpolate_pos_encoding, **kwargs
        )

    def embed_frames(self, frames: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        return self.pre_norm(self.embeddings(frames)), {}  # (B*T, 1 + S, D)

    def cls_attention(self, hidden_states: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        last = self.layers[-1]
        hidden_states = last.norm1(hidden_states)
        key_states = last.attention.keys(hidden_states)
        return last.attention.cls_attention(hidden_states, key_states), key_states

    def last_layer(
        self,
        hidden_states: torch.Tensor,
        key_states: torch.Tensor,
        select_tokens: Callable[[torch.Tensor], torch.Tensor],
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        if kwargs.get("output_hidden_states", self.config.output_hidden_states):  # the recorded state must be complete
            return select_tokens(self.layers[-1](hidden_states, key_states, **kwargs))
        return self.layers[-1](hidden_states, key_states, select_tokens, **kwargs)

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Patch tokens (B, V, D) in CLIP's joint space (B, V, F)."""
        return self.projection(self.post_norm(hidden_states))

    @classmethod
    def from_clip(
        cls, pretrained_model_name_or_path: str, image_size: int | None = None, **kwargs
    ) -> "UMTTeacherModel":
        """A teacher with the weights of a CLIP checkpoint in Transformers' layout, in float32 and eval mode.

        The text tower is not loaded.

        Args:
            pretrained_model_name_or_path: Hub id or folder, e.g. `"openai/clip-vit-large-patch14"`.
            image_size (`int`, *optional*): Side of the teacher's input frames in pixels. Defaults to 14 patches (196
                for ViT-L/14, 224 for ViT-B/16), the grid of a UMT student with patches of 16 at 224 pixels. The
                position table is resized bicubically if the checkpoint has another size.
            kwargs: Fields of [`UMTTeacherConfig`] that a CLIP checkpoint does not contain (`num_aligned_layers`, ...).

        Raises:
            ValueError: if the checkpoint is of another model, or lacks weights of the vision tower or its projection.
        """
        source = AutoConfig.from_pretrained(pretrained_model_name_or_path)
        if source.model_type not in ("clip", "clip_vision_model"):
            raise ValueError(
                f"{pretrained_model_name_or_path!r} contains a {source.model_type!r} model; a CLIP checkpoint in "
                'Transformers\' layout was expected, e.g. "openai/clip-vit-large-patch14".'
            )
        vision = source
        if source.model_type == "clip":
            # both configurations have a `projection_dim`; the weights of a complete CLIP follow the outer one
            vision = source.vision_config
            vision.projection_dim = source.projection_dim
        clip, report = CLIPVisionTower.from_pretrained(
            pretrained_model_name_or_path, config=vision, dtype=torch.float32, output_loading_info=True
        )
        if missing := sorted(report["missing_keys"]):
            raise ValueError(
                f"{pretrained_model_name_or_path!r} lacks {len(missing)} weights of CLIP's vision tower and its "
                f"projection, among them {missing[-1]!r}. A `CLIPModel` or `CLIPVisionModelWithProjection` has them."
            )
        config = UMTTeacherConfig(
            image_size=14 * vision.patch_size if image_size is None else image_size,
            patch_size=vision.patch_size,
            num_channels=vision.num_channels,
            hidden_size=vision.hidden_size,
            num_hidden_layers=vision.num_hidden_layers,
            num_attention_heads=vision.num_attention_heads,
            intermediate_size=vision.intermediate_size,
            projection_dim=vision.projection_dim,
            hidden_act=vision.hidden_act,
            layer_norm_eps=vision.layer_norm_eps,
            **kwargs,
        )
        state = {}
        for key, tensor in clip.state_dict().items():
            for theirs, ours in CLIP_NAMES:
                key = key.replace(theirs, ours)
            state[key] = tensor
        state["embeddings.patch_embeddings.weight"] = state["embeddings.patch_embeddings.weight"].flatten(1)
        grid = (config.image_size // config.patch_size,) * 2
        state["embeddings.position_embeddings"] = resize_square_table(state["embeddings.position_embeddings"], grid)
        model = cls(config)
        model.load_state_dict(state)
        return model.eval()


class CLIPVisionTower(CLIPVisionModelWithProjection):
    """Transformers' CLIP vision tower, which silently ignores the text-tower weights of a full checkpoint."""

    _keys_to_ignore_on_load_unexpected = [r"^text_model\.", r"^text_projection\.", r"^logit_scale$", r"position_ids$"]


# Transformers' names of CLIP's vision tower -> ours
CLIP_NAMES = (
    ("vision_model.", ""),
    ("encoder.layers.", "layers."),
    ("embeddings.patch_embedding.", "embeddings.patch_embeddings."),
    ("embeddings.position_embedding.weight", "embeddings.position_embeddings"),
    ("pre_layrnorm.", "pre_norm."),
    ("post_layernorm.", "post_norm."),
    ("visual_projection.", "projection."),
    ("self_attn.out_proj.", "attention.o_proj."),
    ("self_attn.", "attention."),
    ("layer_norm1.", "norm1."),
    ("layer_norm2.", "norm2."),
)


__all__ = ["UMTTeacherModel", "UMTTeacherPreTrainedModel"]
