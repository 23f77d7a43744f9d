"""The tokens of a clip: projected patches plus position embeddings (arXiv 2303.16058, section 3).

Unusual: the position table is computed, not learned, so no checkpoint contains it. It is a buffer nevertheless, which
keeps its computation out of compiled and exported graphs. Every way in which PyTorch gives a model new tensors (a
device, a dtype, `to_empty`, assigned weights) therefore writes it again.

Shape legend: B batch, C channels, N tokens of the clip, V visible tokens, D hidden size.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedConfig

from .configuration_umt import UMTConfig
from .motion_selection_umt import motion_importance, motion_token_selection
from .position_embeddings_umt import position_table


class UMTPositionTable(nn.Module):
    """A module that adds positions to its tokens, with the table of the model's own clips as a buffer.

    A subclass creates its weights, then calls `store_position_table`.
    """

    config: UMTConfig
    position_dim: int  # channels of the table

    def store_position_table(self, config: UMTConfig, dim: int) -> None:
        """Create the buffer `position_embeddings`, (N, `dim`)."""
        self.config, self.position_dim = config, dim
        self.stored_grid = config.token_grid  # of the buffer; the configuration may be changed later
        self.register_buffer("position_embeddings", self.make_position_table(self.stored_grid), persistent=False)
        self.register_load_state_dict_post_hook(write_position_table)

    def make_position_table(self, grid: tuple[int, int, int], device: torch.device | None = None) -> torch.Tensor:
        """Position table (N, dim), float32, for a clip of token grid `grid` = (frames, rows, columns)."""
        config = self.config
        position_grid = config.position_grid
        if position_grid is not None and grid[0] == 1 and config.single_frame == "first":
            position_grid = (1, *position_grid[1:])  # the same rows as in the table of several frames
        return position_table(grid, self.position_dim, position_grid, device, config.position_type)

    def positions_of(self, grid: tuple[int, int, int], device: torch.device) -> torch.Tensor:
        """The table for a clip of token grid `grid`: the buffer, or computed for other clips than the model's."""
        if grid == self.stored_grid and not self.position_embeddings.is_meta:
            return self.position_embeddings
        return self.make_position_table(grid, device)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "UMTPositionTable":
        """As PyTorch does for `to`, `half`, `to_empty` and the like, except that the table stays float32 and right.

        `to_empty` leaves it uninitialised, and a dtype of 16 bits would round it for good.
        """
        write_position_table(self)
        table = self.position_embeddings
        super()._apply(fn, recurse)
        if self.position_embeddings is not table:
            self.position_embeddings = self.stored_position_table(self.position_embeddings.device)
        return self

    def stored_position_table(self, device: torch.device) -> torch.Tensor:
        """The table of `stored_grid`, computed on the CPU, so that it has the same bits on every device."""
        return self.make_position_table(self.stored_grid, torch.device("cpu")).to(device)


def write_position_table(module: UMTPositionTable, _incompatible_keys: object = None) -> None:
    """Compute the table of a module whose weights have left the meta device without it."""
    device = next(module.parameters()).device
    if module.position_embeddings.is_meta and device.type != "meta":
        module.position_embeddings = module.stored_position_table(device)


class UMTPatchProjection:
    """Mixin of a module that embeds the tokens of a clip: all of them, the visible ones, or those of most motion."""

    config: PreTrainedConfig  # with `tubelet_size`, `patch_size`, `motion_drop_ratio` and `motion_groups`
    patch_embeddings: nn.Linear

    def token_grid(self, pixel_values_videos: torch.Tensor) -> tuple[int, int, int]:
        """Tokens of a clip along frames, rows and columns; a ValueError if the clip does not fit the model."""
        return clip_token_grid(pixel_values_videos, self.config, self.config.tubelet_size)

    def embed_tokens(
        self, pixel_values_videos: torch.Tensor, visible_indices: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings without positions (B, V, D), and the indices of their tokens (B, V), None for all tokens.

        Without a mask the tokens are all, or with `motion_drop_ratio` of the configuration those of most motion.
        """
        if visible_indices is None and self.config.motion_drop_ratio:
            return self.embed_motion(pixel_values_videos)
        return self.embed_patches(pixel_values_videos, visible_indices), visible_indices

    def embed_motion(self, pixel_values_videos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of the tokens of most motion without positions (B, V, D), and the indices of these (B, V).

        All patches are embedded once, so gradients reach the projection through the selected tokens only.
        """
        embeddings, groups = self.embed_patches(pixel_values_videos), self.config.motion_groups
        importance = self.importance_of(embeddings, pixel_values_videos, groups)
        indices = motion_token_selection(importance, self.config.motion_drop_ratio, groups=groups)
        return embeddings.gather(1, indices[..., None].expand(-1, -1, embeddings.shape[-1])), indices

    def importance_of(self, embeddings: torch.Tensor, pixel_values_videos: torch.Tensor, groups: int) -> torch.Tensor:
        """[`motion_importance`] of the embeddings (B, N, D) of all tokens of a clip."""
        frames, rows, columns = self.token_grid(pixel_values_videos)
        return motion_importance(embeddings.unflatten(1, (frames, rows * columns)), groups)

    def embed_patches(
        self, pixel_values_videos: torch.Tensor, visible_indices: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Projected patches of all or of the visible tokens, without positions (B, V, D)."""
        patches = clip_patches(pixel_values_videos, self.token_grid(pixel_values_videos), visible_indices)
        return self.patch_embeddings(patches.to(self.patch_embeddings.weight.dtype))


class UMTEmbeddings(UMTPatchProjection, UMTPositionTable):
    """Projected patches of a clip plus their position embeddings, of all tokens or of some."""

    def __init__(self, config: UMTConfig):
        super().__init__()
        patch_values = config.num_channels * config.tubelet_size * config.patch_size**2
        # The official Conv3d kernel (D, C, tubelet, patch, patch), flattened: stride equals kernel size.
        self.patch_embeddings = nn.Linear(patch_values, config.hidden_size)
        self.store_position_table(config, config.hidden_size)

    def forward(
        self, pixel_values_videos: torch.Tensor, visible_indices: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token embeddings (B, V, D) and their position embeddings, (B, V, D), or (1, N, D) of all tokens.

        The tokens are those of `embed_tokens`.
        """
        positions = self.positions_of(self.token_grid(pixel_values_videos), pixel_values_videos.device)
        embeddings, visible_indices = self.embed_tokens(pixel_values_videos, visible_indices)
        positions = positions[None] if visible_indices is None else positions[visible_indices]
        return embeddings + positions.to(embeddings.dtype), positions


def clip_token_grid(
    pixel_values_videos: torch.Tensor, config: PreTrainedConfig, tubelet_size: int = 1
) -> tuple[int, int, int]:
    """Tokens of a clip along frames, rows and columns.

    Args:
        pixel_values_videos: The clip (B, T, C, H, W).
        config: The model's configuration, with `num_channels` and `patch_size`.
        tubelet_size: Frames covered by one token.

    Raises:
        ValueError: if the clip is not a float tensor of that shape, or its frames or pixels do not divide.
    """
    shape = tuple(pixel_values_videos.shape)
    if len(shape) != 5 or shape[2] != config.num_channels or not pixel_values_videos.is_floating_point():
        raise ValueError(
            f"`pixel_values_videos` must be a floating point tensor (batch, frames, {config.num_channels} "
            f"channels, height, width), but is {pixel_values_videos.dtype} {shape}. UMTVideoProcessor makes such "
            "tensors; an image is a clip of one frame."
        )
    _, frames, _, height, width = shape
    if frames < 1 or frames % tubelet_size:
        raise ValueError(
            f"The clip has {frames} frames; this model requires a multiple of `tubelet_size` {tubelet_size}."
        )
    if min(height, width) < 1 or height % config.patch_size or width % config.patch_size:
        raise ValueError(
            f"The clip has frames of {height} x {width} pixels; height and width must be multiples of the "
            f"`patch_size` {config.patch_size}."
        )
    return frames // tubelet_size, height // config.patch_size, width // config.patch_size


def clip_patches(
    pixel_values_videos: torch.Tensor, grid: tuple[int, int, int], visible_indices: torch.Tensor | None = None
) -> torch.Tensor:
    """Clips as flattened patches, in the order of a kernel's weights, of which only the visible ones are copied.

    Args:
        pixel_values_videos: The clips (B, T, C, H, W).
        grid: Tokens along frames, rows and columns.
        visible_indices (int64 (B, V), *optional*): Indices of the patches to return; None: all.

    Returns:
        (B, V, C * tubelet * patch * patch).
    """
    frames, rows, columns = grid
    # a view, not yet a copy: (B, frames, rows, columns, C, tubelet, patch, patch), the kernel's order at the end.
    patches = pixel_values_videos.unflatten(1, (frames, -1)).unflatten(-2, (rows, -1)).unflatten(-1, (columns, -1))
    patches = patches.permute(0, 1, 4, 6, 3, 2, 5, 7)
    if visible_indices is None:
        return patches.flatten(4).flatten(1, 3)
    batch = torch.arange(patches.shape[0], device=patches.device)[:, None]
    frame, cell = visible_indices // (rows * columns), visible_indices % (rows * columns)
    return patches[batch, frame, cell // columns, cell % columns].flatten(2)


def frame_patches(frames: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Frames (B*T, C, H, W) as flattened patches (B*T, S, C * patch * patch), in the order of a kernel's weights."""
    rows, columns = frames.shape[-2] // patch_size, frames.shape[-1] // patch_size
    patches = frames.unflatten(-2, (rows, patch_size)).unflatten(-1, (columns, patch_size))
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


__all__ = ["UMTEmbeddings", "UMTPositionTable", "clip_patches", "clip_token_grid", "frame_patches"]
