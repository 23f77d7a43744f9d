"""Position tables: sine-cosine tables, which are computed, and the resizing of learned ones.

Unusual: the angle of the `"flat"` table depends on the flattened token index `t * rows * columns + h * columns + w`
alone, as in UMT's official code, so neighbours in a row differ by 1, in a column by `columns`, in time by
`rows * columns`. To resize, the table is computed for the grid the weights were trained on and interpolated: bicubic
in space, then linear in time. The `"space_time"` table of MVD (arXiv 2212.04500) codes frame, column and row
separately and is not resized; nor is MAE's, of column and row.
"""

import math

import torch
from torch.nn import functional as F


def sincos_position_table(num_positions: int, dim: int, device: torch.device | None = None) -> torch.Tensor:
    """The table `(num_positions, dim)`, float32: sine in even columns, cosine in odd ones.

    Computed in float64 because an angle of 1567 radians in float32 is off by 1e-4 (on the CPU where the device has no
    float64).
    """
    compute_device = "cpu" if device is not None and device.type == "mps" else device
    positions = torch.arange(num_positions, dtype=torch.float64, device=compute_device)
    columns = torch.arange(dim, device=compute_device)
    frequencies = 10000.0 ** (-2.0 * (columns // 2).double() / dim)
    angles = positions[:, None] * frequencies  # (num_positions, dim)
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos()).to(device=device, dtype=torch.float32)


def resize_position_table(
    table: torch.Tensor, source_grid: tuple[int, int, int], target_grid: tuple[int, int, int]
) -> torch.Tensor:
    """Interpolate a table `(prod(source_grid), dim)` to `(prod(target_grid), dim)`.

    Grids are (frames, rows, columns). Space is bicubic without antialiasing, time linear, both with
    `align_corners=False`; an axis that keeps its length keeps its values.
    """
    frames, rows, columns = source_grid
    new_frames, new_rows, new_columns = target_grid
    dim = table.shape[-1]
    table = table.reshape(frames, rows, columns, dim).permute(0, 3, 1, 2)  # (T, dim, H, W)
    if (rows, columns) != (new_rows, new_columns):
        table = F.interpolate(table, size=(new_rows, new_columns), mode="bicubic", align_corners=False)
    table = table.permute(2, 3, 1, 0)  # (H', W', dim, T)
    if frames != new_frames:
        table = F.interpolate(table.flatten(0, 1), size=new_frames, mode="linear", align_corners=False)
    table = table.reshape(new_rows, new_columns, dim, new_frames)
    return table.permute(3, 0, 1, 2).reshape(-1, dim)  # frame-major, then rows, then columns


def coordinate_code(length: int, dim: int, device: torch.device | None = None) -> torch.Tensor:
    """The code `(length, dim)`, float32, of the coordinates 0, 1, ...: the sines of all frequencies, then the cosines.

    Computed in float64, as in `sincos_position_table`.
    """
    compute_device = "cpu" if device is not None and device.type == "mps" else device
    exponents = torch.arange(dim // 2, dtype=torch.float64, device=compute_device) / (dim // 2)
    angles = torch.arange(length, dtype=torch.float64, device=compute_device)[:, None] * 10000.0**-exponents
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(device=device, dtype=torch.float32)


def plane_position_table(grid: tuple[int, int], dim: int, device: torch.device | None = None) -> torch.Tensor:
    """MAE's table `(rows * columns, dim)`, float32, of a `grid` = (rows, columns); `dim` must be a multiple of 4.

    The first half of the channels codes the column, the second the row.
    """
    rows, columns = grid
    by_column = coordinate_code(columns, dim // 2, device)[None].expand(rows, -1, -1)
    by_row = coordinate_code(rows, dim // 2, device)[:, None].expand(-1, columns, -1)
    return torch.cat([by_column, by_row], dim=-1).flatten(0, 1)


def space_time_position_table(
    grid: tuple[int, int, int], dim: int, device: torch.device | None = None
) -> torch.Tensor:
    """The table `(frames * rows * columns, dim)` of `position_type="space_time"`, float32, computed in float64.

    The first quarter of the channels codes the frame, the first half of the others the column, the second half the
    row: each the sines of its coordinate and then the cosines, which are not interleaved.

    Args:
        grid: Tokens along frames, rows and columns.
        dim: Channels, a multiple of 16.
        device: Device of the result.
    """
    frames, rows, columns = grid
    time = coordinate_code(frames, dim // 4, device)[:, None].expand(-1, rows * columns, -1)
    plane = plane_position_table((rows, columns), dim - dim // 4, device)[None].expand(frames, -1, -1)
    return torch.cat([time, plane], dim=-1).flatten(0, 1)


def position_table(
    grid: tuple[int, int, int],
    dim: int,
    position_grid: list[int] | tuple[int, int, int] | None,
    device: torch.device | None = None,
    position_type: str = "flat",
) -> torch.Tensor:
    """The table `(prod(grid), dim)` of a model trained on `position_grid`, for a clip of token grid `grid`.

    With `position_grid=None`, and always with `position_type="space_time"`, the table is computed for `grid` itself.
    """
    if position_type == "space_time":
        return space_time_position_table(grid, dim, device)
    source_grid = grid if position_grid is None else tuple(position_grid)
    table = sincos_position_table(source_grid[0] * source_grid[1] * source_grid[2], dim, device)
    return resize_position_table(table, source_grid, grid)


def resize_learned_table(
    table: torch.Tensor,
    source_grid: tuple[int, int, int],
    target_grid: tuple[int, int, int],
    has_class_row: bool,
    single_frame: str,
) -> torch.Tensor:
    """Resize a learned table of clips to another token grid, in float32.

    Args:
        table (`(rows, D)`): One row for each token of `source_grid`, after one for the class token.
        source_grid, target_grid: Tokens along frames, rows and columns.
        has_class_row: Whether the first row is that of the class token, which is kept.
        single_frame: For a target of one time step, `"mean"` takes the mean over time, `"resize"` resizes.

    Returns:
        The table of `target_grid`, in the dtype of `table`.
    """
    if source_grid == target_grid:
        return table
    first = 1 if has_class_row else 0
    patches = table[first:].float()
    if target_grid[0] == 1 and single_frame == "mean":
        patches = patches.unflatten(0, source_grid).mean(dim=0).flatten(0, 1)
        source_grid = (1, *source_grid[1:])
    patches = resize_position_table(patches, source_grid, target_grid).to(table.dtype)
    return torch.cat([table[:first], patches])


def resize_square_table(table: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Resize a learned table `(1 + side * side, dim)` of a square image to `(1 + rows * columns, dim)`.

    `grid` is (rows, columns). The class token's row is kept; the others are resized bicubically, without antialiasing,
    in float32.
    """
    side = math.isqrt(table.shape[0] - 1)
    if grid == (side, side):
        return table
    squares = table[1:].float().unflatten(0, (side, side)).permute(2, 0, 1)[None]  # (1, D, side, side)
    squares = F.interpolate(squares, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([table[:1], squares[0].flatten(1).T.to(table.dtype)])
