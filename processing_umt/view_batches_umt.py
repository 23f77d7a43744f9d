"""The views of several videos as one batch; frames of several sizes are padded."""

import torch
from torch.nn import functional as F


def batch_views(
    pixel_values: list[torch.Tensor], video_indices: list[int], divisor: int | None, as_tensor: bool
) -> torch.Tensor | list[torch.Tensor]:
    """The views `(views, frames, channels, height, width)` of several videos as one tensor, or as a list of views.

    Args:
        pixel_values: The views of each video.
        video_indices: Indices of the videos in the input, for errors.
        divisor: Pads to multiples of it with zeros at the bottom and right, in a tensor also to the largest video.
        as_tensor: Whether a tensor is returned.

    Raises:
        ValueError: views of unequal sizes cannot be a tensor.
    """
    if divisor is not None:
        sizes = [[-(-side // divisor) * divisor for side in views.shape[-2:]] for views in pixel_values]
        if as_tensor:
            sizes = [[max(sides) for sides in zip(*sizes, strict=True)]] * len(sizes)
        pixel_values = [pad_frames(views, *size) for views, size in zip(pixel_values, sizes, strict=True)]
    if not as_tensor:
        return [view for views in pixel_values for view in views]
    shapes = {tuple(views.shape[1:]): index for views, index in zip(pixel_values, video_indices, strict=True)}
    if len(shapes) > 1:
        listed = ", ".join(f"{shape} (such as video {index})" for shape, index in shapes.items())
        raise ValueError(
            f"Views of unequal sizes cannot be concatenated: {listed}. Resize and crop (do_resize, do_center_crop), "
            "pad (size_divisor), sample frames (do_sample_frames), process the videos one by one, or pass "
            "return_tensors=None for a list."
        )
    return torch.cat(pixel_values)


def pad_frames(views: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Views `(..., H, W)` with zeros at the bottom and right up to `(..., height, width)`."""
    return F.pad(views, (0, width - views.shape[-1], 0, height - views.shape[-2]))
