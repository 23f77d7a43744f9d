"""Resizing of frames: torchvision's antialiased kernel and the two kernels of the official UMT evaluation.

UMT (arXiv 2303.16058, section 4) is evaluated on frames resized by OpenCV (classification) and by an old torchvision
(retrieval, question answering). Neither applies a low-pass filter before downscaling, so their pixels differ visibly
from those of an antialiased resize. Both are reproduced here as tensor functions that do not need OpenCV and run on
any device:

* `resize_opencv_bilinear`: `cv2.INTER_LINEAR` on uint8, bit for bit, including its fixed-point weights, its border
  handling and its switch to averaging at a factor of exactly two;
* `resize_bicubic_no_antialias`: torchvision 0.13's bicubic resize of a uint8 tensor, rounded and clamped.

The third official kernel, Pillow's bilinear resize of the stage-1 training crops, is within one grey level of
"antialias".
"""

import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvF

RESIZE_KERNELS = ("antialias", "opencv_bilinear", "bicubic_no_antialias")


def resize_frames(
    frames: torch.Tensor,
    height: int,
    width: int,
    kernel: str = "antialias",
    interpolation: InterpolationMode = InterpolationMode.BILINEAR,
) -> torch.Tensor:
    """Resizes frames `(..., channels, H, W)` to `(..., channels, height, width)`, keeping their dtype.

    Args:
        frames: uint8; with "antialias" also floating point.
        height, width: the new size in pixels.
        kernel: "antialias" (torchvision), "opencv_bilinear" or "bicubic_no_antialias".
        interpolation: the filter of "antialias"; ignored by the other two kernels.

    Raises:
        ValueError: unknown kernel, or an official kernel on frames that are not uint8.
    """
    if kernel not in RESIZE_KERNELS:
        raise ValueError(f"resize_kernel is {kernel!r}; choose one of {', '.join(map(repr, RESIZE_KERNELS))}.")
    if tuple(frames.shape[-2:]) == (height, width):
        return frames
    if kernel == "antialias":
        return tvF.resize(frames, [height, width], interpolation=interpolation, antialias=True)
    if frames.dtype != torch.uint8:
        raise ValueError(
            f"resize_kernel {kernel!r} is defined on uint8 frames, these are {frames.dtype}. Pass uint8 frames with "
            "values from 0 to 255, or use resize_kernel='antialias'."
        )
    if kernel == "opencv_bilinear":
        return resize_opencv_bilinear(frames, height, width)
    return resize_bicubic_no_antialias(frames, height, width)


def resize_opencv_bilinear(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resizes uint8 `(..., H, W)` to uint8 `(..., height, width)`, bit for bit as `cv2.resize` with `INTER_LINEAR`.

    OpenCV interpolates along the rows in units of 1/2048, drops four bits of the sum, interpolates along the columns,
    drops sixteen bits, and rounds off the last two. Rows and columns treat the border differently: beyond the
    outermost pixel centre a row uses that pixel only, while a column interpolates between the pixel and itself.
    """
    source_height, source_width = frames.shape[-2:]
    if (source_height, source_width) == (2 * height, 2 * width):
        return _mean_of_squares(frames)
    columns, column_fraction = _sample_positions(source_width, width, frames.device)
    outside = (columns < 0) | (columns >= source_width - 1)
    column_fraction = column_fraction.masked_fill(outside, 0.0)
    columns = columns.clamp(0, source_width - 1)
    right_columns = (columns + 1).clamp(max=source_width - 1)
    left_weight, right_weight = _fixed_point_weights(column_fraction)

    rows, row_fraction = _sample_positions(source_height, height, frames.device)
    upper_weight, lower_weight = (weight.unsqueeze(-1) for weight in _fixed_point_weights(row_fraction))

    def interpolated_rows(index: torch.Tensor) -> torch.Tensor:
        picked = frames.index_select(-2, index.clamp(0, source_height - 1))  # (..., height, W)
        left = picked.index_select(-1, columns).to(torch.int32)
        right = picked.index_select(-1, right_columns).to(torch.int32)
        return (left * left_weight + right * right_weight) >> 4  # (..., height, width)

    upper = (interpolated_rows(rows) * upper_weight) >> 16
    lower = (interpolated_rows(rows + 1) * lower_weight) >> 16
    return ((upper + lower + 2) >> 2).to(torch.uint8)


def resize_bicubic_no_antialias(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resizes uint8 `(..., channels, H, W)` to uint8 `(..., channels, height, width)` as torchvision 0.13 did: bicubic
    over four pixels, half-pixel centres, clamped to 0..255, rounded half to even."""
    flat = frames.reshape(-1, *frames.shape[-3:]).float()
    resized = F.interpolate(flat, size=(height, width), mode="bicubic", align_corners=False)
    resized = resized.clamp(0, 255).round().to(torch.uint8)
    return resized.reshape(*frames.shape[:-2], height, width)


def _sample_positions(source: int, target: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """For every target pixel centre: the index of the source pixel at or before it, int64 `(target,)`, at least -1,
    and the distance from it, float32 `(target,)`. As in OpenCV, the scale is the inverse of an inverse and the
    position is rounded to float32."""
    scale = 1.0 / (target / source)
    centres = torch.arange(target, dtype=torch.float64, device=device) + 0.5
    positions = (centres * scale - 0.5).float()
    before = positions.floor()
    return before.long(), positions - before


def _fixed_point_weights(fraction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of the pixel before and the pixel after, int32, in units of 1/2048."""
    return ((1 - fraction) * 2048).round().to(torch.int32), (fraction * 2048).round().to(torch.int32)


def _mean_of_squares(frames: torch.Tensor) -> torch.Tensor:
    """Halves uint8 `(..., 2h, 2w)` to `(..., h, w)`: OpenCV averages four pixels if both factors are two."""
    frames = frames.to(torch.int32)
    upper, lower = frames[..., 0::2, :], frames[..., 1::2, :]
    total = upper[..., 0::2] + upper[..., 1::2] + lower[..., 0::2] + lower[..., 1::2]
    return ((total + 2) >> 2).to(torch.uint8)
