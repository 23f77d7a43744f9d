"""CLIP's vision tower as the unmasked teacher (arXiv 2303.16058, section 3): frozen, per frame, all tokens attend.

What is unusual:

- It sees the student's clip as it is, normalised with ImageNet's mean and standard deviation, not CLIP's: so did the
  official teacher, and so the published students were trained.
- `post_norm` and the projection are applied to the patch tokens of all K aligned layers, not to the class token of the
  last. With a mask that happens at visible tokens only: what is never compared is never projected.
- Attention weights are needed of one row alone, the class token's in the last block, mean over heads. That row is
  computed by hand; everything else runs through Transformers' fused attention.
- The mask is known before the last block ends: it attends with keys that the class token's row has made already, and
  its output projection and MLP see visible tokens only (the same numbers; some 3 % of the pass at L, 6 % at B).

Shape legend: B batch, T frames, C channels, S patch tokens per frame (N = T * S), V visible tokens, D hidden size,
K aligned layers, F projection size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, CLIPVisionModelWithProjection, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_umt import UMTTeacherConfig, aligned_layers
from .token_selection_umt import visible_indices_from_mask
from .transformer_block_umt import UMTMLP, eager_attention_forward, parts_are_faster, unfused_attention_forward


@dataclass
class UMTTeacherOutput(ModelOutput):
    """Output of a teacher.

    Args:
        features (`(batch, num_aligned_layers, visible, projection_dim)`): Features of the visible tokens, or of all
            tokens without a mask, shallowest layer first, tokens frame-major. Unit vectors with `target_norm="l2"`.
        cls_attention (`(batch, frames, tokens per frame)`): Attention of the class token to the patches in the last
            block, mean over heads. The class token's weight for itself is cut off and the rest not renormalised.
        visible_indices (int64 `(batch, visible)`): The mask that was given or selected; None without one.
        hidden_states: With `output_hidden_states=True`: (batch * frames, 1 + tokens per frame, hidden_size) each.
        attentions: With `output_attentions=True` and eager attention: one map per block.
    """

    features: torch.FloatTensor | None = None
    cls_attention: torch.FloatTensor | None = None
    visible_indices: torch.LongTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class UMTTeacherEmbeddings(nn.Module):
    """Class token and patches of single frames, with CLIP's learned positions (no code for time)."""

    def __init__(self, config: UMTTeacherConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.side = config.image_size // config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        # CLIP's convolution without bias, kernel (D, C, patch, patch) flattened: stride equals kernel size
        self.patch_embeddings = nn.Linear(config.num_channels * config.patch_size**2, config.hidden_size, bias=False)
        self.position_embeddings = nn.Parameter(torch.empty(self.side**2 + 1, config.hidden_size))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        patch = self.patch_size
        rows, columns = frames.shape[-2] // patch, frames.shape[-1] // patch
        patches = frames.unflatten(-2, (rows, patch)).unflatten(-1, (columns, patch))  # (B*T, C, rows, p, columns, p)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B*T, S, C * p * p)
        tokens = self.patch_embeddings(patches.to(self.patch_embeddings.weight.dtype))
        cls_token = self.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
        positions = resize_square_table(self.position_embeddings, (rows, columns))
        return torch.cat([cls_token, tokens], dim=1) + positions.to(tokens.dtype)  # (B*T, 1 + S, D)


class UMTTeacherAttention(nn.Module):
    """CLIP's multi-head self-attention within a frame."""

    def __init__(self, config: UMTTeacherConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B*T, heads, tokens, head_dim)

    def forward(
        self,
        hidden_states: torch.Tensor,
        key: torch.Tensor | None = None,
        compared: Callable[[torch.Tensor], torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens (B*T, 1 + S, D) to the branch's output, of those alone that `compared` picks, if it is given.

        `key` (B*T, heads, 1 + S, head_dim) saves their projection where they were wanted before.
        """
        query, value = self.split_heads(self.q_proj(hidden_states)), self.split_heads(self.v_proj(hidden_states))
        key = self.keys(hidden_states) if key is None else key
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        if parts_are_faster(self.config, query):
            attend = unfused_attention_forward
        output, weights = attend(self, query, key, value, None, scaling=self.scaling, dropout=0.0, **kwargs)
        output = output.reshape(hidden_states.shape)
        return self.o_proj(output if compared is None else compared(output)), weights

    def keys(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.split_heads(self.k_proj(hidden_states))

    def cls_attention(self, hidden_states: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """The class token's weights for the patches, mean over heads, from tokens (B*T, 1 + S, D) and their keys:
        (B*T, S), float32."""
        query = self.split_heads(self.q_proj(hidden_states[:, :1])) * self.scaling  # (B*T, heads, 1, head_dim)
        weights = (query @ key.transpose(-1, -2)).softmax(dim=-1, dtype=torch.float32)
        return weights.mean(dim=1)[:, 0, 1:]


class UMTTeacherLayer(GradientCheckpointingLayer):
    """Pre-norm block of CLIP's vision tower.

    Given `compared`, a function that picks the tokens whose output is wanted, all tokens attend but only those go
    through the output projection and the MLP and are returned. `key`: see [`UMTTeacherAttention`].
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
        key: torch.Tensor | None = None,
        compared: Callable[[torch.Tensor], torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        branch, _ = self.attention(self.norm1(hidden_states), key, compared, **kwargs)
        hidden_states = (hidden_states if compared is None else compared(hidden_states)) + branch
        return hidden_states + self.mlp(self.norm2(hidden_states))


class UMTTeacherPreTrainedModel(PreTrainedModel):
    """Weight initialisation and what Transformers wants to know about the teacher."""

    config: UMTTeacherConfig
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
        """CLIP's own scale of random weights; a teacher worth learning from is loaded, not drawn."""
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

    def save_pretrained(self, save_directory, **kwargs):
        """As Transformers does, and with an `auto_map` of every class that can load this repository."""
        self.config.auto_map = dict(self.config.remote_code)
        return super().save_pretrained(save_directory, **kwargs)


class UMTTeacherModel(UMTTeacherPreTrainedModel):
    """CLIP's vision tower: features of K layers at the visible tokens, and the attention that chooses them."""

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
        """Look at a clip frame by frame (method, 4).

        Args:
            pixel_values_videos (`(batch, frames, channels, height, width)`): The student's clip, normalised with
                ImageNet's statistics. A clip of another size than `image_size` is resized to it, bicubically without
                antialiasing.
            bool_masked_pos (bool `(batch, frames * tokens per frame)`, *optional*): True hides a token's features from
                the result. All tokens attend all the same. Every sample must hide the same number.
            visible_indices (int64 `(batch, visible)`, *optional*): The same mask as ascending indices.
            token_selector (*optional*): Makes the mask in this pass: a function of `cls_attention` (batch, frames,
                tokens per frame) that returns `visible_indices`, e.g. a `functools.partial` of
                `attention_token_selection`. Give at most one of the three.
            interpolate_pos_encoding (`bool`, defaults to False): Keep the clip's size, which `patch_size` must divide,
                and resize the position table instead.

        Raises:
            ValueError: if the clip is no float tensor of that shape, the mask does not fit it, or several are given.
        """
        check_one_mask(bool_masked_pos, visible_indices, token_selector)
        frames = prepare_frames(pixel_values_videos, self.config, interpolate_pos_encoding)  # (B*T, C, H, W)
        batch, num_frames = pixel_values_videos.shape[:2]

        hidden_states = self.pre_norm(self.embeddings(frames))  # (B*T, 1 + S, D)
        *blocks, last = self.layers
        aligned = []
        for depth, layer in enumerate(blocks):
            hidden_states = layer(hidden_states, **kwargs)
            if depth in self.aligned_layers:
                aligned.append(hidden_states)

        normed = last.norm1(hidden_states)
        key = last.attention.keys(normed)
        cls_attention = last.attention.cls_attention(normed, key).unflatten(0, (batch, num_frames))
        visible_indices = resolve_mask(cls_attention, bool_masked_pos, visible_indices, token_selector)
        compared = partial(patch_tokens, num_frames=num_frames, visible_indices=visible_indices)
        aligned = [compared(state) for state in aligned]  # (B, V, D) each
        if kwargs.get("output_hidden_states", self.config.output_hidden_states):
            aligned.append(compared(last(hidden_states, key, **kwargs)))  # who asks for the states gets whole ones
        else:
            aligned.append(last(hidden_states, key, compared, **kwargs))
        features = [self.project(state) for state in aligned]
        return UMTTeacherOutput(
            features=torch.stack(features, dim=1),  # (B, K, V, F)
            cls_attention=cls_attention,
            visible_indices=visible_indices,
        )

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Patch tokens (B, V, D) in CLIP's joint space (B, V, F), of unit length for "l2"."""
        features = self.projection(self.post_norm(hidden_states))
        return F.normalize(features, dim=-1) if self.config.target_norm == "l2" else features

    @classmethod
    def from_clip(
        cls, pretrained_model_name_or_path: str, image_size: int | None = None, **kwargs
    ) -> "UMTTeacherModel":
        """A teacher with the weights of a CLIP checkpoint in Transformers' layout; the text tower is not loaded.

        Args:
            pretrained_model_name_or_path: Hub id or folder, e.g. `"openai/clip-vit-large-patch14"`.
            image_size (`int`, *optional*): Pixels of the frames the teacher sees. Defaults to 14 patches a side (196
                for ViT-L/14, 224 for ViT-B/16), the grid of a UMT student with patches of 16 at 224 pixels. The
                position table is resized bicubically if the checkpoint has another.
            kwargs: Fields of [`UMTTeacherConfig`] that no CLIP checkpoint tells (`num_aligned_layers`, ...).

        Raises:
            ValueError: if the checkpoint is another model's, or lacks weights of the vision tower or its projection.
        """
        source = AutoConfig.from_pretrained(pretrained_model_name_or_path)
        if source.model_type not in ("clip", "clip_vision_model"):
            raise ValueError(
                f"{pretrained_model_name_or_path!r} holds a {source.model_type!r} model; a CLIP checkpoint in "
                'Transformers\' layout was expected, e.g. "openai/clip-vit-large-patch14".'
            )
        vision = source
        if source.model_type == "clip":
            # both configurations have a `projection_dim`; a whole CLIP's weights follow its own
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
    """Transformers' CLIP vision tower, which reads past the text tower of a full checkpoint without a word."""

    _keys_to_ignore_on_load_unexpected = [r"^text_model\.", r"^text_projection\.", r"^logit_scale$", r"position_ids$"]


# Transformers' names of CLIP's vision tower and ours
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


def resize_square_table(table: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """A learned table (1 + side * side, D) of a square image for `grid` = (rows, columns): (1 + rows * columns, D).

    The class token's row stays; the others are resized bicubically, without antialiasing, in float32.
    """
    side = math.isqrt(table.shape[0] - 1)
    if grid == (side, side):
        return table
    squares = table[1:].float().unflatten(0, (side, side)).permute(2, 0, 1)[None]  # (1, D, side, side)
    squares = F.interpolate(squares, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([table[:1], squares[0].flatten(1).T.to(table.dtype)])


def prepare_frames(
    pixel_values_videos: torch.Tensor, config: UMTTeacherConfig, interpolate_pos_encoding: bool
) -> torch.Tensor:
    """Clips (B, T, C, H, W) as single frames (B*T, C, H', W') of a size that the tower of `config` takes.

    Raises:
        ValueError: if the clips are no float tensor of that shape, or do not divide into patches.
    """
    shape, side, patch = tuple(pixel_values_videos.shape), config.image_size, config.patch_size
    fits = len(shape) == 5 and shape[2] == config.num_channels and 0 not in shape
    if not fits or not pixel_values_videos.is_floating_point():
        raise ValueError(
            f"`pixel_values_videos` must be a floating point tensor (batch, frames, {config.num_channels} channels, "
            f"height, width), and not empty, but is {pixel_values_videos.dtype} {shape}."
        )
    frames = pixel_values_videos.flatten(0, 1)
    if interpolate_pos_encoding:
        if shape[3] % patch or shape[4] % patch:
            raise ValueError(
                f"With `interpolate_pos_encoding` height and width must be multiples of `patch_size` {patch}, but the "
                f"frames have {shape[3]} x {shape[4]} pixels."
            )
    elif shape[3:] != (side, side):
        frames = F.interpolate(frames, size=(side, side), mode="bicubic", align_corners=False)
    return frames


def check_one_mask(*masks: object) -> None:
    """Raise a ValueError if more than one of `bool_masked_pos`, `visible_indices` and `token_selector` is given."""
    if sum(mask is not None for mask in masks) > 1:
        raise ValueError("Give at most one of `bool_masked_pos`, `visible_indices` and `token_selector`.")


def resolve_mask(
    cls_attention: torch.Tensor,
    bool_masked_pos: torch.Tensor | None,
    visible_indices: torch.Tensor | None,
    token_selector: Callable[[torch.Tensor], torch.Tensor] | None,
) -> torch.Tensor | None:
    """The mask as `visible_indices` (B, V), or None; a ValueError if it does not fit `cls_attention` (B, T, S)."""
    batch, num_tokens = cls_attention.shape[0], math.prod(cls_attention.shape[1:])
    if bool_masked_pos is not None:
        if bool_masked_pos.dtype != torch.bool or tuple(bool_masked_pos.shape) != (batch, num_tokens):
            raise ValueError(
                f"`bool_masked_pos` must be bool (batch {batch}, tokens {num_tokens}), but is {bool_masked_pos.dtype} "
                f"{tuple(bool_masked_pos.shape)}: the teacher's token grid must be the student's."
            )
        return visible_indices_from_mask(bool_masked_pos)
    if token_selector is not None:
        visible_indices = token_selector(cls_attention)
    if visible_indices is not None and (
        visible_indices.dtype != torch.int64
        or visible_indices.ndim != 2
        or visible_indices.shape[0] != batch
        or visible_indices.shape[1] < 1
        # a selector may return several masks of a clip side by side, whose tokens overlap
        or (token_selector is None and visible_indices.shape[1] > num_tokens)
    ):
        raise ValueError(
            f"`visible_indices` must be int64 (batch {batch}, 1 to {num_tokens} visible tokens), but is "
            f"{visible_indices.dtype} {tuple(visible_indices.shape)}."
        )
    return visible_indices


def patch_tokens(hidden_states: torch.Tensor, num_frames: int, visible_indices: torch.Tensor | None) -> torch.Tensor:
    """The patch tokens of single frames (B*T, 1 + S, D) at `visible_indices` (B, V): (B, V, D); all without a mask."""
    clips = hidden_states.unflatten(0, (-1, num_frames))  # (B, T, 1 + S, D)
    if visible_indices is None:
        return clips[:, :, 1:].flatten(1, 2)
    # a class token before every frame's patches
    positions = visible_indices + visible_indices // (clips.shape[2] - 1) + 1
    return clips.flatten(1, 2).gather(1, positions[..., None].expand(-1, -1, clips.shape[-1]))


__all__ = ["UMTTeacherModel", "UMTTeacherOutput", "UMTTeacherPreTrainedModel"]
