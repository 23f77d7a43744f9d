"""The baseline of every speed benchmark: stage 1 and re-ranking as in the official code (arXiv 2303.16058),
reimplemented without optimisation.

The computation is that of the released code, in current PyTorch: a three-dimensional convolution embeds all patches,
and a boolean mask then drops the masked ones; the student's attention is two matrix products with a softmax between;
the teacher uses `nn.MultiheadAttention`, whose last layer returns weights averaged over heads, computes LayerNorm in
float32, and projects all tokens of all aligned layers; the weights of student and teacher are float32, and autocast
casts them in every forward pass; the mask is sampled on the CPU; the host reads the loss and waits for the device in
every step.

The models copy the weights of this package's models, so both return the same loss for the same mask.

Shapes: B batch, T frames, P tokens per frame, N = T * P, V visible tokens, D hidden size, K aligned layers.
"""

import math
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from modeling_umt import UMTForPreTraining, UMTTeacherModel, UMTVideoTextModel


class PlainAttention(nn.Module):
    """Joint space-time attention with one fused projection, biases of queries and values, and eager attention."""

    def __init__(self, hidden_size: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (hidden_size // heads) ** -0.5
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(hidden_size)), nn.Parameter(torch.zeros(hidden_size))
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias, requires_grad=False), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias)  # (B, V, 3D)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, V, head_dim) each
        weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class PlainBlock(nn.Module):
    """Pre-norm block."""

    def __init__(self, hidden_size: int, heads: int, mlp_size: int, eps: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(hidden_size, eps=eps), nn.LayerNorm(hidden_size, eps=eps)
        self.attn = PlainAttention(hidden_size, heads)
        self.fc1, self.fc2 = nn.Linear(hidden_size, mlp_size), nn.Linear(mlp_size, hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class PlainStudent(nn.Module):
    """The stage-1 student: clips (B, C, T, H, W) and a mask, bool (B, N), to features (K, B, V, F)."""

    def __init__(self, student: UMTForPreTraining):
        super().__init__()
        config = student.config
        hidden_size, patch = config.hidden_size, config.patch_size
        kernel = (config.tubelet_size, patch, patch)
        self.patch_embed = nn.Conv3d(config.num_channels, hidden_size, kernel_size=kernel, stride=kernel)
        # not a buffer: stays on the CPU
        self.pos_embed = student.umt.embeddings.position_embeddings.detach().clone()[None]
        self.blocks = nn.ModuleList(
            PlainBlock(hidden_size, config.num_attention_heads, config.intermediate_size, config.layer_norm_eps)
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.return_index = student.aligned_layers
        self.decoders = nn.ModuleList(
            nn.Sequential(
                nn.Linear(hidden_size, config.target_dim),
                nn.LayerNorm(config.target_dim, eps=config.decoder_layer_norm_eps),
            )
            for _ in self.return_index
        )
        self.load_state_dict(self.weights_of(student, kernel))

    @staticmethod
    def weights_of(student: UMTForPreTraining, kernel: tuple[int, int, int]) -> dict[str, torch.Tensor]:
        theirs = student.state_dict()
        encoder = encoder_weights({key[4:]: value for key, value in theirs.items() if key.startswith("umt.")}, kernel)
        decoders = {
            key.replace("projection.", "0.").replace("norm.", "1."): value
            for key, value in theirs.items()
            if key.startswith("decoders.")
        }
        return encoder | decoders

    def forward(self, videos: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(videos).flatten(2).transpose(1, 2)  # (B, N, D)
        pos = self.pos_embed.type_as(x).to(x.device).clone().detach().expand(x.shape[0], -1, -1)
        x = (x + pos)[~mask].reshape(x.shape[0], -1, x.shape[-1])  # (B, V, D)
        states = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.return_index:
                states.append(x)
        self.norm(x)  # the official code computes it without using it
        states = self.norm(torch.stack(states))  # (K, B, V, D)
        pos = self.pos_embed.type_as(states).to(states.device).clone().detach().expand(states.shape[1], -1, -1)
        states = states + pos[~mask].reshape(states.shape[1:])
        features = torch.stack([decoder(state) for decoder, state in zip(self.decoders, states, strict=True)])
        return features / features.norm(dim=-1, keepdim=True)


def encoder_weights(theirs: dict[str, torch.Tensor], kernel: tuple[int, int, int]) -> dict[str, torch.Tensor]:
    """Weights of a `UMTModel` renamed for the modules above: convolution kernel, fused queries, keys and values."""
    weights = {}
    for key, value in theirs.items():
        if key == "embeddings.patch_embeddings.weight":
            weights["patch_embed.weight"] = value.reshape(value.shape[0], -1, *kernel)
        elif key == "embeddings.patch_embeddings.bias":
            weights["patch_embed.bias"] = value
        elif ".attention.q_proj.weight" in key:
            parts = [theirs[key.replace("q_proj", name)] for name in ("q_proj", "k_proj", "v_proj")]
            weights[key.replace("layers", "blocks").replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
        elif not key.endswith(("k_proj.weight", "v_proj.weight")):
            for name, ours in (
                ("layers.", "blocks."),
                ("attention.q_proj.bias", "attn.q_bias"),
                ("attention.v_proj.bias", "attn.v_bias"),
                ("attention.o_proj", "attn.proj"),
                ("mlp.", ""),
            ):
                key = key.replace(name, ours)
            weights[key] = value
    return weights


class FloatLayerNorm(nn.LayerNorm):
    """LayerNorm computed in float32 for any input type."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float()).type_as(x)


class QuickGELU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class PlainTeacherBlock(nn.Module):
    """CLIP's block on tokens (1 + P, B*T, D)."""

    def __init__(self, hidden_size: int, heads: int, mlp_size: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(hidden_size, heads)
        self.ln_1, self.ln_2 = FloatLayerNorm(hidden_size), FloatLayerNorm(hidden_size)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(hidden_size, mlp_size), gelu=QuickGELU(), c_proj=nn.Linear(mlp_size, hidden_size)
            )
        )

    def forward(self, x: torch.Tensor, return_attention: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        y = self.ln_1(x)
        y, weights = self.attn(y, y, y, need_weights=return_attention)  # weights (B*T, 1 + P, 1 + P), mean of heads
        x = x + y
        return x + self.mlp(self.ln_2(x)), weights


class PlainTeacher(nn.Module):
    """CLIP's vision tower: clips (B, C, T, H, W) to unit features (K, B, N, F) and attention (B*T, P)."""

    def __init__(self, teacher: UMTTeacherModel):
        super().__init__()
        config = teacher.config
        hidden_size, patch = config.hidden_size, config.patch_size
        self.image_size = config.image_size
        kernel = (1, patch, patch)
        self.conv1 = nn.Conv3d(config.num_channels, hidden_size, kernel_size=kernel, stride=kernel, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(hidden_size))
        self.positional_embedding = nn.Parameter(torch.empty_like(teacher.embeddings.position_embeddings))
        self.ln_pre, self.ln_post = FloatLayerNorm(hidden_size), FloatLayerNorm(hidden_size)
        self.blocks = nn.ModuleList(
            PlainTeacherBlock(hidden_size, config.num_attention_heads, config.intermediate_size)
            for _ in range(config.num_hidden_layers)
        )
        self.return_index = teacher.aligned_layers
        self.proj = nn.Parameter(torch.empty(hidden_size, config.projection_dim))
        self.load_state_dict(self.weights_of(teacher, kernel))
        self.requires_grad_(False).eval()

    @staticmethod
    def weights_of(teacher: UMTTeacherModel, kernel: tuple[int, int, int]) -> dict[str, torch.Tensor]:
        theirs, weights = teacher.state_dict(), {}
        for key, value in theirs.items():
            if ".attention." in key and not key.startswith("layers."):
                continue
            if ".q_proj." in key:
                parts = [theirs[key.replace("q_proj", name)] for name in ("q_proj", "k_proj", "v_proj")]
                weights[key.replace("layers", "blocks").replace("attention.q_proj.", "attn.in_proj_")] = torch.cat(
                    parts
                )
            elif ".k_proj." not in key and ".v_proj." not in key:
                for name, ours in (
                    ("layers.", "blocks."),
                    ("attention.o_proj", "attn.out_proj"),
                    ("mlp.fc1", "mlp.c_fc"),
                    ("mlp.fc2", "mlp.c_proj"),
                    ("norm1", "ln_1"),
                    ("norm2", "ln_2"),
                    ("pre_norm", "ln_pre"),
                    ("post_norm", "ln_post"),
                    ("embeddings.class_embedding", "class_embedding"),
                    ("embeddings.position_embeddings", "positional_embedding"),
                    ("embeddings.patch_embeddings", "conv1"),
                    ("projection.weight", "proj"),
                ):
                    key = key.replace(name, ours)
                weights[key] = value
        weights["conv1.weight"] = weights["conv1.weight"].reshape(weights["conv1.weight"].shape[0], -1, *kernel)
        weights["proj"] = weights["proj"].T
        return weights

    def forward(self, videos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch, channels, frames, height, width = videos.shape
        if height != self.image_size:
            videos = F.interpolate(
                videos.reshape(batch, channels * frames, height, width),
                size=(self.image_size, self.image_size),
                mode="bicubic",
                align_corners=False,
            ).unflatten(1, (channels, frames))
        x = self.conv1(videos).flatten(3).permute(0, 2, 3, 1).flatten(0, 1)  # (B*T, P, D)
        cls = self.class_embedding.to(x.dtype) + torch.zeros_like(x[:, :1])
        x = self.ln_pre(torch.cat([cls, x], dim=1) + self.positional_embedding.to(x.dtype)).transpose(0, 1)
        states, last = [], len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            x, attention = block(x, return_attention=index == last)
            if index in self.return_index:
                states.append(x)
        states = torch.stack(states)[:, 1:].permute(0, 2, 1, 3)  # (K, B*T, P, D)
        states = self.ln_post(states).unflatten(1, (batch, frames)).flatten(2, 3)
        features = states @ self.proj  # (K, B, N, F)
        return features / features.norm(dim=-1, keepdim=True), attention[:, 0, 1:]


def attention_mask_on_cpu(attention: torch.Tensor, batch: int, mask_ratio: float) -> torch.Tensor:
    """A mask, bool (B, N) on the CPU, from the attention of the class token (B*T, P)."""
    rows, tokens = attention.shape
    visible = tokens - int(tokens * mask_ratio)
    order = torch.multinomial(attention.float(), tokens)[:, :visible].cpu()
    mask = torch.ones(rows, tokens, dtype=torch.bool)
    mask[torch.arange(rows)[:, None], order] = False
    return mask.view(batch, -1)


class PlainStageOne:
    """A stage-1 step: forward and backward.

    Args:
        student, teacher: Models of this package, whose weights are copied.
        autocast: 16-bit data type of the arithmetic, or None for float32.
    """

    def __init__(self, student: UMTForPreTraining, teacher: UMTTeacherModel, autocast: torch.dtype | None):
        self.student, self.teacher, self.autocast = PlainStudent(student), PlainTeacher(teacher), autocast

    def to(self, device: torch.device) -> "PlainStageOne":
        self.student.to(device)
        self.teacher.to(device)
        return self

    def step(self, videos: torch.Tensor, mask_ratio: float = 0.8, mask: torch.Tensor | None = None) -> float:
        """Compute the gradients of a batch; returns the loss.

        Args:
            videos: Normalised clips (B, C, T, H, W) on the device.
            mask_ratio: Fraction of masked tokens.
            mask: bool (B, N), instead of one sampled from the teacher's attention.
        """
        precision = torch.autocast(videos.device.type, self.autocast, enabled=self.autocast is not None)
        with precision:
            targets, mask = self.compute_targets(videos, mask_ratio, mask)
            loss = (2 - 2 * (self.student(videos, mask) * targets).sum(dim=-1)).mean()
        value = loss.item()
        if not math.isfinite(value):
            raise ValueError(f"The loss of the plain step is {value}.")
        loss.backward()
        if videos.is_cuda:
            torch.cuda.synchronize()
        return value

    @torch.no_grad()
    def compute_targets(
        self, videos: torch.Tensor, mask_ratio: float, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Targets (K, B, V, F) and the mask, bool (B, N), on the CPU."""
        features, attention = self.teacher(videos)
        batch = videos.shape[0]
        if mask is None:
            mask = attention_mask_on_cpu(attention, batch, mask_ratio)
        layers, _, _, channels = features.shape
        everywhere = mask[None].expand(layers, -1, -1)
        return features[~everywhere].reshape(layers, batch, -1, channels), mask


@torch.no_grad()
def plain_rerank(
    model: UMTVideoTextModel, text_states: torch.Tensor, text_mask: torch.Tensor, video_states: torch.Tensor
) -> torch.Tensor:
    """Match logits (M, N) of every video with every text. The official loop repeats the tokens of a video for each
    text.

    Args:
        text_states, text_mask: (N, L, D) and (N, L).
        video_states: (M, tokens, D).
    """
    rows = []
    for states in video_states:
        repeated = states.repeat(len(text_states), 1, 1)
        fused = model.text_model.fuse(text_states, text_mask, repeated)
        rows.append(model.matching_head(fused[:, 0])[:, 1])
    return torch.stack(rows)
